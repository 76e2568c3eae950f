//! TAP interfaces, in network namespaces that the test makes (needs root and the command `ip`).
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::process::Command;

use hvt_abi::extension::EXCHANGE;
use hvt_abi::hypercall::{NET_WRITE, POLL, RESULT_OK};
use hvt_abi::manifest::NET_BASIC;
use support::*;

const AT: u64 = DATA;

/// Runs a script in a namespace of its own with `$HVT` and `$IMAGE`.
fn run(image: &Path, script: &str) -> Ended {
    Ended::from(in_namespace(["/bin/sh", "-ec"], script, image).output().unwrap())
}

fn able() -> bool {
    taps() && kvm()
}

#[test]
fn messages_name_the_command_that_helps() {
    if !able() {
        return;
    }
    let file = Guest::new().device("lan", NET_BASIC).halt(0).file();
    for (setup, option, part) in [
        ("true", "tap7", "there is no interface tap7: ip tuntap add tap7 mode tap"),
        ("ip tuntap add tap7 mode tap", "tap7", "tap7 exists but is down: ip link set tap7 up"),
        ("ip link set lo up", "lo", "lo is not a plain TAP interface"),
        ("ip tuntap add tun7 mode tun; ip link set tun7 up", "tun7", "not a plain TAP interface"),
        ("true", "@77", "descriptor 77 is not open"),
    ] {
        let script = format!("{setup}; exec $HVT --mem=16 --net:lan={option} -- $IMAGE");
        run(file.path(), &script).is(66).says(part);
    }
    let file = Guest::new().device("a", NET_BASIC).device("b", NET_BASIC).halt(0).file();
    let script = "exec 9</dev/null; exec $HVT --mem=16 --net:a=@9 --net:b=@9 -- $IMAGE";
    run(file.path(), script).is(66).says("neither a TAP nor a socket");
}

#[test]
fn a_guest_answers_arp_on_a_tap() {
    if !able() {
        return;
    }
    let request = arp_request(([2, 0, 0, 0, 0, 9], [10, 0, 0, 2]), [10, 0, 0, 1]);
    let guest = Guest::new().device("lan", NET_BASIC).asks(&request).prints_reply(42);
    let guest = guest.halt_with(ASKED + 24);
    let file = guest.file();
    let up = "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6; ip tuntap add tap0 mode tap; \
              ip addr add 10.0.0.1/24 dev tap0; ip link set tap0 address 02:00:00:00:00:01 mtu 1400 up;";
    let script = format!("{up} exec $HVT --mem=16 --net:lan=tap0 -- $IMAGE");
    let output = in_namespace(["/bin/sh", "-ec"], &script, file.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(RESULT_OK), "{output:?}");
    let reply = &output.stdout;
    assert_eq!(reply[..14], [2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 8, 6], "{reply:x?}");
    assert_eq!(reply[20..22], [0, 2], "an ARP reply");
    assert_eq!(reply[22..32], [2, 0, 0, 0, 0, 1, 10, 0, 0, 1]);

    // The guest is told address and MTU: offsets 72 and 78 of its manifest entry.
    let entry = MANIFEST + 8 + 104;
    let tells = |offset| {
        Guest::new().device("lan", NET_BASIC).copy32(entry + offset, AT).halt_with(AT).file()
    };
    let script =
        format!("{up} exec $HVT --mem=16 --net:lan=tap0 --net-mac:lan=02:11:22:33:44:55 -- $IMAGE");
    run(tells(77).path(), &script).is(0x55);
    run(tells(78).path(), &script).is(1400 & 0xff);
    run(tells(79).path(), &script).is(1400 >> 8);
}

#[test]
fn a_link_that_goes_down_is_no_end() {
    if !able() {
        return;
    }
    let guest = Guest::new()
        .device("lan", NET_BASIC)
        .io(AT, &[1, QUESTION, 60, 99])
        .print("up\n")
        .put_words(AT + 0x40, &[u64::MAX, 0, 0])
        .call(POLL, AT + 0x40)
        .call(NET_WRITE, AT)
        .halt_with(AT + 24);
    let file = guest.file();
    // The guest waits to be asked to stop and then sends; a write to a TAP that is down fails with EIO.
    let script = "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6; ip tuntap add tap0 mode tap; \
                  ip link set tap0 up; mkfifo $DIR/out; \
                  $HVT --mem=16 --net:lan=tap0 -- $IMAGE > $DIR/out & \
                  read line < $DIR/out; ip link set tap0 down; kill $!; wait $!";
    let folder = tempfile::tempdir().unwrap();
    let mut command = in_namespace(["/bin/sh", "-c"], script, file.path());
    let ended = Ended::from(command.env("DIR", folder.path()).output().unwrap());
    ended.is(hvt_abi::hypercall::RESULT_UNSPECIFIED).says("network device lan: send");
}

/// The real passt, in a namespace with a route to nowhere: it answers for the gateway itself.
#[test]
fn passt_carries_frames_both_ways() {
    if !able() {
        return;
    }
    if !needs(Command::new("passt").arg("--version").output().is_ok(), "passt is missing") {
        return;
    }
    let request = arp_request(([2, 0, 0, 0, 0, 1], [10, 9, 9, 2]), [10, 9, 9, 1]);
    let plain = Guest::new().device("lan", NET_BASIC).asks(&request);
    let exchange = Guest::new()
        .device("lan", NET_BASIC)
        .put(QUESTION, &request)
        .put_words(AT, &[AT + 0x100, AT + 0x140, 20_000_000_000, 0b10, 0, 0, 1 | 1 << 32])
        .put_words(AT + 0x100, &[QUESTION, request.len() as u64 | 1 << 32, 0, 0])
        .put_words(AT + 0x140, &[REPLY, 1514, 0, 0])
        .call(EXCHANGE, AT);
    for guest in [plain, exchange] {
        let file = guest.prints_reply(42).halt(7).file();
        let folder = tempfile::Builder::new().prefix("passt").tempdir_in("/tmp").unwrap();
        // Started by root, passt becomes nobody before it makes its socket.
        let all = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(folder.path(), all).unwrap();
        let script = "ip link set lo up; ip link add d0 type veth peer name d1; \
                      ip link set d0 up; ip link set d1 up; ip addr add 10.9.9.2/24 dev d0; \
                      ip route add default via 10.9.9.1; \
                      passt --foreground --one-off --quiet --socket $DIR/socket 2>/dev/null & \
                      until test -S $DIR/socket; do sleep 0.05; kill -0 $! || exit 99; done; \
                      $HVT --mem=16 --net:lan=passt:$DIR/socket -- $IMAGE; status=$?; \
                      wait; exit $status";
        let mut command = in_namespace(["/bin/sh", "-c"], script, file.path());
        let output = command.env("DIR", folder.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(7), "{output:?}");
        let reply = &output.stdout;
        assert_eq!(reply[..6], [2, 0, 0, 0, 0, 1]);
        assert_eq!(reply[12..14], [8, 6]);
        assert_eq!(reply[20..22], [0, 2], "an ARP reply");
        assert_eq!(reply[28..32], [10, 9, 9, 1]);
    }
    let file = Guest::new().device("lan", NET_BASIC).halt(0).file();
    let script = "exec $HVT --mem=16 --net:lan=passt:/nonexistent/socket -- $IMAGE";
    run(file.path(), script).is(66).says("passt --socket /nonexistent/socket");
}

/// What a descriptor can be, and the MTU that the guest is told of.
#[test]
fn descriptors_of_sockets() {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::{UnixDatagram, UnixStream};
    if !kvm() {
        return;
    }
    let guest = Guest::new().device("lan", NET_BASIC);
    let entry = MANIFEST + 8 + 104;
    let low = guest.clone().copy32(entry + 78, AT).halt_with(AT);
    let high = guest.copy32(entry + 79, AT).halt_with(AT);
    let stream = || OwnedFd::from(UnixStream::pair().unwrap().0);
    let datagram = || OwnedFd::from(UnixDatagram::pair().unwrap().0);
    for (fd, options, mtu) in [
        (stream(), &[][..], 1500_u16),
        (datagram(), &[], 1500),
        (stream(), &["--net-mtu:lan=9000"], 9000),
        (datagram(), &["--net-mtu:lan=65535"], 65535),
    ] {
        for (guest, byte) in [(&low, mtu & 0xff), (&high, mtu >> 8)] {
            run_with_descriptor_and(guest, &guest.file(), &fd, options).is(byte.into());
        }
    }
    let offload = ["--net-offload:lan"];
    let ended = run_with_descriptor_and(&low, &low.file(), &stream(), &offload);
    ended.is(66).says("for TAP interfaces only");
}
