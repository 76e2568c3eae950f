//! Serving: HTTP/1.1 and HTTP/2, over TLS and in clear text, for the site, the webhook and the status page.
//!
//! `connection` accepts, learns from a PROXY header who the client is, has [`crate::tls`] do the handshake, and bounds what
//! clients may hold → [`Server`] sends clear text to https, finds the site of the host, and tells webhook, push and status page from pages →
//! [`respond()`] answers for pages, from the site value alone, by [`conditional`], [`range`] and [`encoding`].
//!
//! It must not know where a site comes from: it reads its generations and asks for a refresh.

mod body;
mod client;
pub mod conditional;
pub(crate) mod connection;
pub mod encoding;
mod limits;
pub mod range;
mod respond;
pub mod secure;
mod status;
mod stream;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use daemon::log::ACCESS_TARGET;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use ipnet::IpNet;

pub use body::Chunks;
pub use client::Client;
pub use limits::Limits;
pub use respond::respond;
pub(crate) use respond::{finish, plain};
pub use secure::Secure;

use crate::push;
use crate::sites::{Hosted, Sites, Trust};
use crate::webhook::Decision;
use connection::{Answer, Failed};
use respond::{refuse, without_body_for_head};

/// Answers requests for a site.
#[derive(Debug)]
pub struct Server {
    /// The sites.
    pub sites: Arc<Sites>,
    /// What clients may cost.
    pub limits: Limits,
    /// Where a forge tells of pushes to sites that believe it: a path with its leading slash.
    pub hook_path: String,
    /// Where git finds the repositories of sites that take pushes: a path with its leading slash.
    pub push_path: String,
    /// Where the deploy log is shown; the same with `.json` is for programs.
    pub status_path: Option<String>,
    /// TLS, if there is any.
    pub secure: Option<Secure>,
    /// Proxies whose word about their clients is believed.
    pub trusted: Vec<IpNet>,
    /// What is counted.
    pub counters: Counters,
}

/// Counters since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Answers by the first digit of their status, from 1 to 5.
    pub answers: [AtomicU64; 5],
    /// Bytes of bodies that were answered with; a client may have left before it got them all.
    pub body_bytes: AtomicU64,
    /// Connections since the start.
    pub connections: AtomicU64,
    /// Connections now.
    pub open: AtomicU64,
    /// TLS handshakes that failed or took too long.
    pub handshakes_failed: AtomicU64,
    /// Connections of trusted proxies that did not begin with a PROXY header.
    pub proxy_headers_failed: AtomicU64,
    /// Requests in clear text that were sent to https.
    pub redirects: AtomicU64,
    /// Webhooks that caused a refresh.
    pub hooks_taken: AtomicU64,
    /// Webhooks that rightly caused none.
    pub hooks_ignored: AtomicU64,
    /// Webhooks that were refused.
    pub hooks_refused: AtomicU64,
}

/// Seconds since 1970.
pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Answer for Server {
    async fn answer(
        self: Arc<Self>,
        client: Client,
        request: Request<Incoming>,
    ) -> Response<Chunks> {
        let (parts, body) = request.into_parts();
        let client = client.behind_proxies(&parts.headers, &self.trusted);
        let response = self.dispatch(client, &parts, body).await;
        let status = response.status();
        let class = usize::from(status.as_u16() / 100).saturating_sub(1);
        if let Some(counter) = self.counters.answers.get(class) {
            counter.fetch_add(1, Relaxed);
        }
        let bytes = response.body().left();
        self.counters.body_bytes.fetch_add(bytes, Relaxed);
        tracing::info!(
            target: ACCESS_TARGET,
            client = %client.address.ip().to_canonical(),
            tls = client.secure,
            method = %parts.method,
            // Not the query: the secrets of others stand there.
            path = parts.uri.path(),
            status = status.as_u16(),
            bytes,
        );
        response
    }

    fn opened(&self, open: bool) {
        if open {
            self.counters.connections.fetch_add(1, Relaxed);
            self.counters.open.fetch_add(1, Relaxed);
        } else {
            self.counters.open.fetch_sub(1, Relaxed);
        }
    }

    fn failed(&self, why: Failed) {
        let counter = match why {
            Failed::Handshake => &self.counters.handshakes_failed,
            Failed::ProxyHeader => &self.counters.proxy_headers_failed,
        };
        counter.fetch_add(1, Relaxed);
    }
}

impl Server {
    async fn dispatch(&self, client: Client, parts: &Parts, body: Incoming) -> Response<Chunks> {
        let hsts = match (&self.secure, client.secure) {
            (Some(secure), false) => match secure.answer_in_clear(parts) {
                Some(response) => {
                    self.counters
                        .redirects
                        .fetch_add(response.status().is_redirection().into(), Relaxed);
                    return without_body_for_head(parts, response);
                }
                None => None,
            },
            (Some(secure), true) => secure.hsts.as_ref(),
            (None, _) => None,
        };
        let Some(site) = self.sites.find(host(parts)) else { return nobody(parts) };
        self.of_site(site, parts, body, hsts).await
    }

    async fn of_site(
        &self,
        site: Arc<Hosted>,
        parts: &Parts,
        body: Incoming,
        hsts: Option<&HeaderValue>,
    ) -> Response<Chunks> {
        let path = parts.uri.path();
        if let Some(trust) = site.config.hook.as_ref().filter(|_| path == self.hook_path) {
            return match refuse(parts, self.limits.target_bytes) {
                Some(refusal) => refusal,
                None => self.hook(&site, trust, parts, body).await,
            };
        }
        if let Some(token) = &site.config.push
            && let Some(route) = push::route(&self.push_path, path)
        {
            return match refuse(parts, self.limits.target_bytes) {
                Some(refusal) => refusal,
                None => {
                    let answer = push::answer(Arc::clone(&site), token, route, parts, body).await;
                    without_body_for_head(parts, answer)
                }
            };
        }
        if let Some(form) = self.status_path.as_deref().and_then(|at| status::form(at, path)) {
            return match refuse(parts, self.limits.target_bytes) {
                Some(refusal) => refusal,
                None => {
                    without_body_for_head(parts, status::answer(parts, form, &site.generations))
                }
            };
        }
        let current = site.generations.current();
        let current = current.as_deref().map(|current| &*current.site);
        respond(parts, current, self.limits.target_bytes, hsts)
    }

    async fn hook(
        &self,
        site: &Hosted,
        trust: &Trust,
        parts: &Parts,
        body: Incoming,
    ) -> Response<Chunks> {
        let decision = match (trust, &parts.method) {
            (Trust::Path, &Method::GET | &Method::POST) => Decision::Refresh("hook".to_owned()),
            (Trust::Signed(hook), &Method::POST) => match self.read(body).await {
                Ok(body) => hook.judge(&parts.headers, &body, unix_now()),
                Err(response) => {
                    self.counters.hooks_refused.fetch_add(1, Relaxed);
                    return response;
                }
            },
            (trust, _) => {
                let mut response =
                    plain(StatusCode::METHOD_NOT_ALLOWED, "A forge posts its events here.\n");
                let methods = match trust {
                    Trust::Path => "GET, POST",
                    Trust::Signed(_) => "POST",
                };
                response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
                return without_body_for_head(parts, response);
            }
        };
        let (counter, status, result, why) = match decision {
            Decision::Refresh(by) => {
                site.requests.ask(&by);
                (&self.counters.hooks_taken, StatusCode::ACCEPTED, "refreshing", None)
            }
            Decision::Ignore(why) => {
                (&self.counters.hooks_ignored, StatusCode::OK, "ignored", Some(why))
            }
            Decision::Refuse(refusal) => {
                tracing::warn!(%refusal, "a webhook was refused");
                let why = Some(refusal.to_string());
                (&self.counters.hooks_refused, refusal.status(), "refused", why)
            }
        };
        counter.fetch_add(1, Relaxed);
        let text = serde_json::json!({ "result": result, "why": why }).to_string() + "\n";
        let mut response = plain(status, "");
        *response.body_mut() = Chunks::from(text);
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(CONTENT_TYPE, json);
        finish(response)
    }

    /// Reads the body of a webhook, within its limits.
    async fn read(&self, body: Incoming) -> Result<bytes::Bytes, Response<Chunks>> {
        let limit = self.limits.hook_bytes;
        let too_large = || plain(StatusCode::PAYLOAD_TOO_LARGE, "The event is too large.\n");
        // A length that is told is refused before anything is read.
        if body.size_hint().lower() > limit as u64 {
            return Err(too_large());
        }
        let whole = Limited::new(body, limit).collect();
        match tokio::time::timeout(self.limits.hook_time, whole).await {
            Ok(Ok(whole)) => Ok(whole.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
            Ok(Err(_)) => Err(plain(StatusCode::BAD_REQUEST, "The event did not arrive.\n")),
            Err(_) => Err(plain(StatusCode::REQUEST_TIMEOUT, "The event took too long.\n")),
        }
    }
}

/// The host that a request is for: the target's (HTTP/2's `:authority`, and absolute forms), or else the header's.
fn host(parts: &Parts) -> Option<&str> {
    parts.uri.host().or_else(|| parts.headers.get(http::header::HOST)?.to_str().ok())
}

/// The answer where no site is named for the host, nor for all of them: the client is at the wrong server, unless it did
/// not say where it wants to be.
fn nobody(parts: &Parts) -> Response<Chunks> {
    let response = match host(parts) {
        Some(_) => plain(StatusCode::MISDIRECTED_REQUEST, "There is no site of this name here.\n"),
        None => plain(StatusCode::NOT_FOUND, "There is no site without a name here.\n"),
    };
    without_body_for_head(parts, response)
}

/// For what has no place in the site's own limits: few clients, quick requests.
pub(crate) fn limits_for_monitoring() -> Limits {
    Limits { connections: 32, drain_time: Duration::from_secs(1), streams: 8, ..Limits::default() }
}
