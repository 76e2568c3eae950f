//! `git push` straight to the site server: git's smart HTTP (gitprotocol-http), for one branch of each site.
//!
//! # How data passes through
//!
//! [`route`] tells git's requests from those for pages. The push token is asked for first ([`token`]). The body of a
//! push goes through [`crate::git::receive::Receiver`] as it arrives, so that nothing but the objects is held; what comes
//! out is deployed like a fetched commit, and the client hears as `remote:` lines how it goes (`receive`). [`upload`] answers
//! `git clone` and `git fetch` with the one commit that is held.
//!
//! # What it must not know
//!
//! How a commit becomes a site, and where it is kept.

mod body;
mod receive;
mod token;
mod upload;

use std::sync::Arc;

use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE,
};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use hyper::body::Incoming;

pub use token::{MAX_TOKEN_LEN, MIN_TOKEN_LEN, Token, TokenError};

use crate::git::HashKind;
use crate::git::receive::advertisement;
use crate::serve::{Chunks, finish, plain};
use crate::sites::{Hosted, Trees};
use body::Pieces;
use token::Caller;
pub(crate) use upload::Cache;

/// What git asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// `GET PATH/info/refs?service=…`
    Advertisement,
    /// `POST PATH/git-receive-pack`
    Receive,
    /// `POST PATH/git-upload-pack`
    Upload,
    /// Something else below the path.
    Unknown,
}

/// What git asks for with this path of a request, when the repository is at `at`.
pub(crate) fn route(at: &str, path: &str) -> Option<Route> {
    match path.strip_prefix(at)? {
        "/info/refs" => Some(Route::Advertisement),
        "/git-receive-pack" => Some(Route::Receive),
        "/git-upload-pack" => Some(Route::Upload),
        "" => Some(Route::Unknown),
        rest if rest.starts_with('/') => Some(Route::Unknown),
        _ => None,
    }
}

/// Answers a request of git's for a site that takes pushes with `token`.
pub(crate) async fn answer(
    site: Arc<Hosted>,
    token: &Token,
    route: Route,
    parts: &Parts,
    body: Incoming,
) -> Response<Chunks> {
    let user = match token.caller(&parts.headers) {
        Caller::Known(user) => user,
        caller => {
            if caller == Caller::Wrong {
                tracing::warn!(site = site.name, "a wrong push token");
            }
            return unauthorized();
        }
    };
    let (method, service) = match route {
        Route::Advertisement => (Method::GET, service(parts)),
        Route::Receive => (Method::POST, Some("git-receive-pack")),
        Route::Upload => (Method::POST, Some("git-upload-pack")),
        Route::Unknown => (parts.method.clone(), None),
    };
    if parts.method != method {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "This is git's.\n");
        let allow = if method == Method::GET { "GET" } else { "POST" };
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
        return response;
    }
    match (route, service) {
        (Route::Advertisement, Some("git-receive-pack")) => {
            let trees = site.deploying.lock().await;
            let tip = trees.newest().map(|tree| (site.config.branch.as_str(), tree.tip()));
            let text = advertisement(hash(&site, &trees), tip.as_slice());
            git_answer("application/x-git-receive-pack-advertisement", text)
        }
        (Route::Advertisement, Some(_)) => {
            let trees = site.deploying.lock().await;
            let text = upload::advertisement(parts, &site, hash(&site, &trees), trees.newest());
            git_answer("application/x-git-upload-pack-advertisement", text)
        }
        (Route::Receive, _) => {
            let by = match user {
                Some(user) => format!("push ({user})"),
                None => "push".to_owned(),
            };
            receive::answer(site, by, parts, body).await
        }
        (Route::Upload, _) => upload::answer(&site, parts, body).await,
        (Route::Advertisement | Route::Unknown, _) => {
            plain(StatusCode::NOT_FOUND, "git finds info/refs here, and the two services.\n")
        }
    }
}

/// The service that an advertisement is asked for.
fn service(parts: &Parts) -> Option<&'static str> {
    let mut pairs = parts.uri.query().unwrap_or_default().split('&');
    match pairs.find_map(|pair| pair.strip_prefix("service="))? {
        "git-receive-pack" => Some("git-receive-pack"),
        "git-upload-pack" => Some("git-upload-pack"),
        _ => None,
    }
}

/// What object ids of a site are: those of what it has, and as it is told while it has nothing.
fn hash(site: &Hosted, trees: &Trees) -> HashKind {
    trees.newest().map_or(site.config.hash, |tree| tree.commit.id.kind())
}

fn unauthorized() -> Response<Chunks> {
    let mut response = plain(StatusCode::UNAUTHORIZED, "The push token is the password.\n");
    let basic = HeaderValue::from_static("Basic realm=\"push token\", charset=\"UTF-8\"");
    response.headers_mut().insert(WWW_AUTHENTICATE, basic);
    response
}

/// An answer in git's own language, which no cache keeps.
fn git_answer(kind: &'static str, text: impl Into<Chunks>) -> Response<Chunks> {
    let mut response = Response::new(text.into());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-store"));
    finish(response)
}

/// The pieces of a request's body, if it is what it should be.
fn open(parts: &Parts, body: Incoming, kind: &str) -> Result<Pieces, Box<Response<Chunks>>> {
    let is_kind = parts.headers.get(CONTENT_TYPE).is_some_and(|value| value == kind);
    if !is_kind {
        let text = "Only git speaks here.\n";
        return Err(Box::new(plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, text)));
    }
    match parts.headers.get(CONTENT_ENCODING).map(HeaderValue::as_bytes) {
        None | Some(b"identity") => Ok(Pieces::plain(body)),
        Some(b"gzip" | b"x-gzip") => Ok(Pieces::gzip(body)),
        Some(_) => {
            let text = "Bodies are plain or compressed with gzip.\n";
            Err(Box::new(plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, text)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_git_by_path() {
        let at = |path| route("/site.git", path);
        assert_eq!(at("/site.git/info/refs"), Some(Route::Advertisement));
        assert_eq!(at("/site.git/git-receive-pack"), Some(Route::Receive));
        assert_eq!(at("/site.git/git-upload-pack"), Some(Route::Upload));
        assert_eq!(at("/site.git/HEAD"), Some(Route::Unknown));
        assert_eq!(at("/site.git"), Some(Route::Unknown));
        assert_eq!(at("/site.github"), None);
        assert_eq!(at("/"), None);
    }
}
