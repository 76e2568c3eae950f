//! Each forge's own sequence of deliveries, as it comes when a repository lives: the test delivery, pushes, one that is
//! sent again, another branch, a tag, a forced push, the end of the branch. Sent by the real curl, signed by openssl.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod site_support;

use std::io::Write;
use std::process::{Command, Stdio};

use base64::Engine as _;
use site_support::{Answer, Forge, Unipi, available, get};

const SECRET: &str = "a secret for the hook";

const SENDERS: [&str; 7] =
    ["GitHub", "Gitea", "Forgejo", "Gogs", "soft-serve", "GitLab", "signed GitLab"];

/// A tag by openssl, not by the library under test.
fn openssl_hmac(key: &str, text: &str) -> String {
    let mut child = Command::new("openssl")
        .args(["dgst", "-sha256", "-hmac", key])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    output.trim().rsplit(' ').next().unwrap().to_owned()
}

/// The headers that `sender` sends with an event, signed with `secret`.
fn headers(sender: &str, event: &str, delivery: &str, body: &str, secret: &str) -> Vec<String> {
    let tag = openssl_hmac(secret, body);
    let title = match event {
        "push" => "Push Hook",
        "tag" => "Tag Push Hook",
        other => other,
    };
    // Where a forge has no event of its own for tags, it is a push.
    let event = if event == "tag" { "push" } else { event };
    match sender {
        "GitHub" => vec![
            "User-Agent: GitHub-Hookshot/044aadd".to_owned(),
            format!("X-GitHub-Event: {event}"),
            format!("X-GitHub-Delivery: {delivery}"),
            "X-GitHub-Hook-ID: 292430182".to_owned(),
            // An older mark, which nobody looks at.
            "X-Hub-Signature: sha1=0000000000000000000000000000000000000000".to_owned(),
            format!("X-Hub-Signature-256: sha256={tag}"),
        ],
        "Gitea" => vec![
            format!("X-Gitea-Event: {event}"),
            format!("X-Gogs-Event: {event}"),
            format!("X-GitHub-Event: {event}"),
            format!("X-Gitea-Signature: {tag}"),
            format!("X-Gogs-Signature: {tag}"),
            format!("X-Hub-Signature-256: sha256={tag}"),
            format!("X-Gitea-Delivery: {delivery}"),
            format!("X-GitHub-Delivery: {delivery}"),
        ],
        "Forgejo" => vec![
            format!("X-Forgejo-Event: {event}"),
            format!("X-Gitea-Event: {event}"),
            format!("X-Forgejo-Signature: {tag}"),
            format!("X-Gitea-Signature: {tag}"),
            format!("X-Hub-Signature-256: sha256={tag}"),
            format!("X-Forgejo-Delivery: {delivery}"),
            format!("X-Gitea-Delivery: {delivery}"),
        ],
        "Gogs" => vec![
            format!("X-Gogs-Event: {event}"),
            format!("X-Gogs-Signature: {tag}"),
            format!("X-Gogs-Delivery: {delivery}"),
        ],
        "soft-serve" => vec![
            format!("X-SoftServe-Event: {event}"),
            format!("X-SoftServe-Signature: sha256={tag}"),
            format!("X-SoftServe-Delivery: {delivery}"),
        ],
        "GitLab" => vec![
            format!("X-Gitlab-Event: {title}"),
            format!("X-Gitlab-Token: {secret}"),
            format!("X-Gitlab-Event-UUID: {delivery}"),
            format!("Idempotency-Key: {delivery}"),
        ],
        _ => {
            let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
            let tag =
                hex::decode(openssl_hmac(secret, &format!("{delivery}.{now}.{body}"))).unwrap();
            let tag = base64::engine::general_purpose::STANDARD.encode(tag);
            vec![
                format!("X-Gitlab-Event: {title}"),
                format!("webhook-id: {delivery}"),
                format!("webhook-timestamp: {now}"),
                format!("webhook-signature: v1,{tag}"),
            ]
        }
    }
}

/// One forge that has our webhook in its settings.
struct Story<'a> {
    sender: &'a str,
    forge: &'a Forge,
    unipi: &'a Unipi,
    number: std::cell::Cell<u32>,
}

impl Story<'_> {
    fn send(&self, delivery: &str, event: &str, body: &str, secret: &str) -> Answer {
        let headers = headers(self.sender, event, delivery, body, secret);
        let mut arguments = vec!["-H", "Content-Type: application/json", "-d", body];
        arguments.extend(headers.iter().flat_map(|header| ["-H", header.as_str()]));
        get(&self.unipi.url("/hook"), &arguments)
    }

    /// A delivery of its own; the answer's status and text.
    fn tell(&self, event: &str, body: &str) -> (u16, String) {
        self.number.set(self.number.get() + 1);
        let delivery = format!("{}-{}", self.sender.replace(' ', "-"), self.number.get());
        let answer = self.send(&delivery, event, body, SECRET);
        (answer.status, String::from_utf8(answer.body).unwrap())
    }

    /// The body of a push, with what forges put around what matters.
    fn push_body(&self, reference: &str, after: &str) -> String {
        let zeros = "0".repeat(40);
        serde_json::json!({
            "object_kind": "push",
            "ref": reference,
            "before": zeros,
            "after": after,
            "checkout_sha": if after == zeros { None } else { Some(after) },
            "created": false,
            "deleted": after == zeros,
            "forced": false,
            "repository": { "full_name": "me/site", "clone_url": "https://elsewhere.example/x.git" },
            "pusher": { "login": "me", "name": "Mäx" },
            "commits": [{ "id": after, "message": "a\nb", "added": ["index.html"] }],
        })
        .to_string()
    }

    /// Changes the page in the repository.
    fn publish(&self, page: &str) -> String {
        self.forge.write("index.html", page);
        self.forge.push(page);
        self.forge.git(&["rev-parse", "HEAD"])
    }

    fn ignored(&self, event: &str, body: &str, why: &str) {
        let (status, said) = self.tell(event, body);
        assert!(status == 200 && said.contains(why), "{} {event}: {status} {said}", self.sender);
    }

    fn run(&self) {
        let Self { sender, forge, unipi, .. } = self;
        let page = |name: &str| format!("{name} by {sender}");
        let main = "refs/heads/main";
        // Only some have a test delivery that is no push.
        if *sender == "GitHub" {
            let ping = r#"{"zen":"Keep it logically awesome.","hook_id":292430182,"hook":{}}"#;
            self.ignored("ping", ping, "no push");
        }
        // A push, whose delivery the forge sends again because it did not hear the answer.
        let after = self.publish(&page("first"));
        let body = self.push_body(main, &after);
        let delivery = format!("{}-again", sender.replace(' ', "-"));
        assert_eq!(self.send(&delivery, "push", &body, SECRET).status, 202, "{sender}");
        unipi.shows("/", &page("first"));
        let again = self.send(&delivery, "push", &body, SECRET);
        assert_eq!(again.status, 200, "{sender}: {again:?}");
        // Somebody who knows everything but the secret; the forge's own delivery with it counts still.
        let after = self.publish(&page("second"));
        let body = self.push_body(main, &after);
        let forged = self.send("forged", "push", &body, "another secret");
        assert_eq!(forged.status, 403, "{sender}: {forged:?}");
        assert_eq!(get(&unipi.url("/"), &[]).body, page("first").as_bytes());
        assert_eq!(self.tell("push", &body).0, 202, "{sender}");
        unipi.shows("/", &page("second"));
        // What happens elsewhere in the repository.
        self.ignored("push", &self.push_body("refs/heads/draft", &after), "another branch");
        self.ignored("tag", &self.push_body("refs/tags/v1", &after), "another branch");
        self.ignored("issues", r#"{"action":"opened"}"#, "no push");
        // Several people push at once: the last one's page shows.
        for name in ["third", "fourth", "fifth"] {
            let after = self.publish(&page(name));
            assert_eq!(self.tell("push", &self.push_body(main, &after)).0, 202, "{sender}");
        }
        unipi.shows("/", &page("fifth"));
        // History is written anew.
        forge.git(&["reset", "-q", "--hard", "HEAD~3"]);
        forge.git(&["push", "-q", "--force", "origin", "HEAD:main"]);
        let after = forge.git(&["rev-parse", "HEAD"]);
        assert_eq!(self.tell("push", &self.push_body(main, &after)).0, 202, "{sender}");
        unipi.shows("/", &page("second"));
        // The branch goes, and its last site stays; it comes back.
        forge.git(&["--git-dir=../site.git", "update-ref", "-d", main]);
        self.ignored("push", &self.push_body(main, &"0".repeat(40)), "deleted");
        self.ignored("delete", r#"{"ref":"main","ref_type":"branch"}"#, "no push");
        assert_eq!(get(&unipi.url("/"), &[]).body, page("second").as_bytes());
        let after = self.publish(&page("last"));
        assert_eq!(self.tell("push", &self.push_body(main, &after)).0, 202, "{sender}");
        unipi.shows("/", &page("last"));
    }
}

#[test]
fn each_forge_tells_its_story() {
    if !available(&["git", "curl", "openssl"]) {
        return;
    }
    let forge = Forge::start();
    forge.write("index.html", "before");
    forge.push("before");
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), format!("{SECRET}\n")).unwrap();
    let file = secret.path().to_str().unwrap();
    let mut unipi = Unipi::start(&forge.remote(), &["--hook-secret-file", file]);
    unipi.shows("/", "before");
    for sender in SENDERS {
        let number = std::cell::Cell::default();
        Story { sender, forge: &forge, unipi: &unipi, number }.run();
    }
    assert_eq!(unipi.stop(), Some(0));
}
