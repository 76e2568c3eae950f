//! The options for certificates, the same in every program that uses this room.
//!
//! A program flattens [`AcmeOptions`] into its own command line. Names of environment variables are the program's:
//! [`environment`] gives `PREFIX_ACME_CONTACT` to `--acme-contact`, and so to every option that has no variable yet.

mod contradiction;
mod dns;
mod files;
mod secret;
mod vault;
mod work;

use std::path::PathBuf;

use clap::{Args, Command};

pub use contradiction::Contradiction;
pub use dns::{DnsOptions, DnsOptionsError, Txt};
pub use files::FileOptions;
pub use secret::Secret;
pub use vault::{VaultOptions, VaultOptionsError, vault_of_file};
pub use work::{AcmeOptionsError, Issuance};

use crate::policy::{ForDomain, KeyType};
use crate::settings::{ChallengeKind, ExternalAccount, Settings, directory_url};

/// How certificates are obtained. Without `--acme` none are.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Certificates from an authority")]
pub struct AcmeOptions {
    /// Obtains certificates from an authority: the https address of an ACME directory, or letsencrypt, or
    /// letsencrypt-staging
    #[arg(long, value_name = "DIRECTORY", value_parser = directory_url)]
    pub acme: Option<String>,

    /// A PEM file with the authorities that the directory's own certificate may come from [default: the public ones]
    #[arg(long, value_name = "FILE", requires = "acme")]
    pub acme_ca: Option<PathBuf>,

    /// The same authorities themselves, where there are no files; line breaks may be spaces, or missing
    #[arg(
        long,
        value_name = "PEM",
        requires = "acme",
        conflicts_with = "acme_ca",
        allow_hyphen_values = true
    )]
    pub acme_ca_pem: Option<String>,

    /// A mail address that the authority may write to; repeatable
    #[arg(long, value_delimiter = ',', value_name = "MAIL")]
    pub acme_contact: Vec<String>,

    /// How it is proved that a name is ours: http-01 (port 80 must be reached), tls-alpn-01 (port 443 must be reached)
    /// or dns-01 (a TXT record; the only one for wildcards)
    #[arg(long, default_value = "http-01", value_name = "CHALLENGE")]
    pub acme_challenge: ChallengeKind,

    /// An account elsewhere that the authority asks for, the key in base64url
    #[arg(long, hide_env_values = true, value_name = "KID:KEY")]
    pub acme_eab: Option<ExternalAccount>,

    /// The profile of certificates to ask for, such as shortlived, for all names or those under a domain; repeatable
    #[arg(long, value_delimiter = ',', value_name = "[DOMAIN=]NAME")]
    pub acme_profile: Vec<ForDomain<String>>,

    /// The type of new keys: p256, p384, rsa2048, rsa3072 or rsa4096, for all names or those under a domain; repeatable
    /// [default: p256]
    #[arg(long, value_delimiter = ',', value_name = "[DOMAIN=]TYPE")]
    pub acme_key_type: Vec<ForDomain<KeyType>>,

    /// Of several chains of a certificate, the one whose topmost certificate was issued by this common name
    #[arg(long, value_name = "NAME")]
    pub acme_preferred_chain: Option<String>,

    /// How TXT records for dns-01 are made.
    #[command(flatten)]
    pub dns: DnsOptions,
}

impl AcmeOptions {
    /// What they say, if certificates are to be obtained.
    pub fn settings(&self) -> Option<Settings> {
        Some(Settings {
            directory: self.acme.clone()?,
            contacts: self.acme_contact.clone(),
            challenge: self.acme_challenge,
            external_account: self.acme_eab.clone(),
            profile: self.acme_profile.iter().cloned().collect(),
            key_type: self.acme_key_type.iter().cloned().collect(),
            preferred_chain: self.acme_preferred_chain.clone(),
        })
    }

    /// Whether certificates come through DNS as in the original: there is a server, and no directory of an authority.
    pub fn through_dns(&self) -> bool {
        self.acme.is_none() && self.dns.dns_server.is_some()
    }
}

/// `command` with every option that is read from no environment variable yet being read from one:
/// `PREFIX_SOME_NAME` for `--some-name`.
pub fn environment(command: Command, prefix: &str) -> Command {
    command.mut_args(|arg| {
        let own = arg.get_long().filter(|long| !["help", "version"].contains(long));
        match own {
            Some(long) if arg.get_env().is_none() => {
                let variable = format!("{prefix}_{}", long.to_uppercase().replace('-', "_"));
                arg.env(variable)
            }
            _ => arg,
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use clap::{CommandFactory, FromArgMatches, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Program {
        #[arg(long, env = "OTHER")]
        name: Option<String>,
        #[command(flatten)]
        acme: AcmeOptions,
    }

    fn parse(args: &[&str]) -> Result<AcmeOptions, clap::Error> {
        let command = environment(Program::command(), "PROGRAM");
        let matches = command.try_get_matches_from(std::iter::once(&"program").chain(args))?;
        Program::from_arg_matches(&matches).map(|program| program.acme)
    }

    #[test]
    fn variables_carry_the_programs_prefix() {
        let command = environment(Program::command(), "PROGRAM");
        let variables: Vec<_> = command
            .get_arguments()
            .filter_map(|arg| arg.get_env())
            .map(|variable| variable.to_string_lossy().into_owned())
            .collect();
        assert_eq!(variables.first().unwrap(), "OTHER");
        assert!(variables.contains(&"PROGRAM_ACME_CA".to_owned()), "{variables:?}");
        assert_eq!(variables.len(), command.get_arguments().count(), "{variables:?}");
    }

    #[test]
    fn nothing_is_obtained_unless_asked_for() {
        assert!(parse(&[]).unwrap().settings().is_none());
        assert!(parse(&["--acme", "http://ca.example/dir"]).is_err());
        assert!(parse(&["--acme-ca", "ca.pem"]).is_err());
        let pem = "-----BEGIN CERTIFICATE----- AAAA -----END CERTIFICATE-----";
        let own = parse(&["--acme", "https://ca.example/dir", "--acme-ca-pem", pem]).unwrap();
        assert_eq!(own.acme_ca_pem.as_deref(), Some(pem));
        let asked = parse(&["--acme", "letsencrypt-staging", "--acme-challenge", "dns-01"]);
        let settings = asked.unwrap().settings().unwrap();
        assert_eq!(settings.challenge, ChallengeKind::Dns01);
        assert_eq!(settings.directory, crate::LETS_ENCRYPT_STAGING);
    }
}
