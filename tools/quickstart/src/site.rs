//! A demonstration site: answers every request with a small page that says what the gateway brought.

use std::convert::Infallible;
use std::net::SocketAddr;

use anyhow::Context;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// Starts the site `name` on a loopback port and gives its address. The port is the same at every start, so that names
/// which the user added keep working.
pub(crate) async fn serve(name: &'static str, port: u16) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await.with_context(|| {
        format!("port {port} for the site {name} is not free; choose others with --site-port")
    })?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                // Out of file descriptors, most likely: some will be free again in a moment.
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            tokio::spawn(async move {
                let service =
                    service_fn(
                        move |request| async move { Ok::<_, Infallible>(page(name, &request)) },
                    );
                // A client that goes away in the middle is nothing that the demonstration has to report.
                let _ = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    Ok(address)
}

fn page(name: &str, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let host = request.headers().get("host").and_then(|host| host.to_str().ok()).unwrap_or("?");
    let text = format!(
        "<!doctype html>\n<meta charset=utf-8>\n<title>{name}</title>\n<h1>This is {name}</h1>\n\
         <p>You asked {} for <code>{}</code>. The gateway ended your TLS and chose this backend by the server name.</p>\n",
        escape(host),
        escape(request.uri().path()),
    );
    let mut response = Response::new(Full::new(Bytes::from(text)));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("text/html; charset=utf-8"));
    response
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
