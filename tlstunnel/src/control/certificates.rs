//! What the work on certificates is asked to do by a person.

use config_proto::message::{Changed, Refusal, RefusalCode, RevocationReason};
use config_proto::model::RouteName;

use super::Control;
use crate::config::refuse;

impl Control {
    /// Has a new certificate obtained for a name.
    pub(super) async fn renew(&self, name: &str) -> Result<Changed, Refusal> {
        let name = self.host(name)?;
        let request = certify::Request::Renew { name: name.clone() };
        let done = format!(
            "a new certificate for {name} is ordered; tlstunnel-ctl status says how that goes"
        );
        self.ask_keeper(request, Some(name), done).await
    }

    /// Has the certificate of a name revoked.
    pub(super) async fn revoke(
        &self,
        name: &str,
        reason: RevocationReason,
    ) -> Result<Changed, Refusal> {
        let name = self.host(name)?;
        let reason = match reason {
            RevocationReason::Unspecified => certify::Reason::Unspecified,
            RevocationReason::KeyCompromise => certify::Reason::KeyCompromise,
            RevocationReason::AffiliationChanged => certify::Reason::AffiliationChanged,
            RevocationReason::Superseded => certify::Reason::Superseded,
            RevocationReason::CessationOfOperation => certify::Reason::CessationOfOperation,
            _ => {
                return Err(refuse(
                    RefusalCode::Invalid,
                    "this gateway does not know that reason",
                    "give another",
                ));
            }
        };
        let request = certify::Request::Revoke { name: name.clone(), reason };
        let done = format!("the certificate of {name} is revoked, and a new one is ordered");
        self.ask_keeper(request, Some(name), done).await
    }

    /// Has the account's key changed.
    pub(super) async fn roll_over(&self) -> Result<Changed, Refusal> {
        let done = "the account with the authority has a new key".to_owned();
        self.ask_keeper(certify::Request::RollOver, None, done).await
    }

    fn host(&self, name: &str) -> Result<String, Refusal> {
        match self.configuration.complete(name)? {
            name @ (RouteName::Exact(_) | RouteName::Wildcard(_)) => Ok(name.to_string()),
            name => Err(refuse(
                RefusalCode::Invalid,
                format!("{name} is no name that a certificate can have"),
                "give a host name",
            )),
        }
    }

    async fn ask_keeper(
        &self,
        request: certify::Request,
        name: Option<String>,
        done: String,
    ) -> Result<Changed, Refusal> {
        let keeper = self.settings.keeper.as_ref().ok_or_else(|| {
            refuse(
                RefusalCode::NotFound,
                "no certificates are obtained from an authority",
                "start the gateway with --acme",
            )
        })?;
        let message = match keeper.ask(request).await.map_err(refusal)? {
            certify::Outcome::Done => done,
            certify::Outcome::Waiting => {
                "noted, other work goes before it; tlstunnel-ctl status says how that goes"
                    .to_owned()
            }
        };
        let generation = self.gateway.snapshot.load().generation;
        Ok(Changed { generation, message, name, warnings: Vec::new() })
    }
}

fn refusal(error: certify::RequestError) -> Refusal {
    use certify::RequestError as E;
    let (code, hint) = match error {
        E::Name(_) => (
            RefusalCode::NotFound,
            "names that are registered, terminated here and covered by no other certificate are; see cert list",
        ),
        E::NoCertificate(_) => {
            (RefusalCode::NotFound, "tlstunnel-ctl cert list shows what is in use")
        }
        E::Held(_) => (RefusalCode::Invalid, "it is done by itself then"),
        E::Busy => (RefusalCode::Full, "tlstunnel-ctl status says what goes on"),
        _ => (RefusalCode::Internal, "the log says more; nothing was replaced"),
    };
    refuse(code, error.to_string(), hint)
}
