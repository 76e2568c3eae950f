//! Where the site comes from, and when it is looked at.

use std::path::PathBuf;

use certify::options::Secret;
use clap::Args;
use clap::builder::BoolishValueParser;

use super::values::{authenticator, url_path};
use crate::git::HostKeyPin;

/// How the repository lets us in.
#[derive(Clone, Args)]
#[command(next_help_heading = "Access to the repository")]
pub struct AccessOptions {
    /// The private SSH key, in OpenSSH or PKCS#8 PEM form without a passphrase
    #[arg(long, env = "UNIPI_SSH_KEY_FILE", value_name = "FILE", requires = "ssh_authenticator")]
    pub ssh_key_file: Option<PathBuf>,

    /// The private SSH key itself: as the original has it, ed25519:BASE64, or what stands between the first and last line
    /// of OpenSSH's file, in one line. Others on this machine can see it here; a file is better
    #[arg(
        long,
        env = "UNIPI_SSH_KEY",
        value_name = "KEY",
        hide_env_values = true,
        requires = "ssh_authenticator",
        conflicts_with = "ssh_key_file"
    )]
    pub ssh_key: Option<String>,

    /// The server's SSH key: SHA256:FINGERPRINT, the public key itself (ssh-ed25519 AAAA...), or a line of known_hosts
    #[arg(long, env = "UNIPI_SSH_AUTHENTICATOR", value_name = "KEY", value_parser = authenticator)]
    pub ssh_authenticator: Option<HostKeyPin>,

    /// The authority, as PEM, of https remotes whose certificates are not from a public one; those stay trusted
    #[arg(long, env = "UNIPI_REMOTE_CA", value_name = "FILE")]
    pub remote_ca: Option<PathBuf>,

    /// The text of such a file itself, where there are no files; spaces may stand for line breaks
    #[arg(
        long,
        env = "UNIPI_REMOTE_CA_PEM",
        value_name = "PEM",
        conflicts_with = "remote_ca",
        allow_hyphen_values = true
    )]
    pub remote_ca_pem: Option<String>,
}

impl std::fmt::Debug for AccessOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccessOptions")
            .field("ssh_key_file", &self.ssh_key_file)
            .field("ssh_authenticator", &self.ssh_authenticator)
            .field("remote_ca", &self.remote_ca)
            .field("remote_ca_pem", &self.remote_ca_pem)
            .finish_non_exhaustive()
    }
}

/// When the repository is looked at.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Refreshing")]
pub struct RefreshOptions {
    /// The path of the webhook
    #[arg(long, env = "UNIPI_HOOK", default_value = "/hook", value_name = "PATH", value_parser = url_path)]
    pub hook: String,

    /// The file with the webhook's secret, as the forge has it; without it there is no webhook
    #[arg(long, env = "UNIPI_HOOK_SECRET_FILE", value_name = "FILE")]
    pub hook_secret_file: Option<PathBuf>,

    /// The webhook's secret itself, where there are no files; others on this machine can see it here
    #[arg(
        long,
        env = "UNIPI_HOOK_SECRET",
        hide_env_values = true,
        value_name = "TEXT",
        conflicts_with = "hook_secret_file"
    )]
    pub hook_secret: Option<Secret>,

    /// Refreshes on any GET or POST of the hook's path, unsigned, as the original did
    #[arg(long, env = "UNIPI_HOOK_OPEN", conflicts_with_all = ["hook_secret_file", "hook_secret"],
          value_parser = BoolishValueParser::new())]
    pub hook_open: bool,

    /// Looks at the repository every so many seconds, unasked; a little more or less each time
    #[arg(long, env = "UNIPI_POLL", value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    pub poll: Option<u64>,
}
