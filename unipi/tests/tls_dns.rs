//! Certificates through DNS for the real program: a real authority (pebble), real name servers (BIND 9, Knot), and every
//! way in which records are made.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod site_support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use acceptance::dns_hook::{DnsHook, manage};
use acceptance::name_server::{
    Kind, NameServer, Policy, SECRET, Setup, Zone, free_port, port_53_is_ours,
};
use acceptance::pebble::Pebble;
use acceptance::unikernel::{Networks, Way, backend_address, peer_address, way};
use acceptance::zone_signer::ZoneSigner;
use serde_json::json;
use site_support::{Forge, Unipi, available, curl, eventually};

const DOMAIN: &str = "sites.test";
const CHALLENGE: &str = "_acme-challenge.sites.test";

struct World {
    forge: Forge,
    unipi: Unipi,
    pebble: Pebble,
    options: Vec<String>,
}

impl World {
    /// A site that answers dns-01 with these options.
    fn start(pebble: Pebble, options: &[&str]) -> Self {
        Self::start_on(None, pebble, options)
    }

    /// The same on networks that were made before.
    fn start_on(networks: Option<Networks>, pebble: Pebble, options: &[&str]) -> Self {
        let own = pebble.options();
        let fixed = ["--listen-https", "127.0.0.1:0", "--storage", "site.img"];
        let challenge = ["--acme-challenge", "dns-01"];
        let all = fixed.iter().chain(&challenge).chain(options).map(|&option| option.to_owned());
        let options: Vec<String> = all.chain(own).collect();
        let forge = forge();
        let unipi = Unipi::start_on(networks, &forge.remote(), &borrowed(&options));
        Self { forge, unipi, pebble, options }
    }

    fn restart(&mut self) {
        self.unipi.kill();
        self.unipi.spawn(&self.forge.remote(), &borrowed(&self.options));
    }

    /// The names of the certificate that is shown for `name`, if it is one of pebble's.
    fn shown(&self, name: &str) -> Option<String> {
        shown(&self.unipi, &self.pebble.root_file(), name)
    }

    fn wait_for(&self, name: &str) -> String {
        let end = Instant::now() + Duration::from_secs(90);
        loop {
            if let Some(shown) = self.shown(name) {
                return shown;
            }
            let (unipi, pebble) = (self.unipi.log(), self.pebble.log());
            assert!(Instant::now() < end, "{name} has no certificate: {unipi}\n{pebble}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn orders(&self) -> usize {
        let exchanges = self.pebble.take_exchanges();
        exchanges.iter().filter(|e| e.request == "POST /order-plz" && e.status == 201).count()
    }
}

/// An authority that asks `name_server`, or its own. With dns-01 it connects to no port of ours.
fn authority(name_server: Option<SocketAddr>) -> Pebble {
    let mut pebble = Pebble::prepare();
    if let Some(name_server) = name_server {
        pebble.ask_name_server(name_server);
    }
    let nobody = backend_address();
    pebble.serve((nobody, 80).into(), (nobody, 443).into(), 10);
    pebble
}

fn borrowed(options: &[String]) -> Vec<&str> {
    options.iter().map(String::as_str).collect()
}

/// The alternative names that curl says of the certificate, once the site is there by `name`.
fn shown(unipi: &Unipi, root: &std::path::Path, name: &str) -> Option<String> {
    let https = unipi.https.expect("TLS");
    let resolve = format!("{name}:{}:{}", https.port(), https.ip());
    let root = root.to_str().expect("UTF-8");
    let format = "%{stderr}%{certs}";
    let arguments = ["--cacert", root, "--resolve", &resolve, "-w", format];
    let output = curl(&format!("https://{name}:{}/", https.port()), &arguments);
    let there = output.status.success() && output.stdout.ends_with(b"<h1>one</h1>");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let names = said.lines().find(|line| line.contains("DNS:")).unwrap_or_default().to_owned();
    there.then_some(names)
}

fn forge() -> Forge {
    let forge = Forge::start();
    forge.write("index.html", "<h1>one</h1>");
    forge.push("first");
    forge
}

fn peers(kinds: &[Kind]) -> bool {
    available(&["git", "curl"]) && Pebble::available() && kinds.iter().all(|kind| kind.available())
}

/// The options for updates of `server`.
fn updating(server: &NameServer) -> [String; 6] {
    let address = server.address();
    let option = |name: &str, value: String| [format!("--{name}"), value];
    let [a, b] = option("dns-server", address.to_string());
    let [c, d] = option("dns-key", server.key());
    let [e, f] = option("dns-authoritative-port", address.port().to_string());
    [a, b, c, d, e, f]
}

#[test]
fn single_names_and_a_wildcard_by_dns_update() {
    for kind in [Kind::Bind, Kind::Knot] {
        if !peers(&[kind]) {
            continue;
        }
        let address = free_port(backend_address());
        let zone = Zone::new(DOMAIN, address.ip(), Policy::Txt);
        let server = Setup::new(kind, address).with(zone).start();
        let update = updating(&server);
        let mut options = borrowed(&update);
        // The wildcard serves the first, and needs no certificate of its own.
        options.extend(["--hostname", "one.sites.test,sites.test"]);
        options.extend(["--acme-domain", "*.sites.test"]);
        let mut world = World::start(authority(Some(address)), &options);
        assert!(world.wait_for("one.sites.test").contains("DNS:*.sites.test"));
        assert!(!world.wait_for("sites.test").contains('*'));
        assert!(world.shown("other.sites.test").is_some());
        assert!(world.shown("deep.other.sites.test").is_none());
        assert_eq!(world.orders(), 2);
        server.wait_for("the records are gone", CHALLENGE, "TXT", <[String]>::is_empty);
        world.restart();
        assert!(world.shown("one.sites.test").is_some() && world.shown("sites.test").is_some());
        assert_eq!(world.orders(), 0);
        assert!(!world.unipi.log().contains(SECRET), "the key is in no log");
    }
}

/// Our server knows only the zone that the CNAME record leads to; the record itself is found by the resolver.
#[test]
fn a_cname_that_another_server_holds_is_followed() {
    if !peers(&[Kind::Bind, Kind::Knot]) {
        return;
    }
    let others = free_port(backend_address());
    let own = SocketAddr::new(peer_address(2).into(), others.port());
    let mut zone = Zone::new("acme.test", own.ip(), Policy::Txt);
    zone.servers.push(("ns2.acme.test".to_owned(), others.ip()));
    zone.notify = vec![others];
    let server = Setup::new(Kind::Knot, own).with(zone).start();
    let mut parent = Zone::new(DOMAIN, others.ip(), Policy::Closed);
    parent.records = "_acme-challenge CNAME sites.acme.test.\n".to_owned();
    let copy = Zone { name: "acme.test".to_owned(), primary: Some(own), ..Zone::default() };
    let mut setup = Setup::new(Kind::Bind, others).with(parent).with(copy);
    setup.recursion = true;
    let other = setup.start();

    let (update, resolver) = (updating(&server), others.to_string());
    let mut options = borrowed(&update);
    options.extend(["--acme-domain", "*.sites.test", "--name-server", &resolver]);
    let world = World::start(authority(Some(others)), &options);
    assert!(world.wait_for("one.sites.test").contains("DNS:*.sites.test"));
    for server in [&server, &other] {
        let gone = <[String]>::is_empty;
        server.wait_for("the records are gone", "sites.acme.test", "TXT", gone);
    }
}

#[test]
fn a_delegated_zone_is_answered_for() {
    let networks = (way() != Way::Host).then(Networks::make_service);
    let own = networks.map_or_else(|| peer_address(3).into(), |networks| networks.service());
    if !peers(&[Kind::Bind]) || !port_53_is_ours(own) {
        return;
    }
    let address = free_port(backend_address());
    let mut parent = Zone::new(DOMAIN, address.ip(), Policy::Closed);
    parent.records = format!("_acme-challenge NS unipi\nunipi A {own}\n");
    let mut setup = Setup::new(Kind::Bind, address).with(parent);
    setup.recursion = true;
    let server = setup.start();
    let (listen, resolver) = (format!("{own}:53"), address.to_string());
    let options = [
        &["--acme-dns-listen", &listen, "--acme-dns-zone", CHALLENGE][..],
        &["--acme-dns-name-server", "unipi.sites.test", "--name-server", &resolver],
        &["--acme-domain", "*.sites.test", "--hostname", "sites.test"],
    ];
    let mut world = World::start_on(networks, authority(Some(address)), &options.concat());
    assert!(world.wait_for("one.sites.test").contains("DNS:*.sites.test"));
    world.wait_for("sites.test");
    assert_eq!(world.orders(), 2);
    server.wait_for("the record is gone", CHALLENGE, "TXT", <[String]>::is_empty);
    // Port 53 is free again for a successor.
    world.restart();
    assert!(world.shown("one.sites.test").is_some());
}

#[test]
fn a_webhook_makes_the_records() {
    if !peers(&[]) {
        return;
    }
    let pebble = authority(None);
    let hook = DnsHook::start(pebble.dns_management());
    let url = hook.url();
    let options = ["--dns-hook", &url, "--dns-hook-auth", "Bearer 4711"];
    let options = [&options[..], &["--acme-domain", "*.sites.test"]].concat();
    let world = World::start(pebble, &options);
    assert!(world.wait_for("one.sites.test").contains("DNS:*.sites.test"));
    eventually("what was made is taken away", || hook.asked().len() >= 2);
    let asked = hook.asked();
    let [present, .., cleanup] = asked.as_slice() else { panic!("{asked:?}") };
    assert_eq!((present.what.as_str(), cleanup.what.as_str()), ("present", "cleanup"));
    for asked in [present, cleanup] {
        assert_eq!(asked.body["fqdn"], format!("{CHALLENGE}."));
        assert_eq!(asked.authorization.as_deref(), Some("Bearer 4711"));
    }
    assert_eq!(present.body["value"], cleanup.body["value"]);
    assert!(!world.unipi.log().contains("4711"), "the secret is in no log");
}

#[test]
fn an_acme_dns_server_holds_the_record() {
    if !peers(&[]) {
        return;
    }
    let pebble = authority(None);
    let (hook, resolver) = (DnsHook::start(pebble.dns_management()), pebble.dns().to_string());
    let url = hook.url();
    let options = ["--dns-hook-acme-dns", &url, "--name-server", &resolver];
    let options = [&options[..], &["--acme-domain", "*.sites.test"]].concat();
    // The record that a person makes; that it is missing is said where `certify/tests/dns_hook.rs` looks.
    let record = json!({ "host": format!("{CHALLENGE}."), "target": "d420c923.acme-dns.test." });
    manage(pebble.dns_management(), "set-cname", &record).unwrap();
    let mut world = World::start(pebble, &options);
    assert!(world.wait_for("one.sites.test").contains("DNS:*.sites.test"));
    let all = || hook.asked().into_iter().map(|asked| asked.what).collect::<Vec<_>>();
    assert_eq!(all(), ["register", "update"]);
    world.restart();
    assert!(world.shown("one.sites.test").is_some());
    assert_eq!(all(), ["register", "update"], "the account is kept");
}

/// The original's way: no directory of an authority, only a zone, and somebody elsewhere who signs what stands there.
#[test]
fn a_certificate_through_dns_without_an_authority() {
    if !available(&["git", "curl"]) || !ZoneSigner::available() || !Kind::Bind.available() {
        return;
    }
    let address = free_port(backend_address());
    let zone = Zone::new(DOMAIN, address.ip(), Policy::All);
    let mut setup = Setup::new(Kind::Bind, address).with(zone);
    setup.keys = vec![(format!("unipi._update.{DOMAIN}"), "hmac-sha256".to_owned())];
    let server = setup.start();
    let signer = ZoneSigner::new();
    let (dns_server, key, forge) = (address.to_string(), server.key(), forge());
    let options = [
        &["--listen-https", "127.0.0.1:0", "--storage", "site.img"][..],
        &["--hostname", "www.sites.test", "--key-seed", "a seed of the original"],
        &["--dns-server", &dns_server, "--dns-key", &key],
    ]
    .concat();
    let mut unipi = Unipi::start(&forge.remote(), &options);
    eventually("the request stands in the zone", || {
        signer.request(&server, "www.sites.test").is_some()
    });
    let request = signer.request(&server, "www.sites.test").unwrap();
    let text = signer.describe(&request);
    assert!(text.contains("DNS:www.sites.test") && !text.contains('*'), "{text}");
    signer.answer(&server, "www.sites.test", 90);
    let shown = |unipi: &Unipi| shown(unipi, &signer.root_file(), "www.sites.test");
    eventually("it is shown", || shown(&unipi).is_some());
    unipi.kill();
    unipi.spawn(&forge.remote(), &options);
    assert!(shown(&unipi).is_some(), "at once: {}", unipi.log());
    assert_eq!(signer.request(&server, "www.sites.test").unwrap(), request);
    assert!(!unipi.log().contains(SECRET) && !unipi.log().contains("a seed"));
}
