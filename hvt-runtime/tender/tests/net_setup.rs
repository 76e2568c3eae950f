//! `tools/net-setup` in a namespace of its own, with a neighbour namespace for the outside and one for a guest's place
//! (needs root and the commands `ip` and `nft`; python3 and curl talk through it).
#![allow(clippy::unwrap_used)]

mod support;

use std::process::{Command, Output};

use hvt_abi::manifest::NET_BASIC;
use support::*;

const SETUP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tools/net-setup");

fn able() -> bool {
    let there = ["nft", "ip", "curl", "python3", "ping", "nsenter"].iter().all(|program| {
        Command::new("which").arg(program).output().is_ok_and(|o| o.status.success())
    });
    let tap = "ip tuntap add probe mode tap && nft add table inet probe";
    let able = there
        && Command::new("unshare")
            .args(["--net", "/bin/sh", "-c", tap])
            .output()
            .is_ok_and(|output| output.status.success());
    needs(able, "no TAPs or no nft: root and tools/install-peers are needed")
}

fn run(script: &str, image: &std::path::Path) -> Output {
    in_namespace(["bash", "-euc"], script, image).env("SETUP", SETUP).output().unwrap()
}

/// The outside is a namespace at the other end of a veth pair, which also has a default route through it.
const WORLD: &str = "
    unshare --net sleep 1000 & outside=$!
    unshare --net sleep 1000 & place=$!
    trap 'kill $outside $place' EXIT
    until [[ $(readlink /proc/$outside/ns/net) != $(readlink /proc/self/ns/net) &&
             $(readlink /proc/$place/ns/net) != $(readlink /proc/self/ns/net) ]]; do sleep 0.02; done
    out() { nsenter --target $outside --net \"$@\"; }
    guest() { nsenter --target $place --net \"$@\"; }
    ip link set lo up
    ip link add up0 type veth peer name eth0 netns $outside
    ip link set up0 up
    ip addr add 192.0.2.2/24 dev up0
    ip -6 addr add 2001:db8::2/64 dev up0 nodad
    ip route add default via 192.0.2.1
    ip -6 route add default via 2001:db8::1
    out ip link set lo up
    out ip link set eth0 up
    out ip addr add 192.0.2.1/24 dev eth0
    out ip -6 addr add 2001:db8::1/64 dev eth0 nodad
    until [[ $(ip -o link show up0) == *'state UP'* ]]; do sleep 0.02; done
    state() {
        ip -o link | grep -v up0; ip -o addr | grep global; nft list ruleset
        grep . /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/{all/forwarding,up0/accept_ra}
    }
";

#[test]
fn it_connects_publishes_protects_and_goes_without_a_trace() {
    if !able() {
        return;
    }
    let script = format!(
        "{WORLD}
        state > $DIR/before
        setup() {{ $SETUP --publish=tcp:8080:10.77.0.2:80 '--publish=tcp:8081:[fd77::2]:80' tap0 tap1; }}
        setup > $DIR/first
        state > $DIR/made
        [[ $(setup | wc -l) == 0 ]] || echo 'BAD: the second run changes something'
        diff $DIR/made <(state) || echo 'BAD: not the same after the second run'

        ip link add port type veth peer name eth0 netns $place
        ip link set port master hvtbr0 up
        guest ip link set lo up
        guest ip link set eth0 up
        guest ip addr add 10.77.0.2/24 dev eth0
        guest ip -6 addr add fd77::2/64 dev eth0 nodad
        guest ip route add default via 10.77.0.1
        guest ip -6 route add default via fd77::1
        guest python3 -m http.server 80 --bind :: > /dev/null 2>&1 & server=$!
        until guest curl -s -o /dev/null http://10.77.0.2/; do kill -0 $server; sleep 0.05; done
        answers() {{ \"$@\" > /dev/null 2>&1 && echo yes || echo no; }}
        echo ping4 $(answers guest ping -c1 -W5 192.0.2.1)
        echo ping6 $(answers guest ping -c1 -W5 2001:db8::1)
        echo published4 $(answers out curl -s -m5 http://192.0.2.2:8080/)
        echo published6 $(answers out curl -s -m5 http://[2001:db8::2]:8081/)
        echo published-here $(answers curl -s -m5 http://192.0.2.2:8080/)
        out ip route add 10.77.0.0/24 via 192.0.2.2
        echo closed $(answers out curl -s -m1 http://10.77.0.2/)
        kill $server
        ip link set port nomaster

        $SETUP --undo tap1 > /dev/null
        ip -o link show tap1 2> /dev/null && echo 'BAD: tap1 is still there'
        $SETUP --undo > /dev/null
        diff $DIR/before <(ip link del port; state) || echo 'BAD: something was left'
        [[ $($SETUP --undo | wc -l) == 0 ]] || echo 'BAD: a second undo changes something'
        echo done"
    );
    let folder = tempfile::tempdir().unwrap();
    let script = script.replace("$DIR", &folder.path().display().to_string());
    let output = run(&script, folder.path());
    let text = String::from_utf8_lossy(&output.stdout);
    let expected = "ping4 yes\nping6 yes\npublished4 yes\npublished6 yes\npublished-here yes\nclosed no\ndone\n";
    assert_eq!(text, expected, "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_guest_talks_to_its_gateway() {
    if !able() || !kvm() {
        return;
    }
    let request = arp_request(([2, 0, 0, 0, 0, 9], [10, 77, 0, 2]), [10, 77, 0, 1]);
    let guest = Guest::new().device("lan", NET_BASIC).asks(&request).prints_reply(42).halt(7);
    // No multicast of the host's own, which the guest could take for the answer.
    let script = "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6; \
                  $SETUP --uplink=none --ipv6=none tap0 >&2; \
                  echo 0 > /proc/sys/net/ipv4/ip_forward; \
                  exec $HVT --mem=16 --net:lan=tap0 -- $IMAGE";
    let file = guest.file();
    let output = run(script, file.path());
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert_eq!(output.stdout[12..14], [8, 6]);
    assert_eq!(output.stdout[20..22], [0, 2], "an ARP reply");
    assert_eq!(output.stdout[28..32], [10, 77, 0, 1]);
}

#[test]
fn mistakes_are_named_before_anything_is_done() {
    if !able() {
        return;
    }
    for (arguments, status, part) in [
        ("", 64, "no TAP is named"),
        ("--frob tap0", 64, "unknown option or missing value: --frob"),
        ("--ipv4= tap0", 64, "missing value"),
        ("--ipv4=10.0.0.1 tap0", 64, "10.77.0.1/24"),
        ("--ipv6=10.0.0.1/24 tap0", 64, "fd77::1/64"),
        ("--mtu=67 tap0", 64, "68 to 65535"),
        ("--mtu=1000 tap0", 64, "IPv6 needs an MTU"),
        ("--publish=tcp:0:10.77.0.2 tap0", 64, "0 is no port"),
        ("--publish=tcp:70000:10.77.0.2 tap0", 64, "70000 is no port"),
        ("--publish=sctp:1:10.77.0.2 tap0", 64, "tcp:443:10.77.0.2"),
        ("--user=nobody-of-this-name tap0", 64, "there is no user"),
        ("abcdefghijklmnop", 64, "at most 15"),
        ("'a b'", 64, "can't be the name"),
        ("tap0", 1, "no default route"),
        ("--uplink=eth7 tap0", 1, "no interface eth7"),
        ("--uplink=none --bridge=lo tap0", 1, "lo exists and was not made by net-setup"),
        ("--undo lo", 1, "lo was not made by net-setup"),
    ] {
        let script = format!(
            "ip link > /tmp/before.$$; trap 'rm /tmp/before.$$' EXIT; set +e; \
             $SETUP {arguments}; status=$?; ip link | diff /tmp/before.$$ - || status=99; exit $status"
        );
        let output = run(&script, std::path::Path::new("/"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{arguments}: {said}");
        assert!(said.contains(part), "{arguments}: {said}");
    }
    let output = Command::new(SETUP).arg("--help").output().unwrap();
    assert!(output.status.success() && output.stdout.starts_with(b"net-setup makes TAP"));
}
