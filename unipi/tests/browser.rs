//! Chromium on a site behind the gateway: it renders, revalidates on reload, keeps what is immutable, and sees a push.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod site_support;

use acceptance::Gateway;
use acceptance::browser::dump_dom;
use acceptance::gateway::DOMAIN;
use site_support::{Forge, Unipi, available};

fn page(version: &str) -> String {
    format!(
        "<!doctype html><link rel=stylesheet href=style.css><body><h1>version {version}</h1>\
         <script src=app.3f2a9b1c.js></script></body>"
    )
}

/// The statuses of the requests for `path` in the access log from byte `since` on.
fn statuses(unipi: &Unipi, since: usize, path: &str) -> Vec<String> {
    let log = unipi.log();
    let wanted = format!("path=\"{path}\"");
    let lines = log[since..].lines().filter(|line| line.contains(&wanted));
    let status = |line: &str| line.split("status=").nth(1).map(|rest| rest[..3].to_owned());
    lines.filter_map(status).collect()
}

#[test]
fn chromium_renders_revalidates_and_sees_a_push() {
    if !available(&["git", "curl", "chromium", "certutil"]) {
        return;
    }
    let forge = Forge::start();
    forge.write("index.html", page("one"));
    forge.write("style.css", "h1 { color: rgb(1, 2, 3) }");
    let script = "const color = getComputedStyle(document.querySelector('h1')).color;\
                  document.body.append('ran with ' + color);";
    forge.write("app.3f2a9b1c.js", script);
    forge.push("one");
    let unipi = Unipi::start(
        &forge.remote(),
        &["--access-log", "--poll", "1", "--proxy-protocol", "127.0.0.1"],
    );
    let gateway = Gateway::start();
    gateway.ctl(&["add", "site", &unipi.http.to_string(), "--proxy", "v1"]);
    let url = format!("https://site.{DOMAIN}:{}/", gateway.https.port());
    // Plain requests have no PROXY header here, so the browser itself is asked until the site is there.
    let shows = |text: &str| {
        let end = std::time::Instant::now() + std::time::Duration::from_secs(120);
        loop {
            let since = unipi.log().len();
            let said = dump_dom(&gateway, &url);
            if said.contains(text) {
                return (said, since);
            }
            assert!(std::time::Instant::now() < end, "{said}\n{}", unipi.log());
        }
    };
    let (said, _) = shows("version one");
    assert!(said.contains("ran with rgb(1, 2, 3)"), "{said}");

    let (said, since) = shows("version one");
    assert!(said.contains("ran with rgb(1, 2, 3)"), "{said}");
    assert_eq!(statuses(&unipi, since, "/"), ["304"], "{}", unipi.log());
    assert_eq!(statuses(&unipi, since, "/style.css"), ["304"], "{}", unipi.log());
    assert!(statuses(&unipi, since, "/app.3f2a9b1c.js").is_empty(), "{}", unipi.log());

    forge.write("index.html", page("two"));
    forge.push("two");
    let (_, since) = shows("version two");
    assert_eq!(statuses(&unipi, since, "/"), ["200"], "{}", unipi.log());
    assert_eq!(statuses(&unipi, since, "/style.css"), ["304"], "{}", unipi.log());
}
