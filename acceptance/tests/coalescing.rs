//! A browser may send requests for b on the connection that it opened for a, when one certificate covers both and HTTP/2 is
//! spoken (RFC 9113, section 9.1.1). The gateway forwards bytes, so a's backend would get b's requests. It must not come to that.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::Command;
use std::time::Duration;

use acceptance::backend::Backend;
use acceptance::gateway::DOMAIN;
use acceptance::peer::{available, eventually, run};
use acceptance::{Gateway, client};

/// The protocol that the gateway negotiates with a client which offers both, or the error.
fn negotiated(gateway: &Gateway, name: &str, offers: &[&str]) -> Result<Option<String>, String> {
    let config = client::config(&gateway.ca_file(), offers);
    let tls = client::connect(gateway.https, &format!("{name}.{DOMAIN}"), &config)
        .map_err(|e| e.to_string())?;
    Ok(tls.conn.alpn_protocol().map(|p| String::from_utf8_lossy(p).into_owned()))
}

#[test]
fn h2_is_not_offered_under_the_shared_certificate() {
    let gateway = Gateway::start();
    let (a, b) = (Backend::http("a"), Backend::http("b"));
    gateway.ctl(&["add", "a", &a.to_arg()]);
    gateway.ctl(&["add", "b", &b.to_arg()]);
    assert_eq!(
        negotiated(&gateway, "a", &["h2", "http/1.1"]).unwrap().as_deref(),
        Some("http/1.1")
    );
    assert_eq!(negotiated(&gateway, "a", &[]).unwrap(), None);
    // The gateway connects as soon as TLS stands, for servers that speak first: two handshakes so far, two connections.
    eventually("both have reached the backend", || a.connections() == 2);
    assert!(negotiated(&gateway, "a", &["h2"]).is_err());
    assert_eq!(negotiated(&gateway, "a", &["http/1.1"]).unwrap().as_deref(), Some("http/1.1"));
    eventually("the next good one has reached it", || a.connections() >= 3);
    assert_eq!(a.connections(), 3, "h2 alone must not reach a backend that did not ask for it");

    // A route may say otherwise, and `check` says what that means.
    let output =
        gateway.ctl_output(&["add", "--replace", "a", &a.to_arg(), "--alpn", "h2,http/1.1"]);
    assert!(output.status.success());
    let warned = String::from_utf8_lossy(&output.stderr).to_lowercase();
    assert!(warned.contains("warning") && warned.contains("h2"), "{warned}");
    assert_eq!(negotiated(&gateway, "a", &["h2", "http/1.1"]).unwrap().as_deref(), Some("h2"));
    let check = gateway.ctl_output(&["check"]);
    assert_eq!(check.status.code(), Some(1), "a danger is found");
    assert!(String::from_utf8_lossy(&check.stdout).contains(&format!("a.{DOMAIN}")));
}

#[test]
fn a_client_that_asks_for_b_on_the_connection_of_a_never_reaches_the_backend_of_a_by_h2() {
    if !available(&["curl"]) {
        return;
    }
    let gateway = Gateway::start();
    let (a, b) = (Backend::http("a"), Backend::http("b"));
    gateway.ctl(&["add", "a", &a.to_arg()]);
    gateway.ctl(&["add", "b", &b.to_arg()]);
    // One curl process asks for both names; it pools connections and would use HTTP/2 if it were offered.
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--max-time", "20", "--http2", "--cacert"]).arg(gateway.ca_file());
    let port = gateway.https.port();
    curl.args(gateway.curl_options());
    curl.args([format!("https://a.{DOMAIN}:{port}/"), format!("https://b.{DOMAIN}:{port}/")]);
    let output = run(&mut curl, b"", Duration::from_secs(30));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("backend a\n") && said.contains("backend b\n"), "{said}");
    let wrong = format!("Host: b.{DOMAIN}");
    let a_part = said.split("backend b\n").next().unwrap();
    assert!(!a_part.contains(&wrong), "{said}");
    assert_eq!((a.connections(), b.connections()), (1, 1));
}

#[test]
fn chromium_keeps_the_two_names_apart() {
    if !available(&["chromium", "certutil"]) {
        return;
    }
    let gateway = Gateway::start();
    let script = |other: &str| {
        format!(
            "<body><script>fetch('https://{other}.{DOMAIN}:PORT/').then(r=>r.text()).then(t=>document.body.innerText=t)\
             </script></body>"
        )
    };
    let page = script("b").replace("PORT", &gateway.https.port().to_string());
    let a = acceptance::backend::page("a", &page);
    let b = acceptance::backend::page("b", "this is b");
    gateway.ctl(&["add", "a", &a.to_arg()]);
    gateway.ctl(&["add", "b", &b.to_arg()]);
    let dom = acceptance::browser::dump_dom(
        &gateway,
        &format!("https://a.{DOMAIN}:{}/", gateway.https.port()),
    );
    assert!(dom.contains("this is b"), "{dom}");
    assert!(b.connections() >= 1);
}
