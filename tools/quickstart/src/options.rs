//! What can be chosen about the demonstration.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::Parser;

/// Starts a tlstunnel gateway with demonstration sites behind it, one of them from git, and says what to try next.
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
    /// The first of four ports for the demonstration sites
    #[arg(long, default_value_t = 8001, value_parser = clap::value_parser!(u16).range(1..=65_532))]
    pub(crate) site_port: u16,
    /// The port for tlstunnel-ctl site: that of the site server
    #[arg(long, default_value_t = 1235)]
    pub(crate) pages_control_port: u16,
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

    /// Where the site server listens.
    pub(crate) fn pages_address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.site_port + 3).into()
    }

    /// Where the site server is controlled.
    pub(crate) fn pages_control(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.pages_control_port).into()
    }

    /// The bare repository of the site from git.
    pub(crate) fn repository(&self) -> PathBuf {
        self.dir.join("site.git")
    }

    /// The token that a push to the site server gives as password.
    pub(crate) fn pages_token(&self) -> PathBuf {
        self.dir.join("site.token")
    }

    /// The site server's block device.
    pub(crate) fn pages_storage(&self) -> PathBuf {
        self.dir.join("site.img")
    }

    /// Where the site server writes the addresses it listens on.
    pub(crate) fn pages_ready_file(&self) -> PathBuf {
        self.dir.join("site.json")
    }
}
