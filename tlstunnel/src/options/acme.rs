//! The options for certificates from an authority (ACME, RFC 8555).

use std::path::PathBuf;

use certify::{ChallengeKind, ExternalAccount, Settings};
use clap::Args;

/// How certificates are obtained. Without `--acme` none are.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Certificates from an authority")]
pub struct AcmeOptions {
    /// Obtains a certificate for every exact name that no --cert and no `cert set` covers: the https address of an ACME
    /// directory, or letsencrypt, or letsencrypt-staging
    #[arg(long, env = "TLSTUNNEL_ACME", value_name = "DIRECTORY",
          value_parser = certify::directory_url)]
    pub acme: Option<String>,

    /// A PEM file with the authorities that the directory's own certificate may come from [default: the public ones]
    #[arg(long, env = "TLSTUNNEL_ACME_CA", value_name = "FILE", requires = "acme")]
    pub acme_ca: Option<PathBuf>,

    /// A mail address that the authority may write to; repeatable
    #[arg(long, env = "TLSTUNNEL_ACME_CONTACT", value_delimiter = ',', value_name = "MAIL")]
    pub acme_contact: Vec<String>,

    /// How it is proved that a name is ours: http-01 (port 80 must be reached) or tls-alpn-01 (port 443 must be reached)
    #[arg(
        long,
        env = "TLSTUNNEL_ACME_CHALLENGE",
        default_value = "http-01",
        value_name = "CHALLENGE"
    )]
    pub acme_challenge: ChallengeKind,

    /// An account elsewhere that the authority asks for, the key in base64url
    #[arg(long, env = "TLSTUNNEL_ACME_EAB", hide_env_values = true, value_name = "KID:KEY")]
    pub acme_eab: Option<ExternalAccount>,

    /// The profile of certificates to ask for, such as shortlived
    #[arg(long, env = "TLSTUNNEL_ACME_PROFILE", value_name = "NAME")]
    pub acme_profile: Option<String>,
}

impl AcmeOptions {
    /// What they say, if certificates are to be obtained.
    pub fn settings(&self) -> Option<Settings> {
        Some(Settings {
            directory: self.acme.clone()?,
            contacts: self.acme_contact.clone(),
            challenge: self.acme_challenge,
            external_account: self.acme_eab.clone(),
            profile: self.acme_profile.clone(),
        })
    }
}
