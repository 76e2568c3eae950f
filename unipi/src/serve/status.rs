//! The deploy log, for people and for programs.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use http::header::{ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode};

use super::body::Chunks;
use super::respond::{finish, plain};
use crate::site::Generations;
use crate::site::generations::Deploy;

/// How the log is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Page,
    Json,
}

/// Which form a path asks for, when the log is at `at`.
pub(super) fn form(at: &str, path: &str) -> Option<Form> {
    match path.strip_prefix(at)? {
        "" => Some(Form::Page),
        ".json" => Some(Form::Json),
        _ => None,
    }
}

/// Shows the log.
pub(super) fn answer(request: &Parts, form: Form, generations: &Generations) -> Response<Chunks> {
    if ![Method::GET, Method::HEAD].contains(&request.method) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "The log can only be read.\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let (kind, text) = match form {
        Form::Page => ("text/html; charset=utf-8", page(generations)),
        Form::Json => ("application/json", json(generations)),
    };
    let mut response = plain(StatusCode::OK, "");
    *response.body_mut() = Chunks::from(text);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'"),
    );
    finish(response)
}

fn json(generations: &Generations) -> String {
    let current = generations.current();
    let kept: Vec<u64> = generations.kept().iter().map(|kept| kept.number).collect();
    let value = serde_json::json!({
        "generation": current.as_ref().map(|current| current.number),
        "commit": current.as_ref().map(|current| current.site.commit().clone()),
        "pinned": generations.is_pinned(),
        "kept": kept,
        "log": generations.log(),
    });
    format!("{value}\n")
}

fn page(generations: &Generations) -> String {
    let mut page = String::from(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>Deploys</title><style>body{font:1rem/1.5 sans-serif;margin:2rem}td,th{text-align:left;\
         padding:.2rem 1rem .2rem 0;vertical-align:top}</style><h1>Deploys</h1>",
    );
    let pinned = if generations.is_pinned() { ", pinned" } else { "" };
    match generations.current() {
        Some(current) => {
            // Writing to a string does not fail.
            let _ = write!(page, "<p>Generation {} is live{pinned}.", current.number);
        }
        None => page.push_str("<p>There is no site yet."),
    }
    page.push_str("<table><tr><th>When<th>What<th>By<th>Commit<th>Files<th>Problems");
    for deploy in generations.log() {
        row(&mut page, &deploy);
    }
    page.push_str("</table></html>\n");
    page
}

fn row(page: &mut String, deploy: &Deploy) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(deploy.time);
    let what = deploy.outcome.words();
    let number =
        deploy.generation.map_or_else(String::new, |number| format!(" (generation {number})"));
    let commit = deploy.commit.as_ref().map_or_else(String::new, |commit| {
        let short: String = commit.id.chars().take(12).collect();
        format!("{short} {} ({})", commit.subject, commit.author)
    });
    let files = deploy.files.map_or_else(String::new, |files| files.to_string());
    let problems: Vec<String> =
        deploy.problems.iter().map(|problem| escape(&problem.to_string())).collect();
    let _ = write!(
        page,
        "<tr><td>{}<td>{what}{number}<td>{}<td>{}<td>{files}<td>{}",
        httpdate::fmt_http_date(time),
        escape(&deploy.by),
        escape(&commit),
        problems.join("<br>"),
    );
}

/// Whoever pushes writes the messages and names that are shown here.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_cannot_be_markup() {
        let generations = Generations::new(1);
        generations.failed("<script>alert(1)</script>", "\"x\"&", 0);
        let page = page(&generations);
        assert!(!page.contains("<script>"), "{page}");
        assert!(page.contains("&lt;script&gt;") && page.contains("&quot;x&quot;&amp;"), "{page}");
    }

    #[test]
    fn forms_by_path() {
        assert_eq!(form("/status", "/status"), Some(Form::Page));
        assert_eq!(form("/status", "/status.json"), Some(Form::Json));
        assert_eq!(form("/status", "/status/"), None);
        assert_eq!(form("/status", "/statusx"), None);
    }
}
