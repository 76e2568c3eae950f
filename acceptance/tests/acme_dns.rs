//! Certificates through DNS: the real gateway, a real authority (pebble) and real name servers (BIND 9, Knot).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use acceptance::acme_dns::AcmeDns;
use acceptance::backend::Backend;
use acceptance::dns_hook::DnsHook;
use acceptance::gateway::DOMAIN;
use acceptance::name_server::{
    Kind, NameServer, Policy, SECRET, Setup, Zone, free_port, port_53_is_ours,
};
use acceptance::pebble::{Door, Exchange, Pebble};
use acceptance::peer::eventually;
use acceptance::unikernel::{Networks, Way, backend_address, peer_address, way};
use acceptance::zone_signer::ZoneSigner;
use acceptance::{Gateway, client};

/// Percent of nonces that are refused; the client must repeat those requests.
const NONCE_REJECTIONS: u8 = 15;
const CHALLENGE: &str = "_acme-challenge.apps.localhost";
/// A record of somebody else's, which must stay.
const FOREIGN: &str = "_acme-challenge TXT \"somebody else's\"\n";

struct World {
    pebble: Pebble,
    gateway: Gateway,
    backend: Backend,
}

impl World {
    /// A gateway that answers dns-01 with these options, and an authority that asks `name_server`.
    fn start(name_server: SocketAddr, options: &[&str]) -> Self {
        Self::start_on(None, name_server, options)
    }

    /// The same on networks that were made before.
    fn start_on(networks: Option<Networks>, name_server: SocketAddr, options: &[&str]) -> Self {
        let mut pebble = Pebble::prepare();
        pebble.ask_name_server(name_server);
        let own = pebble.options();
        let mut all: Vec<&str> = own.iter().map(String::as_str).collect();
        all.extend(["--acme-challenge", "dns-01"]);
        all.extend(options);
        let gateway = Gateway::start_on(networks, &all);
        pebble.serve(gateway.http, gateway.https, NONCE_REJECTIONS);
        Self { pebble, gateway, backend: Backend::http("site") }
    }

    /// The same by signed updates of `server`.
    fn updating(server: &NameServer, key: &str, options: &[&str]) -> Self {
        let (address, port) = (server.address().to_string(), server.address().port().to_string());
        let mut all = vec!["--dns-server", &address, "--dns-key", key];
        all.extend(["--dns-authoritative-port", &port]);
        all.extend(options);
        Self::start(server.address(), &all)
    }

    fn add(&self, name: &str, options: &[&str]) {
        let backend = self.backend.to_arg();
        self.gateway.ctl(&[&["add", name, &backend], options].concat());
    }

    /// Whether a client that trusts pebble's root alone reaches the backend by this name.
    fn served(&self, name: &str) -> bool {
        let config = client::config(&self.pebble.root_file(), &[]);
        let host =
            if name.ends_with(".test") { name.to_owned() } else { format!("{name}.{DOMAIN}") };
        client::connect(self.gateway.https, &host, &config)
            .and_then(|mut tls| client::get(&mut tls, &host, "/"))
            .is_ok_and(|answer| answer.contains("backend site"))
    }

    fn wait_for(&self, name: &str) {
        let end = Instant::now() + Duration::from_secs(90);
        while !self.served(name) {
            let (gateway, pebble) = (self.gateway.log(), self.pebble.log());
            assert!(Instant::now() < end, "{name} has no certificate: {gateway}\n{pebble}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Names of the certificate that is in use for a name, as `show` says.
    fn names(&self, name: &str) -> String {
        let shown: serde_json::Value =
            serde_json::from_str(&self.gateway.ctl(&["--json", "show", name])).unwrap();
        assert_eq!(shown["certificate"]["source"], "acme", "{shown}");
        shown["certificate"]["names"].to_string()
    }

    fn problems(&self) -> String {
        let status: serde_json::Value =
            serde_json::from_str(&self.gateway.ctl(&["--json", "status"])).unwrap();
        status["problems"].to_string()
    }

    fn orders(&self) -> usize {
        let exchanges = self.pebble.take_exchanges();
        exchanges.iter().filter(|e| e.request == "POST /order-plz" && e.status == 201).count()
    }
}

fn name_server(kind: Kind, policy: Policy) -> NameServer {
    let address = free_port(backend_address());
    let mut zone = Zone::new(DOMAIN, address.ip(), policy);
    zone.records = FOREIGN.to_owned();
    Setup::new(kind, address).with(zone).start()
}

/// Waits until nothing but what was there before is at the challenge's name.
fn wait_until_clean(server: &NameServer) {
    server.wait_for("the record is gone", CHALLENGE, "TXT", |txt| txt == ["\"somebody else's\""]);
}

#[test]
fn one_wildcard_serves_every_name_and_h2_gets_a_certificate_of_its_own() {
    for kind in [Kind::Bind, Kind::Knot] {
        if !Pebble::available() || !kind.available() {
            continue;
        }
        let server = name_server(kind, Policy::Txt);
        let wildcard = format!("*.{DOMAIN}");
        let world = World::updating(&server, &server.key(), &["--acme-domain", &wildcard]);
        world.add("blog", &[]);
        world.wait_for("blog");
        world.add("wiki", &[]);
        assert!(world.served("wiki"), "at once, by the same certificate");
        assert!(world.names("wiki").contains(&wildcard));
        assert_eq!(world.orders(), 1);
        wait_until_clean(&server);

        world.add("fast", &["--alpn", "h2,http/1.1"]);
        eventually("it has a certificate of its own", || {
            world.names("fast").contains(&format!("fast.{DOMAIN}"))
        });
        assert_eq!(world.orders(), 1);
        assert!(!world.gateway.ctl(&["check"]).contains("share"), "browsers cannot coalesce");
        // A route for all names below another, and its certificate.
        world.add(&format!("*.sub.{DOMAIN}"), &[]);
        world.wait_for("deep.sub");
        assert_eq!(world.orders(), 1);
        wait_until_clean(&server);
        assert!(!world.gateway.log().contains(SECRET), "the key is in no log");
    }
}

/// Two ways out of a wrong key: the gateway gets the right one, or the server the gateway's. Without a person the same
/// happens at the next attempt (`certify/tests/dns_recovery.rs`).
#[test]
fn a_wrong_key_shows_costs_no_second_order_and_is_recovered_from() {
    const WRONG: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    for kind in [Kind::Bind, Kind::Knot] {
        if !Pebble::available() || !kind.available() {
            continue;
        }
        let mut server = name_server(kind, Policy::Txt);
        let wildcard = format!("*.{DOMAIN}");
        let wrong = format!("acme:SHA256:{WRONG}");
        let mut world = World::updating(&server, &wrong, &["--acme-domain", &wildcard]);
        world.add("blog", &[]);
        let blamed = "has another secret for the key acme";
        eventually("who is to blame is in status", || world.problems().contains(blamed));
        assert_eq!(world.orders(), 1);
        // Without a person it is tried again later, and a restart is no way around the wait.
        world.gateway.replace_option("--dns-key", &server.key());
        world.gateway.stop("TERM");
        world.gateway.spawn();
        assert!(world.problems().contains(blamed), "the wait is kept");
        assert_eq!(world.orders(), 0);
        world.gateway.ctl(&["cert", "renew", &wildcard]);
        world.wait_for("blog");
        assert_eq!(world.orders(), 0, "the order is gone on with");
        assert!(!world.problems().contains(blamed));
        wait_until_clean(&server);

        // The server's key is changed, and then the gateway's is made its own again: nobody restarts the gateway.
        server.kill();
        server.set_secret(WRONG);
        server.spawn();
        let other = format!("*.late.{DOMAIN}");
        world.add(&other, &[]);
        eventually("who is to blame is in status", || world.problems().contains(blamed));
        server.kill();
        server.set_secret(SECRET);
        server.spawn();
        world.gateway.ctl(&["cert", "renew", &other]);
        world.wait_for("a.late");
        assert!(world.served("blog"), "all the time");
        assert!(!world.gateway.log().contains(WRONG), "no key is in the log");
    }
}

/// Kills the gateway at every request of an issuance: the record goes away in the end, and no needless order is placed.
#[test]
fn kill_9_at_every_request_leaves_no_record_behind() {
    for kind in [Kind::Bind, Kind::Knot] {
        if Pebble::available() && kind.available() {
            kill_at_every_request(kind);
        }
    }
}

fn kill_at_every_request(kind: Kind) {
    let server = name_server(kind, Policy::Txt);
    let mut world = World::updating(&server, &server.key(), &[]);
    for step in 0.. {
        let (route, name) = (format!("*.step{step}.{DOMAIN}"), format!("a.step{step}"));
        world.pebble.take_exchanges();
        world.pebble.set_door(Door::HoldAfter(step));
        world.add(&route, &[]);
        let mut finished = false;
        eventually("an answer is held back, or all are through", || {
            finished = world.served(&name);
            finished || world.pebble.holding()
        });
        if finished {
            assert!(step >= 8, "the sweep went through the whole issuance");
            break;
        }
        world.gateway.kill();
        let lost = world.pebble.take_exchanges();
        let placed = |e: &Exchange| e.request == "POST /order-plz" && e.status == 201;
        let lost_order = lost.last().is_some_and(placed);
        world.pebble.set_door(Door::Open);
        world.gateway.spawn();
        world.wait_for(&name);
        let before = lost.iter().filter(|e| placed(e)).count();
        assert_eq!(before + world.orders(), 1 + usize::from(lost_order), "{lost:?}");
        let record = format!("_acme-challenge.step{step}.{DOMAIN}");
        server.wait_for("the record is gone", &record, "TXT", <[String]>::is_empty);
    }
}

/// The gateway answers for delegated zones: BIND follows the delegation, and pebble asks BIND.
#[test]
fn a_wildcard_needs_no_key_where_the_challenge_is_delegated() {
    let networks = (way() != Way::Host).then(Networks::make);
    let own = networks.map_or_else(|| peer_address(0).into(), |networks| networks.service());
    if !Pebble::available() || !Kind::Bind.available() || !port_53_is_ours(own) {
        return;
    }
    let address = free_port(backend_address());
    let mut parent = Zone::new(DOMAIN, address.ip(), Policy::Closed);
    parent.records = "_acme-challenge NS gateway.elsewhere.test.".to_owned();
    let mut other = Zone::new("elsewhere.test", address.ip(), Policy::Closed);
    other.records = format!(
        "gateway A {own}\nacme NS gateway\n_acme-challenge.sub CNAME sub.acme.elsewhere.test.\n"
    );
    let mut setup = Setup::new(Kind::Bind, address).with(parent).with(other);
    setup.recursion = true;
    let server = setup.start();

    let (listen, wildcard) = (format!("{own}:53"), format!("*.{DOMAIN}"));
    let resolver = address.to_string();
    let mut world = World::start_on(
        networks,
        address,
        &[
            "--acme-dns-listen",
            &listen,
            "--acme-dns-zone",
            &format!("{CHALLENGE},acme.elsewhere.test"),
            "--acme-dns-name-server",
            "gateway.elsewhere.test",
            "--acme-domain",
            &wildcard,
            "--name-server",
            &resolver,
        ],
    );
    world.add("blog", &[]);
    world.wait_for("blog");
    assert!(world.names("blog").contains(&wildcard));
    assert_eq!(world.orders(), 1);
    assert_eq!(world.gateway.dns.map(|address| address.to_string()), Some(listen));
    assert_eq!(server.ask(CHALLENGE, "NS"), ["gateway.elsewhere.test."]);
    server.wait_for("the record is gone", CHALLENGE, "TXT", <[String]>::is_empty);

    // What is a CNAME into another zone of the gateway is found as well.
    world.add("*.sub.elsewhere.test", &[]);
    world.wait_for("deep.sub.elsewhere.test");

    // What leads nowhere says which record is missing.
    world.add("*.lost.elsewhere.test", &[]);
    eventually("the missing record is in status", || {
        let missing = "_acme-challenge.lost.elsewhere.test. NS gateway.elsewhere.test.";
        world.problems().contains(missing)
    });
    // Port 53 is free again for a successor.
    world.gateway.stop("TERM");
    world.gateway.spawn();
    assert!(world.served("blog"));
}

#[test]
fn a_webhook_makes_the_records() {
    if !Pebble::available() {
        return;
    }
    let mut pebble = Pebble::prepare();
    let hook = DnsHook::start(pebble.dns_management());
    let (own, url, wildcard) = (pebble.options(), hook.url(), format!("*.{DOMAIN}"));
    let mut all: Vec<&str> = own.iter().map(String::as_str).collect();
    all.extend(["--acme-challenge", "dns-01", "--acme-domain", &wildcard]);
    all.extend(["--dns-hook", &url, "--dns-hook-auth", "Bearer 4711"]);
    let gateway = Gateway::start_with(&all);
    pebble.serve(gateway.http, gateway.https, NONCE_REJECTIONS);
    let world = World { pebble, gateway, backend: Backend::http("site") };
    world.add("blog", &[]);
    world.wait_for("blog");
    assert!(world.names("blog").contains(&wildcard));
    eventually("what was made is taken away", || {
        let asked = hook.asked();
        asked.iter().any(|asked| asked.what == "cleanup")
            && asked.iter().all(|asked| asked.authorization.as_deref() == Some("Bearer 4711"))
    });
    assert!(!world.gateway.log().contains("4711"), "the secret is in no log");
}

/// A real acme-dns holds the record (`ACME_DNS`); that of `unipi/tests/tls_dns.rs` is played.
#[test]
fn an_acme_dns_server_holds_the_record() {
    let Some(program) = AcmeDns::program() else { return };
    let own = IpAddr::from(peer_address(4));
    if !Pebble::available() || !ZoneSigner::available() || !Kind::Bind.available() {
        return;
    }
    // Not below localhost, which resolvers answer for themselves (RFC 6761, section 6.3).
    let (wildcard, name, held) = ("*.wild.test", "blog.wild.test", "held.elsewhere.test");
    let address = free_port(backend_address());
    let mut other = Zone::new("elsewhere.test", address.ip(), Policy::Closed);
    other.records = format!("held NS held\nheld A {own}\n");
    let zone = Zone::new("wild.test", address.ip(), Policy::All);
    let mut setup = Setup::new(Kind::Bind, address).with(zone).with(other);
    setup.recursion = true;
    let server = setup.start();
    let acme_dns = AcmeDns::start(program, held, own);

    let (url, resolver) = (acme_dns.url(), address.to_string());
    let options = ["--dns-hook-acme-dns", &url, "--name-server", &resolver];
    let mut world = World::start(address, &[&options[..], &["--acme-domain", wildcard]].concat());
    world.add(name, &[]);
    // The record that a person is to make is in status.
    let missing = || {
        let problems = world.problems();
        let (_, said) = problems.split_once("this record is missing in DNS: ")?;
        let (record, _) = said.split_once(&format!(".{held}."))?;
        Some(format!("{record}.{held}."))
    };
    eventually("the missing record is in status", || missing().is_some());
    let record = missing().unwrap();
    assert!(record.starts_with("_acme-challenge.wild.test. CNAME "), "{record}");
    server.update(&format!("update add {}\n", record.replace(" CNAME", " 60 CNAME")));
    world.gateway.ctl(&["cert", "renew", wildcard]);
    world.wait_for(name);
    assert!(world.names(name).contains(wildcard));
    assert_eq!(world.orders(), 1, "the one from before is gone on with");

    // The account is kept: no other is made for the next certificate.
    world.gateway.kill();
    world.gateway.spawn();
    assert!(world.served(name));
    let certificate = || world.gateway.ctl(&["--json", "show", name]);
    let first = certificate();
    world.gateway.ctl(&["cert", "renew", wildcard]);
    eventually("another certificate is in use", || certificate() != first);
    assert_eq!(world.orders(), 1);
    assert!(!world.problems().contains("missing in DNS"), "{}", acme_dns.log());
}

/// The original's way: no directory of an authority, only a zone, and somebody elsewhere who signs what stands there.
#[test]
fn the_originals_options_bring_a_certificate_through_dns() {
    if !ZoneSigner::available() || !Kind::Bind.available() {
        return;
    }
    let address = free_port(backend_address());
    let mut setup =
        Setup::new(Kind::Bind, address).with(Zone::new(DOMAIN, address.ip(), Policy::All));
    setup.keys = vec![(format!("tlstunnel._update.{DOMAIN}"), "hmac-sha256".to_owned())];
    let server = setup.start();
    let signer = ZoneSigner::new();
    let (dns_server, key) = (address.to_string(), server.key());
    let mut gateway = Gateway::start_with(&[
        "--dns-server",
        &dns_server,
        "--dns-key",
        &key,
        "--key-seed",
        "a seed of the original",
    ]);
    let backend = Backend::http("site");
    gateway.ctl(&["add", "blog", &backend.to_arg()]);
    eventually("the request stands in the zone", || signer.request(&server, DOMAIN).is_some());
    signer.answer(&server, DOMAIN, 90);

    let config = client::config(&signer.root_file(), &[]);
    let served = |gateway: &Gateway, host: &str| {
        client::connect(gateway.https, host, &config)
            .and_then(|mut tls| client::get(&mut tls, host, "/"))
            .is_ok_and(|answer| answer.contains("backend site"))
    };
    let host = format!("blog.{DOMAIN}");
    eventually("it is served", || served(&gateway, &host));
    let request = signer.request(&server, DOMAIN).unwrap();

    // Nothing is asked for again, and the certificate is there at once.
    gateway.kill();
    gateway.spawn();
    assert!(served(&gateway, &host), "{}", gateway.log());
    assert_eq!(signer.request(&server, DOMAIN).unwrap(), request);
    assert!(!gateway.log().contains(SECRET) && !gateway.log().contains("a seed"));

    // A key that is not known any more shows in status, and costs nothing.
    let mut other = Gateway::start_with(&[
        "--dns-server",
        &dns_server,
        "--dns-key",
        "nobody:SHA256:AAECAwQFBgcICQoLDA0ODw==",
    ]);
    eventually("who is to blame is in status", || {
        other.ctl(&["status"]).contains("does not know the key nobody")
    });
    other.stop("TERM");
}

/// Two gateways prove the same name at the same time, where the challenge is a CNAME and one server of the zone gets what
/// it shows from the other.
#[test]
fn several_orders_share_a_name_behind_a_cname_and_two_servers() {
    let available = Pebble::available() && Kind::Bind.available() && Kind::Knot.available();
    if !available {
        return;
    }
    let first = free_port(backend_address());
    let second = SocketAddr::new(peer_address(1).into(), first.port());
    let mut parent = Zone::new(DOMAIN, first.ip(), Policy::Closed);
    parent.records = "_acme-challenge CNAME apps.acme.test.\n".to_owned();
    let mut zone = Zone::new("acme.test", first.ip(), Policy::Txt);
    zone.servers.push(("ns2.acme.test".to_owned(), second.ip()));
    zone.notify = vec![second];
    let copy = Zone { name: "acme.test".to_owned(), primary: Some(first), ..Zone::default() };
    let mut setup = Setup::new(Kind::Bind, first).with(parent).with(zone);
    // Without it BIND does not follow CNAME records into another zone, for whom the authority asks.
    setup.recursion = true;
    let server = setup.start();
    let secondary = Setup::new(Kind::Knot, second).with(copy).start();

    let wildcard = format!("*.{DOMAIN}");
    let worlds =
        [(); 2].map(|()| World::updating(&server, &server.key(), &["--acme-domain", &wildcard]));
    for world in &worlds {
        world.add("blog", &[]);
    }
    for world in &worlds {
        world.wait_for("blog");
        assert_eq!(world.orders(), 1);
    }
    for server in [&server, &secondary] {
        let gone = <[String]>::is_empty;
        server.wait_for("the records are gone", "apps.acme.test", "TXT", gone);
    }
}
