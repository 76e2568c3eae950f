//! TXT records made by somebody else who is asked over HTTP: [`Webhook`] for any DNS provider behind a program of one's
//! own, [`AcmeDns`] for a server of the acme-dns project.

mod acme_dns;
mod webhook;

pub use acme_dns::AcmeDns;
pub use webhook::{HookAddress, HookError, Webhook};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::Full;
use serde::Serialize;

use crate::challenge::TxtError;
use crate::http::{Client, chain};

/// How much of an answer that says no is shown.
const SHOWN: usize = 300;

/// Posts JSON, and gives the body of an answer that says yes.
async fn post(
    client: &Client,
    url: &str,
    mut headers: HeaderMap,
    body: &impl Serialize,
) -> Result<Bytes, TxtError> {
    let failed =
        |message: String, passing| TxtError { message: format!("{url}: {message}"), passing };
    let body = serde_json::to_vec(body).map_err(|error| failed(error.to_string(), false))?;
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let mut request = Request::new(Full::new(Bytes::from(body)));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = url.parse().map_err(|_| failed("it is no address".to_owned(), false))?;
    *request.headers_mut() = headers;
    let answer = client.send(request).await.map_err(|error| failed(chain(&error), true))?;
    let (head, body) = answer.into_parts();
    match head.status {
        status if status.is_success() => Ok(body),
        status => {
            let passing = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
            let text: String = String::from_utf8_lossy(&body)
                .chars()
                .filter(|letter| !letter.is_control())
                .take(SHOWN)
                .collect();
            Err(failed(format!("it answers {status}: {text}"), passing))
        }
    }
}
