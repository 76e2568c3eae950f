//! Changes of routes and certificates touch no live connection, and take effect for the next one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{Read, Write};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use acceptance::backend::Backend;
use acceptance::gateway::DOMAIN;
use acceptance::peer::{available, eventually, run};
use acceptance::{Gateway, client};

fn from_env(name: &str, otherwise: usize) -> usize {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(otherwise)
}

/// 1,000 idle and 100 streaming connections while 500 changes are made (`CHANGES`, `IDLE`, `STREAMING` scale it).
#[test]
fn five_hundred_changes_drop_no_connection_and_leave_memory_flat() {
    if !available(&["openssl"]) {
        return;
    }
    let (idle, streaming, changes) =
        (from_env("IDLE", 1000), from_env("STREAMING", 100), from_env("CHANGES", 500));
    let gateway = Gateway::start_with(&["--max-connections-per-client", "0"]);
    let echo = Backend::echo();
    gateway.ctl(&["add", "steady", &echo.to_arg()]);
    let config = client::config(&gateway.ca_file(), &[]);
    let name = format!("steady.{DOMAIN}");
    let mut held: Vec<_> = (0..idle)
        .map(|_| {
            let mut tls = client::connect(gateway.https, &name, &config).expect("TLS");
            tls.write_all(b"x").unwrap();
            tls.read_exact(&mut [0]).unwrap();
            tls
        })
        .collect();
    let stop = Arc::new(AtomicBool::new(false));
    let echoed = Arc::new(AtomicU64::new(0));
    let streams: Vec<_> = (0..streaming)
        .map(|_| {
            let mut tls = client::connect(gateway.https, &name, &config).expect("TLS");
            let (stop, echoed) = (Arc::clone(&stop), Arc::clone(&echoed));
            let work = move || {
                let (piece, mut back) = ([7; 1024], [0; 1024]);
                while !stop.load(Ordering::Relaxed) {
                    tls.write_all(&piece).expect("a streaming connection was dropped");
                    tls.read_exact(&mut back).expect("a streaming connection was dropped");
                    echoed.fetch_add(1024, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(2));
                }
            };
            std::thread::Builder::new().stack_size(256 * 1024).spawn(work).unwrap()
        })
        .collect();

    let mut after_warm_up = 0;
    for i in 0..changes {
        match i % 5 {
            0 => gateway.ctl(&["add", "coming-and-going", &echo.to_arg()]),
            1 => gateway.ctl(&["remove", "coming-and-going"]),
            2 => gateway.ctl(&[
                "add",
                "--replace",
                "steady",
                &echo.to_arg(),
                "--description",
                &i.to_string(),
            ]),
            3 => {
                let (cert, key) = certificate(&gateway, i);
                gateway.ctl(&["cert", "set", "--cert", &cert, "--key", &key])
            }
            _ => {
                gateway.ctl(&["add", "--replace", "elsewhere", &format!("127.0.0.1:{}", 1000 + i)])
            }
        };
        if i == changes / 5 {
            after_warm_up = gateway.resident_kib();
        }
    }
    let grown = gateway.resident_kib().saturating_sub(after_warm_up);
    stop.store(true, Ordering::Relaxed);
    for stream in streams {
        stream.join().expect("a streaming connection was dropped");
    }
    assert!(echoed.load(Ordering::Relaxed) > 0);
    for tls in &mut held {
        tls.write_all(b"y").expect("an idle connection was dropped");
        tls.read_exact(&mut [0]).expect("an idle connection was dropped");
    }
    let generation =
        serde_json::from_str::<serde_json::Value>(&gateway.ctl(&["--json", "status"])).unwrap();
    assert!(generation["generation"].as_u64() >= u64::try_from(changes).ok(), "{generation}");
    assert!(grown < 16 * 1024, "memory grew by {grown} KiB during {changes} changes");
}

/// A fresh certificate and key for one of ten names, as files.
fn certificate(gateway: &Gateway, i: usize) -> (String, String) {
    let (cert, key) = (gateway.folder().join("c.pem"), gateway.folder().join("k.pem"));
    let name = format!("own{}.{DOMAIN}", i % 10);
    let mut openssl = Command::new("openssl");
    openssl.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "5",
    ]);
    openssl.args([
        "-subj",
        &format!("/CN={name}"),
        "-addext",
        &format!("subjectAltName=DNS:{name}"),
    ]);
    openssl.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
    openssl.arg("-keyout").arg(&key).arg("-out").arg(&cert);
    let output = run(&mut openssl, b"", Duration::from_secs(30));
    assert!(output.status.success(), "{output:?}");
    (cert.display().to_string(), key.display().to_string())
}

#[test]
fn an_uploaded_certificate_is_served_at_once_and_after_a_restart() {
    if !available(&["openssl"]) {
        return;
    }
    let mut gateway = Gateway::start();
    let backend = Backend::http("own0");
    gateway.ctl(&["add", "own0", &backend.to_arg()]);
    let (cert, key) = certificate(&gateway, 0);
    gateway.ctl(&["cert", "set", "--cert", &cert, "--key", &key]);
    let own = client::config(std::path::Path::new(&cert), &["h2", "http/1.1"]);
    for _ in 0..2 {
        let tls = client::connect(gateway.https, &format!("own0.{DOMAIN}"), &own)
            .expect("the uploaded certificate");
        assert_eq!(
            tls.conn.alpn_protocol(),
            Some(&b"h2"[..]),
            "a certificate of its own alone allows h2"
        );
        gateway.kill();
        gateway.spawn();
    }
    let other = gateway.folder().join("k.pem").display().to_string();
    std::fs::write(gateway.folder().join("bad.pem"), "-----BEGIN CERTIFICATE-----\nAAAA\n")
        .unwrap();
    let bad = gateway.folder().join("bad.pem").display().to_string();
    assert_ne!(
        gateway.ctl_output(&["cert", "set", "--cert", &bad, "--key", &other]).status.code(),
        Some(0)
    );
}

#[test]
fn history_diff_rollback_apply_and_confirm() {
    let gateway = Gateway::start();
    let (a, b) = (Backend::http("a"), Backend::http("b"));
    gateway.ctl(&["add", "one", &a.to_arg()]);
    let before: serde_json::Value =
        serde_json::from_str(&gateway.ctl(&["--json", "status"])).unwrap();
    let exported = gateway.ctl(&["export"]);
    gateway.ctl(&["add", "two", &b.to_arg()]);
    gateway.ctl(&["add", "--replace", "one", &b.to_arg()]);
    let history = gateway.ctl(&["history"]);
    assert!(history.contains("one") && history.contains("two"), "{history}");
    let generation = before["generation"].to_string();
    let diff = gateway.ctl(&["diff", &generation]);
    assert!(
        diff.contains(&a.to_arg()) && diff.contains(&b.to_arg()) && diff.contains("two"),
        "{diff}"
    );
    gateway.ctl(&["rollback", &generation]);
    assert_eq!(gateway.ctl(&["export"]), exported, "rollback brings the very same routes back");

    let file = gateway.folder().join("routes.toml");
    let wanted = format!("[routes.\"three.{DOMAIN}\"]\nbackends = [\"{}\"]\n", a.address());
    std::fs::write(&file, wanted).unwrap();
    let file = file.display().to_string();
    gateway.ctl(&["apply", "-f", &file, "--dry-run"]);
    assert_eq!(gateway.ctl(&["export"]), exported, "a dry run changes nothing");
    gateway.ctl(&["apply", "-f", &file, "--confirm", "2s"]);
    assert!(gateway.ctl(&["list"]).contains("three"));
    eventually("an unconfirmed change is undone", || gateway.ctl(&["export"]) == exported);
    gateway.ctl(&["apply", "-f", &file, "--confirm", "60s"]);
    gateway.ctl(&["confirm"]);
    assert!(gateway.ctl(&["list"]).contains("three"));
    let why = gateway.ctl(&["why", "three"]);
    assert!(why.contains(&a.to_arg()), "{why}");
}

/// More than a frame of the usual length holds. `ROUTES` scales it.
#[test]
fn a_file_of_many_routes_is_one_change() {
    let routes = from_env("ROUTES", 25_000);
    let gateway = Gateway::start_with(&["--storage-size", "1GiB"]);
    let file = gateway.folder().join("routes.toml");
    let wanted: String = (0..routes)
        .map(|n| format!("[routes.\"n{n:06}.{DOMAIN}\"]\nbackends = [\"10.0.0.7:80\"]\n"))
        .collect();
    std::fs::write(&file, wanted).unwrap();
    let patience = ["--timeout", "120s"];
    let apply = ["apply", "-f", &file.display().to_string()];
    let limit = Duration::from_secs(120);
    let applied = run(&mut gateway.ctl_command(&[&patience[..], &apply].concat()), b"", limit);
    assert!(applied.status.success(), "{applied:?}\n{}", gateway.log());
    let exported = gateway.ctl(&["export"]);
    assert_eq!(exported.matches("10.0.0.7:80").count(), routes);
    let status: serde_json::Value =
        serde_json::from_str(&gateway.ctl(&["--json", "status"])).unwrap();
    assert_eq!(status["routes"].as_u64(), u64::try_from(routes).ok());
}

#[test]
fn keys_have_roles() {
    let gateway = Gateway::start();
    let backend = Backend::echo();
    let team = gateway.folder().join("team.key").display().to_string();
    let eyes = gateway.folder().join("eyes.key").display().to_string();
    gateway.ctl(&[
        "key",
        "add",
        "team",
        "--role",
        &format!("names:*.team.{DOMAIN}"),
        "--out",
        &team,
    ]);
    gateway.ctl(&["key", "add", "eyes", "--role", "viewer", "--out", &eyes]);
    let with = |key: &str, arguments: &[&str]| {
        let mut command = Command::new(acceptance::programs::program("tlstunnel-ctl"));
        command.args(["--remote", &gateway.control.to_string(), "--key-file", key]).args(arguments);
        run(&mut command, b"", Duration::from_secs(30)).status.code()
    };
    assert_eq!(with(&team, &["add", &format!("x.team.{DOMAIN}"), &backend.to_arg()]), Some(0));
    assert_eq!(with(&team, &["add", "blog", &backend.to_arg()]), Some(1));
    let role = ["key", "add", "more", "--role", "admin"];
    assert_eq!(with(&team, &role), Some(1));
    assert_eq!(with(&eyes, &role), Some(1));
    assert_eq!(with(&eyes, &["list"]), Some(0));
    assert_eq!(with(&eyes, &["remove", &format!("x.team.{DOMAIN}")]), Some(1));
    gateway.ctl(&["key", "remove", "eyes"]);
    assert_eq!(with(&eyes, &["list"]), Some(4));
}
