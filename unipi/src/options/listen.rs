//! Where clients come in.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use clap::Args;
use ipnet::IpNet;

use super::values::network;

/// Where clients come in.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Listening")]
pub struct ListenOptions {
    /// The port of HTTP, on all addresses
    #[arg(long, env = "UNIPI_PORT", default_value_t = 80)]
    pub port: u16,

    /// The port of HTTPS, on all addresses; opened when there is TLS
    #[arg(long, env = "UNIPI_HTTPS_PORT", default_value_t = 443, value_name = "PORT")]
    pub https_port: u16,

    /// An address and port of HTTP, in place of --port; repeatable
    #[arg(long, env = "UNIPI_LISTEN_HTTP", value_name = "ADDRESS:PORT", value_delimiter = ',')]
    pub listen_http: Vec<SocketAddr>,

    /// An address and port of HTTPS, in place of --https-port; repeatable
    #[arg(long, env = "UNIPI_LISTEN_HTTPS", value_name = "ADDRESS:PORT", value_delimiter = ',')]
    pub listen_https: Vec<SocketAddr>,

    /// Load balancers and gateways whose connections begin with a PROXY header, by address or network; repeatable
    #[arg(long, env = "UNIPI_PROXY_PROTOCOL", value_name = "CIDR", value_delimiter = ',',
          value_parser = network)]
    pub proxy_protocol: Vec<IpNet>,

    /// Proxies whose X-Forwarded-For and X-Forwarded-Proto are believed, by address or network; repeatable
    #[arg(long, env = "UNIPI_TRUST_FORWARDED", value_name = "CIDR", value_delimiter = ',',
          value_parser = network)]
    pub trust_forwarded: Vec<IpNet>,

    /// An address and port of metrics: GET /metrics
    #[arg(long, env = "UNIPI_METRICS", value_name = "ADDRESS:PORT")]
    pub metrics: Option<SocketAddr>,
}

impl ListenOptions {
    /// Where to listen for HTTP.
    pub fn http(&self) -> Vec<SocketAddr> {
        or_everywhere(&self.listen_http, self.port)
    }

    /// Where to listen for HTTPS, if there is TLS.
    pub fn https(&self) -> Vec<SocketAddr> {
        or_everywhere(&self.listen_https, self.https_port)
    }
}

fn or_everywhere(given: &[SocketAddr], port: u16) -> Vec<SocketAddr> {
    match given.is_empty() {
        true => vec![(IpAddr::from(Ipv6Addr::UNSPECIFIED), port).into()],
        false => given.to_vec(),
    }
}
