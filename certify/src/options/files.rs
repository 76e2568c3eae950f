//! The options for certificates in files.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::files::{FileError, Files};

/// Which certificates are served from files.
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

    /// The pause between two looks.
    pub fn poll(&self) -> Duration {
        Duration::from_secs(self.cert_poll.into())
    }

    /// Seconds before its end from which on a certificate is a problem.
    pub fn alert(&self) -> i64 {
        i64::from(self.cert_alert) * 86_400
    }
}
