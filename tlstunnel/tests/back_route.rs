//! Routes: what is refused and why, which one a name gets, and tables of many names.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::cell::Cell;
use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use config_proto::model::{
    BackendTls, HealthCheck, MAX_BACKENDS, Mode, Route, RouteName, RouteSettings,
};
use rpds::RedBlackTreeMapSync;
use tlstunnel::limits::Limits;
use tlstunnel::route::{ActiveRoute, InvalidAuthorities, InvalidRoute, Reason, RoutingTable};

fn name(text: &str) -> RouteName {
    text.parse().unwrap()
}

fn activate(settings: RouteSettings) -> Result<ActiveRoute, InvalidRoute> {
    let route = Route { name: name("a.example"), settings };
    ActiveRoute::new(&route, &Limits::default(), Arc::default(), None)
}

fn settings(backends: &[&str]) -> RouteSettings {
    let backends = backends.iter().map(|text| text.parse().unwrap()).collect();
    RouteSettings { backends, ..RouteSettings::default() }
}

fn with(change: impl FnOnce(&mut RouteSettings)) -> Result<ActiveRoute, InvalidRoute> {
    let mut settings = settings(&["10.0.0.7:80"]);
    change(&mut settings);
    activate(settings)
}

fn certificate(is_ca: bool) -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(["ca.example".to_owned()]).unwrap();
    if is_ca {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    }
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

#[test]
fn backends_are_checked() {
    assert!(matches!(activate(settings(&[])), Err(InvalidRoute::NoBackends)));
    let mut reject = settings(&[]);
    reject.mode = Mode::Reject;
    assert!(activate(reject).is_ok());
    let twice = activate(settings(&["a.example:80", "A.example.:80"]));
    assert!(matches!(twice, Err(InvalidRoute::DuplicateBackend(_))));
    for unspecified in ["0.0.0.0:80", "[::]:80", "[::ffff:0.0.0.0]:80"] {
        let refused = activate(settings(&[unspecified]));
        assert!(matches!(refused, Err(InvalidRoute::UnspecifiedBackend(_))), "{unspecified}");
    }
    let many: Vec<String> = (1..=MAX_BACKENDS + 1).map(|port| format!("10.0.0.1:{port}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert!(activate(settings(&many[1..])).is_ok());
    assert!(matches!(activate(settings(&many)), Err(InvalidRoute::TooManyBackends(65))));
}

#[test]
fn settings_without_effect_are_refused() {
    let (ca, _) = certificate(true);
    for mode in [Mode::Terminate, Mode::Passthrough, Mode::Reject] {
        let refused = with(|s| {
            s.mode = mode;
            s.backend_tls = Some(BackendTls::default());
        });
        assert!(matches!(refused, Err(InvalidRoute::NotInMode { setting: "backend-tls", .. })));
    }
    let refused = with(|s| {
        s.mode = Mode::Passthrough;
        s.client_ca = Some(ca);
    });
    let message = refused.unwrap_err().to_string();
    assert_eq!(
        message,
        "client-ca has no effect in mode passthrough: remove it, or use mode terminate"
    );
    let refused = with(|s| {
        s.mode = Mode::Passthrough;
        s.alpn = Some(vec!["h2".into()]);
    });
    assert!(matches!(refused, Err(InvalidRoute::NotInMode { setting: "alpn", .. })));
}

#[test]
fn authorities_must_be_authorities() {
    let ((ca, key), (leaf, _)) = (certificate(true), certificate(false));
    let active = with(|s| s.client_ca = Some(format!("{ca}{ca}"))).unwrap();
    assert_eq!(active.client_ca.unwrap().len(), 2);
    let damaged = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let cases = [
        (String::new(), "no certificate"),
        ("certificate".to_owned(), "no certificate"),
        (format!("{ca}{leaf}"), "certificate 2 "),
        (format!("{ca}{key}"), "private key"),
        (damaged.to_owned(), "certificate 1 is damaged"),
        ("-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n".to_owned(), "PEM"),
        (" ".repeat(1024 * 1024 + 1), "longer"),
    ];
    for (pem, reason) in cases {
        let error = with(|s| s.client_ca = Some(pem.clone())).unwrap_err();
        assert!(matches!(error, InvalidRoute::ClientCa(_)));
        assert!(error.to_string().contains(reason), "{error} should mention {reason}");
        let error = with(|s| {
            s.mode = Mode::Reencrypt;
            s.backend_tls = Some(BackendTls { ca: Some(pem), ..BackendTls::default() });
        });
        assert!(matches!(error, Err(InvalidRoute::BackendCa(_))));
    }
    let error = with(|s| s.client_ca = Some(leaf)).unwrap_err();
    assert!(matches!(error, InvalidRoute::ClientCa(InvalidAuthorities::NotAnAuthority(1, _))));
}

#[test]
fn tls_to_backends_is_checked() {
    let reencrypt = |tls: BackendTls| {
        with(|s| {
            s.mode = Mode::Reencrypt;
            s.backend_tls = Some(tls);
        })
    };
    let pin = |text: &str| BackendTls { pin_sha256: Some(text.into()), ..BackendTls::default() };
    assert!(reencrypt(pin(&"Ab".repeat(32))).is_ok());
    for bad in ["", "ab", &"ab".repeat(33), &"zz".repeat(32), &format!("0x{}", "ab".repeat(31))] {
        assert!(matches!(reencrypt(pin(bad)), Err(InvalidRoute::BadPin)), "{bad}");
    }
    let both = BackendTls { ca: Some(certificate(true).0), ..pin(&"ab".repeat(32)) };
    assert!(matches!(reencrypt(both), Err(InvalidRoute::CaAndPin)));
    let named = |text: &str| BackendTls { server_name: Some(text.into()), ..BackendTls::default() };
    assert!(reencrypt(named("backend.example")).is_ok());
    assert!(reencrypt(named("192.0.2.1")).is_ok());
    assert!(matches!(reencrypt(named("back end")), Err(InvalidRoute::BadServerName(_))));
}

#[test]
fn numbers_and_texts_have_ranges() {
    let alpn =
        |names: &[&str]| with(|s| s.alpn = Some(names.iter().map(ToString::to_string).collect()));
    assert_eq!(alpn(&["h2", "x"]).unwrap().alpn.unwrap(), [b"h2".to_vec(), b"x".to_vec()]);
    assert!(alpn(&[&"x".repeat(255)]).is_ok());
    for bad in ["", &"x".repeat(256)] {
        assert!(matches!(alpn(&[bad]), Err(InvalidRoute::BadAlpn(_))));
    }
    assert!(matches!(alpn(&["h2", "h2"]), Err(InvalidRoute::DuplicateAlpn(_))));
    let health = |change: fn(&mut HealthCheck)| {
        let mut health = HealthCheck::default();
        change(&mut health);
        with(|s| s.health = Some(health))
    };
    assert!(health(|_| ()).is_ok());
    let out_of_range: [fn(&mut HealthCheck); 8] = [
        |h| h.interval_seconds = 0,
        |h| h.interval_seconds = 3601,
        |h| h.timeout_seconds = 0,
        |h| h.timeout_seconds = 61,
        |h| h.rise = 0,
        |h| h.rise = 11,
        |h| h.fall = 0,
        |h| h.fall = 11,
    ];
    for change in out_of_range {
        assert!(matches!(health(change), Err(InvalidRoute::OutOfRange { .. })));
    }
    assert!(matches!(
        with(|s| s.description = Some("x".repeat(1025))),
        Err(InvalidRoute::DescriptionTooLong)
    ));
    let zero = with(|s| s.limits.connect_seconds = Some(0)).unwrap_err();
    assert_eq!(zero.to_string(), "limits.connect-seconds is 0, possible are 1 to 3600");
}

#[test]
fn a_route_narrows_the_limits_of_the_gateway() {
    let active = with(|s| {
        s.limits.connect_seconds = Some(1);
        s.limits.idle_seconds = Some(0);
        s.limits.max_connections = Some(7);
    })
    .unwrap();
    assert_eq!(active.max_connections, Some(7));
    let expected =
        Limits { connect: Duration::from_secs(1), idle: Duration::ZERO, ..Limits::default() };
    assert_eq!(active.limits, expected);
    assert_eq!(with(|s| s.limits.max_connections = Some(0)).unwrap().max_connections, None);
}

fn active(text: &str) -> Arc<ActiveRoute> {
    let route = Route { name: name(text), settings: settings(&["10.0.0.7:80"]) };
    Arc::new(ActiveRoute::new(&route, &Limits::default(), Arc::default(), None).unwrap())
}

fn table(names: &[&str]) -> RoutingTable {
    names.iter().fold(RoutingTable::default(), |table, text| table.with(active(text)))
}

fn found(table: &RoutingTable, server_name: Option<&str>) -> (Option<String>, Reason) {
    let found = table.lookup(server_name);
    (found.route.map(|route| route.route.name.to_string()), found.reason)
}

#[test]
fn a_name_gets_the_closest_route() {
    let table = table(&["a.example", "*.example", "*.b.example", "default", "no-sni"]);
    let cases = [
        (Some("a.example"), "a.example", Reason::Exact),
        (Some("b.example"), "*.example", Reason::Wildcard),
        (Some("x.b.example"), "*.b.example", Reason::Wildcard),
        (Some("x.y.b.example"), "*.b.example", Reason::Wildcard),
        (Some("x.a.example"), "*.example", Reason::Wildcard),
        (Some("example"), "default", Reason::UnknownName),
        (Some("other"), "default", Reason::UnknownName),
        (None, "no-sni", Reason::NoSni),
    ];
    for (server_name, route, reason) in cases {
        assert_eq!(found(&table, server_name), (Some(route.to_owned()), reason), "{server_name:?}");
    }
    let without = table.without(&RouteName::NoSni);
    assert_eq!(found(&without, None), (Some("default".into()), Reason::NoSniDefault));
    let without = without.without(&RouteName::Default);
    assert_eq!(found(&without, None), (None, Reason::NoRouteWithoutName));
    assert_eq!(found(&without, Some("other")), (None, Reason::NoRouteForName));
    // The copies that were changed leave the original as it is.
    assert_eq!(found(&table, None).1, Reason::NoSni);
    assert_eq!((table.len(), without.len()), (5, 3));
}

#[test]
fn pages_follow_the_order_of_names() {
    let names = ["a.example", "b.example", "*.example", "default"];
    let table = table(&names);
    let mut listed = Vec::new();
    let mut last: Option<RouteName> = None;
    loop {
        let next = table.iter_after(last.as_ref()).next().map(|route| route.route.name.clone());
        let Some(name) = next else { break };
        listed.push(name.to_string());
        last = Some(name);
    }
    assert_eq!(listed, names);
    // A name that is gone still says where to go on.
    let next = table.iter_after(Some(&name("aa.example"))).next().unwrap();
    assert_eq!(next.route.name, name("b.example"));
}

thread_local! {
    static COMPARED: Cell<u32> = const { Cell::new(0) };
}

/// A route name that counts how often it is compared: once per node of the tree that is visited.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Counted(RouteName);

impl Ord for Counted {
    fn cmp(&self, other: &Self) -> Ordering {
        COMPARED.set(COMPARED.get() + 1);
        self.0.cmp(&other.0)
    }
}

impl PartialOrd for Counted {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

fn nodes_visited<T>(work: impl FnOnce() -> T) -> (T, u32) {
    COMPARED.set(0);
    (work(), COMPARED.get())
}

/// The map that a [`RoutingTable`] is made of, with a million names: a lookup and a change visit at most the height of a
/// red-black tree, 2 log2(n + 1), and only the nodes that a change visits can be copied by it.
#[test]
fn a_change_among_a_million_names_touches_few_nodes() {
    let key = |i: u32| Counted(RouteName::Exact(format!("n{}.apps.example", i.reverse_bits())));
    let mut map = RedBlackTreeMapSync::<Counted, u32>::new_sync();
    let mut at_most = 0;
    let mut size = 0;
    for count in [10, 1_000, 1_000_000] {
        while size < count {
            map.insert_mut(key(size), size);
            size += 1;
        }
        let height = 2 * (u32::BITS - (count + 1).leading_zeros());
        for i in (0..count).step_by(usize::try_from(count / 10).unwrap()) {
            let (value, visited) = nodes_visited(|| map.get(&key(i)).copied());
            assert_eq!(value, Some(i));
            assert!(visited <= height, "{visited} nodes of {count}");
            let (changed, visited) = nodes_visited(|| map.insert(key(i), 7));
            assert_eq!((changed.get(&key(i)), map.get(&key(i))), (Some(&7), Some(&i)));
            assert!(visited <= height, "{visited} nodes of {count}");
            let (removed, visited) = nodes_visited(|| map.remove(&key(i)));
            assert_eq!((removed.size(), map.size()), (map.size() - 1, map.size()));
            assert!(visited <= 2 * height, "{visited} nodes of {count}");
            at_most = at_most.max(visited);
        }
    }
    assert!(at_most < 100, "{at_most} nodes");
}

/// Real routes; `TLSTUNNEL_TEST_ROUTES=1000000` for a million.
#[test]
fn every_one_of_many_routes_is_found() {
    let count: usize =
        std::env::var("TLSTUNNEL_TEST_ROUTES").map_or(5_000, |text| text.parse().unwrap());
    let mut table = RoutingTable::default();
    for i in 0..count {
        table = table.with(active(&format!("n{i}.apps.example")));
    }
    let before = table.clone();
    table = table.with(active("*.apps.example")).without(&name("n1.apps.example"));
    for i in 0..count {
        let server_name = format!("n{i}.apps.example");
        let reason = if i == 1 { Reason::Wildcard } else { Reason::Exact };
        assert_eq!(table.lookup(Some(&server_name)).reason, reason);
        assert_eq!(before.lookup(Some(&server_name)).reason, Reason::Exact);
    }
    assert_eq!((table.len(), before.len()), (count, count));
}
