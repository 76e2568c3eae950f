//! `site`: what exactly is asked for, what is shown, and that secrets are shown once or never.

use config_proto::message::{RefusalCode, Request};
use serde_json::json;

use crate::support::{FakeGateway, Home, changed, refusal};

#[test]
fn adding_a_site_makes_secrets_and_shows_them_once() {
    let server =
        FakeGateway::start(|_| changed("added blog.example.org", Some("blog.example.org")));
    let home = Home::new();
    home.write("ssh", "-----BEGIN OPENSSH PRIVATE KEY-----\n");
    let run = home
        .ask(
            &server,
            &[
                "site",
                "add",
                "blog.example.org",
                "git@forge.example.org:blog.git#pages",
                "--hook",
                "--ssh-key-file",
                "ssh",
                "--ssh-authenticator",
                "SHA256:x",
                "--poll",
                "5m",
            ],
        )
        .code(0)
        .says("added blog.example.org")
        .says("shown this once");
    let request = server.request();
    let secret = request["hook_secret"].as_str().unwrap();
    assert_eq!(secret.len(), 64);
    assert!(run.stdout.lines().any(|line| line == secret), "{run:?}");
    assert_eq!(request["ssh_key"], "-----BEGIN OPENSSH PRIVATE KEY-----\n");
    assert_eq!(
        request["settings"],
        json!({"remote": "git@forge.example.org:blog.git", "branch": "pages",
               "authenticator": "SHA256:x", "poll-seconds": 300})
    );
    assert!(request.get("push_token").is_none() && !run.stdout.contains("OPENSSH"));

    // A secret that was given is not shown again; one that was made is in the JSON.
    let server = FakeGateway::start(|_| changed("added docs.example.org", None));
    home.write("token", "a-push-token-of-my-own\r\n");
    let run = home
        .ask(&server, &["site", "add", "docs.example.org", "--push-token-file", "token", "--json"])
        .code(0);
    assert_eq!(server.request()["push_token"], "a-push-token-of-my-own");
    assert!(run.json().get("push-token").is_none(), "{run:?}");
    let server = FakeGateway::start(|_| changed("added docs.example.org", None));
    let run = home.ask(&server, &["site", "add", "docs.example.org", "--push", "--json"]).code(0);
    assert_eq!(run.json()["push-token"], server.request()["push_token"]);
}

#[test]
fn slips_are_noticed_before_anybody_is_asked() {
    let server = FakeGateway::start(|_| changed("never", None));
    let home = Home::new();
    home.write("empty", "\n");
    for (arguments, why) in [
        (&["add", "blog.example.org"][..], "neither a repository nor a push token"),
        (&["add", "blog", "https://a.example/b#c", "--branch", "d"], "twice"),
        (&["add", "blog", "--push-token-file", "missing"], "cannot read"),
        (&["add", "blog", "--push-token-file", "empty"], "is empty"),
        (&["add", "blog", "--push", "--object-format", "md5"], "md5"),
        (&["log", "blog", "-n", "0"], "0"),
    ] {
        home.ask(&server, &[&["site"], arguments].concat()).code(2).complains(why);
    }
    assert_eq!(server.requests(), vec![]);
}

#[test]
fn small_commands_ask_for_what_they_say() {
    for (arguments, request) in [
        (&["remove", "a"][..], json!({"op": "site-remove", "name": "a"})),
        (&["refresh", "a"], json!({"op": "site-refresh", "name": "a"})),
        (&["rollback", "a"], json!({"op": "site-rollback", "name": "a"})),
        (&["rollback", "a", "3"], json!({"op": "site-rollback", "name": "a", "generation": 3})),
        (&["pin", "a"], json!({"op": "site-pin", "name": "a", "pinned": true})),
        (&["pin", "a", "--off"], json!({"op": "site-pin", "name": "a", "pinned": false})),
    ] {
        let server = FakeGateway::start(|_| changed("done", Some("a")));
        Home::new().ask(&server, &[&["site"], arguments].concat()).code(0).says("a: done");
        assert_eq!(server.request(), request);
    }
    let server = FakeGateway::start(|_| {
        Err(refusal(RefusalCode::NotFound, "there is no site a", "tlstunnel-ctl site list"))
    });
    Home::new().ask(&server, &["site", "remove", "a"]).code(1).complains("there is no site a");
}

#[test]
fn lists_and_logs_for_eyes_and_programs() {
    let live = json!({"number": 4, "commit": "0123456789abcdef0123", "time": 1, "author": "Ann",
        "subject": "four", "size": 2048, "files": 3, "problems": 1});
    let site = |name: &str, more: serde_json::Value| {
        let mut site = json!({"name": name, "settings": {"remote": "https://forge.example/x.git",
            "branch": "main"}, "fixed": false, "hook": true, "push": false, "pinned": false});
        for (key, value) in more.as_object().unwrap() {
            site[key] = value.clone();
        }
        site
    };
    // Two pages.
    let pages = live.clone();
    let server = FakeGateway::start(move |request| {
        let Request::SiteList { after, .. } = request else { return changed("what?", None) };
        Ok(match after {
            None => json!({"sites": [site("a.example.org", json!({"live": pages}))], "more": true}),
            Some(_) => json!({"more": false, "sites": [
                site("b.example.org", json!({"failure": "the remote cannot be reached"})),
                site("c.example.org", json!({"live": pages, "pinned": true}))]}),
        })
    });
    let home = Home::new();
    let run = home
        .ask(&server, &["site", "list"])
        .code(0)
        .says(
            "a.example.org  https://forge.example/x.git#main  4 (0123456789ab)  2.0 KiB  1 problem",
        )
        .says("the remote cannot be reached")
        .says("pinned");
    assert_eq!(run.stdout.lines().count(), 4, "{run:?}");
    let names = home.ask(&server, &["site", "list", "--json"]).code(0).json();
    assert_eq!(names["sites"].as_array().unwrap().len(), 3);

    let server = FakeGateway::start(move |_| {
        Ok(json!({"name": "a.example.org", "live": 4, "pinned": true, "kept": [live], "log": [
            {"time": 1_700_000_000, "outcome": "failed", "by": "GitHub", "problems": ["too large"]},
            {"time": 1_700_000_000, "outcome": "live", "by": "push (me)", "generation": live}]}))
    });
    home.ask(&server, &["site", "log", "a.example.org"])
        .code(0)
        .says("4, pinned")
        .says("failed")
        .says("too large")
        .says("live 4")
        .says("0123456789ab four");
    assert_eq!(home.ask(&server, &["site", "log", "a", "--json"]).code(0).json()["live"], 4);
    let empty = FakeGateway::start(|_| Ok(json!({"sites": [], "more": false})));
    home.ask(&empty, &["site", "list"]).code(0).says("There are no sites yet");
}
