//! A reader with Chromium on a site behind the gateway: clicks through the pages, reloads, and sees a push. What did not
//! change is revalidated, what cannot change is not asked for again.
//!
//! The browser is driven over its DevTools protocol, through a pair of pipes; clicks are mouse events at the place where
//! the link is drawn.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod site_support;

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use acceptance::Gateway;
use acceptance::browser::chromium;
use acceptance::gateway::DOMAIN;
use serde_json::{Value, json};
use site_support::{Forge, Unipi, available};

/// Against hanging; no claim about speed.
const PATIENCE: Duration = Duration::from_secs(90);

/// A browser with one page.
struct Browser {
    process: Child,
    orders: File,
    answers: BufReader<File>,
    number: u64,
    session: Option<String>,
}

impl Browser {
    fn start(gateway: &Gateway) -> Self {
        let folder = gateway.folder();
        let (orders, answers) = (folder.join("orders"), folder.join("answers"));
        assert!(Command::new("mkfifo").args([&orders, &answers]).status().unwrap().success());
        let inner = chromium(gateway);
        // The browser takes orders from descriptor 3 and answers on 4.
        let mut shell = Command::new("sh");
        shell.args(["-c", r#"exec "$@" 3<"$ORDERS" 4>"$ANSWERS""#, "sh"]).arg(inner.get_program());
        shell.args(inner.get_args()).args(["--remote-debugging-pipe", "about:blank"]);
        for (name, value) in inner.get_envs() {
            shell.env(name, value.unwrap());
        }
        shell.env("ORDERS", &orders).env("ANSWERS", &answers);
        let log = File::create(folder.join("browser.log")).unwrap();
        let process = shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        // In the order in which the shell opens them.
        let orders = File::options().write(true).open(orders).unwrap();
        let answers = BufReader::new(File::open(answers).unwrap());
        let mut browser = Self { process, orders, answers, number: 0, session: None };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let session = browser.call("Target.attachToTarget", attach);
        browser.session = Some(session["sessionId"].as_str().unwrap().to_owned());
        browser.call("Page.enable", json!({}));
        browser
    }

    fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.number += 1;
        let mut order = json!({ "id": self.number, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            order["sessionId"] = session.clone().into();
        }
        let mut bytes = order.to_string().into_bytes();
        bytes.push(0);
        self.orders.write_all(&bytes).unwrap();
        loop {
            let mut message = Vec::new();
            self.answers.read_until(0, &mut message).unwrap();
            assert_eq!(message.pop(), Some(0), "the browser ended");
            let mut message: Value = serde_json::from_slice(&message).unwrap();
            if message["id"] == self.number {
                assert!(message["error"].is_null(), "{method}: {message}");
                return message["result"].take();
            }
        }
    }

    /// The value of a script's expression in the page; null while the page is changing.
    fn value(&mut self, script: &str) -> Value {
        let parameters = json!({ "expression": script, "returnByValue": true });
        self.call("Runtime.evaluate", parameters)["result"]["value"].take()
    }

    fn open(&mut self, url: &str) {
        self.call("Page.navigate", json!({ "url": url }));
    }

    fn reload(&mut self) {
        // What is shown afterwards is the page that came, not the one that was there.
        self.value("document.body.replaceChildren()");
        self.call("Page.reload", json!({}));
    }

    /// Waits until the page is there at this path, whole, and says `text`.
    fn shows(&mut self, path: &str, text: &str) {
        let end = Instant::now() + PATIENCE;
        let script = "[document.readyState, location.pathname, document.body?.innerText ?? '']";
        loop {
            let state = self.value(script);
            let is = |index: usize, wanted: &str| state[index].as_str() == Some(wanted);
            let says = state[2].as_str().is_some_and(|said| said.contains(text));
            if is(0, "complete") && is(1, path) && says {
                return;
            }
            assert!(Instant::now() < end, "no {text:?} at {path}: {state}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Presses the mouse where the element is.
    fn click(&mut self, selector: &str) {
        let script = format!(
            "(({{x, y, width, height}}) => [x + width / 2, y + height / 2])\
             (document.querySelector({selector:?}).getBoundingClientRect())"
        );
        let place = self.value(&script);
        for kind in ["mouseMoved", "mousePressed", "mouseReleased"] {
            let button = if kind == "mouseMoved" { "none" } else { "left" };
            let event = json!({
                "type": kind, "x": place[0], "y": place[1], "button": button, "clickCount": 1,
            });
            self.call("Input.dispatchMouseEvent", event);
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The statuses of the requests for `path` in the access log from byte `since` on.
fn statuses(unipi: &Unipi, since: usize, path: &str) -> Vec<String> {
    let log = unipi.log();
    let wanted = format!("path=\"{path}\"");
    let lines = log[since..].lines().filter(|line| line.contains(&wanted));
    let status = |line: &str| line.split("status=").nth(1).map(|rest| rest[..3].to_owned());
    lines.filter_map(status).collect()
}

fn page(text: &str, link: &str) -> String {
    format!(
        "<!doctype html><link rel=stylesheet href=/style.css><h1>{text}</h1>\
         <a id=on href=\"{link}\">on</a><script src=/app.3f2a9b1c.js></script>"
    )
}

#[test]
fn a_reader_clicks_through_reloads_and_sees_a_push() {
    if !available(&["git", "curl", "chromium", "certutil", "mkfifo"]) {
        return;
    }
    let forge = Forge::start();
    forge.write("index.html", page("the first page", "docs"));
    forge.write("docs/index.html", page("the documents", "a%20b%25.html"));
    forge.write("docs/a b%.html", page("a name with a space", "/ünï"));
    forge.write("ünï.html", page("a name in another script", "/"));
    let style = "h1 { color: rgb(1, 2, 3) } a { display: block; width: 200px; height: 30px }";
    forge.write("style.css", style);
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
    let end = Instant::now() + PATIENCE;
    while !unipi.log().contains("a new site is there") {
        assert!(Instant::now() < end, "{}", unipi.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut browser = Browser::start(&gateway);
    browser.open(&format!("https://site.{DOMAIN}:{}/", gateway.https.port()));
    browser.shows("/", "the first page");
    browser.shows("/", "ran with rgb(1, 2, 3)");
    // From page to page, all around; the folder without its slash is one redirect.
    browser.click("#on");
    browser.shows("/docs/", "the documents");
    assert_eq!(statuses(&unipi, 0, "/docs"), ["301"], "{}", unipi.log());
    browser.click("#on");
    browser.shows("/docs/a%20b%25.html", "a name with a space");
    browser.click("#on");
    browser.shows("/%C3%BCn%C3%AF", "a name in another script");
    let since = unipi.log().len();
    browser.click("#on");
    browser.shows("/", "the first page");
    assert_eq!(statuses(&unipi, since, "/"), ["304"], "{}", unipi.log());

    let since = unipi.log().len();
    browser.reload();
    browser.shows("/", "ran with rgb(1, 2, 3)");
    assert_eq!(statuses(&unipi, since, "/"), ["304"], "{}", unipi.log());
    assert_eq!(statuses(&unipi, since, "/style.css"), ["304"], "{}", unipi.log());

    forge.write("docs/index.html", page("the new documents", "/"));
    forge.push("two");
    let end = Instant::now() + PATIENCE;
    while unipi.log().matches("a new site is there").count() < 2 {
        assert!(Instant::now() < end, "{}", unipi.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    let since = unipi.log().len();
    browser.click("#on");
    browser.shows("/docs/", "the new documents");
    assert_eq!(statuses(&unipi, since, "/docs/"), ["200"], "{}", unipi.log());
    // What did not change was not sent again, and what cannot change was asked for once.
    let styles = statuses(&unipi, since, "/style.css");
    assert!(styles.iter().all(|status| status == "304"), "{styles:?}");
    assert_eq!(statuses(&unipi, 0, "/app.3f2a9b1c.js"), ["200"], "{}", unipi.log());
}
