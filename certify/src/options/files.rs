//! The options for certificates that somebody else renews: in files, or given as they are.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use zeroize::Zeroizing;

use super::Secret;
use crate::certificate::{Certificate, Source};
use crate::files::{FileError, Files};
use crate::pem::unfolded;

/// Which certificates are served from files, or from arguments where there are none.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Certificates")]
pub struct FileOptions {
    /// A PEM file with a certificate and its intermediates; repeatable, each with its --cert-key. Changed files are read
    /// again
    #[arg(long = "cert", value_delimiter = ',', value_name = "FILE")]
    pub certs: Vec<PathBuf>,

    /// The PEM file with the private key of the --cert at the same place in the list
    #[arg(long = "cert-key", value_delimiter = ',', value_name = "FILE")]
    pub cert_keys: Vec<PathBuf>,

    /// The same as --cert itself, where there are no files; repeatable. Line breaks may be spaces, or missing
    #[arg(long = "cert-pem", value_name = "PEM", allow_hyphen_values = true)]
    pub cert_pems: Vec<String>,

    /// The private key of the --cert-pem at the same place in the list; other users of this machine can see it here
    #[arg(
        long = "cert-key-pem",
        hide_env_values = true,
        value_name = "PEM",
        allow_hyphen_values = true
    )]
    pub cert_key_pems: Vec<Secret>,

    /// Seconds between two looks whether the files have changed; SIGHUP looks at once
    #[arg(long, default_value_t = 5, value_name = "SECONDS",
          value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub cert_poll: u32,

    /// Days before its end from which on a certificate of any kind is a problem, said in the log and by tlstunnel-ctl
    /// status; one of a short life from its last quarter on
    #[arg(long, default_value_t = 21, value_name = "DAYS",
          value_parser = clap::value_parser!(u16).range(1..=3650))]
    pub cert_alert: u16,
}

impl FileOptions {
    /// Reads the files.
    ///
    /// # Errors
    /// As [`Files::load`].
    pub fn load(&self, now: i64) -> Result<Files, FileError> {
        Files::load(&self.certs, &self.cert_keys, now)
    }

    /// The certificates that are given as they are. One that has expired is used, with a warning.
    ///
    /// # Errors
    /// When certificates and keys are not pairs, or one cannot be used.
    pub fn given(&self, now: i64) -> Result<Vec<Certificate>, FileError> {
        let (chains, keys) = (&self.cert_pems, &self.cert_key_pems);
        if chains.len() != keys.len() {
            let (certs, keys) = (chains.len(), keys.len());
            return Err(FileError::Unpaired { form: "-pem", certs, keys });
        }
        let pairs = chains.iter().zip(keys);
        let certificate = |(chain, key): (&String, &Secret)| {
            let key = Zeroizing::new(unfolded(key.text()));
            let given = Certificate::from_pem(&unfolded(chain), &key, Source::File);
            let given = given.map_err(|error| FileError::Given { error })?;
            if let Err(error) = given.check_dates(now) {
                tracing::warn!(names = ?given.names(), %error, "clients will refuse the certificate");
            }
            Ok(given)
        };
        pairs.map(certificate).collect()
    }

    /// Whether there is any.
    pub fn is_empty(&self) -> bool {
        self.certs.is_empty() && self.cert_pems.is_empty()
    }

    /// The pause between two looks.
    pub fn poll(&self) -> Duration {
        Duration::from_secs(self.cert_poll.into())
    }

    /// Seconds before its end from which on a certificate is a problem.
    pub fn alert(&self) -> i64 {
        i64::from(self.cert_alert) * 86_400
    }
}
