//! What sockets answer in an image, against what they answer on Linux in the same run: on the loopback, and across a TAP
//! interface with the far side on Linux.
//!
//! The peers are `/dev/kvm`, the right to make TAP interfaces, and the command `hvt`, which `HVT` names or which lies beside
//! this test's programs. Without them the tests say so and pass, unless `REQUIRE_PEERS=1`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use acceptance::unikernel;

const PROGRAM: &str = env!("CARGO_BIN_EXE_socket-demo");

/// The tender, or `None` and a word about it.
fn hvt(needs_kvm: bool) -> Option<PathBuf> {
    unikernel::tender(PROGRAM, needs_kvm, true)
}

/// The image, built once.
fn image() -> &'static Path {
    static IMAGE: OnceLock<PathBuf> = OnceLock::new();
    IMAGE.get_or_init(|| unikernel::image("hvt-socket-demo"))
}

/// Runs a script in a network namespace with a TAP interface; its output.
fn in_namespace(hvt: &Path, option: &str, script: &str) -> String {
    let setup = "ip link set lo up; ip tuntap add tap0 mode tap; ip address add 10.9.0.1/24 dev tap0; \
                 ip link set tap0 up; \
                 guest() { timeout 100 $HVT $OPTION --mem=64 --net:service=tap0 -- $IMAGE --ipv4=10.9.0.2/24 \"$@\"; }";
    let output = Command::new("unshare")
        .args(["--net", "/bin/sh", "-ec", &format!("{setup}; {script}")])
        .env("HVT", hvt)
        .env("IMAGE", image())
        .env("OPTION", option)
        .env("PROGRAM", PROGRAM)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{said}\n{complained}", output.status);
    said
}

fn assert_same(guest: &str, host: &str) {
    for (number, (guest, host)) in guest.lines().zip(host.lines()).enumerate() {
        assert_eq!(guest, host, "line {}", number + 1);
    }
    assert_eq!(guest.lines().count(), host.lines().count());
    assert!(host.ends_with("all calls are done\n"), "{host}");
}

const LOOPBACK: [&str; 2] = ["timeout 100 $PROGRAM", "guest"];
const ACROSS: &str =
    "$PROGRAM far 10.9.0.1:7000 >/dev/null & far=$!; sleep 0.3; trap 'kill $far' EXIT";

#[test]
fn the_loopback_of_a_virtual_machine_answers_as_linux_does() {
    let Some(hvt) = hvt(true) else { return };
    let [host, guest] = LOOPBACK.map(|script| in_namespace(&hvt, "--backend=kvm", script));
    assert_same(&guest, &host);
}

#[test]
fn the_loopback_of_a_confined_process_answers_as_linux_does() {
    let Some(hvt) = hvt(false) else { return };
    let [host, guest] = LOOPBACK.map(|script| in_namespace(&hvt, "--backend=process", script));
    assert_same(&guest, &host);
}

#[test]
fn a_guest_across_a_tap_gets_the_answers_that_linux_gets() {
    let Some(hvt) = hvt(true) else { return };
    let near = "timeout 100 $PROGRAM 10.9.0.1 10.9.0.1:7000";
    let host = in_namespace(&hvt, "--backend=kvm", &format!("{ACROSS}; {near}"));
    // Each way in which frames cross the border: exchange, the same with offload, Solo5's ring, its plain calls; a process.
    for option in [
        "--backend=kvm",
        "--net-offload:service",
        "--without=exchange",
        "--without=exchange,ring",
        "--backend=process",
    ] {
        let script = format!("{ACROSS}; guest 10.9.0.2 10.9.0.1:7000");
        assert_same(&in_namespace(&hvt, option, &script), &host);
    }
}
