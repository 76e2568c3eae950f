//! The options for certificates that take DNS: how TXT records are made for dns-01, and for which names.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use zeroize::Zeroizing;

use super::Secret;
use crate::challenge::TxtPublisher;
use crate::dns::hook::{AcmeDns, HookAddress, HookError, Webhook};
use crate::dns::responder::{DelegatedZones, Zones, ZonesError};
use crate::dns::tlsa::TlsaServer;
use crate::dns::{DnsKey, DnsServer, DynamicUpdate};
use crate::host::Host;
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

    /// A webhook that makes TXT records: it gets POST URL/present and URL/cleanup with {"fqdn": ..., "value": ...}
    #[arg(long, value_name = "URL", conflicts_with = "dns_server")]
    pub dns_hook: Option<HookAddress>,

    /// A file with what the webhook gets in the field Authorization, such as Bearer 4711
    #[arg(long, value_name = "FILE", requires = "dns_hook")]
    pub dns_hook_auth_file: Option<PathBuf>,

    /// The same itself, where there are no files; other users of this machine can see it here
    #[arg(
        long,
        hide_env_values = true,
        value_name = "TEXT",
        requires = "dns_hook",
        conflicts_with = "dns_hook_auth_file"
    )]
    pub dns_hook_auth: Option<Secret>,

    /// An acme-dns server that holds TXT records; what CNAME record it takes is said in status and log
    #[arg(long, value_name = "URL", conflicts_with_all = ["dns_server", "dns_hook"])]
    pub dns_hook_acme_dns: Option<HookAddress>,

    /// Answers for delegated zones itself at this address, UDP and TCP; port 53 as the internet sees it; repeatable
    #[arg(long, value_delimiter = ',', value_name = "ADDRESS:PORT", requires = "acme_dns_zone",
          conflicts_with_all = ["dns_server", "dns_hook", "dns_hook_acme_dns"])]
    pub acme_dns_listen: Vec<SocketAddr>,

    /// A zone that is delegated to this program, such as _acme-challenge.example.org; repeatable
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "NAME",
        requires = "acme_dns_listen",
        requires = "acme_dns_name_server"
    )]
    pub acme_dns_zone: Vec<String>,

    /// Accepted for those who come from the original: with --dns-server and --dns-key, and without --acme, certificates
    /// are asked for and delivered through DNS as there. The key is made here and stored, and not derived from this
    #[arg(long, hide_env_values = true, value_name = "SEED", requires = "dns_server",
          value_parser = |_: &str| Ok::<_, Infallible>(Ignored))]
    pub key_seed: Option<Ignored>,

    /// This program's name in the NS records that delegate those zones, such as gateway.example.org
    #[arg(long, value_name = "NAME", requires = "acme_dns_zone")]
    pub acme_dns_name_server: Option<String>,
}

/// A value that is accepted and forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ignored;

/// Why dns-01 cannot be done with these options.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DnsOptionsError {
    /// The file with the authorization cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// The webhook.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// The delegated zones.
    #[error(transparent)]
    Zones(#[from] ZonesError),
}

/// What makes TXT records, and what is to be served for it.
#[derive(Debug)]
pub struct Txt {
    /// For [`crate::Keeper::with_txt`].
    pub publisher: Arc<dyn TxtPublisher>,
    /// To be answered for at the addresses of `--acme-dns-listen`, if there are some.
    pub zones: Option<Arc<Zones>>,
}

impl DnsOptions {
    /// What makes TXT records; none when no way was given. `host` keeps accounts with an acme-dns server.
    ///
    /// # Errors
    /// When the way cannot be gone.
    pub fn txt(
        &self,
        client: &Client,
        clock: Clock,
        host: impl Host,
    ) -> Result<Option<Txt>, DnsOptionsError> {
        if let Some(zones) = self.zones()? {
            let publisher = DelegatedZones::new(Arc::clone(&zones), client.resolver());
            return Ok(Some(Txt { publisher: Arc::new(publisher), zones: Some(zones) }));
        }
        let publisher: Arc<dyn TxtPublisher> =
            if let (Some(address), Some(key)) = (self.dns_server, &self.dns_key) {
                let server = DnsServer {
                    address,
                    key: key.clone(),
                    authoritative_port: self.dns_authoritative_port,
                    patience: self.dns_wait,
                };
                Arc::new(DynamicUpdate::new(server, client.resolver(), clock))
            } else if let Some(address) = &self.dns_hook {
                let authorization = self.hook_authorization()?;
                let authorization = authorization.as_ref().map(|text| text.as_str());
                Arc::new(Webhook::new(client.clone(), address.clone(), authorization)?)
            } else if let Some(address) = &self.dns_hook_acme_dns {
                Arc::new(AcmeDns::new(client.clone(), address.clone(), host))
            } else {
                return Ok(None);
            };
        Ok(Some(Txt { publisher, zones: None }))
    }

    /// The server that certificates come through without an authority's directory, as in the original.
    pub(super) fn tlsa(&self, clock: Clock) -> Option<TlsaServer> {
        if self.key_seed.is_some() {
            tracing::info!("--key-seed is not needed: keys are made here, and stored");
        }
        Some(TlsaServer::new(self.dns_server?, self.dns_key.clone()?, clock))
    }

    fn zones(&self) -> Result<Option<Arc<Zones>>, DnsOptionsError> {
        match (&self.acme_dns_name_server, self.acme_dns_listen.is_empty()) {
            (Some(server), false) => Ok(Some(Arc::new(Zones::new(&self.acme_dns_zone, server)?))),
            _ => Ok(None),
        }
    }

    fn hook_authorization(&self) -> Result<Option<Zeroizing<String>>, DnsOptionsError> {
        if let Some(secret) = &self.dns_hook_auth {
            return Ok(Some(secret.text().to_owned().into()));
        }
        let Some(path) = &self.dns_hook_auth_file else { return Ok(None) };
        std::fs::read_to_string(path)
            .map(|text| Some(Zeroizing::new(text)))
            .map_err(|error| DnsOptionsError::Read { path: path.clone(), error })
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
        assert!(parse(&["--key-seed", "seed"]).is_err());
        let seed = ["--key-seed", "s3ed", "--dns-server", "192.0.2.1", "--dns-key", KEY];
        assert!(!format!("{:?}", parse(&seed).unwrap()).contains("s3ed"));
        assert!(parse(&["--dns-server", "192.0.2.1"]).is_err());
        assert!(parse(&["--dns-key", KEY]).is_err());
        assert!(parse(&["--dns-server", "ns1.example.org", "--dns-key", KEY]).is_err());
        assert!(parse(&["--dns-wait", "2h"]).is_err());
    }

    #[test]
    fn there_is_one_way() {
        let zone = ["--acme-dns-zone", "_acme-challenge.example.org"];
        let listen = ["--acme-dns-listen", "127.0.0.1:53"];
        let server = ["--acme-dns-name-server", "gateway.example.org"];
        parse(&[zone, listen, server].concat()).unwrap();
        assert!(parse(&[zone, listen].concat()).is_err());
        assert!(parse(&[listen, server].concat()).is_err());
        assert!(parse(&listen).is_err() && parse(&zone).is_err() && parse(&server).is_err());
        let hook = ["--dns-hook", "https://hook.example.org"];
        parse(&hook).unwrap();
        assert!(parse(&[&hook[..], &zone, &listen, &server].concat()).is_err());
        assert!(
            parse(&[&hook[..], &["--dns-server", "192.0.2.1", "--dns-key", KEY]].concat()).is_err()
        );
        assert!(parse(&["--dns-hook-auth-file", "auth"]).is_err());
        assert!(parse(&["--dns-hook-auth", "Bearer 4711"]).is_err());
        let open = parse(&[&hook[..], &["--dns-hook-auth", "Bearer 4711"]].concat()).unwrap();
        assert_eq!(open.hook_authorization().unwrap().unwrap().as_str(), "Bearer 4711");
        assert!(!format!("{open:?}").contains("4711"), "a secret is not shown");
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
