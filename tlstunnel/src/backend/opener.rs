//! Opens one connection to one backend: resolve, connect, PROXY header, TLS.

use std::io;
use std::net::{IpAddr, SocketAddr};

use config_proto::model::{BackendHost, ProxyVersion};
use proxy_protocol::{Extras, TlsExtras};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::{Backend, BackendStream, ClientInfo, ResolveError, Resolver, TlsConnector};
use crate::forward::Socket;
use crate::limits::Limits;
use crate::tcp;

/// Why one backend could not be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    #[error("{0}: {1}")]
    Connect(SocketAddr, io::Error),
    #[error("{0}: no answer in time")]
    NoAnswer(SocketAddr),
    #[error("the PROXY header could not be written: {0}")]
    ProxyHeader(io::Error),
    #[error("{0}")]
    Tls(String),
    #[error("no answer in time")]
    TooSlow,
}

/// How a client's connection to a backend of a route is opened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opener<'a> {
    pub(super) resolver: &'a Resolver,
    pub(super) client: &'a ClientInfo,
    pub(super) proxy: Option<ProxyVersion>,
    pub(super) tls: Option<&'a TlsConnector>,
    pub(super) limits: &'a Limits,
}

impl Opener<'_> {
    /// A stream to `backend` that is ready for the client's bytes.
    pub(super) async fn open(
        &self,
        backend: &Backend,
        deadline: Instant,
    ) -> Result<(BackendStream, SocketAddr), OpenError> {
        timeout_at(deadline, self.open_by(backend, deadline))
            .await
            .map_err(|_| OpenError::TooSlow)?
    }

    async fn open_by(
        &self,
        backend: &Backend,
        deadline: Instant,
    ) -> Result<(BackendStream, SocketAddr), OpenError> {
        let (mut stream, address) = connect_tcp(backend, self.resolver, deadline).await?;
        tcp::tune(&stream, self.limits);
        if let Some(version) = self.proxy {
            let header = self.proxy_header(version);
            stream.write_all(&header).await.map_err(OpenError::ProxyHeader)?;
        }
        let socket = Socket::new(stream, Vec::new());
        let stream = match self.tls {
            None => BackendStream::Tcp(socket),
            Some(tls) => BackendStream::Tls(Box::new(
                tls.connect(socket, self.client, &backend.address.host)
                    .await
                    .map_err(OpenError::Tls)?,
            )),
        };
        Ok((stream, address))
    }

    fn proxy_header(&self, version: ProxyVersion) -> Vec<u8> {
        let client = self.client;
        match version {
            ProxyVersion::V1 => proxy_protocol::encode_v1(client.peer, client.local),
            ProxyVersion::V2 => {
                let tls = client.tls.as_ref();
                let extras = Extras {
                    alpn: tls.and_then(|tls| tls.alpn.as_deref()),
                    authority: client.server_name.as_deref(),
                    unique_id: None,
                    tls: tls.map(|tls| TlsExtras {
                        version: tls.version,
                        cipher: &tls.cipher,
                        client_certificate: tls.client_certificate,
                    }),
                };
                proxy_protocol::encode_v2(client.peer, client.local, &extras)
            }
        }
    }
}

/// Connects to the first of the backend's addresses that answers.
pub(super) async fn connect_tcp(
    backend: &Backend,
    resolver: &Resolver,
    deadline: Instant,
) -> Result<(TcpStream, SocketAddr), OpenError> {
    let mut addresses = match &backend.address.host {
        BackendHost::Ip(ip) => vec![*ip],
        BackendHost::Dns(name) => interleave(resolver.resolve(name).await?, backend.turn()),
    };
    backend.order_addresses(&mut addresses);
    let mut failure = OpenError::TooSlow;
    for (at, ip) in addresses.iter().enumerate() {
        let address = SocketAddr::new(*ip, backend.address.port);
        let until = share_of(deadline, addresses.len() - at);
        failure = match timeout_at(until, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok((stream, address)),
            Ok(Err(error)) => OpenError::Connect(address, error),
            Err(_) => OpenError::NoAnswer(address),
        };
        if addresses.len() > 1 {
            backend.address_failed(*ip);
        }
    }
    Err(failure)
}

/// How long the next of `left` attempts may take: half of the time that is left, all of it for the last. So one dead
/// address never uses up the time of those behind it.
pub(super) fn share_of(deadline: Instant, left: usize) -> Instant {
    let now = Instant::now();
    match left {
        0 | 1 => deadline,
        _ => now + deadline.saturating_duration_since(now) / 2,
    }
}

/// Takes addresses of both families in turn (as RFC 8305, section 4), each family from another start at each `turn`, so
/// that load spreads over the addresses of a name.
fn interleave(addresses: Vec<IpAddr>, turn: usize) -> Vec<IpAddr> {
    let (mut v4, mut v6): (Vec<_>, Vec<_>) = addresses.into_iter().partition(IpAddr::is_ipv4);
    for family in [&mut v4, &mut v6] {
        if !family.is_empty() {
            let start = turn % family.len();
            family.rotate_left(start);
        }
    }
    let mut mixed = Vec::with_capacity(v4.len() + v6.len());
    let (mut v4, mut v6) = (v4.into_iter(), v6.into_iter());
    loop {
        let before = mixed.len();
        mixed.extend(v4.next());
        mixed.extend(v6.next());
        if mixed.len() == before {
            return mixed;
        }
    }
}
