//! TLS: certificates by the original's options, by an authority's, or from files.

use std::path::PathBuf;
use std::time::Duration;

use certify::options::{AcmeOptions, FileOptions};
use certify::{LETS_ENCRYPT, LETS_ENCRYPT_STAGING};
use clap::Args;
use clap::builder::BoolishValueParser;
use http::HeaderValue;

use super::values::{duration, host_name};

/// How long browsers are to insist on TLS, unless an option says otherwise: a year.
const HSTS: Duration = Duration::from_secs(31_536_000);

/// How the site is served over TLS.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "TLS")]
pub struct TlsOptions {
    /// Serves HTTPS; without --cert, --self-signed or --acme, the certificates come from Let's Encrypt
    #[arg(long, env = "UNIPI_TLS", value_parser = BoolishValueParser::new())]
    pub tls: bool,

    /// A name of the site, which gets a certificate; repeatable
    #[arg(long, env = "UNIPI_HOSTNAME", value_name = "NAME", value_delimiter = ',', value_parser = host_name)]
    pub hostname: Vec<String>,

    /// A mail address for the authority, as --acme-contact
    #[arg(long, env = "UNIPI_EMAIL", value_name = "MAIL")]
    pub email: Option<String>,

    /// With --tls: Let's Encrypt's real certificates, not those of its staging environment, which no browser trusts
    #[arg(long, env = "UNIPI_PRODUCTION", requires = "tls", conflicts_with = "acme",
          value_parser = BoolishValueParser::new())]
    pub production: bool,

    /// Certificates that somebody else renews.
    #[command(flatten)]
    pub files: FileOptions,

    /// For development: a certificate for each --hostname (or localhost) from an authority that is made at the start
    #[arg(long, env = "UNIPI_SELF_SIGNED", value_parser = BoolishValueParser::new())]
    pub self_signed: bool,

    /// Where the development authority is written, for clients to trust
    #[arg(long, env = "UNIPI_SELF_SIGNED_CA", value_name = "FILE", requires = "self_signed")]
    pub self_signed_ca: Option<PathBuf>,

    /// Serves pages in clear text too, instead of sending clients to https
    #[arg(long, env = "UNIPI_NO_REDIRECT", value_parser = BoolishValueParser::new())]
    pub no_redirect: bool,

    /// How long browsers are to insist on TLS (HSTS); 0 for not at all [default: 365d; not with --self-signed or staging]
    #[arg(long, env = "UNIPI_HSTS", value_name = "TIME", value_parser = duration)]
    pub hsts: Option<Duration>,

    /// For a handshake to be done
    #[arg(long, env = "UNIPI_HANDSHAKE_TIMEOUT", default_value = "10s", value_name = "TIME",
          value_parser = duration)]
    pub handshake_timeout: Duration,

    /// Certificates from an authority.
    #[command(flatten)]
    pub acme: AcmeOptions,
}

impl TlsOptions {
    /// Whether HTTPS is served.
    pub fn enabled(&self) -> bool {
        let acme = self.acme();
        self.tls || self.has_own() || acme.acme.is_some() || acme.through_dns()
    }

    /// How certificates are obtained: as the options of that name say, with what --tls and its kin add to them.
    pub fn acme(&self) -> AcmeOptions {
        let mut acme = self.acme.clone();
        let elsewhere = self.has_own() || acme.through_dns();
        if acme.acme.is_none() && self.tls && (self.production || !elsewhere) {
            let directory = if self.production { LETS_ENCRYPT } else { LETS_ENCRYPT_STAGING };
            acme.acme = Some(directory.to_owned());
        }
        acme.acme_contact.extend(self.email.clone());
        acme
    }

    /// The value of Strict-Transport-Security, if it is sent. By default not where browsers could not go on with a
    /// warning: under certificates that they do not trust.
    pub fn hsts(&self) -> Option<HeaderValue> {
        let untrusted = self.self_signed
            || self.acme().acme.is_some_and(|directory| directory == LETS_ENCRYPT_STAGING);
        let time = self.hsts.unwrap_or(if untrusted { Duration::ZERO } else { HSTS });
        let text = format!("max-age={}", time.as_secs());
        (!time.is_zero()).then(|| HeaderValue::from_str(&text).ok()).flatten()
    }

    fn has_own(&self) -> bool {
        !self.files.is_empty() || self.self_signed
    }
}
