//! What README's first pages promise: add a name, reach it, kill the gateway, find the name again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use acceptance::backend::Backend;
use acceptance::gateway::DOMAIN;
use acceptance::peer::{available, eventually, run};
use acceptance::unikernel::{Way, way};
use acceptance::{Gateway, client};

fn curl(gateway: &Gateway, arguments: &[&str]) -> std::process::Output {
    let mut command = Command::new("curl");
    command
        .arg("-sS")
        .arg("--cacert")
        .arg(gateway.ca_file())
        .args(["--max-time", "20"])
        .args(gateway.curl_options())
        .args(arguments);
    run(&mut command, b"", Duration::from_secs(30))
}

fn body(output: &std::process::Output) -> String {
    assert!(output.status.success(), "curl: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_name_is_added_used_listed_and_removed_while_the_gateway_runs() {
    if !available(&["curl"]) {
        return;
    }
    let gateway = Gateway::start();
    let (blog, wiki) = (Backend::http("blog"), Backend::http("wiki"));
    let said = gateway.ctl(&["add", "blog", &blog.to_arg()]);
    assert!(said.contains("blog.apps.localhost"), "the full name is shown: {said}");
    gateway.ctl(&["add", "wiki", &wiki.to_arg()]);

    for (name, other) in [("blog", "wiki"), ("wiki", "blog")] {
        let url = format!("https://{name}.{DOMAIN}:{}/path?query", gateway.https.port());
        let answer = body(&curl(&gateway, &[&url]));
        assert!(answer.starts_with(&format!("backend {name}\n")), "{answer}");
        assert!(answer.contains("GET /path?query"), "{answer}");
        assert!(!answer.contains(&format!("backend {other}")));
    }
    let list = gateway.ctl(&["list"]);
    assert!(list.contains("blog.apps.localhost") && list.contains(&wiki.to_arg()), "{list}");
    let list: serde_json::Value =
        serde_json::from_str(&gateway.ctl(&["--json", "list"])).expect("JSON");
    assert_eq!(list["routes"].as_array().map(Vec::len), Some(2), "{list}");

    gateway.ctl(&["remove", "blog"]);
    let url = format!("https://blog.{DOMAIN}:{}/", gateway.https.port());
    let status = curl(&gateway, &["-o", "/dev/null", "-w", "%{http_code}", &url]);
    assert_eq!(body(&status), "404", "an unknown name under the wildcard certificate");
    assert_eq!(gateway.ctl_output(&["remove", "blog"]).status.code(), Some(1), "refused, not done");
}

#[test]
fn port_80_redirects_and_says_nothing_else() {
    if !available(&["curl"]) {
        return;
    }
    let gateway = Gateway::start();
    let location = |arguments: &[&str]| {
        let url = format!("http://blog.{DOMAIN}:{}/a/b?c=d", gateway.http.port());
        let mut all = vec!["-o", "/dev/null", "-w", "%{http_code} %{redirect_url}"];
        all.extend(arguments);
        all.push(&url);
        body(&curl(&gateway, &all))
    };
    let port = match gateway.https.port() {
        443 => String::new(),
        port => format!(":{port}"),
    };
    let target = format!("https://blog.{DOMAIN}{port}/a/b?c=d");
    assert_eq!(location(&[]), format!("301 {target}"));
    assert_eq!(location(&["-I"]), format!("301 {target}"));
    assert_eq!(location(&["-d", "form=data"]), format!("308 {target}"));
    assert!(location(&["-H", "Host: a b"]).starts_with("400 "));
    assert!(location(&["-H", "Host: user@blog.apps.localhost"]).starts_with("400 "));
}

/// `kill -9` in the middle of changes, 200 times (`KILLS` scales it): what was acknowledged is there, nothing else changed.
#[test]
fn names_survive_kill_9() {
    let kills = std::env::var("KILLS").ok().and_then(|kills| kills.parse().ok());
    // A virtual machine that is gone resets no connection: the control tool finds out by its time limit.
    let kills = kills.unwrap_or_else(|| if way() == Way::Host { 200 } else { 3 });
    let mut gateway = Gateway::start_with(&["--storage-size", "16MiB"]);
    let mut acknowledged = BTreeSet::new();
    for i in 0..kills {
        let name = format!("name{i}.{DOMAIN}");
        let mut add = gateway.ctl_command(&["add", &name, "127.0.0.1:9"]);
        let mut adding = add.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // Somewhere between before the request and after the answer.
        std::thread::sleep(Duration::from_micros(i * 7919 % 12_000));
        gateway.kill();
        if adding.wait().unwrap().success() {
            acknowledged.insert(name.clone());
        }
        gateway.spawn();
        let list: serde_json::Value =
            serde_json::from_str(&gateway.ctl(&["--json", "list"])).expect("JSON");
        let found: BTreeSet<String> = list["routes"]
            .as_array()
            .expect("routes")
            .iter()
            .map(|route| route["name"].as_str().expect("a name").to_owned())
            .collect();
        assert!(found.is_superset(&acknowledged), "kill {i}: an acknowledged name is lost");
        let more: Vec<_> = found.difference(&acknowledged).cloned().collect();
        assert!(more.is_empty() || more == [name], "kill {i}: {more:?} were never asked for");
        acknowledged = found;
    }
    assert!(!acknowledged.is_empty());
}

#[test]
fn a_gentle_stop_drains() {
    let mut gateway = Gateway::start();
    let echo = Backend::echo();
    gateway.ctl(&["add", "name3", &echo.to_arg()]);
    let config = client::config(&gateway.ca_file(), &[]);
    let mut open =
        client::connect(gateway.https, &format!("name3.{DOMAIN}"), &config).expect("TLS");
    open.write_all(b"before").expect("sent");
    let mut got = [0; 6];
    open.read_exact(&mut got).expect("echo");
    let pid = gateway.process_id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill").success());
    eventually("the gateway stops accepting", || {
        std::net::TcpStream::connect(gateway.https).is_err()
    });
    open.write_all(b"during").expect("the open connection goes on");
    open.read_exact(&mut got).expect("echo");
    assert_eq!(&got, b"during");
    drop(open);
    assert_eq!(gateway.stop("CONT"), Some(0), "the gateway ends in good order: {}", gateway.log());
}

#[test]
fn exit_codes_tell_what_went_wrong() {
    let mut gateway = Gateway::start();
    assert_eq!(
        gateway.ctl_output(&["add", "blog", "not-a-backend"]).status.code(),
        Some(2),
        "usage"
    );
    assert_eq!(gateway.ctl_output(&["remove", "nobody"]).status.code(), Some(1), "refused");
    let key = gateway.key_file();
    let good = std::fs::read(&key).expect("key");
    std::fs::write(&key, "admin:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n").expect("written");
    assert_eq!(gateway.ctl_output(&["list"]).status.code(), Some(4), "not authenticated");
    eventually("the refusal is counted", || gateway.metric("tlstunnel_control_refusals") >= 1.0);
    std::fs::write(&key, good).expect("written");
    gateway.ctl(&["list"]);
    gateway.kill();
    assert_eq!(gateway.ctl_output(&["list"]).status.code(), Some(3), "cannot reach");
}

#[test]
fn a_second_gateway_on_the_same_storage_is_told_so() {
    if way() != Way::Host {
        println!("of two processes of one machine only");
        return;
    }
    let gateway = Gateway::start();
    let mut second = Command::new(acceptance::programs::program("tlstunnel"));
    second.arg("--storage").arg(gateway.storage()).args(["--listen-https", "127.0.0.1:0"]);
    second.args(["--listen-http", "127.0.0.1:0", "--control", "127.0.0.1:0"]);
    let output = run(&mut second, b"", Duration::from_secs(20));
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).to_lowercase();
    assert!(
        said.contains("in use") || said.contains("another process") || said.contains("locked"),
        "{said}"
    );
}
