//! The real `git push` against the receiving side.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod git_support;

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use git_support::{Repository, assert_shows, git_command, have, run};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use unipi::git::receive::{PushError, Receiver, advertisement};
use unipi::git::{Generation, HashKind, Limits};

const BRANCH: &str = "refs/heads/main";

#[derive(Clone, Default)]
struct Site {
    live: Arc<Mutex<Option<Arc<Generation>>>>,
    limits: Option<Limits>,
}

impl Site {
    fn start(&self) -> SocketAddr {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let site = self.clone();
        std::thread::spawn(move || {
            run(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let site = site.clone();
                    tokio::spawn(async move {
                        let service = service_fn(move |request| answer(site.clone(), request));
                        let builder = hyper::server::conn::http1::Builder::new();
                        let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                    });
                }
            });
        });
        address
    }

    fn live(&self) -> Option<Arc<Generation>> {
        self.live.lock().unwrap().clone()
    }
}

async fn answer(
    site: Site,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let live = site.live();
    let answer = Response::builder().header("cache-control", "no-cache");
    if request.method() == Method::GET {
        let references: Vec<_> = live.iter().map(|live| (BRANCH, live.commit.id)).collect();
        let body = advertisement(HashKind::Sha1, &references);
        let answer = answer.header("content-type", "application/x-git-receive-pack-advertisement");
        return Ok(answer.body(Full::from(body)).unwrap());
    }
    let limits = site.limits.unwrap_or_default();
    let mut receiver = Receiver::new(HashKind::Sha1, &limits, live.as_deref());
    let mut body = request.into_body();
    while let Some(frame) = body.frame().await {
        receiver.push(&frame.unwrap().into_data().unwrap()).await.unwrap();
    }
    let voice = receiver.voice();
    let push = receiver.finish().unwrap();
    let mut results = Vec::new();
    for command in &push.commands {
        let old = live.as_ref().map(|live| live.commit.id);
        let result = match command.new {
            _ if command.reference != BRANCH => Err("only main is shown here".to_owned()),
            _ if command.old != old => Err("somebody else was faster".to_owned()),
            None => {
                *site.live.lock().unwrap() = None;
                Ok(())
            }
            Some(tip) => match push.generation(BRANCH, tip, live.as_deref(), &limits).await {
                Ok(generation) => {
                    *site.live.lock().unwrap() = Some(Arc::new(generation));
                    Ok(())
                }
                Err(error) => Err(error.to_string()),
            },
        };
        results.push((command.reference.as_str(), result));
    }
    let body = match push.commands.is_empty() {
        true => Vec::new(),
        false => [voice.message("the site says hello"), push.report(&results)].concat(),
    };
    let answer = answer.header("content-type", "application/x-git-receive-pack-result");
    Ok(answer.body(Full::from(body)).unwrap())
}

/// Whether the push succeeded, and what git said about it.
fn push(repository: &Repository, arguments: &[&str]) -> (bool, String) {
    let output = git_command(&repository.work()).arg("push").args(arguments).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn git_pushes_and_hears_what_becomes_of_it() {
    if !have("git") {
        return;
    }
    let site = Site::default();
    let url = format!("http://{}/site.git", site.start());
    let repository = Repository::new();
    // More than http.postBuffer, so that git probes first and sends in chunks.
    let noise: Vec<u8> = (0..400_000_u64)
        .scan(1_u64, |state, _| {
            *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            Some(*state)
        })
        .flat_map(u64::to_le_bytes)
        .collect();
    repository.write("noise.bin", noise);
    for number in 0..100 {
        repository.write(format!("{number}.html"), format!("{number}\n").repeat(500));
    }
    let first = repository.publish("one");
    let (pushed, said) = push(&repository, &[&url, "main"]);
    assert!(pushed, "{said}");
    assert!(said.contains("remote: the site says hello"), "{said}");
    let shown = site.live().unwrap();
    assert_shows(&repository, &first, &shown);

    // A change builds on what is there, and shares it.
    repository.write("7.html", format!("{}changed\n", "7\n".repeat(500)));
    let second = repository.publish("two");
    assert!(push(&repository, &[&url, "main"]).0);
    let now = site.live().unwrap();
    assert_shows(&repository, &second, &now);
    let noise = |generation: &Generation| {
        let found = generation.entries.iter().find(|entry| entry.path == "noise.bin");
        found.unwrap().blob.as_ptr()
    };
    assert_eq!(noise(&shown), noise(&now));
    let (pushed, said) = push(&repository, &[&url, "main"]);
    assert!(pushed && said.contains("up-to-date"), "{said}");

    // A revert brings back what the current state does not have.
    repository.git(&["revert", "--no-edit", "HEAD"]);
    let reverted = repository.git(&["rev-parse", "HEAD"]);
    assert!(push(&repository, &[&url, "main"]).0);
    assert_shows(&repository, &reverted, &site.live().unwrap());

    // Another branch is refused with its reason; the site stays.
    let (pushed, said) = push(&repository, &[&url, "main:refs/heads/other"]);
    assert!(!pushed && said.contains("only main is shown here"), "{said}");
    assert_shows(&repository, &reverted, &site.live().unwrap());

    // New history, by force.
    repository.git(&["checkout", "-q", "--orphan", "fresh"]);
    repository.git(&["commit", "-q", "-m", "fresh"]);
    let fresh = repository.git(&["rev-parse", "HEAD"]);
    assert!(!push(&repository, &[&url, "fresh:main"]).0);
    assert!(push(&repository, &["--force", &url, "fresh:main"]).0);
    assert_shows(&repository, &fresh, &site.live().unwrap());

    // A shallow clone pushes too.
    let shallow = repository.base().join("shallow");
    git_support::git(
        repository.base(),
        &[
            "clone",
            "-q",
            "--depth=1",
            &format!("file://{}", repository.bare().display()),
            "shallow",
        ],
    );
    std::fs::write(shallow.join("new.html"), "new").unwrap();
    git_support::git(&shallow, &["add", "-A"]);
    git_support::git(&shallow, &["commit", "-q", "-m", "from a shallow clone"]);
    git_support::git(&shallow, &["push", "-q", "--force", &url, "HEAD:main"]);
    let tip = git_support::git(&shallow, &["rev-parse", "HEAD"]);
    assert_eq!(site.live().unwrap().commit.id.to_string(), tip);

    assert!(push(&repository, &[&url, ":main"]).0);
    assert!(site.live().is_none());
}

#[test]
fn a_push_beyond_the_limits_is_refused_and_told() {
    if !have("git") {
        return;
    }
    let limits = Limits { unpacked_bytes: 10_000, ..Limits::default() };
    let site = Site { limits: Some(limits), ..Site::default() };
    let url = format!("http://{}/site.git", site.start());
    let repository = Repository::new();
    repository.write("large", "x".repeat(20_000));
    repository.publish("one");
    let (pushed, said) = push(&repository, &[&url, "main"]);
    assert!(!pushed && said.contains("unpacked_bytes"), "{said}");
    assert!(site.live().is_none());
}

#[test]
fn requests_that_are_no_push_are_refused() {
    let receive = |body: &[u8]| {
        run(async {
            let mut receiver = Receiver::new(HashKind::Sha1, &Limits::default(), None);
            for piece in body.chunks(3) {
                receiver.push(piece).await?;
            }
            receiver.finish().map(|push| (push.commands, push.objects.map(|_| ())))
        })
    };
    let line = |text: &str| format!("{:04x}{text}", text.len() + 4);
    let (zero, one) = ("0".repeat(40), "1".repeat(40));
    assert_eq!(receive(b"0000").unwrap().0, vec![]);
    assert_eq!(receive(b"").unwrap_err(), PushError::Truncated);
    assert_eq!(receive(b"000").unwrap_err(), PushError::Truncated);
    assert!(matches!(receive(b"zzzz").unwrap_err(), PushError::Framing(_)));
    for text in [
        "0001".to_owned(),
        line("hello"),
        line(&format!("{zero} {one}")),
        line(&format!("{zero} {one} main")),
        line(&format!("{zero} {one} refs/heads/../x")),
        line(&format!("{zero} {one} refs/heads/a b")),
        line(&format!("{zero} {} refs/heads/main", "1".repeat(64))),
        line(&format!("{zero} nothex refs/heads/main")),
    ] {
        assert_eq!(receive(text.as_bytes()).unwrap_err(), PushError::Command, "{text}");
    }
    let many = line(&format!("{zero} {one} refs/heads/main")).repeat(65);
    assert_eq!(receive(many.as_bytes()).unwrap_err(), PushError::TooManyCommands);
    let push =
        format!("{}0000PACKnonsense", line(&format!("{zero} {one} refs/heads/main\0 quiet")));
    assert!(receive(push.as_bytes()).unwrap().1.is_err());
}
