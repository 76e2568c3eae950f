//! The real program: it prints what went wrong, survives kill -9, drains on SIGTERM, and hands its storage over.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod control_common;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use config_proto::key::Key;
use config_proto::message::{Changed, Request, RouteList};
use control_common::{Session, add, eventually};
use tempfile::TempDir;

/// A running program on a folder.
struct Program {
    child: Child,
    control: std::net::SocketAddr,
}

fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tlstunnel"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TLSTUNNEL_") {
            command.env_remove(name);
        }
    }
    command.args(["--listen-https", "127.0.0.1:0", "--listen-http", "127.0.0.1:0"]);
    command.args(["--control", "127.0.0.1:0", "--storage-size", "4MiB", "--storage"]);
    command.arg(folder.join("store"));
    command
}

impl Program {
    fn start(folder: &Path, more: &[&str]) -> Self {
        let ready = Self::ready_file(folder, more);
        let _ = std::fs::remove_file(&ready);
        let child = command(folder).args(more).arg("--ready-file").arg(&ready).spawn().unwrap();
        Self::wait(child, &ready)
    }

    fn ready_file(folder: &Path, more: &[&str]) -> PathBuf {
        folder.join(format!("ready-{}.json", more.len()))
    }

    fn wait(mut child: Child, ready: &Path) -> Self {
        eventually("the start", || {
            assert_eq!(child.try_wait().unwrap(), None, "the program ended");
            ready.exists()
        });
        let addresses: serde_json::Value =
            serde_json::from_slice(&std::fs::read(ready).unwrap()).unwrap();
        let control = addresses["control"][0].as_str().unwrap().parse().unwrap();
        Self { child, control }
    }

    fn session(&self, folder: &Path) -> Session {
        let text = std::fs::read_to_string(folder.join("store.key")).unwrap();
        Session::open(self.control, &Key::from_file_text(&text).unwrap()).unwrap()
    }

    fn names(&self, folder: &Path) -> Vec<String> {
        let list = Request::List { filter: None, after: None, limit: 1000 };
        let routes: RouteList = self.session(folder).ask(&list).unwrap();
        routes.routes.into_iter().map(|route| route.name.to_string()).collect()
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
    }

    fn end(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn names_survive_kill_9_and_a_signal_ends_in_good_order() {
    let folder = folder();
    let folder = folder.path();
    for round in 0..5 {
        let program = Program::start(folder, &["--domains", "example.org"]);
        let expected: Vec<String> = (0..round).map(|n| format!("n{n}.example.org")).collect();
        assert_eq!(program.names(folder), expected);
        let name = format!("n{round}");
        let _: Changed = program.session(folder).ask(&add(&name, "10.0.0.1:80")).unwrap();
        program.signal("-KILL");
        assert_eq!(program.end(), None);
    }
    let program = Program::start(folder, &["--workers", "2"]);
    assert_eq!(program.names(folder).len(), 5);
    program.signal("-TERM");
    assert_eq!(program.end(), Some(0));

    let storage = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tlstunnel"));
        command.arg("storage").args(more).arg("--storage").arg(folder.join("store"));
        command.output().unwrap()
    };
    let info = storage(&["info"]);
    assert!(String::from_utf8_lossy(&info.stdout).contains("routes        5"), "{info:?}");
    assert!(storage(&["check"]).status.success());
    let image = folder.join("v1.img");
    assert!(storage(&["export-v1", image.to_str().unwrap()]).status.success());
    // The image is what the original left, as far as a start can tell.
    std::fs::remove_file(folder.join("store")).unwrap();
    std::fs::rename(&image, folder.join("store")).unwrap();
    let program = Program::start(folder, &["--workers", "1"]);
    assert_eq!(program.names(folder).len(), 5);
    assert!(folder.join("store.v1").exists(), "the original's image is kept");
}

#[test]
fn what_goes_wrong_is_said_with_an_exit_code() {
    let folder = folder();
    let folder = folder.path();
    let usage = command(folder).arg("--no-such-option").output().unwrap();
    assert_eq!(usage.status.code(), Some(64));
    let level = command(folder).args(["--log-level", "a=b=c"]).output().unwrap();
    assert_eq!(level.status.code(), Some(64), "{}", said(&level));

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let busy = command(folder).args(["--metrics", &address]).output().unwrap();
    assert_eq!(busy.status.code(), Some(1));
    assert!(said(&busy).contains(&address), "{}", said(&busy));
    assert!(!folder.join("store").exists(), "the storage was touched before the ports were known");

    std::fs::write(folder.join("store"), b"#!/bin/sh\necho somebody else's\n".repeat(40_000))
        .unwrap();
    let foreign = command(folder).output().unwrap();
    assert_eq!(foreign.status.code(), Some(1));
    assert!(said(&foreign).contains("holds no store"), "{}", said(&foreign));
    std::fs::remove_file(folder.join("store")).unwrap();

    let _running = Program::start(folder, &[]);
    let second = command(folder).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(said(&second).contains("another process uses"), "{}", said(&second));
}

#[test]
fn a_successor_gets_the_storage_when_draining_begins() {
    let folder = folder();
    let folder = folder.path();
    let first = Program::start(folder, &["--domains", "example.org"]);
    let mut session = first.session(folder);
    let _: Changed = session.ask(&add("a", "10.0.0.1:80")).unwrap();
    let more = ["--storage-wait", "60s", "--workers", "1"];
    let ready = Program::ready_file(folder, &more);
    let waiting = command(folder)
        .args(more)
        .arg("--ready-file")
        .arg(&ready)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    first.signal("-TERM");
    let second = Program::wait(waiting, &ready);
    assert_eq!(second.names(folder), ["a.example.org"]);
    assert_eq!(first.end(), Some(0));
}

#[test]
fn the_originals_images_are_taken_over_and_a_damaged_one_is_left_alone() {
    macro_rules! image {
        ($name:literal) => {
            include_bytes!(concat!("../../blockdev/tests/vectors/", $name)).as_slice()
        };
    }
    let sound = [
        (image!("v1-empty.img"), 0),
        (image!("v1-one-name.img"), 1),
        (image!("v1-first-superblock-stale.img"), 1),
        (image!("v1-sixty-names-chained.img"), 60),
    ];
    for (image, names) in sound {
        let folder = folder();
        let folder = folder.path();
        std::fs::write(folder.join("store"), image).unwrap();
        for _ in 0..2 {
            let program = Program::start(folder, &["--workers", "1"]);
            assert_eq!(program.names(folder).len(), names);
            program.signal("-KILL");
            program.end();
        }
        assert_eq!(std::fs::read(folder.join("store.v1")).unwrap(), image);
    }
    let folder = folder();
    let folder = folder.path();
    let damaged = image!("v1-data-corrupt.img");
    std::fs::write(folder.join("store"), damaged).unwrap();
    let refused = command(folder).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(said(&refused).contains("checksum"), "{}", said(&refused));
    assert_eq!(std::fs::read(folder.join("store")).unwrap(), damaged);
}
