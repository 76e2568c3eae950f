//! Accepts connections and speaks HTTP on them, for whoever answers requests: sites, and metrics.
//!
//! HTTP/1.1 and HTTP/2: by ALPN over TLS, in clear text for clients that begin with its preface. No client can hold more
//! than [`Limits`] allow.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use ipnet::IpNet;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout_at};

use super::body::Chunks;
use super::client::Client;
use super::limits::Limits;
use super::stream::{Protocol, Stream};
use crate::tls::{Accepted, Tls};

/// Answers requests.
pub(crate) trait Answer: Send + Sync + 'static {
    /// Answers one request that came on a connection of `client`.
    fn answer(
        self: Arc<Self>,
        client: Client,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<Chunks>> + Send;

    /// A connection was opened, or has ended.
    fn opened(&self, open: bool);

    /// A connection ended before its first request, because it could not be made out or secured.
    fn failed(&self, why: Failed);
}

/// Why a connection came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failed {
    /// The PROXY header of a trusted proxy.
    ProxyHeader,
    /// The TLS handshake.
    Handshake,
}

/// A listener, and what its connections begin with.
#[derive(Debug)]
pub(crate) struct Door {
    /// The socket.
    pub(crate) listener: TcpListener,
    /// TLS, if connections begin with it.
    pub(crate) tls: Option<Arc<Tls>>,
    /// Peers whose connections begin with a PROXY header, before everything else.
    pub(crate) proxies: Arc<[IpNet]>,
}

impl Door {
    /// A listener whose connections begin with HTTP.
    pub(crate) fn plain(listener: TcpListener) -> Self {
        Self { listener, tls: None, proxies: Arc::default() }
    }
}

/// The least that hyper takes for the head of a request.
const MIN_HEAD_BYTES: usize = 8 << 10;
/// After the system had no descriptor or memory for another connection.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves `door` until `stop` is true, then waits until all connections have ended, at most for the time that the
/// limits give them.
pub(crate) async fn serve<A: Answer>(
    door: Door,
    answer: Arc<A>,
    limits: Limits,
    stop: watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let mut told = stop.clone();
    let Door { listener, tls, proxies } = door;
    loop {
        let accepted = async {
            // The semaphore is never closed.
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            biased;
            () = stopped(&mut told) => break,
            both = accepted => both,
        };
        match accepted {
            Ok((socket, peer)) => {
                let (answer, stop) = (Arc::clone(&answer), stop.clone());
                let (tls, proxies) = (tls.clone(), Arc::clone(&proxies));
                tokio::spawn(async move {
                    let _place = place;
                    answer.opened(true);
                    connection(socket, peer, tls, proxies, Arc::clone(&answer), limits, stop).await;
                    answer.opened(false);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    drop(listener);
    let all = u32::try_from(limits.connections).unwrap_or(u32::MAX);
    if tokio::time::timeout(limits.drain_time, places.acquire_many(all)).await.is_err() {
        tracing::warn!("the time for open connections is over");
    }
}

/// Waits until it is time to stop. An error means that whoever could tell is gone, which is an end too.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// One connection from its first byte to its end.
async fn connection<A: Answer>(
    mut socket: TcpStream,
    peer: SocketAddr,
    tls: Option<Arc<Tls>>,
    proxies: Arc<[IpNet]>,
    answer: Arc<A>,
    limits: Limits,
    mut stop: watch::Receiver<bool>,
) {
    // Answers are written whole; waiting for more only delays them.
    let _ = socket.set_nodelay(true);
    let deadline = Instant::now() + limits.handshake_time;
    let mut client = Client { address: peer, secure: tls.is_some() };
    if proxies.iter().any(|net| net.contains(&peer.ip().to_canonical())) {
        let header = tokio::select! {
            header = timeout_at(deadline, proxy_protocol::read_header(&mut socket)) => header,
            () = stopped(&mut stop) => return,
        };
        match header {
            Ok(Ok(Some(told))) => {
                client.address = told.source;
                client.secure |= told.tls;
            }
            // The proxy's own connection, as for a health check.
            Ok(Ok(None)) => {}
            Ok(Err(error)) => {
                tracing::debug!(%peer, %error, "a connection without the PROXY header of its proxy");
                return answer.failed(Failed::ProxyHeader);
            }
            Err(_) => return answer.failed(Failed::ProxyHeader),
        }
    }
    let Some(tls) = tls else {
        let opened = tokio::select! {
            opened = Stream::open(socket, limits.head_time, limits.idle_time) => opened,
            () = stopped(&mut stop) => None,
        };
        let Some((protocol, stream)) = opened else { return };
        return serve_stream(protocol, stream, client, answer, limits, stop).await;
    };
    let shaken = tokio::select! {
        shaken = timeout_at(deadline, tls.accept(socket)) => shaken,
        () = stopped(&mut stop) => return,
    };
    drop(tls);
    match shaken {
        Ok(Ok(Accepted::Http { stream, h2: Some(h2) })) => {
            let protocol = if h2 { Protocol::Http2 } else { Protocol::Http1 };
            let stream = Stream::new(*stream, protocol, limits.idle_time);
            serve_stream(protocol, stream, client, answer, limits, stop).await;
        }
        Ok(Ok(Accepted::Http { stream, h2: None })) => {
            let opened = tokio::select! {
                opened = Stream::open(*stream, limits.head_time, limits.idle_time) => opened,
                () = stopped(&mut stop) => None,
            };
            let Some((protocol, stream)) = opened else { return };
            serve_stream(protocol, stream, client, answer, limits, stop).await;
        }
        Ok(Ok(Accepted::Challenge)) => tracing::debug!(%peer, "an authority saw its answer"),
        Ok(Err(error)) => {
            tracing::debug!(client = %client.address, %error, "a handshake failed");
            answer.failed(Failed::Handshake);
        }
        Err(_) => {
            tracing::debug!(client = %client.address, "a handshake took too long");
            answer.failed(Failed::Handshake);
        }
    }
}

/// HTTP on a connection that can be told apart.
async fn serve_stream<A: Answer, S>(
    protocol: Protocol,
    stream: Stream<S>,
    client: Client,
    answer: Arc<A>,
    limits: Limits,
    mut stop: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let stream = TokioIo::new(stream);
    let service = service_fn(move |request| {
        let answer = Arc::clone(&answer);
        async move { Ok::<_, Infallible>(answer.answer(client, request).await) }
    });
    /// Both kinds of connection end in the same way.
    macro_rules! drive {
        ($connection:expr) => {{
            let connection = $connection;
            tokio::pin!(connection);
            tokio::select! {
                ended = connection.as_mut() => ended,
                () = stopped(&mut stop) => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        }};
    }
    let ended = match protocol {
        Protocol::Http1 => {
            let mut builder = http1::Builder::new();
            builder
                .timer(TokioTimer::new())
                .header_read_timeout(limits.head_time)
                .max_headers(limits.headers)
                .max_buf_size(limits.head_bytes.max(MIN_HEAD_BYTES));
            drive!(builder.serve_connection(stream, service))
        }
        Protocol::Http2 => {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder
                .timer(TokioTimer::new())
                .max_concurrent_streams(limits.streams)
                .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX));
            drive!(builder.serve_connection(stream, service))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection failed");
    }
}
