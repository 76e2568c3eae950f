//! `git push` straight to the site server: git's smart HTTP (gitprotocol-http), for one branch of each site.
//!
//! # How data passes through
//!
//! [`route`] tells git's requests from those for pages. The push token is asked for first ([`token`]). The body of a
//! push goes through [`crate::git::receive::Receiver`] as it arrives, so that nothing but the objects is held; what comes
//! out is deployed like a fetched commit, and the client hears what became of it as `remote:` lines. [`upload`] answers
//! `git clone` and `git fetch` with the one commit that is held.
//!
//! # What it must not know
//!
//! How a commit becomes a site, and where it is kept.

mod body;
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

use crate::git::receive::{Command, Push, Receiver, advertisement};
use crate::git::{Generation as Tree, HashKind, TreeError};
use crate::serve::{Chunks, finish, plain};
use crate::site::generations::Generation;
use crate::sites::{Hosted, Trees};
use body::Pieces;
use token::Caller;
pub(crate) use upload::Cache;

/// Problems of a site that whoever pushed it is told.
const MAX_PROBLEMS: usize = 20;

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
            receive(site, &by, parts, body).await
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

/// Takes a push.
async fn receive(site: Arc<Hosted>, by: &str, parts: &Parts, body: Incoming) -> Response<Chunks> {
    const REQUEST: &str = "application/x-git-receive-pack-request";
    const RESULT: &str = "application/x-git-receive-pack-result";
    let mut pieces = match open(parts, body, REQUEST) {
        Ok(pieces) => pieces,
        Err(response) => return *response,
    };
    let (known, hash) = {
        let trees = site.deploying.lock().await;
        (trees.newest().cloned(), hash(&site, &trees))
    };
    let total_time = site.limits.total_time;
    let received = async {
        let mut receiver = Receiver::new(hash, &site.limits, known.as_deref());
        while let Some(piece) = pieces.next().await? {
            receiver.push(&piece).await.map_err(|error| error.to_string())?;
        }
        receiver.finish().map_err(|error| error.to_string())
    };
    let push = match tokio::time::timeout(total_time, received).await {
        Ok(Ok(push)) => push,
        Ok(Err(why)) => {
            tracing::warn!(site = site.name, by, why, "a push was broken off");
            return plain(StatusCode::BAD_REQUEST, "This is no push, or it did not arrive.\n");
        }
        Err(_) => return plain(StatusCode::REQUEST_TIMEOUT, "The push took too long.\n"),
    };
    if push.commands.is_empty() {
        // What git sends first to find out whether it will be let in.
        return git_answer(RESULT, Vec::new());
    }
    // A client that hangs up must not leave a deploy half done.
    let by = by.to_owned();
    let judged = tokio::spawn(async move {
        let mut messages = Vec::new();
        let mut results = Vec::new();
        for command in &push.commands {
            let result = judge(&site, &push, command, known.as_deref(), &by, &mut messages).await;
            results.push((command.reference.as_str(), result));
        }
        push.report(&results, &messages)
    });
    match judged.await {
        Ok(report) => git_answer(RESULT, report),
        Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "The push could not be taken.\n"),
    }
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

/// Does what a command of a push asks for, or says why not.
async fn judge(
    site: &Hosted,
    push: &Push,
    command: &Command,
    known: Option<&Tree>,
    by: &str,
    messages: &mut Vec<String>,
) -> Result<(), String> {
    let branch = &site.config.branch;
    if command.reference != *branch {
        let short = branch.strip_prefix("refs/heads/").unwrap_or(branch);
        return Err(format!("this site shows {branch} alone: git push REMOTE HEAD:{short}"));
    }
    let Some(tip) = command.new else {
        return Err("the site's branch stays: push another commit in its place".to_owned());
    };
    if let Err(error) = &push.objects {
        let why = format!("the push is refused: {error}");
        site.failed(why.clone(), by).await;
        return Err(why);
    }
    let tree = match push.generation(branch, tip, known, &site.limits).await {
        Ok(tree) => Ok(Arc::new(tree)),
        Err(error @ TreeError::Missing { .. }) => {
            // Back to what is kept, of which git sent nothing because it knows that it was here.
            let kept = site.deploying.lock().await.get(&tip);
            kept.ok_or_else(|| {
                format!("{error}; it was here before and is not kept: push a new commit on top")
            })
        }
        Err(error) => Err(error.to_string()),
    };
    let tree = match tree {
        Ok(tree) => tree,
        Err(why) => {
            site.failed(why.clone(), by).await;
            return Err(why);
        }
    };
    let mut trees = site.deploying.lock().await;
    if command.old != trees.newest().map(|newest| newest.tip()) {
        return Err("somebody else was faster: fetch first".to_owned());
    }
    match site.deploy(&mut trees, tree, by).await {
        Ok(generation) => {
            tell(site, &generation, messages);
            Ok(())
        }
        Err(error) => {
            drop(trees);
            let why = error.to_string();
            site.failed(why.clone(), by).await;
            Err(why)
        }
    }
}

/// What whoever pushed hears of the new site.
fn tell(site: &Hosted, generation: &Generation, messages: &mut Vec<String>) {
    let built = &generation.site;
    let short: String = built.commit().id.chars().take(12).collect();
    let live = site.generations.current().is_some_and(|live| live.number == generation.number);
    let what = if live { "is live" } else { "waits, because another one is pinned" };
    messages.push(format!(
        "{short} {what} as generation {}: {} files, {} bytes",
        generation.number,
        built.len(),
        built.size()
    ));
    let problems = built.problems();
    for problem in problems.iter().take(MAX_PROBLEMS) {
        messages.push(format!("problem: {problem}"));
    }
    if let Some(more) = problems.len().checked_sub(MAX_PROBLEMS).filter(|more| *more > 0) {
        messages.push(format!("and {more} problems more, see the deploy log"));
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
