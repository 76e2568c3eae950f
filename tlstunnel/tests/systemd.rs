//! As a service of systemd: the unit files hold, and the manager is told of start and stop.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::Duration;

const PROGRAM: &str = env!("CARGO_BIN_EXE_tlstunnel");

/// Runs a gateway until it is asked to stop; gives the messages that came to `manager` and the exit status.
fn told(manager: &UnixDatagram, name: &str) -> (Vec<String>, ExitStatus) {
    manager.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let message = || {
        let mut bytes = [0; 100];
        let length = manager.recv(&mut bytes).expect("a message to the service manager");
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    };
    let mut command = Command::new(PROGRAM);
    for port in ["--listen-https", "--listen-http", "--control"] {
        command.args([port, "127.0.0.1:0"]);
    }
    let mut gateway = command.env("NOTIFY_SOCKET", name).spawn().unwrap();
    let ready = message();
    let id = gateway.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    let stopping = message();
    (vec![ready, stopping], gateway.wait().unwrap())
}

#[test]
fn the_manager_is_told_of_start_and_stop() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let by_path = UnixDatagram::bind(&path).unwrap();
    let (messages, status) = told(&by_path, path.to_str().unwrap());
    assert_eq!(messages, ["READY=1\n", "STOPPING=1\n"]);
    assert!(status.success());

    let name = format!("tlstunnel-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let (messages, _) = told(&UnixDatagram::bind_addr(&address).unwrap(), &format!("@{name}"));
    assert_eq!(messages, ["READY=1\n", "STOPPING=1\n"]);
}

#[test]
fn the_unit_files_hold() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        assert!(std::env::var_os("REQUIRE_PEERS").is_none_or(|v| v != "1"), "no systemd-analyze");
        println!("skipped: there is no systemd-analyze");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    let files = [
        "tlstunnel.service",
        "tlstunnel.socket",
        "tlstunnel-hvt.service",
        "tlstunnel-hvt-net.service",
    ];
    for unit in files {
        let mut text = std::fs::read_to_string(units.join(unit)).unwrap();
        // The programs are not installed here.
        for program in ["tlstunnel", "hvt", "net-setup"] {
            text = text.replace(&format!("/usr/local/bin/{program}"), PROGRAM);
        }
        std::fs::write(folder.path().join(unit), text).unwrap();
    }
    let verified = Command::new("systemd-analyze")
        .args(["verify", "--recursive-errors=no", "--man=no"])
        .args(files.map(|unit| folder.path().join(unit)))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&verified.stderr);
    assert!(verified.status.success() && !said.contains("tlstunnel."), "{said}");
}
