//! Many sites in one process, managed with the real `tlstunnel-ctl`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod site_support;

use std::process::Command;

use site_support::{Forge, Unipi, available, eventually, get};

const OPTIONS: [&str; 8] = [
    "--control",
    "127.0.0.1:0",
    "--key-file",
    "control.key",
    "--storage",
    "sites.img",
    "--storage-size",
    "64MiB",
];

fn url(forge: &Forge) -> String {
    forge.remote()
}

/// A repository whose only page says this; none where the programs for it are missing.
fn forge_with(page: &str) -> Option<Forge> {
    available(&["git", "curl"]).then(|| {
        let forge = Forge::start();
        publish(&forge, page);
        forge
    })
}

fn publish(forge: &Forge, page: &str) {
    forge.write("index.html", page);
    forge.push(page);
}

/// What a forge's webhook with this secret is answered with.
fn hooked(unipi: &Unipi, host: &str, secret: &str) -> u16 {
    let (host, token) = (format!("Host: {host}"), format!("X-Gitlab-Token: {secret}"));
    let body = r#"{"ref":"refs/heads/main"}"#;
    let json = "Content-Type: application/json";
    let arguments = ["-H", &host, "-H", json, "-H", &token, "-d", body];
    get(&unipi.url("/hook"), &arguments).status
}

fn status_of(unipi: &Unipi, host: &[&str]) -> u16 {
    let header: Vec<String> = host.iter().map(|host| format!("Host: {host}")).collect();
    let mut arguments = Vec::new();
    for header in &header {
        arguments.extend(["-H", header.as_str()]);
    }
    get(&unipi.url("/"), &arguments).status
}

#[test]
fn sites_come_and_go_while_the_server_runs_and_survive_kill_9() {
    let (Some(blog), Some(docs)) = (forge_with("the blog"), forge_with("the docs")) else { return };
    let mut unipi = Unipi::start("", &OPTIONS);
    assert_eq!(status_of(&unipi, &["blog.example.org"]), 421, "nobody is there");
    assert_eq!(get(&unipi.url("/"), &["--http1.0", "-H", "Host:"]).status, 404);

    let (done, said) = unipi.ctl(&["site", "add", "blog.example.org", &url(&blog)]);
    assert!(done && said.contains("added blog.example.org"), "{said}");
    assert!(said.contains("neither secret nor authentic"), "git:// is: {said}");
    unipi.host_shows("blog.example.org", "/", "the blog");
    assert!(unipi.ctl(&["site", "add", "Docs.Example.ORG", &url(&docs), "--poll", "1s"]).0);
    unipi.host_shows("docs.example.org", "/", "the docs");
    unipi.host_shows("DOCS.example.org.:8080", "/", "the docs");
    assert_eq!(status_of(&unipi, &["other.example.org"]), 421);
    let second = get(&unipi.url("/"), &["--http2-prior-knowledge", "-H", "Host: blog.example.org"]);
    assert_eq!((second.version.as_str(), second.body.as_slice()), ("HTTP/2", &b"the blog"[..]));
    let list = unipi.ctl_json(&["site", "list"]);
    let names: Vec<&str> =
        list["sites"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["blog.example.org", "docs.example.org"]);
    assert_eq!(list["sites"][0]["live"]["subject"], "the blog");
    let (_, said) = unipi.ctl(&["site", "list", "docs"]);
    assert!(said.contains("docs.example.org") && !said.contains("blog"), "{said}");

    // What cannot be is refused, and nothing changes.
    for (arguments, why) in [
        (&["add", "blog.example.org", "git://127.0.0.1/x.git"][..], "already"),
        (&["add", "*.example.org", "git://127.0.0.1/x.git"], "host name"),
        (&["add", "a.example.org", "ftp://127.0.0.1/x.git"], "scheme"),
        (&["add", "a.example.org", "https://u:p@127.0.0.1/x.git"], "as a secret"),
        (&["add", "a.example.org", "git@127.0.0.1:x.git"], "private key"),
        (&["add", "a.example.org", "git://127.0.0.1/x.git#a..b"], "branch"),
        (&["remove", "a.example.org"], "no site"),
        (&["refresh", "a.example.org"], "no site"),
        (&["rollback", "blog.example.org"], "no earlier site"),
        (&["rollback", "blog.example.org", "9"], "not kept"),
    ] {
        let (done, said) = unipi.ctl(&[&["site"], arguments].concat());
        assert!(!done && said.contains(why), "{arguments:?}: {said}");
    }
    let (done, said) = unipi.ctl(&["add", "blog", "10.0.0.7:80"]);
    assert!(!done && said.contains("this is a site server"), "{said}");
    let (done, _) = unipi.ctl(&["site", "add", "bad.example.org", "git://127.0.0.1:1/x.git"]);
    assert!(done, "a remote that is down is no mistake");
    eventually("the failure shows", || {
        let (_, said) = unipi.ctl(&["site", "list", "bad"]);
        said.contains("cannot be reached")
    });
    assert!(unipi.ctl(&["site", "remove", "bad.example.org"]).0);

    // A refresh by hand, and one by the clock.
    publish(&blog, "the blog again");
    let (done, said) = unipi.ctl(&["site", "refresh", "blog.example.org"]);
    assert!(done && said.contains("looking"), "{said}");
    unipi.host_shows("blog.example.org", "/", "the blog again");
    publish(&docs, "the docs again");
    unipi.host_shows("docs.example.org", "/", "the docs again");
    let metrics = get(&format!("http://{}/metrics", unipi.metrics), &[]).body;
    let metrics = String::from_utf8(metrics).unwrap();
    assert!(metrics.contains("unipi_generation{site=\"blog.example.org\"} 2"), "{metrics}");

    // Everything is there again, with the forges gone.
    drop((blog, docs));
    unipi.kill();
    unipi.spawn("", &OPTIONS);
    let host = |host: &str| get(&unipi.url("/"), &["-H", &format!("Host: {host}")]).body;
    assert_eq!(host("blog.example.org"), b"the blog again");
    assert_eq!(host("docs.example.org"), b"the docs again");
    assert!(unipi.ctl(&["site", "remove", "docs.example.org"]).0);
    assert_eq!(status_of(&unipi, &["docs.example.org"]), 421);
    unipi.kill();
    unipi.spawn("", &OPTIONS);
    assert_eq!(status_of(&unipi, &["docs.example.org"]), 421);
    assert_eq!(unipi.stop(), Some(0));
}

#[test]
fn rollback_and_pin_last() {
    let Some(mut forge) = forge_with("one") else { return };
    let mut unipi = Unipi::start("", &OPTIONS);
    assert!(unipi.ctl(&["site", "add", "default", &url(&forge)]).0);
    unipi.shows("/", "one");
    publish(&forge, "two");
    assert!(unipi.ctl(&["site", "refresh", "default"]).0);
    unipi.shows("/", "two");

    let (done, said) = unipi.ctl(&["site", "rollback", "default"]);
    assert!(done && said.contains("generation 1 again") && said.contains("site pin"), "{said}");
    assert_eq!(get(&unipi.url("/"), &[]).body, b"one");
    assert!(unipi.ctl(&["site", "pin", "default"]).0);
    publish(&forge, "three");
    assert!(unipi.ctl(&["site", "refresh", "default"]).0);
    let outcomes = |unipi: &Unipi| -> Vec<String> {
        let log = unipi.ctl_json(&["site", "log", "default"]);
        let entries = log["log"].as_array().unwrap().iter();
        entries.map(|entry| entry["outcome"].as_str().unwrap().to_owned()).collect()
    };
    eventually("the third waits", || outcomes(&unipi)[0] == "held");
    assert_eq!(get(&unipi.url("/"), &[]).body, b"one");
    // With the forge down, so that nothing but the storage can tell.
    let expected = ["held", "pinned", "rolled-back", "live", "live"];
    assert_eq!(outcomes(&unipi), expected);
    forge.down();
    unipi.kill();
    unipi.spawn("", &OPTIONS);
    assert_eq!(get(&unipi.url("/"), &[]).body, b"one", "pinned and rolled back still");
    let after: Vec<String> = outcomes(&unipi).into_iter().filter(|o| o != "failed").collect();
    assert_eq!(after, expected);
    let log = unipi.ctl_json(&["site", "log", "default"]);
    assert_eq!(log["log"].as_array().unwrap().last().unwrap()["by"], "start");
    let rolled = log["log"].as_array().unwrap().iter().find(|e| e["outcome"] == "rolled-back");
    assert_eq!(rolled.unwrap()["by"], "admin", "the key's name stands in the log");
    assert!(unipi.ctl(&["site", "pin", "default", "--off"]).0);
    assert_eq!(get(&unipi.url("/"), &[]).body, b"three", "what waited is live");
    let (done, said) = unipi.ctl(&["site", "log", "default"]);
    assert!(done && said.contains("rolled-back 3") && said.contains("unpinned"), "{said}");
}

#[test]
fn secrets_of_sites_work_are_kept_and_never_shown() {
    let Some(forge) = forge_with("one") else { return };
    let mut unipi = Unipi::start("", &OPTIONS);
    let added =
        unipi.ctl_json(&["site", "add", "blog.example.org", &url(&forge), "--hook", "--push"]);
    let (hook, push) =
        (added["hook-secret"].as_str().unwrap(), added["push-token"].as_str().unwrap());
    assert_eq!((hook.len(), push.len()), (64, 64));
    let both = |unipi: &Unipi, page: &str| {
        publish(&forge, page);
        assert_eq!(hooked(unipi, "blog.example.org", hook), 202);
        unipi.host_shows("blog.example.org", "/", page);
        let info = unipi.url("/site.git/info/refs?service=git-receive-pack");
        let user = format!("me:{push}");
        let answer = get(&info, &["-H", "Host: blog.example.org", "-u", &user]);
        assert_eq!(answer.status, 200);
    };
    both(&unipi, "two");
    // Settings change, secrets stay.
    let (done, said) =
        unipi.ctl(&["site", "add", "blog.example.org", &url(&forge), "--replace", "--keep", "5"]);
    assert!(done && said.contains("replaced"), "{said}");
    assert_eq!(
        get(&unipi.url("/"), &["-H", "Host: blog.example.org"]).body,
        b"two",
        "what was shown is shown on"
    );
    both(&unipi, "three");
    unipi.kill();
    unipi.spawn("", &OPTIONS);
    both(&unipi, "four");
    let shown = unipi.ctl_json(&["site", "list"]).to_string();
    assert!(!shown.contains(hook) && !shown.contains(push), "{shown}");
    assert!(shown.contains("\"hook\":true") && shown.contains("\"push\":true"), "{shown}");
    let log = unipi.log();
    assert!(!log.contains(hook) && !log.contains(push), "secrets in the log");
    let image = std::fs::read(unipi.path("sites.img")).unwrap();
    let holds = |secret: &str| image.windows(64).any(|window| window == secret.as_bytes());
    assert!(!holds(push), "a push token is kept as its digest");
    assert!(holds(hook), "what is asserted below could fail");
}

#[test]
fn secrets_at_rest_are_encrypted_with_a_key_that_lies_elsewhere() {
    let Some(forge) = forge_with("one") else { return };
    let keys = tempfile::tempdir().unwrap();
    let key = |name: &str| {
        let path = keys.path().join(name);
        std::fs::write(&path, name.repeat(40)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (right, wrong) = (key("right"), key("wrong"));
    let with = |key: &str| {
        let options: Vec<String> = OPTIONS.iter().map(|o| (*o).to_owned()).collect();
        [options, vec!["--storage-key-file".to_owned(), key.to_owned()]].concat()
    };
    let right_options = with(&right);
    let right_options: Vec<&str> = right_options.iter().map(String::as_str).collect();
    let mut unipi = Unipi::start("", &right_options);
    let added = unipi.ctl_json(&["site", "add", "default", &url(&forge), "--hook"]);
    let hook = added["hook-secret"].as_str().unwrap().to_owned();
    unipi.shows("/", "one");
    assert!(unipi.ctl(&["key", "add", "look", "--role", "viewer", "--out", "look.key"]).0);
    unipi.kill();
    let image = std::fs::read(unipi.path("sites.img")).unwrap();
    assert!(!image.windows(64).any(|window| window == hook.as_bytes()));
    // With another key, or none, it does not start, and nothing is lost.
    for options in [with(&wrong), OPTIONS.iter().map(|o| (*o).to_owned()).collect()] {
        let output = Command::new("timeout")
            .args(["20", env!("CARGO_BIN_EXE_unipi"), "--listen-http", "127.0.0.1:0"])
            .args(&options)
            .current_dir(unipi.path("").as_path())
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && said.contains("encrypted"), "{said}");
    }
    unipi.spawn("", &right_options);
    unipi.shows("/", "one");
    assert!(unipi.ctl_as("look.key", &["site", "list"]).0);
    assert_eq!(hooked(&unipi, "localhost", &hook), 202);
}

#[test]
fn keys_have_roles() {
    if !available(&["curl"]) {
        return;
    }
    let mut unipi = Unipi::start("", &OPTIONS);
    for (id, role) in [("look", "viewer"), ("team", "names:*.team.example.org")] {
        let file = format!("{id}.key");
        assert!(unipi.ctl(&["key", "add", id, "--role", role, "--out", &file]).0);
    }
    let try_with = |unipi: &Unipi, key: &str, arguments: &[&str]| unipi.ctl_as(key, arguments);
    let add = |name: &'static str| vec!["site", "add", name, "git://127.0.0.1:1/x.git"];
    for unipi_again in [false, true] {
        if unipi_again {
            unipi.kill();
            unipi.spawn("", &OPTIONS);
        }
        assert!(try_with(&unipi, "look.key", &["site", "list"]).0);
        assert!(!try_with(&unipi, "look.key", &add("a.team.example.org")).0);
        assert!(!try_with(&unipi, "team.key", &add("a.example.org")).0);
        assert!(!try_with(&unipi, "team.key", &["key", "add", "x", "--role", "admin"]).0);
        assert!(try_with(&unipi, "team.key", &add("a.team.example.org")).0);
        assert!(try_with(&unipi, "team.key", &["site", "remove", "a.team.example.org"]).0);
    }
    let forbidden = "unipi_control_refusals_total{reason=\"forbidden\"}";
    assert_eq!(unipi.metric(forbidden), 3, "since the last start");
    let (_, listed) = unipi.ctl(&["key", "list"]);
    assert!(listed.contains("look") && listed.contains("names:*.team.example.org"), "{listed}");
    assert!(unipi.ctl(&["key", "remove", "team"]).0);
    let (done, said) = try_with(&unipi, "team.key", &["site", "list"]);
    assert!(!done && said.contains("does not accept the key"), "{said}");
}

#[test]
fn storage_is_never_erased_unasked() {
    let Some(forge) = forge_with("kept") else { return };
    let mut unipi = Unipi::start("", &OPTIONS);
    assert!(unipi.ctl(&["site", "add", "default", &url(&forge)]).0);
    unipi.shows("/", "kept");
    assert_eq!(unipi.stop(), Some(0));
    let image = unipi.path("sites.img");
    let whole = std::fs::read(&image).unwrap();
    // Damaged in the middle: what was added at run time is worth more than a quick start.
    let mut damaged = whole.clone();
    damaged[16 << 10..256 << 10].fill(0x5a);
    std::fs::write(&image, &damaged).unwrap();
    let refused = |folder: &std::path::Path, more: &[&str]| {
        let output = Command::new("timeout")
            .args(["20", env!("CARGO_BIN_EXE_unipi"), "--listen-http", "127.0.0.1:0"])
            .args(OPTIONS)
            .args(more)
            .current_dir(folder)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let folder = image.parent().unwrap().to_owned();
    let said = refused(&folder, &[]);
    assert!(said.contains("damaged"), "{said}");
    assert!(std::fs::read(&image).unwrap() == damaged, "not a byte was changed");
    // Something that is no store at all.
    std::fs::write(&image, "precious".repeat(100_000)).unwrap();
    let said = refused(&folder, &[]);
    assert!(said.contains("holds no store"), "{said}");
    assert!(std::fs::read(&image).unwrap().starts_with(b"precious"));
    // And back again.
    std::fs::write(&image, &whole).unwrap();
    unipi.spawn("", &OPTIONS);
    assert_eq!(get(&unipi.url("/"), &[]).body, b"kept");
    assert_eq!(unipi.stop(), Some(0));
}
