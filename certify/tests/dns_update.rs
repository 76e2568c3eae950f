//! Signed updates against real DNS servers (BIND 9 and Knot): what is published is shown by all servers and goes away
//! again, and every way in which it can fail names who is to blame.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use acceptance::name_server::{Kind, NameServer, Policy, SECRET, Setup, Zone, free_port};
use certify::dns::{DnsError, DnsServer, DynamicUpdate};
use certify::http::Resolve;
use certify::{Clock, system_clock};

const ZONE: &str = "example.test";
const NAME: &str = "_acme-challenge.www.example.test";

/// A resolver that knows these addresses and aliases alone.
#[derive(Clone, Default)]
struct Known {
    addresses: HashMap<String, IpAddr>,
    aliases: HashMap<String, String>,
}

impl Resolve for Known {
    fn resolve<'a>(
        &'a self,
        host: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<IpAddr>, String>> + Send + 'a>> {
        let known = self.addresses.get(host).map(|address| vec![*address]);
        Box::pin(async move { known.ok_or_else(|| format!("{host} is not known")) })
    }

    fn alias<'a>(
        &'a self,
        name: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Option<String>, String>> + Send + 'a>> {
        let known = self.aliases.get(name).cloned();
        Box::pin(async move { Ok(known) })
    }
}

struct Client {
    server: SocketAddr,
    key: String,
    patience: Duration,
    clock: Clock,
    known: Known,
}

impl Client {
    fn of(server: &NameServer) -> Self {
        Self {
            server: server.address(),
            key: server.key(),
            patience: Duration::from_secs(20),
            clock: system_clock(),
            known: Known::default(),
        }
    }

    fn with_key(mut self, key: &str) -> Self {
        key.clone_into(&mut self.key);
        self
    }

    fn run<T>(&self, work: impl AsyncFnOnce(DynamicUpdate) -> T) -> T {
        let server = DnsServer {
            address: self.server,
            key: self.key.parse().unwrap(),
            authoritative_port: self.server.port(),
            patience: self.patience,
        };
        let update =
            DynamicUpdate::new(server, Arc::new(self.known.clone()), Arc::clone(&self.clock));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(work(update))
    }

    fn publish(&self, name: &str, value: &str) -> Result<(), DnsError> {
        self.run(async |update| update.publish(name, value).await)
    }

    fn withdraw(&self, name: &str, value: &str) -> Result<(), DnsError> {
        self.run(async |update| update.withdraw(name, value).await)
    }

    /// Why publishing fails, in words.
    fn refusal(&self, name: &str) -> (DnsError, String) {
        let error = self.publish(name, "value").expect_err("it must fail");
        let text = error.to_string();
        (error, text)
    }
}

fn address() -> SocketAddr {
    free_port(Ipv4Addr::LOCALHOST.into())
}

fn txt(server: &NameServer, name: &str) -> Vec<String> {
    let mut values: Vec<String> =
        server.ask(name, "TXT").iter().map(|v| v.trim_matches('"').to_owned()).collect();
    values.sort();
    values
}

fn server(kind: Kind) -> NameServer {
    let address = address();
    let mut setup = Setup::new(kind, address).with(Zone::new(ZONE, address.ip(), Policy::Txt));
    for algorithm in ["hmac-sha384", "hmac-sha512"] {
        setup.keys.push((format!("tlstunnel.{algorithm}"), algorithm.to_owned()));
    }
    setup.start()
}

#[test]
fn values_are_added_beside_others_and_taken_away_alone() {
    for kind in [Kind::Bind, Kind::Knot] {
        if !kind.available() {
            continue;
        }
        let server = server(kind);
        let client = Client::of(&server);
        for value in ["one", "two", "two"] {
            client.publish(NAME, value).unwrap();
        }
        assert_eq!(txt(&server, NAME), ["one", "two"], "{kind:?}");
        client.withdraw(NAME, "one").unwrap();
        client.withdraw(NAME, "never there").unwrap();
        assert_eq!(txt(&server, NAME), ["two"]);
        client.withdraw(NAME, "two").unwrap();
        assert!(txt(&server, NAME).is_empty());
        for algorithm in ["sha384", "sha512"] {
            let key = format!("tlstunnel.hmac-{algorithm}:{algorithm}:{SECRET}");
            Client::of(&server).with_key(&key).publish(NAME, algorithm).unwrap();
        }
        assert_eq!(txt(&server, NAME), ["sha384", "sha512"]);
        // The apex of the zone has a name of its own.
        client.publish("_acme-challenge.example.test.", "apex").unwrap();
        assert_eq!(txt(&server, "_acme-challenge.example.test"), ["apex"]);
    }
}

#[test]
fn a_wrong_key_is_told_from_a_wrong_secret_a_wrong_clock_and_a_wrong_policy() {
    for kind in [Kind::Bind, Kind::Knot] {
        if !kind.available() {
            continue;
        }
        let server = server(kind);
        let client = || Client::of(&server);

        let unknown = client().with_key(&format!("nobody:SHA256:{SECRET}"));
        let (error, text) = unknown.refusal(NAME);
        assert!(matches!(error, DnsError::UnknownKey { .. }), "{kind:?}: {text}");
        assert!(text.contains("nobody"), "{text}");

        let other = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        let (error, text) = client().with_key(&format!("acme:SHA256:{other}")).refusal(NAME);
        assert!(matches!(error, DnsError::WrongSecret { .. }), "{kind:?}: {text}");
        assert!(!error.is_passing());

        for ahead in [-3600_i64, 3600] {
            let mut client = client();
            let wall = system_clock();
            client.clock = Arc::new(move || wall() + ahead);
            let (error, text) = client.refusal(NAME);
            let DnsError::Clock { by, .. } = error else { panic!("{kind:?}: {text}") };
            // Knot does not say its time.
            if let Some(by) = by {
                assert!((by - ahead).abs() < 60, "{by} {ahead}");
            }
        }

        assert!(txt(&server, NAME).is_empty(), "nothing came through");

        let closed = address();
        let zone = Zone::new(ZONE, closed.ip(), Policy::Closed);
        let closed = Setup::new(kind, closed).with(zone).start();
        let (error, text) = Client::of(&closed).refusal(NAME);
        match kind {
            Kind::Bind => assert!(matches!(error, DnsError::Policy { .. }), "{text}"),
            // Knot speaks of the key when no rule allows it.
            Kind::Knot => assert!(
                matches!(error, DnsError::UnknownKey { .. } | DnsError::Update { .. }),
                "{text}"
            ),
        }
    }
}

#[test]
fn a_server_that_does_not_hold_the_zone_is_named() {
    if !Kind::Bind.available() {
        return;
    }
    let server = server(Kind::Bind);
    let (error, text) = Client::of(&server).refusal("_acme-challenge.www.elsewhere.test");
    assert!(matches!(error, DnsError::NotResponsible { .. }), "{text}");

    let mut nobody = Client::of(&server);
    nobody.server = address();
    let (error, text) = nobody.refusal(NAME);
    assert!(matches!(error, DnsError::NoAnswer { .. }) && error.is_passing(), "{text}");
    assert!(text.contains("does not answer"), "{text}");

    let away = address();
    let mut zone = Zone::new(ZONE, away.ip(), Policy::Txt);
    zone.records = "_acme-challenge.www NS gateway.elsewhere.test.".to_owned();
    let away = Setup::new(Kind::Bind, away).with(zone).start();
    let (error, text) = Client::of(&away).refusal(NAME);
    assert!(matches!(error, DnsError::Delegated { .. }), "{text}");
    assert!(text.contains("gateway.elsewhere.test"), "{text}");
}

#[test]
fn cname_records_are_followed_to_where_the_record_can_be_made() {
    if !Kind::Bind.available() {
        return;
    }
    let address = address();
    let mut closed = Zone::new("closed.test", address.ip(), Policy::Closed);
    closed.records = "_acme-challenge.www CNAME www.acme.open.test.\n\
                      _acme-challenge.circle CNAME _acme-challenge.round\n\
                      _acme-challenge.round CNAME _acme-challenge.circle\n"
        .to_owned();
    let server = Setup::new(Kind::Bind, address)
        .with(closed)
        .with(Zone::new("open.test", address.ip(), Policy::Txt))
        .start();
    let mut client = Client::of(&server);
    client.publish("_acme-challenge.www.closed.test", "here").unwrap();
    assert_eq!(txt(&server, "www.acme.open.test"), ["here"]);
    client.withdraw("_acme-challenge.www.closed.test", "here").unwrap();
    assert!(txt(&server, "www.acme.open.test").is_empty());

    let (error, text) = client.refusal("_acme-challenge.circle.closed.test");
    assert!(matches!(error, DnsError::Aliases(_)), "{text}");

    // Names of others are looked up as everybody looks them up.
    client.known.aliases =
        [("_acme-challenge.other.example".to_owned(), "Other.Open.Test".to_owned())].into();
    client.publish("_acme-challenge.other.example", "there").unwrap();
    assert_eq!(txt(&server, "other.open.test"), ["there"]);
}

#[test]
fn a_server_of_the_zone_that_lags_is_waited_for_and_then_named() {
    if !Kind::Bind.available() || !Kind::Knot.available() {
        return;
    }
    // The same port everywhere; the second server has an address of its own.
    let first = address();
    let second = SocketAddr::new(Ipv4Addr::new(127, 0, 7, 2).into(), first.port());
    let silent = SocketAddr::new(Ipv4Addr::new(127, 0, 7, 3).into(), first.port());
    let zone = |others: &[SocketAddr], notify: &[SocketAddr]| {
        let mut zone = Zone::new(ZONE, first.ip(), Policy::Txt);
        for (number, other) in others.iter().enumerate() {
            zone.servers.push((format!("other{number}.{ZONE}"), other.ip()));
        }
        zone.notify = notify.to_vec();
        zone
    };
    let copy = Zone { name: ZONE.to_owned(), primary: Some(first), ..Zone::default() };

    let primary = Setup::new(Kind::Bind, first).with(zone(&[second], &[second])).start();
    let secondary = Setup::new(Kind::Knot, second).with(copy.clone()).start();
    let mut client = Client::of(&primary);
    client.publish(NAME, "everywhere").unwrap();
    assert_eq!(txt(&secondary, NAME), ["everywhere"], "nobody returned before");

    // Nobody tells it any more.
    drop((primary, secondary));
    let primary = Setup::new(Kind::Bind, first).with(zone(&[second], &[])).start();
    let secondary = Setup::new(Kind::Knot, second).with(copy).start();
    client.patience = Duration::from_secs(2);
    let (error, text) = client.refusal(NAME);
    assert!(matches!(error, DnsError::Lagging { .. }) && error.is_passing(), "{text}");
    assert!(text.contains(&format!("other0.{ZONE}")) && !text.contains("ns1"), "{text}");
    assert_eq!(txt(&primary, NAME), ["value"]);
    client.withdraw(NAME, "value").unwrap();
    assert!(txt(&primary, NAME).is_empty());
    drop(secondary);

    // One that cannot be reached from here holds nothing up for ever.
    drop(primary);
    let primary = Setup::new(Kind::Bind, first).with(zone(&[silent], &[])).start();
    client.patience = Duration::from_secs(60);
    client.publish(NAME, "reached").unwrap();
    assert_eq!(txt(&primary, NAME), ["reached"]);
}
