//! The options of `add`, and how they become the settings of a route.

use std::path::{Path, PathBuf};

use clap::Args;
use config_proto::model::{
    BackendAddress, BackendTls, Balance, FailureAnswer, HealthCheck, Mode, ProxyVersion,
    RouteLimits, RouteSettings,
};

use super::values;
use crate::failure::Failure;
use crate::files;

/// A name, its backends, and how connections are treated.
#[derive(Args, Debug)]
pub(crate) struct AddOptions {
    /// Host name, `*.example.org`, `default` or `no-sni`; without dots it goes under the gateway's domain
    pub(crate) name: String,
    /// `HOST:PORT`, `ADDRESS:PORT` or `[V6]:PORT`; several share the load
    #[arg(value_name = "BACKEND")]
    pub(crate) backends: Vec<BackendAddress>,
    /// What is done with the TLS [default: terminate]
    #[arg(long, value_parser = values::words::<Mode>(&["terminate", "passthrough", "reencrypt", "reject"]))]
    pub(crate) mode: Option<Mode>,
    /// How one of several backends is chosen [default: round-robin]
    #[arg(long, value_parser = values::words::<Balance>(&["round-robin", "least", "hash"]))]
    pub(crate) balance: Option<Balance>,
    /// Tell backends the client's address with a PROXY protocol header
    #[arg(long, value_name = "VERSION", value_parser = values::words::<ProxyVersion>(&["v1", "v2"]))]
    pub(crate) proxy: Option<ProxyVersion>,
    /// ALPN protocols for clients, best first, such as h2,http/1.1 [default: chosen by the gateway]
    #[arg(long, value_name = "PROTOCOLS", value_delimiter = ',')]
    pub(crate) alpn: Option<Vec<String>>,
    /// Demand a certificate of clients that one of these PEM authorities issued
    #[arg(long, value_name = "FILE")]
    pub(crate) client_ca: Option<PathBuf>,
    /// With --mode reencrypt: PEM authorities that the backend's certificate must come from
    #[arg(long, value_name = "FILE")]
    pub(crate) backend_ca: Option<PathBuf>,
    /// With --mode reencrypt: SHA-256 of the backend's public key, 64 hexadecimal digits
    #[arg(long, value_name = "HEX")]
    pub(crate) backend_pin: Option<String>,
    /// With --mode reencrypt: name that the backend's certificate must have
    #[arg(long, value_name = "NAME")]
    pub(crate) backend_name: Option<String>,
    /// Check the backends' health, as in --health or --health=interval=5s,timeout=2s,rise=2,fall=3
    #[arg(long, value_name = "interval=5s,...", num_args = 0..=1, require_equals = true,
        default_missing_value = "", value_parser = values::health)]
    pub(crate) health: Option<HealthCheck>,
    /// Longest wait for a backend to accept [default: the gateway's]
    #[arg(long, value_name = "DURATION", value_parser = values::seconds)]
    pub(crate) connect_timeout: Option<u32>,
    /// Longest silence of a connection; 0 means without limit [default: the gateway's]
    #[arg(long, value_name = "DURATION", value_parser = values::seconds)]
    pub(crate) idle_timeout: Option<u32>,
    /// Longest silence once one side has finished; 0 means without limit [default: the gateway's]
    #[arg(long, value_name = "DURATION", value_parser = values::seconds)]
    pub(crate) half_closed_timeout: Option<u32>,
    /// Most connections at the same time; 0 means without limit [default: the gateway's]
    #[arg(long, value_name = "COUNT")]
    pub(crate) max_connections: Option<u32>,
    /// What a client sees when no backend can be reached [default: auto]
    #[arg(long, value_name = "ANSWER", value_parser = values::words::<FailureAnswer>(&["auto", "http", "close"]))]
    pub(crate) failure: Option<FailureAnswer>,
    /// Free text for people
    #[arg(long, value_name = "TEXT")]
    pub(crate) description: Option<String>,
    /// Replace the route if the name exists
    #[arg(long)]
    pub(crate) replace: bool,
}

impl AddOptions {
    /// The settings that these options describe, with the named files read.
    ///
    /// # Errors
    /// A file that cannot be read or is no certificate, or no backend where one is needed.
    pub(crate) fn settings(&self) -> Result<RouteSettings, Failure> {
        let mode = self.mode.unwrap_or_default();
        if self.backends.is_empty() && mode != Mode::Reject {
            return Err(Failure::usage(
                format!("{} has no backend", self.name),
                Some("write it behind the name, for example: tlstunnel-ctl add blog 10.0.0.7:80"),
            ));
        }
        let certificates = |file: &Option<PathBuf>| {
            file.as_deref().map(|path: &Path| files::read_pem(path, "CERTIFICATE")).transpose()
        };
        let backend_tls = BackendTls {
            ca: certificates(&self.backend_ca)?,
            pin_sha256: self.backend_pin.clone(),
            server_name: self.backend_name.clone(),
        };
        Ok(RouteSettings {
            backends: self.backends.clone(),
            mode,
            balance: self.balance.unwrap_or_default(),
            proxy: self.proxy,
            alpn: self.alpn.clone(),
            client_ca: certificates(&self.client_ca)?,
            failure: self.failure.unwrap_or_default(),
            description: self.description.clone(),
            backend_tls: (backend_tls != BackendTls::default()).then_some(backend_tls),
            health: self.health.clone(),
            limits: RouteLimits {
                connect_seconds: self.connect_timeout,
                idle_seconds: self.idle_timeout,
                half_closed_seconds: self.half_closed_timeout,
                max_connections: self.max_connections,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use clap::Parser;

    use super::*;
    use crate::options::{Command, Options};

    fn add(arguments: &[&str]) -> Result<Box<AddOptions>, clap::Error> {
        let all = ["tlstunnel-ctl", "add"].iter().chain(arguments);
        Options::try_parse_from(all).map(|options| match options.command {
            Command::Add(add) => add,
            other => panic!("not add: {other:?}"),
        })
    }

    #[test]
    fn every_option_reaches_the_settings() {
        let options = add(&[
            "blog",
            "--mode=reencrypt",
            "--balance=least",
            "--proxy=v2",
            "--alpn=h2,http/1.1",
            "--backend-pin=00ff",
            "--backend-name=inner.example.org",
            "--health",
            "10.0.0.7:80",
            "[2001:db8::7]:443",
            "--connect-timeout=3s",
            "--idle-timeout=5m",
            "--half-closed-timeout=0",
            "--max-connections=7",
            "--failure=close",
            "--description=the blog",
        ])
        .unwrap();
        let expected = serde_json::json!({
            "backends": ["10.0.0.7:80", "[2001:db8::7]:443"],
            "mode": "reencrypt", "balance": "least", "proxy": "v2", "alpn": ["h2", "http/1.1"],
            "backend-tls": {"pin-sha256": "00ff", "server-name": "inner.example.org"},
            "health": {"interval-seconds": 5, "timeout-seconds": 2, "rise": 2, "fall": 3},
            "limits": {"connect-seconds": 3, "idle-seconds": 300, "half-closed-seconds": 0,
                       "max-connections": 7},
            "failure": "close", "description": "the blog",
        });
        assert_eq!(serde_json::to_value(options.settings().unwrap()).unwrap(), expected);
    }

    #[test]
    fn only_reject_needs_no_backend() {
        assert!(matches!(add(&["blog"]).unwrap().settings(), Err(Failure::Usage { .. })));
        let settings = add(&["blog", "--mode=reject"]).unwrap().settings().unwrap();
        assert_eq!(settings.mode, Mode::Reject);
    }

    #[test]
    fn bad_values_are_usage_errors() {
        for bad in [
            &["blog", "10.0.0.7"][..],
            &["blog", "2001:db8::7:80"],
            &["blog", "10.0.0.7:80", "--mode=teleport"],
            &["blog", "10.0.0.7:80", "--idle-timeout=1500ms"],
            &["blog", "10.0.0.7:80", "--health=fall"],
            &[],
        ] {
            assert_eq!(add(bad).unwrap_err().exit_code(), 2, "{bad:?}");
        }
    }
}
