//! What a person asks about certificates, and what the work on them is asked to do.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use config_proto::message::{CertificateChain, Changed, Refusal, RefusalCode, RevocationReason};
use config_proto::model::RouteName;

use super::Control;
use crate::config::refuse;

/// Characters of base64 in a line of PEM (RFC 7468, section 2).
const PEM_LINE: usize = 64;

impl Control {
    /// What clients of a name are shown.
    pub(super) fn shown(&self, name: &str) -> Result<CertificateChain, Refusal> {
        let name = self.host(name)?;
        let snapshot = self.gateway.snapshot.load();
        let certificate = snapshot.certificates.find(Some(&name)).ok_or_else(|| {
            refuse(
                RefusalCode::NotFound,
                format!("there is no certificate for {name}"),
                "tlstunnel-ctl cert list shows what there is",
            )
        })?;
        let chain = certificate.certified_key().cert.iter().map(|certificate| pem(certificate));
        Ok(CertificateChain { chain_pem: chain.collect() })
    }

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

fn pem(certificate: &[u8]) -> String {
    let text = STANDARD.encode(certificate);
    let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(PEM_LINE));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem + "-----END CERTIFICATE-----\n"
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
