//! Where clients come in.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use clap::Args;

/// Where clients come in.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Listening")]
pub struct ListenOptions {
    /// The port of HTTP, on all addresses
    #[arg(long, env = "UNIPI_PORT", default_value_t = 80)]
    pub port: u16,

    /// An address and port of HTTP, in place of --port; repeatable
    #[arg(long, env = "UNIPI_LISTEN_HTTP", value_name = "ADDRESS:PORT", value_delimiter = ',')]
    pub listen_http: Vec<SocketAddr>,

    /// An address and port of metrics: GET /metrics
    #[arg(long, env = "UNIPI_METRICS", value_name = "ADDRESS:PORT")]
    pub metrics: Option<SocketAddr>,
}

impl ListenOptions {
    /// Where to listen for HTTP.
    pub fn http(&self) -> Vec<SocketAddr> {
        match self.listen_http.is_empty() {
            true => vec![(IpAddr::from(Ipv6Addr::UNSPECIFIED), self.port).into()],
            false => self.listen_http.clone(),
        }
    }
}
