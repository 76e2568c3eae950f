//! The options for certificates that take DNS: how TXT records are made for dns-01, and for which names.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use crate::challenge::TxtPublisher;
use crate::dns::{DnsKey, DnsServer, DynamicUpdate};
use crate::http::Client;
use crate::keeper::Clock;

/// The longest time that a record may take to be seen everywhere.
const MAX_WAIT: Duration = Duration::from_secs(3600);

/// How TXT records are made (`--acme-challenge dns-01`).
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Certificates by DNS")]
pub struct DnsOptions {
    /// A name that has no route and gets a certificate all the same, or a wildcard such as *.example.org (dns-01 alone),
    /// whose certificate serves every name right below it; repeatable
    #[arg(long, value_delimiter = ',', value_name = "NAME", value_parser = acme_domain)]
    pub acme_domain: Vec<String>,

    /// The DNS server that TXT records are made on by signed updates (RFC 2136): the primary of their zone
    #[arg(long, value_name = "IP[:PORT]", value_parser = server, requires = "dns_key")]
    pub dns_server: Option<SocketAddr>,

    /// The key that updates are signed with (TSIG): SHA256, SHA384 or SHA512, and the secret in base64
    #[arg(
        long,
        hide_env_values = true,
        value_name = "NAME:SHA256:BASE64",
        requires = "dns_server"
    )]
    pub dns_key: Option<DnsKey>,

    /// How long a TXT record may take to be shown by all servers of its zone
    #[arg(long, default_value = "2m", value_name = "TIME", value_parser = wait)]
    pub dns_wait: Duration,

    /// The port at which the servers are asked that a zone names
    #[arg(long, default_value_t = 53, value_name = "PORT")]
    pub dns_authoritative_port: u16,
}

/// Why dns-01 cannot be done with these options.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DnsOptionsError {
    /// No way was given.
    #[error("dns-01 needs a way to make TXT records: --dns-server with --dns-key")]
    NoWay,
}

impl DnsOptions {
    /// What makes TXT records.
    ///
    /// # Errors
    /// When no way was given.
    pub fn publisher(
        &self,
        client: &Client,
        clock: Clock,
    ) -> Result<Arc<dyn TxtPublisher>, DnsOptionsError> {
        match (self.dns_server, &self.dns_key) {
            (Some(address), Some(key)) => {
                let server = DnsServer {
                    address,
                    key: key.clone(),
                    authoritative_port: self.dns_authoritative_port,
                    patience: self.dns_wait,
                };
                Ok(Arc::new(DynamicUpdate::new(server, client.resolver(), clock)))
            }
            _ => Err(DnsOptionsError::NoWay),
        }
    }
}

/// A name in lower case without the final dot, with `*.` before it or not.
fn acme_domain(text: &str) -> Result<String, config_proto::model::NameError> {
    use config_proto::model::normalize_host;
    match text.strip_prefix("*.") {
        Some(base) => normalize_host(base).map(|base| format!("*.{base}")),
        None => normalize_host(text),
    }
}

/// The port of DNS is 53.
fn server(text: &str) -> Result<SocketAddr, String> {
    text.parse::<SocketAddr>()
        .or_else(|_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53)))
        .map_err(|_| "write an IP address, as in 192.0.2.1 or [2001:db8::1]:53".to_owned())
}

fn wait(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match time <= MAX_WAIT {
        true => Ok(time),
        false => Err("longer than an hour".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        dns: DnsOptions,
    }

    fn parse(args: &[&str]) -> Result<DnsOptions, clap::Error> {
        let all = std::iter::once(&"program").chain(args);
        Program::try_parse_from(all).map(|program| program.dns)
    }

    const KEY: &str = "acme._update.example.org:SHA256:AAECAwQFBgcICQoLDA0ODw==";

    #[test]
    fn a_server_and_its_key_come_together() {
        let options = parse(&["--dns-server", "192.0.2.1", "--dns-key", KEY]).unwrap();
        assert_eq!(options.dns_server.unwrap().to_string(), "192.0.2.1:53");
        assert!(!format!("{options:?}").contains("AAEC"), "a secret is not shown");
        assert!(parse(&["--dns-server", "192.0.2.1"]).is_err());
        assert!(parse(&["--dns-key", KEY]).is_err());
        assert!(parse(&["--dns-server", "ns1.example.org", "--dns-key", KEY]).is_err());
        assert!(parse(&["--dns-wait", "2h"]).is_err());
    }

    #[test]
    fn domains_are_names_or_wildcards() {
        let options = parse(&["--acme-domain", "*.Example.ORG.,example.org"]).unwrap();
        assert_eq!(options.acme_domain, ["*.example.org", "example.org"]);
        for bad in ["*", "*.*.example.org", "a.*.example.org", "exa mple"] {
            assert!(parse(&["--acme-domain", bad]).is_err(), "{bad}");
        }
    }
}
