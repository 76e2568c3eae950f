//! What TLS changes about answers: in clear text, challenges and the redirect to https; over TLS, HSTS (RFC 6797).

use std::sync::Arc;

use config_proto::model::normalize_host;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderValue, LOCATION};
use http::request::Parts;
use http::uri::Authority;
use http::{Method, Response, StatusCode};

use super::body::Chunks;
use super::respond::{finish, plain};
use crate::tls::Tls;

/// Where an authority looks (RFC 8555, section 8.3).
const CHALLENGES: &str = "/.well-known/acme-challenge/";

/// The TLS side of a server, as far as answers have to know.
#[derive(Debug)]
pub struct Secure {
    /// The certificates, and the challenges.
    pub tls: Arc<Tls>,
    /// The port that redirects name; 443 is left out. None: there are no redirects.
    pub port: Option<u16>,
    /// The value of Strict-Transport-Security.
    pub hsts: Option<HeaderValue>,
}

impl Secure {
    /// The answer to a request in clear text, if it is not to be answered as over TLS. A name that no certificate
    /// covers yet is served in clear text rather than not at all.
    pub(super) fn answer_in_clear(&self, request: &Parts) -> Option<Response<Chunks>> {
        self.challenge(request).or_else(|| self.redirect(request))
    }

    fn challenge(&self, request: &Parts) -> Option<Response<Chunks>> {
        let token = request.uri.path().strip_prefix(CHALLENGES)?;
        if ![Method::GET, Method::HEAD].contains(&request.method) {
            return None;
        }
        let text = self.tls.challenges().key_authorization(token)?;
        let mut response = Response::new(Chunks::from(text));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Some(finish(response))
    }

    /// 301 where the method stays by itself, 308 where it must be told to (RFC 9110, sections 15.4.2 and 15.4.9).
    fn redirect(&self, request: &Parts) -> Option<Response<Chunks>> {
        let port = self.port?;
        let host = host(request)?;
        if !self.tls.covers(&host) {
            return None;
        }
        let target = request.uri.path_and_query().map_or("/", |target| target.as_str());
        let location = match port {
            443 => format!("https://{host}{target}"),
            port => format!("https://{host}:{port}{target}"),
        };
        let location = HeaderValue::from_str(&location).ok()?;
        let status = match request.method {
            Method::GET | Method::HEAD => StatusCode::MOVED_PERMANENTLY,
            _ => StatusCode::PERMANENT_REDIRECT,
        };
        let mut response = plain(status, "The site is served by https.\n");
        // A permanent redirect is kept by caches unless it says otherwise; this one depends on a certificate.
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("max-age=3600"));
        response.headers_mut().insert(LOCATION, location);
        Some(response)
    }
}

/// The host that a request is for, in compared form and without its port: from the target, else from Host (RFC 9112,
/// section 3.2.2).
pub fn host(request: &Parts) -> Option<String> {
    let authority = match request.uri.authority() {
        Some(authority) => authority.clone(),
        None => request.headers.get(HOST)?.to_str().ok()?.parse::<Authority>().ok()?,
    };
    normalize_host(authority.host()).ok()
}
