//! Accepts connections and speaks HTTP on them, for whoever answers requests: sites, and metrics.
//!
//! HTTP/1.1, and HTTP/2 for clients that begin with its preface. No client can hold more than [`Limits`] allow.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use super::body::Chunks;
use super::limits::Limits;
use super::stream::{Protocol, Stream};

/// Answers requests.
pub(crate) trait Answer: Send + Sync + 'static {
    /// Answers one request.
    fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<Chunks>> + Send;

    /// A connection was opened, or has ended.
    fn opened(&self, open: bool);
}

/// The least that hyper takes for the head of a request.
const MIN_HEAD_BYTES: usize = 8 << 10;
/// After the system had no descriptor or memory for another connection.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves `listener` until `stop` is true, then waits until all connections have ended, at most for the time that the
/// limits give them.
pub(crate) async fn serve<A: Answer>(
    listener: TcpListener,
    answer: Arc<A>,
    limits: Limits,
    stop: watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let mut told = stop.clone();
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
            Ok((socket, _)) => {
                let (answer, stop) = (Arc::clone(&answer), stop.clone());
                tokio::spawn(async move {
                    let _place = place;
                    answer.opened(true);
                    connection(socket, Arc::clone(&answer), limits, stop).await;
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

async fn connection<A: Answer>(
    socket: TcpStream,
    answer: Arc<A>,
    limits: Limits,
    mut stop: watch::Receiver<bool>,
) {
    // Answers are written whole; waiting for more only delays them.
    let _ = socket.set_nodelay(true);
    let opened = tokio::select! {
        opened = Stream::open(socket, limits.head_time, limits.idle_time) => opened,
        () = stopped(&mut stop) => None,
    };
    let Some((protocol, stream)) = opened else { return };
    let stream = TokioIo::new(stream);
    let service = service_fn(move |request| {
        let answer = Arc::clone(&answer);
        async move { Ok::<_, Infallible>(answer.answer(request).await) }
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
