//! The gateway as a unikernel that is told no address: servers of the network give it some, and curl finds it there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use acceptance::Gateway;
use acceptance::backend::Backend;
use acceptance::gateway::DOMAIN;
use acceptance::peer::{Process, available, eventually, run};
use acceptance::unikernel::{Networks, enter_namespace};

/// The guest's hardware address on its clients' network. Its identifier in IPv6 addresses follows from it (RFC 2464,
/// section 4).
const MAC: &str = "02:00:00:00:00:42";
const IDENTIFIER: &str = "ff:fe00:42";

/// What curl gets from `blog` at the gateway's present address; nothing while that cannot be reached.
fn ask(gateway: &Gateway, scheme: &str) -> String {
    let mut command = Command::new("curl");
    command.args(["-sS", "--max-time", "5", "--cacert"]).arg(gateway.ca_file());
    command.args(gateway.curl_options());
    let port = if scheme == "https" { gateway.https } else { gateway.http }.port();
    command.args(["-w", "%{http_code}", &format!("{scheme}://blog.{DOMAIN}:{port}/")]);
    let output = run(&mut command, b"", Duration::from_secs(30));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Both ports answer at each of these addresses.
fn answers_at(gateway: &mut Gateway, addresses: [(SocketAddr, SocketAddr); 2]) {
    for (https, http) in addresses {
        (gateway.https, gateway.http) = (https, http);
        eventually(&format!("an answer at {https}"), || {
            ask(gateway, "https").starts_with("backend blog\n")
        });
        assert!(ask(gateway, "http").ends_with("301"), "the redirect at {http}");
    }
}

#[test]
fn dnsmasq_gives_an_ipv4_address_by_dhcp_and_an_ipv6_prefix_by_advertisement() {
    let own = "dnsmasq_gives_an_ipv4_address_by_dhcp_and_an_ipv6_prefix_by_advertisement";
    if !available(&["curl", "dnsmasq"]) || enter_namespace(own, "hvt") {
        return;
    }
    let networks = Networks::make();
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new("/usr/sbin/dnsmasq");
    command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root"]);
    command.args(["--pid-file=", "--bind-interfaces", "--dhcp-authoritative", "--log-dhcp"]);
    command.arg("--log-facility=-");
    command.arg(format!("--interface={}", networks.service_tap()));
    command.arg(format!("--dhcp-leasefile={}", folder.path().join("leases").display()));
    command.arg("--dhcp-range=10.70.1.50,10.70.1.60,255.255.255.0,120");
    command.args(["--enable-ra", "--dhcp-range=fd70:1::,ra-only,64,7200"]);
    let log = folder.path().join("log");
    let _server = Process::start(&mut command, &log);

    let mut gateway = Gateway::start_unaddressed(networks, &[&format!("--net-mac:service={MAC}")]);
    let blog = Backend::http("blog");
    gateway.ctl(&["add", "blog", &blog.to_arg()]);
    // What the server has written down: expiry, hardware address, address.
    let mut leased = None;
    eventually("the server has leased an address", || {
        let leases = std::fs::read_to_string(folder.path().join("leases")).unwrap_or_default();
        let line = leases.lines().find(|line| line.contains(MAC));
        leased = line.and_then(|line| line.split(' ').nth(2)?.parse::<IpAddr>().ok());
        leased.is_some()
    });
    let (v4, v6) = (leased.unwrap(), format!("fd70:1::{IDENTIFIER}").parse::<IpAddr>().unwrap());
    answers_at(&mut gateway, [v4, v6].map(|ip| ((ip, 443).into(), (ip, 80).into())));
    assert!(gateway.log().contains(&format!("interface service: {v4}/24")), "{}", gateway.log());
}

/// passt answers DHCP and router solicitations itself, with the addresses of the machine.
#[test]
fn passt_gives_addresses_and_lets_clients_in() {
    let own = "passt_gives_addresses_and_lets_clients_in";
    if !available(&["curl", "passt"]) || enter_namespace(own, "hvt") {
        return;
    }
    let networks = Networks::make();
    let folder = tempfile::Builder::new().prefix("passt").tempdir_in("/tmp").unwrap();
    // Started by root, passt becomes nobody before it makes its socket.
    let all = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(folder.path(), all).unwrap();
    // It takes the addresses of an interface with a default route.
    let setup = "ip link add private-uplink type veth peer name private-other; \
        ip link set private-other up; ip link set private-uplink up; \
        ip addr add 192.0.2.2/24 dev private-uplink; ip route add default via 192.0.2.1; \
        ip -6 addr add 2001:db8::2/64 dev private-uplink nodad; \
        ip -6 route add default via 2001:db8::1 dev private-uplink";
    assert!(Command::new("sh").args(["-ec", setup]).status().unwrap().success());
    let socket = folder.path().join("socket");
    let mut command = Command::new("passt");
    command.args(["--foreground", "--one-off", "--socket"]).arg(&socket);
    command.args(["--tcp-ports", "127.0.0.1/8443:443,8080:80"]);
    // A port can be forwarded from one family only.
    command.args(["--tcp-ports", "::1/9443:443,9080:80"]);
    let log = folder.path().join("log");
    let passt = Process::start(&mut command, &log);
    eventually("passt has its socket", || socket.exists());

    let device = format!("--net:service=passt:{}", socket.display());
    let mut gateway = Gateway::start_unaddressed(networks.without_service(), &[&device]);
    let blog = Backend::http("blog");
    gateway.ctl(&["add", "blog", &blog.to_arg()]);
    let doors = [("127.0.0.1", 8443, 8080), ("::1", 9443, 9080)];
    let address = |ip: &str, port: u16| SocketAddr::new(ip.parse().unwrap(), port);
    answers_at(
        &mut gateway,
        doors.map(|(ip, https, http)| (address(ip, https), address(ip, http))),
    );
    assert!(gateway.log().contains("interface service: 192.0.2.2/24"), "{}", gateway.log());
    drop(passt);
}
