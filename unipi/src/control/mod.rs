//! What can be asked of a running site server: sites and control keys, over [`control_port`].
//!
//! It must not know how sites work: [`crate::sites::Sites`] does what is asked.

mod keys;

use std::sync::Arc;

use config_proto::message::{Changed, KeyList, MAX_PAGE, Refusal, RefusalCode, Request};
use config_proto::site::SiteList;
use control_port::{Desk, KeyRing};
use serde::Serialize;
use serde_json::Value;

pub use keys::{Keys, KeysError};

use crate::sites::{Hosted, Secrets, Sites, SitesError};
use crate::storage::Storage;

/// Answers the control port's requests.
#[derive(Debug)]
pub struct Administration {
    sites: Arc<Sites>,
    keys: Keys,
}

impl Administration {
    /// An administration of `sites`, whose keys are kept in `storage`.
    ///
    /// # Errors
    /// When the keys cannot be read.
    pub fn new(sites: Arc<Sites>, ring: Arc<KeyRing>, storage: Storage) -> Result<Self, KeysError> {
        Ok(Self { sites, keys: Keys::open(ring, storage)? })
    }

    fn list(&self, filter: Option<&str>, after: Option<&str>, limit: u32) -> SiteList {
        let limit = usize::try_from(limit.min(MAX_PAGE)).unwrap_or(usize::MAX);
        let fits = |site: &&Arc<Hosted>| {
            filter.is_none_or(|part| site.name.contains(part))
                && after.is_none_or(|after| site.name.as_str() > after)
        };
        let all = self.sites.all();
        let mut page = all.iter().filter(fits).peekable();
        let sites = page.by_ref().take(limit).map(|site| site.info()).collect();
        SiteList { sites, more: page.peek().is_some() }
    }
}

impl Desk for Administration {
    async fn answer(self: &Arc<Self>, author: &str, request: Request) -> Result<Value, Refusal> {
        let sites = &self.sites;
        match request {
            Request::SiteAdd {
                name,
                settings,
                replace,
                hook_secret,
                push_token,
                ssh_key,
                password,
            } => {
                let secrets = Secrets { hook_secret, push_token, ssh_key, password };
                let replaced = sites.add(&name, settings, secrets, replace).await?;
                let site = sites.get(&name)?;
                tracing::info!(author, site = site.name, replaced, "a site was configured");
                let what = if replaced { "replaced" } else { "added" };
                let mut warnings = Vec::new();
                if site.config.signers.is_none() && site.config.push.is_none() {
                    let url = site.config.source();
                    if url.starts_with("git://") || url.starts_with("http://") {
                        warnings.push(
                            "the remote is neither secret nor authentic: anybody on the path can change the site"
                                .to_owned(),
                        );
                    }
                }
                json(Changed { warnings, ..changed(&site.name, format!("{what} {}", site.name)) })
            }
            Request::SiteRemove { name } => {
                let site = sites.get(&name)?;
                sites.remove(&name).await?;
                tracing::info!(author, site = site.name, "a site was removed");
                json(changed(&site.name, format!("removed {}", site.name)))
            }
            Request::SiteList { filter, after, limit } => {
                json(self.list(filter.as_deref(), after.as_deref(), limit))
            }
            Request::SiteRefresh { name } => {
                let site = sites.get(&name)?;
                if site.config.remote.is_none() {
                    return Err(refuse(
                        RefusalCode::Invalid,
                        format!("{} has no remote: it is pushed", site.name),
                        "git push brings something new",
                    ));
                }
                site.requests.ask(author);
                json(changed(&site.name, format!("looking at the remote of {}", site.name)))
            }
            Request::SiteRollback { name, generation } => {
                let site = sites.get(&name)?;
                let rolled = site.roll_back(generation, author).await;
                let (from, now) = rolled.map_err(|error| {
                    let hint = "tlstunnel-ctl site log shows which are kept";
                    refuse(RefusalCode::NotFound, error.to_string(), hint)
                })?;
                let commit: String = now.site.commit().id.chars().take(12).collect();
                let (name, number) = (&site.name, now.number);
                tracing::info!(author, site = name, from, number, "rolled back");
                let message = format!("{name} shows {commit} of generation {from} again");
                let mut answer = Changed { generation: number, ..changed(name, message) };
                if !site.generations.is_pinned() {
                    let warning =
                        "the next commit goes live: tlstunnel-ctl site pin keeps this one"
                            .to_owned();
                    answer.warnings.push(warning);
                }
                json(answer)
            }
            Request::SitePin { name, pinned } => {
                let site = sites.get(&name)?;
                site.set_pinned(pinned, author).await;
                tracing::info!(author, site = site.name, pinned, "pinned or unpinned");
                let what = if pinned { "stays as it is" } else { "shows what comes" };
                json(changed(&site.name, format!("{} {what}", site.name)))
            }
            Request::SiteLog { name, limit } => {
                let limit = usize::try_from(limit.min(MAX_PAGE)).unwrap_or(usize::MAX);
                json(sites.get(&name)?.log(limit))
            }
            Request::KeyAdd { id, role } => json(self.keys.add(&id, role).await?),
            Request::KeyList => json(KeyList { keys: self.keys.list() }),
            Request::KeyRemove { id } => {
                self.keys.remove(&id).await?;
                json(changed(&id, format!("removed the key {id}")))
            }
            _ => Err(refuse(
                RefusalCode::Malformed,
                "this is a site server: it knows no routes",
                "its operations are those of tlstunnel-ctl site and tlstunnel-ctl key; is this the right --remote?",
            )),
        }
    }
}

fn changed(name: &str, message: String) -> Changed {
    Changed { generation: 0, message, name: Some(name.to_owned()), warnings: Vec::new() }
}

fn refuse(code: RefusalCode, message: impl Into<String>, hint: &str) -> Refusal {
    Refusal { code, message: message.into(), hint: Some(hint.to_owned()) }
}

fn json<T: Serialize>(answer: T) -> Result<Value, Refusal> {
    serde_json::to_value(answer).map_err(|error| {
        let message = format!("the answer cannot be written: {error}");
        refuse(RefusalCode::Internal, message, "the server's log says more")
    })
}

impl From<SitesError> for Refusal {
    fn from(error: SitesError) -> Self {
        let (code, hint) = match &error {
            SitesError::Name { .. } | SitesError::Settings(_) => (RefusalCode::Invalid, None),
            SitesError::Exists(_) => (RefusalCode::Exists, Some("--replace changes it")),
            SitesError::Unknown(_) => (RefusalCode::NotFound, Some("tlstunnel-ctl site list")),
            SitesError::Fixed(_) => (RefusalCode::Invalid, Some("restart it with other options")),
            SitesError::TooMany => (RefusalCode::Full, None),
            SitesError::NoStorage => (RefusalCode::Invalid, None),
            SitesError::Storage(_) => (RefusalCode::Internal, Some("the server's log says more")),
        };
        Self { code, message: error.to_string(), hint: hint.map(str::to_owned) }
    }
}
