//! The command line and the environment: what the gateway is told at start.
//!
//! Every option `--some-name` is also read from `TLSTUNNEL_SOME_NAME`; the command line wins. Lists are repeated on the
//! command line and separated by commas in the environment. Names and defaults are the original's where it has them.
//!
//! This module only parses. It opens nothing, so that the same options work where there are no files at all.

mod limits;
mod values;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use certify::options::{AcmeOptions, FileOptions, Secret, VaultOptions};
use clap::builder::BoolishValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use config_proto::model::normalize_host;
use daemon::log::LogFormat;
use ipnet::IpNet;

pub use limits::LimitOptions;
use values::{duration, size};

/// The whole command line: options to run the gateway, or a command that works on a store while no gateway runs.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "tlstunnel",
    version,
    about = "An edge TLS gateway: one address fronts many services by server name",
    long_about = "An edge TLS gateway: one address fronts many services by server name (SNI).\n\n\
        Port 443 terminates TLS and forwards the plain stream to the backend that the name is registered for; port 80 \
        redirects to https. Names are changed while it runs, with tlstunnel-ctl.\n\n\
        Every option is also read from the environment: --listen-https from TLSTUNNEL_LISTEN_HTTPS. Lists are separated \
        by commas there.",
    after_long_help = EXAMPLES,
    args_conflicts_with_subcommands = true
)]
pub struct CommandLine {
    /// What to do instead of running the gateway.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to run the gateway.
    #[command(flatten)]
    pub options: Options,
}

/// Commands that do not run the gateway.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Looks at a store, or writes it in the original's layout, while no gateway has it open.
    #[command(subcommand)]
    Storage(StorageCommand),
}

/// Commands on a store that no gateway has open.
#[derive(Clone, Debug, Subcommand)]
pub enum StorageCommand {
    /// Says what is on it: generation, routes, keys, certificates.
    Info {
        /// The file or block device.
        #[arg(long, env = "TLSTUNNEL_STORAGE")]
        storage: PathBuf,
        /// The file with the key that it is encrypted with.
        #[arg(long, env = "TLSTUNNEL_STORAGE_KEY_FILE")]
        storage_key_file: Option<PathBuf>,
    },
    /// Reads everything on it and says whether it is sound.
    Check {
        /// The file or block device.
        #[arg(long, env = "TLSTUNNEL_STORAGE")]
        storage: PathBuf,
        /// The file with the key that it is encrypted with.
        #[arg(long, env = "TLSTUNNEL_STORAGE_KEY_FILE")]
        storage_key_file: Option<PathBuf>,
    },
    /// Writes the routes that the original's layout (v1) can hold to a new file, and lists those it cannot.
    ExportV1 {
        /// The file or block device.
        #[arg(long, env = "TLSTUNNEL_STORAGE")]
        storage: PathBuf,
        /// The file with the key that it is encrypted with.
        #[arg(long, env = "TLSTUNNEL_STORAGE_KEY_FILE")]
        storage_key_file: Option<PathBuf>,
        /// The image to write; it must not exist.
        out: PathBuf,
    },
}

/// How to run the gateway.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// The instance's name: in logs, syslog and status
    #[arg(long, env = "TLSTUNNEL_NAME", default_value = "tlstunnel")]
    pub name: String,

    /// Domains that are served; a name without dots goes under the first one
    #[arg(long, env = "TLSTUNNEL_DOMAINS", value_delimiter = ',', value_name = "DOMAIN",
          value_parser = domain)]
    pub domains: Vec<String>,

    /// Worker threads, each with its own event loop [default: one per core]
    #[arg(long, env = "TLSTUNNEL_WORKERS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub workers: Option<u16>,

    /// A DNS server for backends given by name; repeatable [default: the system's]
    #[arg(long = "name-server", env = "TLSTUNNEL_NAME_SERVER", value_delimiter = ',',
          value_name = "ADDRESS[:PORT]", value_parser = values::name_server)]
    pub name_servers: Vec<SocketAddr>,

    /// Writes the bound addresses as JSON to this file once every listener is open
    #[arg(long, env = "TLSTUNNEL_READY_FILE", value_name = "FILE")]
    pub ready_file: Option<PathBuf>,

    /// Where names and keys are kept.
    #[command(flatten)]
    pub storage: StorageOptions,
    /// Where connections come in.
    #[command(flatten)]
    pub listen: ListenOptions,
    /// Who may control the gateway.
    #[command(flatten)]
    pub control: ControlOptions,
    /// Which certificates are served.
    #[command(flatten)]
    pub certificates: CertificateOptions,
    /// Which authority issues certificates.
    #[command(flatten)]
    pub acme: AcmeOptions,
    /// Limits.
    #[command(flatten)]
    pub limits: LimitOptions,
    /// Logs and metrics.
    #[command(flatten)]
    pub observe: ObserveOptions,
}

/// Where names and keys are kept.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Storage")]
pub struct StorageOptions {
    /// A file or block device for names, keys and certificates; without it they are lost at exit
    #[arg(long, env = "TLSTUNNEL_STORAGE", value_name = "FILE")]
    pub storage: Option<PathBuf>,

    /// The size of a storage file that is created; it is sparse
    #[arg(long, env = "TLSTUNNEL_STORAGE_SIZE", default_value = "64MiB", value_name = "SIZE",
          value_parser = size)]
    pub storage_size: u64,

    /// Erases storage that holds something else
    #[arg(long, env = "TLSTUNNEL_FORMAT", value_parser = BoolishValueParser::new())]
    pub format: bool,

    /// How long to wait for another gateway to give the storage up (with --reuse-port, to take over from it)
    #[arg(long, env = "TLSTUNNEL_STORAGE_WAIT", default_value = "0s", value_name = "TIME",
          value_parser = duration)]
    pub storage_wait: Duration,

    /// What secrets are encrypted with there.
    #[command(flatten)]
    pub vault: VaultOptions,

    /// Generations of the configuration that are kept for history, diff and rollback
    #[arg(long, env = "TLSTUNNEL_HISTORY", default_value_t = 1000, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub history: u32,
}

/// Where connections come in.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Listeners")]
pub struct ListenOptions {
    /// The port for TLS on all addresses
    #[arg(long, env = "TLSTUNNEL_FRONTEND_PORT", default_value_t = 443, value_name = "PORT")]
    pub frontend_port: u16,

    /// The port for the redirect to https on all addresses
    #[arg(long, env = "TLSTUNNEL_HTTP_PORT", default_value_t = 80, value_name = "PORT")]
    pub http_port: u16,

    /// The port for tlstunnel-ctl on the loopback
    #[arg(long, env = "TLSTUNNEL_CONFIGURATION_PORT", default_value_t = 1234, value_name = "PORT")]
    pub configuration_port: u16,

    /// Addresses for TLS instead of --frontend-port; repeatable
    #[arg(
        long,
        env = "TLSTUNNEL_LISTEN_HTTPS",
        value_delimiter = ',',
        value_name = "ADDRESS:PORT",
        value_parser = values::listen_address
    )]
    pub listen_https: Vec<SocketAddr>,

    /// Addresses for the redirect instead of --http-port; repeatable
    #[arg(long, env = "TLSTUNNEL_LISTEN_HTTP", value_delimiter = ',', value_name = "ADDRESS:PORT",
          value_parser = values::listen_address)]
    pub listen_http: Vec<SocketAddr>,

    /// Addresses for tlstunnel-ctl instead of --configuration-port; repeatable
    #[arg(
        long = "control",
        env = "TLSTUNNEL_CONTROL",
        value_delimiter = ',',
        value_name = "ADDRESS:PORT",
        value_parser = values::listen_address
    )]
    pub control: Vec<SocketAddr>,

    /// Addresses for metrics and health (/metrics, /health/live, /health/ready); repeatable [default: none]
    #[arg(
        long = "metrics",
        env = "TLSTUNNEL_METRICS",
        value_delimiter = ',',
        value_name = "ADDRESS:PORT",
        value_parser = values::listen_address
    )]
    pub metrics: Vec<SocketAddr>,

    /// Load balancers whose connections to the https port begin with a PROXY header; repeatable
    #[arg(long, env = "TLSTUNNEL_ACCEPT_PROXY_FROM", value_delimiter = ',', value_name = "CIDR",
        value_parser = values::network)]
    pub accept_proxy_from: Vec<IpNet>,

    /// Shares the ports with another gateway, so that a new one takes over before the old one stops
    #[arg(long, env = "TLSTUNNEL_REUSE_PORT", value_parser = BoolishValueParser::new())]
    pub reuse_port: bool,
}

/// Who may control the gateway.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Control")]
pub struct ControlOptions {
    /// The administrator's key; other users of this machine can see it here, prefer --key-file
    #[arg(
        long,
        env = "TLSTUNNEL_KEY",
        hide_env_values = true,
        value_name = "TEXT",
        conflicts_with = "key_file"
    )]
    pub key: Option<Secret>,

    /// A file with the administrator's key; made at the first start [default: the storage's name with .key]
    #[arg(long, env = "TLSTUNNEL_KEY_FILE", value_name = "FILE")]
    pub key_file: Option<PathBuf>,

    /// Also speaks the original's protocol, which can be replayed and whose answers are not authenticated
    #[arg(long, env = "TLSTUNNEL_CONTROL_V1", value_parser = BoolishValueParser::new())]
    pub control_v1: bool,

    /// Control connections at the same time
    #[arg(long, env = "TLSTUNNEL_CONTROL_CONNECTIONS", default_value_t = 64, value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..))]
    pub control_connections: u16,

    /// For one frame of a control connection to arrive
    #[arg(long, env = "TLSTUNNEL_CONTROL_TIMEOUT", default_value = "10s", value_name = "TIME",
          value_parser = duration)]
    pub control_timeout: Duration,
}

/// Which certificates are served.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Certificates")]
pub struct CertificateOptions {
    /// Those that somebody else renews.
    #[command(flatten)]
    pub files: FileOptions,

    /// Orders a certificate for a registered name only once a client asks for it, who waits for it as long as a handshake
    /// may take
    #[arg(long, env = "TLSTUNNEL_ACME_ON_DEMAND", requires = "acme",
          value_parser = BoolishValueParser::new())]
    pub acme_on_demand: bool,

    /// For development: a wildcard certificate for each of --domains from a CA of its own, made once
    #[arg(long, env = "TLSTUNNEL_SELF_SIGNED", value_parser = BoolishValueParser::new())]
    pub self_signed: bool,
}

/// Logs and metrics.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Logs")]
pub struct ObserveOptions {
    /// The form of log lines on standard error
    #[arg(long, env = "TLSTUNNEL_LOG_FORMAT", value_enum, default_value_t = LogFormat::Human)]
    pub log_format: LogFormat,

    /// What is logged: error, warn, info, debug, trace, or a filter such as info,tlstunnel::backend=debug
    #[arg(long, env = "TLSTUNNEL_LOG_LEVEL", default_value = "info", value_name = "FILTER")]
    pub log_level: String,

    /// One line for each connection
    #[arg(long, env = "TLSTUNNEL_ACCESS_LOG", value_enum, default_value_t = Switch::On)]
    pub access_log: Switch,

    /// Also sends log lines to this syslog server (RFC 5424 over UDP) [default port: 514]
    #[arg(long, env = "TLSTUNNEL_SYSLOG", value_name = "HOST[:PORT]")]
    pub syslog: Option<String>,
}

/// On or off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// Yes.
    #[default]
    On,
    /// No.
    Off,
}

/// The command of [`CommandLine`], with every option's environment variable.
pub fn command() -> clap::Command {
    certify::options::environment(<CommandLine as clap::CommandFactory>::command(), "TLSTUNNEL")
}

impl Options {
    /// What `tlstunnel` does when it is told nothing: the defaults of every option, without the environment.
    pub fn defaults() -> Self {
        #[derive(Parser)]
        struct Only {
            #[command(flatten)]
            options: Options,
        }
        let command = <Only as clap::CommandFactory>::command().mut_args(|arg| arg.env(None));
        let matches = command.get_matches_from(["tlstunnel"]);
        // No option is required, which a test keeps so.
        match <Only as clap::FromArgMatches>::from_arg_matches(&matches) {
            Ok(only) => only.options,
            Err(error) => error.exit(),
        }
    }

    /// The domain that names without dots go under.
    pub fn first_domain(&self) -> Option<&str> {
        self.domains.first().map(String::as_str)
    }

    /// Where the administrator's key is read from and written to, when there is such a place: `--key-file`, else next to
    /// a storage file. A block device under `/dev` has no place next to it.
    pub fn key_path(&self) -> Option<PathBuf> {
        self.control.key_file.clone().or_else(|| self.beside_storage(".key"))
    }

    /// A file next to the storage, named after it; none for a block device under `/dev` and without storage.
    pub fn beside_storage(&self, suffix: &str) -> Option<PathBuf> {
        let storage = self.storage.storage.as_ref().filter(|path| !path.starts_with("/dev"))?;
        let mut name = storage.clone().into_os_string();
        name.push(suffix);
        Some(name.into())
    }
}

fn domain(text: &str) -> Result<String, config_proto::model::NameError> {
    normalize_host(text.strip_prefix("*.").unwrap_or(text))
}

const EXAMPLES: &str = "\
Examples:
  Try it on this machine, with a certificate authority of its own:
    tlstunnel --storage gateway.img --domains apps.localhost --self-signed \\
      --frontend-port 8443 --http-port 8080
    tlstunnel-ctl --key-file gateway.img.key add blog 127.0.0.1:3000
    curl --cacert gateway.img-ca.pem https://blog.apps.localhost:8443/

  Serve with a wildcard certificate:
    tlstunnel --storage /var/lib/tlstunnel/store --domains example.org \\
      --cert wildcard.pem --cert-key wildcard.key --metrics 127.0.0.1:9090

  Let an authority issue a certificate for every name that is registered:
    tlstunnel --storage /var/lib/tlstunnel/store --acme letsencrypt --acme-contact admin@example.org

  Let the original's client in on a private network:
    tlstunnel --storage store --key-file admin.key --control 10.0.0.1:1234 --control-v1

  See what a store holds while the gateway is stopped:
    tlstunnel storage info --storage store

Exit codes: 0 stopped in good order, 1 failed, 64 wrong usage.";

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<CommandLine, clap::Error> {
        CommandLine::try_parse_from(std::iter::once(&"tlstunnel").chain(args))
    }

    #[test]
    fn the_command_is_well_formed_and_needs_nothing() {
        command().debug_assert();
        let options = Options::defaults();
        assert_eq!(options.listen.frontend_port, 443);
        assert_eq!(options.listen.http_port, 80);
        assert_eq!(options.listen.configuration_port, 1234);
        assert_eq!(options.storage.storage_size, 64 << 20);
        assert_eq!(options.limits.limits(), crate::limits::Limits::default());
    }

    #[test]
    fn every_option_is_read_from_the_environment_under_its_own_name() {
        let command = command();
        for arg in command.get_arguments() {
            let Some(long) = arg.get_long().filter(|l| !["help", "version"].contains(l)) else {
                continue;
            };
            let expected = format!("TLSTUNNEL_{}", long.to_uppercase().replace('-', "_"));
            let env = arg.get_env().map(|e| e.to_string_lossy().into_owned());
            assert_eq!(env.as_deref(), Some(expected.as_str()), "--{long}");
        }
    }

    #[test]
    fn lists_repeat_and_domains_are_checked() {
        let line = parse(&[
            "--domains",
            "Example.ORG.",
            "--domains",
            "a.test,*.b.test",
            "--listen-https",
            "127.0.0.1:0",
            "--listen-https",
            "[::1]:8443",
        ])
        .unwrap();
        assert_eq!(line.options.domains, ["example.org", "a.test", "b.test"]);
        assert_eq!(line.options.listen.listen_https.len(), 2);
        assert!(parse(&["--domains", "exa mple"]).is_err());
        assert!(parse(&["--storage-size", "many"]).is_err());
        assert!(parse(&["--key", "k", "--key-file", "f"]).is_err());
        assert!(parse(&["--workers", "0"]).is_err());
    }

    #[test]
    fn files_lie_next_to_a_storage_file_and_nowhere_for_a_device() {
        let of = |storage: &str| parse(&["--storage", storage]).unwrap().options;
        assert_eq!(of("a/store").key_path(), Some(PathBuf::from("a/store.key")));
        assert_eq!(of("/dev/storage").key_path(), None);
        assert_eq!(Options::defaults().key_path(), None);
    }

    #[test]
    fn a_key_is_not_shown_in_debug_output() {
        let line =
            parse(&["--storage", "store", "--key", "very-secret", "--storage-key", "very-secret"])
                .unwrap();
        assert!(!format!("{line:?}").contains("very-secret"));
    }
}
