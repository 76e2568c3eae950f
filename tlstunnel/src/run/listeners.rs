//! The sockets of a gateway: inherited, named by options, or on all addresses.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;

use certify::dns::responder::Sockets;
use serde::Serialize;
use tokio::task::JoinHandle;

use crate::gateway::Gateway;
use crate::listen::{
    self, BindError, HttpSettings, HttpsSettings, Inherited, bind, clone_for_worker,
};
use crate::options::{ListenOptions, Options};

/// Every listening socket.
#[derive(Debug)]
pub struct Listeners {
    frontends: Frontends,
    services: Services,
}

/// What every worker accepts from.
#[derive(Debug)]
pub(super) struct Frontends {
    https: Vec<TcpListener>,
    http: Vec<TcpListener>,
}

/// What the first worker accepts from.
#[derive(Debug)]
pub(super) struct Services {
    pub(super) control: Vec<TcpListener>,
    pub(super) metrics: Vec<TcpListener>,
}

/// Where a gateway can be reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Addresses {
    /// For TLS.
    pub https: Vec<SocketAddr>,
    /// For redirects.
    pub http: Vec<SocketAddr>,
    /// For the control protocol.
    pub control: Vec<SocketAddr>,
    /// For metrics and health.
    pub metrics: Vec<SocketAddr>,
    /// For questions about delegated zones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<SocketAddr>,
}

impl Listeners {
    /// Takes what was inherited, and binds the rest.
    ///
    /// # Errors
    /// [`BindError`] says which address, why, and what to do.
    pub fn open(options: &ListenOptions) -> Result<Self, BindError> {
        let inherited = Inherited::take()?;
        let reuse = options.reuse_port;
        let everywhere =
            |port| on_both(Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into(), port, reuse);
        let https = choose(inherited.https, &options.listen_https, reuse, || {
            everywhere(options.frontend_port)
        })?;
        let http =
            choose(inherited.http, &options.listen_http, reuse, || everywhere(options.http_port))?;
        let control = choose(inherited.control, &options.control, reuse, || {
            let port = options.configuration_port;
            on_both(Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into(), port, reuse)
        })?;
        let metrics = choose(inherited.metrics, &options.metrics, reuse, || Ok(Vec::new()))?;
        Ok(Self { frontends: Frontends { https, http }, services: Services { control, metrics } })
    }

    /// Where they listen.
    ///
    /// # Errors
    /// What the system answers.
    pub fn addresses(&self) -> io::Result<Addresses> {
        let of = |listeners: &[TcpListener]| {
            listeners.iter().map(TcpListener::local_addr).collect::<io::Result<Vec<_>>>()
        };
        Ok(Addresses {
            https: of(&self.frontends.https)?,
            http: of(&self.frontends.http)?,
            control: of(&self.services.control)?,
            metrics: of(&self.services.metrics)?,
            dns: Vec::new(),
        })
    }

    pub(super) fn clone_frontends(&self) -> io::Result<Frontends> {
        let clone = |listeners: &[TcpListener]| {
            listeners.iter().map(clone_for_worker).collect::<io::Result<Vec<_>>>()
        };
        Ok(Frontends { https: clone(&self.frontends.https)?, http: clone(&self.frontends.http)? })
    }

    pub(super) fn split(self) -> (Frontends, Services) {
        (self.frontends, self.services)
    }
}

impl Frontends {
    /// Accepts from all of them, in tasks of the current runtime.
    pub(super) fn serve(self, gateway: &Arc<Gateway>, options: &Options) -> Vec<JoinHandle<()>> {
        let https_port = self
            .https
            .first()
            .and_then(|listener| listener.local_addr().ok())
            .map_or(options.listen.frontend_port, |address| address.port());
        let settings =
            HttpsSettings { proxy_from: options.listen.accept_proxy_from.clone().into() };
        let https = self.https.into_iter().map(|listener| {
            let accept = listen::run_https(Arc::clone(gateway), listener, settings.clone());
            tokio::spawn(async move { report("https", accept.await) })
        });
        let http = self.http.into_iter().map(|listener| {
            let settings = HttpSettings { https_port };
            let accept = listen::run_http(Arc::clone(gateway), listener, settings);
            tokio::spawn(async move { report("http", accept.await) })
        });
        https.chain(http).collect()
    }
}

/// The sockets for questions about delegated zones.
///
/// # Errors
/// [`BindError`] says which address, and why.
pub(super) fn dns(addresses: &[SocketAddr], reuse_port: bool) -> Result<Vec<Sockets>, BindError> {
    let bind = |&address| {
        Sockets::bind(address, reuse_port).map_err(|error| BindError::Bind { address, error })
    };
    addresses.iter().map(bind).collect()
}

fn report(what: &str, result: io::Result<()>) {
    if let Err(error) = result {
        tracing::error!(%error, "the {what} listener failed");
    }
}

/// Inherited sockets win over addresses, addresses over the default.
fn choose(
    inherited: Vec<TcpListener>,
    addresses: &[SocketAddr],
    reuse_port: bool,
    default: impl FnOnce() -> Result<Vec<TcpListener>, BindError>,
) -> Result<Vec<TcpListener>, BindError> {
    match (inherited.is_empty(), addresses) {
        (false, _) => Ok(inherited),
        (true, []) => default(),
        (true, addresses) => addresses.iter().map(|address| bind(*address, reuse_port)).collect(),
    }
}

/// Listens on both families at one port, and on IPv4 alone where there is no IPv6.
fn on_both(
    v4: IpAddr,
    v6: IpAddr,
    port: u16,
    reuse_port: bool,
) -> Result<Vec<TcpListener>, BindError> {
    let first = bind(SocketAddr::new(v4, port), reuse_port)?;
    // Port 0 is chosen by the system: the second takes the same.
    let port = first.local_addr().map_or(port, |address| address.port());
    match bind(SocketAddr::new(v6, port), reuse_port) {
        Ok(second) => Ok(vec![first, second]),
        Err(BindError::Bind { error, .. }) if no_ipv6(&error) => {
            tracing::info!("there is no IPv6 here: listening on IPv4 alone");
            Ok(vec![first])
        }
        Err(error) => Err(error),
    }
}

/// No address family (EAFNOSUPPORT), no such address (EADDRNOTAVAIL), or no such protocol in a guest.
fn no_ipv6(error: &io::Error) -> bool {
    const EAFNOSUPPORT: i32 = 97;
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported)
        || error.raw_os_error() == Some(EAFNOSUPPORT)
}

impl Addresses {
    /// One JSON object, for programs that wait for the gateway.
    pub fn to_json(&self) -> String {
        // Addresses have a JSON form, always.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            ("https", &self.https),
            ("http", &self.http),
            ("control", &self.control),
            ("metrics", &self.metrics),
            ("dns", &self.dns),
        ];
        let mut separator = "";
        for (what, addresses) in parts {
            for address in addresses {
                write!(f, "{separator}{what} {address}")?;
                separator = ", ";
            }
        }
        Ok(())
    }
}
