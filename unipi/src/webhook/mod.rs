//! Webhooks: a forge says that something was pushed. Verified, filtered, and answered at once; the work comes after.
//!
//! A request goes through [`Hook::judge`], which is given the headers, the whole body and the time. What a body says of
//! commits is never believed: it only says that it is time to look.
//!
//! It must not know how requests are read nor how a site is refreshed.

mod seen;
mod verify;

use std::sync::{Mutex, MutexGuard, PoisonError};

use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;

pub use seen::MAX_SEEN;
pub use verify::{Distrust, EmptySecret, Secret, TOLERANCE};

use seen::Seen;

/// What is done about a webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Look for something new; by whom it was asked for.
    Refresh(String),
    /// Nothing, and that is right; why.
    Ignore(String),
    /// Nothing: the request is at fault.
    Refuse(Refusal),
}

/// Why a webhook is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The sender is not known.
    #[error("{0}")]
    Distrusted(#[from] Distrust),
    /// A form: Gitea signs it in another way than GitHub, and nobody needs it.
    #[error("the body is not application/json: choose JSON in the forge's webhook settings")]
    NotJson,
    /// What a push says is not there.
    #[error("the body is no push event: {0}")]
    Body(String),
}

impl Refusal {
    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Distrusted(_) => StatusCode::FORBIDDEN,
            Self::NotJson => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Body(_) => StatusCode::BAD_REQUEST,
        }
    }
}

/// The receiving end of a forge's webhook.
#[derive(Debug)]
pub struct Hook {
    secret: Secret,
    reference: Option<String>,
    seen: Mutex<Seen>,
}

/// A forge, by the headers that it sends.
struct Sender {
    name: &'static str,
    event: &'static str,
    deliveries: &'static [&'static str],
}

/// Forgejo sends Gitea's headers too, and Gitea sends GitHub's and Gogs': the more particular come first.
const SENDERS: [Sender; 6] = [
    Sender { name: "Forgejo", event: "x-forgejo-event", deliveries: &["x-forgejo-delivery"] },
    Sender { name: "Gitea", event: "x-gitea-event", deliveries: &["x-gitea-delivery"] },
    Sender { name: "Gogs", event: "x-gogs-event", deliveries: &["x-gogs-delivery"] },
    Sender { name: "GitHub", event: "x-github-event", deliveries: &["x-github-delivery"] },
    Sender {
        name: "GitLab",
        event: "x-gitlab-event",
        deliveries: &["webhook-id", "idempotency-key", "x-gitlab-event-uuid"],
    },
    Sender {
        name: "soft-serve",
        event: "x-softserve-event",
        deliveries: &["x-softserve-delivery"],
    },
];

/// What is read of a push.
#[derive(Deserialize)]
struct Push {
    #[serde(rename = "ref")]
    reference: String,
    #[serde(default)]
    after: Option<String>,
}

impl Hook {
    /// A hook with its secret, for a branch or tag (short or in full); without one, for every branch.
    pub fn new(secret: Secret, reference: Option<String>) -> Self {
        Self { secret, reference, seen: Mutex::default() }
    }

    /// Judges a POST. `now` is in seconds since 1970.
    pub fn judge(&self, headers: &HeaderMap, body: &[u8], now: u64) -> Decision {
        if let Err(distrust) = self.secret.verify(headers, body, now) {
            return Decision::Refuse(distrust.into());
        }
        if !is_json(headers) {
            return Decision::Refuse(Refusal::NotJson);
        }
        let sender = SENDERS.iter().find(|sender| headers.contains_key(sender.event));
        let event = sender.and_then(|sender| headers.get(sender.event)?.to_str().ok());
        if let Some(event) = event.filter(|event| !is_push(event)) {
            let event: String = event.chars().take(64).collect();
            return Decision::Ignore(format!("the event {event:?} is no push"));
        }
        let push: Push = match serde_json::from_slice(body) {
            Ok(push) => push,
            Err(error) => return Decision::Refuse(Refusal::Body(error.to_string())),
        };
        if !self.wants(&push.reference) {
            return Decision::Ignore("another branch or tag is served".to_owned());
        }
        let deleted = |after: String| !after.is_empty() && after.bytes().all(|byte| byte == b'0');
        if push.after.is_some_and(deleted) {
            return Decision::Ignore("the branch was deleted; its last site stays".to_owned());
        }
        let deliveries = sender.map_or(&[][..], |sender| sender.deliveries);
        let delivery = deliveries.iter().find_map(|name| headers.get(*name));
        if delivery.is_some_and(|id| !self.seen().is_new(id.as_bytes())) {
            return Decision::Ignore("this delivery was here before".to_owned());
        }
        Decision::Refresh(sender.map_or("webhook", |sender| sender.name).to_owned())
    }

    /// Takes deliveries that were here before again: what they caused has failed, and the forge may send them anew.
    pub fn forget_deliveries(&self) {
        *self.seen() = Seen::default();
    }

    fn wants(&self, reference: &str) -> bool {
        let short =
            ["refs/heads/", "refs/tags/"].into_iter().find_map(|p| reference.strip_prefix(p));
        match &self.reference {
            None => reference.starts_with("refs/heads/"),
            Some(wanted) => wanted == reference || short == Some(wanted),
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_push(event: &str) -> bool {
    ["push", "Push Hook", "Tag Push Hook"].contains(&event)
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/json")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use http::HeaderValue;

    use super::*;

    const PUSH: &str = r#"{"ref":"refs/heads/main","after":"12ab","repository":{}}"#;

    fn judge(hook: &Hook, headers: &[(&'static str, &'static str)], body: &str) -> Decision {
        let mut map = HeaderMap::new();
        map.insert("x-gitlab-token", HeaderValue::from_static("s3cret"));
        map.insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
        for (name, value) in headers {
            map.insert(*name, HeaderValue::from_static(value));
        }
        hook.judge(&map, body.as_bytes(), 0)
    }

    fn hook(reference: Option<&str>) -> Hook {
        Hook::new(Secret::new(b"s3cret").unwrap(), reference.map(str::to_owned))
    }

    #[test]
    fn pushes_to_the_branch_refresh() {
        let main = hook(Some("main"));
        for (event, name, by) in [
            ("x-github-event", "push", "GitHub"),
            ("x-gitea-event", "push", "Gitea"),
            ("x-forgejo-event", "push", "Forgejo"),
            ("x-gogs-event", "push", "Gogs"),
            ("x-gitlab-event", "Push Hook", "GitLab"),
            ("x-softserve-event", "push", "soft-serve"),
            ("x-unknown", "push", "webhook"),
        ] {
            let wanted = Decision::Refresh(by.to_owned());
            assert_eq!(judge(&main, &[(event, name)], PUSH), wanted);
        }
        let both = [("x-gitea-event", "push"), ("x-forgejo-event", "push")];
        assert_eq!(judge(&main, &both, PUSH), Decision::Refresh("Forgejo".to_owned()));
        let full = hook(Some("refs/heads/main"));
        assert!(matches!(judge(&full, &[], PUSH), Decision::Refresh(_)));
        assert!(matches!(judge(&hook(None), &[], PUSH), Decision::Refresh(_)));
    }

    #[test]
    fn everything_else_is_ignored() {
        let main = hook(Some("main"));
        let ignored = |decision| matches!(decision, Decision::Ignore(_));
        assert!(ignored(judge(&main, &[("x-github-event", "ping")], "{}")));
        assert!(ignored(judge(&main, &[], r#"{"ref":"refs/heads/other"}"#)));
        assert!(ignored(judge(&main, &[], r#"{"ref":"refs/heads/x/main"}"#)));
        assert!(ignored(judge(&hook(None), &[], r#"{"ref":"refs/tags/v1"}"#)));
        let deleted = format!(r#"{{"ref":"refs/heads/main","after":"{}"}}"#, "0".repeat(40));
        assert!(ignored(judge(&main, &[], &deleted)));
    }

    #[test]
    fn a_delivery_counts_once_until_it_has_failed() {
        let main = hook(Some("main"));
        let headers = [("x-github-event", "push"), ("x-github-delivery", "1-2-3")];
        assert!(matches!(judge(&main, &headers, PUSH), Decision::Refresh(_)));
        assert!(matches!(judge(&main, &headers, PUSH), Decision::Ignore(_)));
        main.forget_deliveries();
        assert!(matches!(judge(&main, &headers, PUSH), Decision::Refresh(_)));
    }

    #[test]
    fn bad_requests_are_refused() {
        let main = hook(Some("main"));
        let status = |decision| match decision {
            Decision::Refuse(refusal) => refusal.status().as_u16(),
            other => unreachable!("{other:?}"),
        };
        assert_eq!(status(judge(&main, &[("x-gitlab-token", "no")], PUSH)), 403);
        let form = [("content-type", "application/x-www-form-urlencoded")];
        assert_eq!(status(judge(&main, &form, PUSH)), 415);
        assert_eq!(status(judge(&main, &[], "{")), 400);
        assert_eq!(status(judge(&main, &[], "{}")), 400);
        assert_eq!(status(judge(&main, &[], r#"{"ref":7}"#)), 400);
    }
}
