//! What can be chosen about the demonstration.

use std::path::PathBuf;

use clap::Parser;

/// Starts a tlstunnel gateway with two demonstration sites behind it and says what to try next.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Examples:\n  cargo run --release\n  cargo run --release -- --https-port 9443 --dir /tmp/demo"
)]
pub(crate) struct Options {
    /// The folder for block device, key and CA certificate; made if it is missing
    #[arg(long, default_value = "demo")]
    pub(crate) dir: PathBuf,
    /// The domain of the wildcard certificate; names under localhost lead to this machine without any DNS
    #[arg(long, default_value = "apps.localhost")]
    pub(crate) domain: String,
    /// The port that redirects to https
    #[arg(long, default_value_t = 8080)]
    pub(crate) http_port: u16,
    /// The port that terminates TLS
    #[arg(long, default_value_t = 8443)]
    pub(crate) https_port: u16,
    /// The port for tlstunnel-ctl
    #[arg(long, default_value_t = 1234)]
    pub(crate) control_port: u16,
    /// The port of /metrics and /health
    #[arg(long, default_value_t = 9100)]
    pub(crate) metrics_port: u16,
    /// The first of three ports for the demonstration sites
    #[arg(long, default_value_t = 8001)]
    pub(crate) site_port: u16,
}

impl Options {
    /// The block device.
    pub(crate) fn storage_file(&self) -> PathBuf {
        self.dir.join("gateway.img")
    }

    /// The admin's control key.
    pub(crate) fn key_file(&self) -> PathBuf {
        self.dir.join("admin.key")
    }

    /// The certificate of the development CA, which the gateway writes next to its storage.
    pub(crate) fn ca_file(&self) -> PathBuf {
        self.dir.join("gateway.img-ca.pem")
    }

    /// Where the gateway writes the addresses it listens on.
    pub(crate) fn ready_file(&self) -> PathBuf {
        self.dir.join("gateway.json")
    }
}
