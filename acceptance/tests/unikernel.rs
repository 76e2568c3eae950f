//! The gateway as a unikernel, in a virtual machine and as a confined process: what README's first pages promise holds
//! there too. Each test runs itself again in a network namespace of its own.
//!
//! Many other tests of this room run against a unikernel as well: `ACCEPTANCE_WAY=hvt` in a namespace, which `.ci/run` does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{Read, Write};
use std::process::Command;
use std::time::Duration;

use acceptance::backend::Backend;
use acceptance::gateway::DOMAIN;
use acceptance::peer::{available, run};
use acceptance::unikernel::enter_namespace;
use acceptance::{Gateway, client};

fn curl(gateway: &Gateway, url: &str) -> String {
    let mut command = Command::new("curl");
    command.arg("-sS").arg("--cacert").arg(gateway.ca_file()).args(["--max-time", "20"]);
    command.args(gateway.curl_options()).arg(url);
    let output = run(&mut command, b"", Duration::from_secs(30));
    assert!(output.status.success(), "curl: {output:?}\n{}", gateway.log());
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Names are added, used, and still there after the machine was killed; it ends in good order when it is asked to.
fn everyday() {
    if !available(&["curl"]) {
        return;
    }
    let mut gateway = Gateway::start();
    let blog = Backend::http("blog");
    gateway.ctl(&["add", "blog", &blog.to_arg()]);
    let url = format!("https://blog.{DOMAIN}/path?query");
    let answer = curl(&gateway, &url);
    assert!(answer.starts_with("backend blog\n") && answer.contains("GET /path?query"), "{answer}");
    let redirect = curl(&gateway, &format!("http://blog.{DOMAIN}/a"));
    assert!(!redirect.contains("backend blog"), "{redirect}");

    gateway.kill();
    gateway.spawn();
    let list = gateway.ctl(&["list"]);
    assert!(list.contains(&format!("blog.{DOMAIN}")) && list.contains(&blog.to_arg()), "{list}");
    assert!(curl(&gateway, &url).starts_with("backend blog\n"));

    let config = client::config(&gateway.ca_file(), &[]);
    let echo = Backend::echo();
    gateway.ctl(&["add", "echo", &echo.to_arg()]);
    let name = format!("echo.{DOMAIN}");
    let mut tls = client::connect(gateway.https, &name, &config).expect("TLS");
    let sent: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251).to_le_bytes()[0]).collect();
    let mut received = vec![0; sent.len()];
    for (piece, back) in sent.chunks(50_000).zip(received.chunks_mut(50_000)) {
        tls.write_all(piece).expect("sent");
        tls.read_exact(back).expect("echo");
    }
    assert!(received == sent, "the echo is not what was sent");
    drop(tls);
    assert_eq!(gateway.stop("TERM"), Some(0), "{}", gateway.log());
}

#[test]
fn everyday_in_a_virtual_machine() {
    if !enter_namespace("everyday_in_a_virtual_machine", "hvt") {
        everyday();
    }
}

#[test]
fn everyday_in_a_confined_process() {
    if !enter_namespace("everyday_in_a_confined_process", "hvt-process") {
        everyday();
    }
}

/// Wrong arguments of interfaces are told before anything is served.
#[test]
fn mistakes_on_the_command_line_end_with_64() {
    if enter_namespace("mistakes_on_the_command_line_end_with_64", "hvt") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let networks = acceptance::unikernel::Networks::make();
    for (argument, said) in [
        ("--ipv4=10.0.0.300/24", "no IPv4 address"),
        ("--management-ipv4=10.0.0.2/24", "no such interface"),
        ("--ipv4-gateway=192.0.2.1", "none of the interface's networks"),
    ] {
        let mut command = networks.command(&folder.path().join("storage"));
        let output = run(command.arg(argument), b"", Duration::from_secs(20));
        let text =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{argument}: {text}");
        assert!(text.contains(said), "{argument}: {text}");
    }
}
