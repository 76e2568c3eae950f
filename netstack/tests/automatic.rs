//! Addresses from a real server: dnsmasq across a TAP interface gives an IPv4 address by DHCP, and
//! advertises an IPv6 prefix (needs root, `unshare`, `ip` and `dnsmasq`).
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

mod support;
#[path = "support/tap.rs"]
mod tap;

use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use netstack::{AddressSource, Close, InterfaceConfig, Limits, SocketError, Stack};
use support::{at, ip};
use tap::Tap;

/// dnsmasq, which ends with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn serve() -> Server {
    let arguments = [
        "--keep-in-foreground",
        "--no-daemon",
        "--conf-file=/dev/null",
        "--port=0",
        "--interface=tap0",
        "--bind-interfaces",
        "--dhcp-leasefile=/dev/null",
        "--leasefile-ro",
        "--dhcp-authoritative",
        "--dhcp-range=10.9.0.50,10.9.0.60,255.255.255.0,120",
        "--dhcp-option=option:dns-server,10.9.0.53",
        "--enable-ra",
        "--dhcp-range=fd09::,ra-only,64,7200",
        "--dhcp-option=option6:dns-server,[fd09::53]",
        "--user=root",
    ];
    Server(Command::new("dnsmasq").args(arguments).spawn().unwrap())
}

/// The server's side, run in the namespace.
fn inside() {
    let server = serve();
    let tap = Tap::open();
    let mut stack = Stack::new(Limits::default(), [5; 16]);
    stack.add_interface(tap, InterfaceConfig::default()).unwrap();
    stack.obtain_addresses(0, AddressSource::Dhcp).unwrap();
    stack.obtain_addresses(0, AddressSource::Slaac).unwrap();
    let echo = stack.listen(at("::", 7), true, 16).unwrap();
    let start = Instant::now();
    let turn = |stack: &mut Stack<Tap>| {
        assert!(start.elapsed() < Duration::from_secs(60), "{:?}", stack.interface_config(0));
        stack.turn(start.elapsed());
        while stack.next_event().is_some() {}
        std::thread::sleep(Duration::from_millis(1));
    };
    // An IPv4 address, a link-local one and one of the prefix; a route and a name server each.
    let complete = |stack: &Stack<Tap>| {
        let config = stack.interface_config(0).unwrap();
        config.addresses.len() == 3 && config.routes.len() == 2 && stack.name_servers(0).len() == 2
    };
    while !complete(&stack) {
        turn(&mut stack);
    }
    assert_eq!(stack.next_change(), Some(0));
    let config = stack.interface_config(0).unwrap().clone();
    let [(v4, 24), (link, 64), (v6, 64)] = config.addresses[..] else { panic!("{config:?}") };
    assert!((ip("10.9.0.50")..=ip("10.9.0.60")).contains(&v4), "{v4}");
    assert_eq!((link, v6), (ip("fe80::ff:fe00:42"), ip("fd09::ff:fe00:42")));
    let gateway = |v4: bool| {
        config.routes.iter().find(|route| route.network.is_ipv4() == v4).unwrap().gateway
    };
    assert_eq!(gateway(true), ip("10.9.0.1"));
    assert!(matches!(gateway(false), IpAddr::V6(router) if router.is_unicast_link_local()));
    assert_eq!(stack.name_servers(0), [ip("10.9.0.53"), ip("fd09::53")]);
    // The addresses are good for something: the kernel reaches both.
    for address in [v4, v6] {
        let kernel = std::thread::spawn(move || {
            let mut stream = TcpStream::connect((address, 7)).unwrap();
            stream.write_all(b"hello").unwrap();
            let mut back = [0; 5];
            stream.read_exact(&mut back).unwrap();
            back
        });
        let mut open = None;
        while !kernel.is_finished() {
            turn(&mut stack);
            open = open.or_else(|| stack.accept(echo).ok());
            let mut buffer = [0; 99];
            match open.map(|(socket, _)| (socket, stack.recv(socket, &mut buffer))) {
                Some((socket, Ok(count @ 1..))) => {
                    assert_eq!(stack.send(socket, &buffer[..count]), Ok(count));
                }
                Some((_, Err(error))) => assert_eq!(error, SocketError::WouldBlock),
                _ => {}
            }
        }
        assert_eq!(&kernel.join().unwrap(), b"hello");
        stack.close(open.unwrap().0, Close::Graceful).unwrap();
    }
    drop(server);
}

#[test]
fn a_server_gives_addresses_routes_and_name_servers() {
    if std::env::var_os("NETSTACK_INSIDE").is_some() {
        return inside();
    }
    let setup = "dnsmasq --version >/dev/null; ip link set lo up; \
        ip tuntap add tap0 mode tap; ip addr add 10.9.0.1/24 dev tap0; \
        ip -6 addr add fd09::1/64 dev tap0 nodad; ip link set tap0 up";
    let able = Command::new("unshare").args(["--net", "/bin/sh", "-ec", setup]).output();
    if !able.is_ok_and(|output| output.status.success()) {
        let required = std::env::var_os("REQUIRE_PEERS").is_some_and(|v| v == "1");
        assert!(!required, "root and the commands dnsmasq, ip and unshare are needed");
        eprintln!("no dnsmasq, or no TAP interfaces can be made: this test did not run");
        return;
    }
    let script = format!(
        "{setup}; exec \"$0\" --exact a_server_gives_addresses_routes_and_name_servers --nocapture"
    );
    let output = Command::new("unshare")
        .args(["--net", "/bin/sh", "-ec", &script])
        .arg(std::env::current_exe().unwrap())
        .env("NETSTACK_INSIDE", "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 passed"), "{text}");
}
