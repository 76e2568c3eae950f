//! Listening sockets: bound before anything else is touched, served until the end.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use ipnet::IpNet;
use serde_json::{Value, json};
use socket2::{Domain, Protocol, Socket, Type};

use crate::options::Options;
use crate::serve::connection::Door;
use crate::tls::Tls;

/// Connections that the kernel holds until they are accepted; the system caps it (net.core.somaxconn).
const BACKLOG: i32 = 4096;

/// Why there is no listener.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {error}")]
pub struct BindError {
    /// Where.
    pub address: SocketAddr,
    /// What the system says.
    pub error: std::io::Error,
}

/// Every listener of the program.
#[derive(Debug)]
pub(crate) struct Listeners {
    http: Vec<TcpListener>,
    https: Vec<TcpListener>,
    metrics: Option<TcpListener>,
    proxies: Arc<[IpNet]>,
}

impl Listeners {
    /// Binds what the options name; https only where there is TLS.
    pub(crate) fn open(options: &Options) -> Result<Self, BindError> {
        let all = |addresses: Vec<SocketAddr>| {
            addresses.into_iter().map(bind).collect::<Result<Vec<_>, _>>()
        };
        let listen = &options.listen;
        let https = if options.tls.enabled() { all(listen.https())? } else { Vec::new() };
        Ok(Self {
            http: all(listen.http())?,
            https,
            metrics: listen.metrics.map(bind).transpose()?,
            proxies: listen.proxy_protocol.clone().into(),
        })
    }

    /// The bound addresses, for people and programs that wait for them.
    pub(crate) fn addresses(&self) -> std::io::Result<Value> {
        let all = |listeners: &[TcpListener]| {
            listeners.iter().map(TcpListener::local_addr).collect::<Result<Vec<_>, _>>()
        };
        Ok(json!({
            "http": all(&self.http)?,
            "https": all(&self.https)?,
            "metrics": all(self.metrics.as_slice())?,
        }))
    }

    /// The port of https, for redirects.
    pub(crate) fn https_port(&self) -> Option<u16> {
        self.https.first()?.local_addr().ok().map(|address| address.port())
    }

    /// What serves pages, and what serves metrics.
    pub(crate) fn doors(
        self,
        tls: Option<&Arc<Tls>>,
    ) -> std::io::Result<(Vec<Door>, Option<Door>)> {
        let door = |listener: TcpListener, tls: Option<&Arc<Tls>>| -> std::io::Result<Door> {
            let plain = Door::plain(tokio::net::TcpListener::from_std(listener)?);
            Ok(Door { tls: tls.map(Arc::clone), proxies: Arc::clone(&self.proxies), ..plain })
        };
        let mut doors = Vec::new();
        for listener in self.http {
            doors.push(door(listener, None)?);
        }
        for listener in self.https {
            doors.push(door(listener, tls)?);
        }
        let metrics = self.metrics.map(tokio::net::TcpListener::from_std).transpose()?;
        Ok((doors, metrics.map(Door::plain)))
    }
}

/// Binds one address.
pub(crate) fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    try_bind(address).map_err(|error| BindError { address, error })
}

/// `[::]` takes IPv4 too, where the system has it so.
fn try_bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Without it, connections of an earlier run in TIME-WAIT would keep the address for a minute.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}
