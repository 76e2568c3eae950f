//! What can be chosen about the demonstration.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// Starts a tlstunnel gateway with demonstration sites behind it, one of them from git, and says what to try next.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Examples:\n  cargo run --release\n  cargo run --release -- --unikernel\n  \
                  cargo run --release -- --https-port 9443 --dir /tmp/demo"
)]
pub(crate) struct Options {
    /// Start the gateway as a unikernel in a virtual machine; without root it needs /dev/kvm and passt
    #[arg(long)]
    pub(crate) unikernel: bool,
    /// What the unikernel runs on: kvm, or a confined process where there is no KVM
    #[arg(long, value_enum, default_value_t = Backend::Kvm, requires = "unikernel")]
    pub(crate) backend: Backend,
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

/// What a unikernel runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Backend {
    /// A virtual machine.
    Kvm,
    /// A process that may do no more than the guest needs.
    Process,
}

impl Options {
    /// The gateway's ports on 127.0.0.1: http, https, control, metrics.
    pub(crate) fn gateway_ports(&self) -> [u16; 4] {
        [self.http_port, self.https_port, self.control_port, self.metrics_port]
    }

    /// The unikernel's arguments that are secret.
    pub(crate) fn secret_arguments(&self) -> PathBuf {
        self.dir.join("gateway.args")
    }

    /// What the network of one of the unikernel's devices has to say.
    pub(crate) fn network_log(&self, device: &str) -> PathBuf {
        self.dir.join(format!("{device}-network.log"))
    }

    /// The block device.
    pub(crate) fn storage_file(&self) -> PathBuf {
        self.dir.join("gateway.img")
    }

    /// The admin's control key.
    pub(crate) fn key_file(&self) -> PathBuf {
        self.dir.join("admin.key")
    }

    /// The certificate of the development CA. The gateway writes it next to its storage; a unikernel is asked for it.
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
