//! The port for monitoring: `GET /metrics`, `/health/live`, `/health/ready`.
//!
//! It is meant for a private network, and still bounds what a stranger can hold: connections, header bytes, and the time
//! in which a request must arrive.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::metrics::Metrics;
use crate::gateway::{Gateway, Phase};

/// Connections at the same time; more wait in the listener's backlog.
pub const MAX_CONNECTIONS: usize = 32;
/// For the head of a request to arrive.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// For a connection as a whole; monitoring opens another.
pub const CONNECTION_TIMEOUT: Duration = Duration::from_secs(120);
/// Bytes that a connection buffers at most.
pub const MAX_BUFFER: usize = 16 * 1024;

/// Answers on `listener` until the gateway has ended.
pub async fn serve(listener: TcpListener, gateway: Arc<Gateway>, metrics: Arc<Metrics>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut phase = gateway.phase.subscribe();
    let ended = async move {
        // An error means that the gateway is gone, which is an end too.
        let _ = phase.wait_for(|phase| *phase == Phase::Ended).await;
    };
    tokio::pin!(ended);
    loop {
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            () = &mut ended => return,
            both = accepted => both,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a monitoring connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (gateway, metrics) = (Arc::clone(&gateway), Arc::clone(&metrics));
        tokio::spawn(async move {
            let _place = place;
            let service = service_fn(move |request: Request<Incoming>| {
                let (gateway, metrics) = (Arc::clone(&gateway), Arc::clone(&metrics));
                async move { Ok::<_, Infallible>(answer(&request, &gateway, metrics).await) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_buf_size(MAX_BUFFER)
                .serve_connection(TokioIo::new(stream), service);
            match tokio::time::timeout(CONNECTION_TIMEOUT, connection).await {
                Ok(Ok(())) | Err(_) => {}
                Ok(Err(error)) => tracing::debug!(%error, "a monitoring connection failed"),
            }
        });
    }
}

async fn answer(
    request: &Request<Incoming>,
    gateway: &Gateway,
    metrics: Arc<Metrics>,
) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    if !["/metrics", "/health/live", "/health/ready"].contains(&path) {
        return text(StatusCode::NOT_FOUND, "there is /metrics, /health/live and /health/ready\n");
    }
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match path {
        // There may be samples for a million routes, and this event loop also carries traffic.
        "/metrics" => match tokio::task::spawn_blocking(move || metrics.text()).await {
            Ok(Ok(body)) => {
                let mut response = text(StatusCode::OK, body);
                let kind = HeaderValue::from_static(super::metrics::CONTENT_TYPE);
                response.headers_mut().insert(CONTENT_TYPE, kind);
                response
            }
            Ok(Err(error)) => failed(error),
            Err(error) => failed(error),
        },
        "/health/live" => text(StatusCode::OK, "live\n"),
        _ => match *gateway.phase.borrow() {
            Phase::Serving => text(StatusCode::OK, "ready\n"),
            Phase::Draining | Phase::Ended => text(StatusCode::SERVICE_UNAVAILABLE, "stopping\n"),
        },
    }
}

fn failed(error: impl std::fmt::Display) -> Response<Full<Bytes>> {
    let message = format!("the metrics cannot be written: {error}\n");
    text(StatusCode::INTERNAL_SERVER_ERROR, message)
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
