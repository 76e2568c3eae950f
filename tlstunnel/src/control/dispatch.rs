//! Each request and who answers it.

use std::sync::Arc;

use config_proto::message::{KeyList, Refusal, RefusalCode, Request};
use serde::Serialize;
use serde_json::Value;

use super::Control;
use super::page::Page;
use crate::config::{internal, refuse};

impl Control {
    /// Does what the holder of the key `author` asks. Whether the key may ask for it has been decided already.
    ///
    /// # Errors
    /// The refusal that the client sees.
    pub(super) async fn dispatch(
        self: &Arc<Self>,
        author: &str,
        request: Request,
    ) -> Result<Value, Refusal> {
        let configuration = &self.configuration;
        match request {
            Request::Add { name, settings, replace } => {
                json(configuration.add(author, &name, settings, replace).await?)
            }
            Request::Remove { name } => json(configuration.remove(author, &name).await?),
            Request::List { filter, after, limit } => {
                let list = move |c: &Self| c.list(filter.as_deref(), after.as_ref(), limit).fit();
                json(self.walking(list).await?)
            }
            Request::Show { name } => json(self.show(&name)?),
            Request::Status => json(self.status().await?.fit()),
            Request::History { before, limit } => {
                json(configuration.history(before, limit).await?.fit())
            }
            Request::Diff { from, to } => json(configuration.diff(from, to).await?.fit()),
            Request::Rollback { generation } => {
                json(configuration.rollback(author, generation).await?)
            }
            Request::Apply { document, dry_run, confirm_seconds } => {
                let applied =
                    configuration.apply(author, document, dry_run, confirm_seconds).await?;
                json(applied.fit())
            }
            Request::Confirm { generation } => {
                json(configuration.confirm(author, generation).await?)
            }
            Request::Why { name, from } => json(self.why(name.as_deref(), from)?),
            Request::Check => json(self.walking(Self::check).await?.fit()),
            Request::CertList { after, limit } => {
                let list = move |c: &Self| c.certificates(after.as_ref(), limit).fit();
                json(self.walking(list).await?)
            }
            Request::CertShow { name } => json(self.shown(&name)?),
            Request::CertSet { chain_pem, key_pem } => {
                json(configuration.set_certificate(author, chain_pem, key_pem).await?)
            }
            Request::CertRenew { name } => json(self.renew(&name).await?),
            Request::CertRevoke { name, reason } => json(self.revoke(&name, reason).await?),
            Request::CertRollOver => json(self.roll_over().await?),
            Request::KeyAdd { id, role } => json(configuration.add_key(author, &id, role).await?),
            Request::KeyList => json(KeyList { keys: configuration.keys().list() }),
            Request::KeyRemove { id } => json(configuration.remove_key(author, &id).await?),
            Request::Top { limit } => json(self.walking(move |c| c.top(limit).fit()).await?),
            // A later version of the vocabulary has requests that this one does not know.
            _ => Err(refuse(
                RefusalCode::Malformed,
                "this gateway does not know that request",
                "sites are served by unipi, whose control port --remote names; else gateway and tlstunnel-ctl are of different versions",
            )),
        }
    }

    /// Answers what takes a walk over all routes or certificates. There may be a million of them, and this event loop
    /// also carries traffic: the walk is for a blocking thread.
    pub(super) async fn walking<T: Send + 'static>(
        self: &Arc<Self>,
        walk: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let control = Arc::clone(self);
        tokio::task::spawn_blocking(move || walk(&control)).await.map_err(internal)
    }
}

fn json<T: Serialize>(answer: T) -> Result<Value, Refusal> {
    serde_json::to_value(answer).map_err(|error| {
        refuse(
            RefusalCode::Internal,
            format!("the answer cannot be written: {error}"),
            "the gateway's log says more",
        )
    })
}
