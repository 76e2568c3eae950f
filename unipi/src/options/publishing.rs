//! Who may publish, and who may configure.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use certify::options::Secret;
use clap::Args;

use super::values::{duration, url_path};

/// Who may publish besides the remote, and whose commits go live.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Publishing")]
pub struct PublishingOptions {
    /// The file with the push token: git push to --push then publishes, with the token as password
    #[arg(long, env = "UNIPI_PUSH_TOKEN_FILE", value_name = "FILE")]
    pub push_token_file: Option<PathBuf>,

    /// The push token itself, where there are no files; others on this machine can see it here
    #[arg(
        long,
        env = "UNIPI_PUSH_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN",
        conflicts_with = "push_token_file"
    )]
    pub push_token: Option<Secret>,

    /// The path of the repository that is pushed to
    #[arg(long, env = "UNIPI_PUSH", default_value = "/site.git", value_name = "PATH", value_parser = url_path)]
    pub push: String,

    /// The branch that is pushed to, where there is no remote that says so
    #[arg(long, env = "UNIPI_BRANCH", value_name = "BRANCH", conflicts_with = "remote")]
    pub branch: Option<String>,

    /// What object ids are while nothing was pushed yet
    #[arg(long, env = "UNIPI_OBJECT_FORMAT", default_value = "sha1", value_name = "FORMAT",
          value_parser = ["sha1", "sha256"])]
    pub object_format: String,

    /// Only what one of these keys signed goes live: a file as ssh-keygen and git have it (gpg.ssh.allowedSignersFile)
    #[arg(long, env = "UNIPI_ALLOWED_SIGNERS", value_name = "FILE")]
    pub allowed_signers: Option<PathBuf>,

    /// A line of such a file, where there are no files; repeatable
    #[arg(
        long,
        env = "UNIPI_ALLOWED_SIGNER",
        value_name = "LINE",
        conflicts_with = "allowed_signers"
    )]
    pub allowed_signer: Vec<String>,
}

/// Who may configure: tlstunnel-ctl site.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Control")]
pub struct ControlOptions {
    /// An address and port for tlstunnel-ctl, which adds and removes sites while the server runs; repeatable
    #[arg(
        long,
        env = "UNIPI_CONTROL",
        value_name = "ADDRESS:PORT",
        value_delimiter = ',',
        requires = "storage"
    )]
    pub control: Vec<SocketAddr>,

    /// The file with the administrator's key; made if it is missing [default: beside --storage, with .key]
    #[arg(long, env = "UNIPI_KEY_FILE", value_name = "FILE", requires = "control")]
    pub key_file: Option<PathBuf>,

    /// The administrator's key itself, where there are no files; others on this machine can see it here
    #[arg(
        long,
        env = "UNIPI_CONTROL_KEY",
        hide_env_values = true,
        value_name = "TEXT",
        requires = "control",
        conflicts_with = "key_file"
    )]
    pub control_key: Option<Secret>,

    /// Control connections at the same time
    #[arg(long, env = "UNIPI_CONTROL_CONNECTIONS", default_value_t = 64, value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub control_connections: u16,

    /// For the handshake of a control connection, and for each frame
    #[arg(long, env = "UNIPI_CONTROL_TIMEOUT", default_value = "10s", value_name = "TIME", value_parser = duration)]
    pub control_timeout: Duration,
}
