//! The keeper against a real authority (pebble), in a program of the test's own: storage that fails at every moment,
//! clocks that are wrong, certificates that come due.
//!
//! Time is the keeper's argument, so a wait of an hour is a keeper on the same records with a later clock.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use acceptance::pebble::{Door, Pebble};
use certify::http::{Client, Resolve, roots_from_pem};
use certify::schedule::Validity;
use certify::{
    Challenge, ChallengeKind, Current, Host, HostError, Keeper, Record, Report, Reports, Settings,
    Wanted, system_clock,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::sync::watch;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

const HOUR: i64 = 3600;
const YEAR: i64 = 365 * 24 * HOUR;

/// Names, records and certificates in memory. A clone is another handle on the same.
#[derive(Clone)]
struct Program(Arc<State>);

struct State {
    names: Mutex<Vec<String>>,
    version: watch::Sender<u64>,
    records: Mutex<BTreeMap<String, Vec<u8>>>,
    in_use: Mutex<BTreeMap<String, CertificateDer<'static>>>,
    answers: Mutex<HashMap<String, String>>,
    /// The first write that fails, as do all behind it; and how many there were.
    failing: AtomicUsize,
    writes: AtomicUsize,
    /// What failed first: the key of the record, or the name.
    failed: Mutex<Option<String>>,
}

impl Program {
    fn write(&self, what: &str) -> Result<(), HostError> {
        let number = self.0.writes.fetch_add(1, Ordering::SeqCst);
        if number < self.0.failing.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.0.failed.lock().unwrap().get_or_insert_with(|| what.to_owned());
        Err(HostError("the store is full".into()))
    }

    fn leaf(&self, name: &str) -> Option<CertificateDer<'static>> {
        self.0.in_use.lock().unwrap().get(name).cloned()
    }
}

impl Host for Program {
    fn wanted(&self) -> (u64, Vec<Wanted>) {
        let current = |name: &String| {
            let leaf = self.leaf(name)?;
            let (_, parsed) = X509Certificate::from_der(&leaf).unwrap();
            let validity = Validity {
                not_before: parsed.validity().not_before.timestamp(),
                not_after: parsed.validity().not_after.timestamp(),
            };
            Some(Current { leaf: leaf.clone(), validity })
        };
        let names = self.0.names.lock().unwrap().clone();
        let wanted = names.into_iter().map(|name| Wanted { current: current(&name), name });
        (*self.0.version.borrow(), wanted.collect())
    }

    async fn changed(&self, since: u64) {
        self.0.version.subscribe().wait_for(|version| *version != since).await.unwrap();
    }

    async fn records(&self) -> Result<Vec<Record>, HostError> {
        let records = self.0.records.lock().unwrap().clone();
        Ok(records.into_iter().map(|(key, value)| (key, Zeroizing::new(value))).collect())
    }

    async fn save(&self, key: String, record: Option<Zeroizing<Vec<u8>>>) -> Result<(), HostError> {
        self.write(&key)?;
        let mut records = self.0.records.lock().unwrap();
        match record {
            Some(record) => records.insert(key, record.to_vec()),
            None => records.remove(&key),
        };
        Ok(())
    }

    async fn install(
        &self,
        name: String,
        chain_pem: String,
        _key_pem: Zeroizing<String>,
    ) -> Result<(), HostError> {
        self.write(&format!("install:{name}"))?;
        let leaf = CertificateDer::from_pem_slice(chain_pem.as_bytes()).unwrap();
        self.0.in_use.lock().unwrap().insert(name, leaf);
        Ok(())
    }

    fn publish(&self, challenge: &Challenge) {
        let Challenge::Http01 { token, key_authorization } = challenge else { panic!("http-01") };
        self.0.answers.lock().unwrap().insert(token.clone(), key_authorization.clone());
    }

    fn withdraw(&self, challenge: &Challenge) {
        let Challenge::Http01 { token, .. } = challenge else { panic!("http-01") };
        self.0.answers.lock().unwrap().remove(token);
    }
}

struct Loopback;

impl Resolve for Loopback {
    fn resolve<'a>(
        &'a self,
        _host: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<IpAddr>, String>> + Send + 'a>> {
        Box::pin(async { Ok(vec![Ipv4Addr::LOCALHOST.into()]) })
    }
}

struct World {
    pebble: Pebble,
    program: Program,
    /// How far the keeper's clock is ahead, in seconds.
    ahead: Arc<AtomicI64>,
}

impl World {
    fn start(nonce_rejections: u8) -> Self {
        let program = Program(Arc::new(State {
            names: Mutex::new(vec!["a.example".to_owned()]),
            version: watch::Sender::default(),
            records: Mutex::default(),
            in_use: Mutex::default(),
            answers: Mutex::default(),
            failing: AtomicUsize::new(usize::MAX),
            writes: AtomicUsize::new(0),
            failed: Mutex::default(),
        }));
        let mut pebble = Pebble::prepare();
        let port_80 = answer_challenges(program.clone());
        pebble.serve(port_80, port_80, nonce_rejections);
        Self { pebble, program, ahead: Arc::default() }
    }

    /// Runs a keeper until `done`, then drops it wherever it is.
    fn run_until(&self, done: impl Fn(&Report) -> bool) {
        let roots = std::fs::read_to_string(self.pebble.ca_file()).unwrap();
        let client = Client::new(roots_from_pem(&roots).unwrap(), Loopback).unwrap();
        let settings = Settings {
            directory: self.pebble.directory(),
            contacts: Vec::new(),
            challenge: ChallengeKind::Http01,
            external_account: None,
            profile: None,
        };
        let (ahead, wall) = (Arc::clone(&self.ahead), system_clock());
        let clock = Arc::new(move || wall() + ahead.load(Ordering::SeqCst));
        let reports = Reports::default();
        let keeper = Keeper::new(self.program.clone(), settings, client, clock, reports.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let work = tokio::spawn(keeper.run());
            let end = Instant::now() + Duration::from_secs(60);
            while !done(&reports.read()) {
                assert!(Instant::now() < end, "{:?}\n{}", reports.read(), self.pebble.log());
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            work.abort();
        });
        assert!(self.program.0.answers.lock().unwrap().is_empty(), "challenges are withdrawn");
    }

    fn pass(&self, seconds: i64) {
        self.ahead.fetch_add(seconds, Ordering::SeqCst);
    }

    fn orders(&self) -> usize {
        let exchanges = self.pebble.take_exchanges();
        exchanges.iter().filter(|e| e.request == "POST /order-plz" && e.status == 201).count()
    }
}

/// Port 80 of the program.
fn answer_challenges(program: Program) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut line = String::new();
            let _ = BufReader::new(&stream).read_line(&mut line);
            let token = line.split(' ').nth(1).unwrap_or_default().rsplit('/').next();
            let answer = program.0.answers.lock().unwrap().get(token.unwrap_or_default()).cloned();
            let body = answer.unwrap_or_default();
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
        }
    });
    address
}

#[test]
fn a_store_that_is_full_at_any_moment_loses_no_order_that_was_stored() {
    if !Pebble::available() {
        return;
    }
    let world = World::start(20);
    let mut seen = Vec::new();
    for write in 0.. {
        let name = format!("full{write}.example");
        *world.program.0.names.lock().unwrap() = vec![name.clone()];
        world.program.0.records.lock().unwrap().clear();
        world.program.0.writes.store(0, Ordering::SeqCst);
        world.program.0.failing.store(write, Ordering::SeqCst);
        world.orders();
        world.run_until(|report| report.failed + report.obtained > 0);
        let Some(what) = world.program.0.failed.lock().unwrap().take() else { break };
        world.program.0.failing.store(usize::MAX, Ordering::SeqCst);
        world.pass(2 * HOUR);
        world.run_until(|_| world.program.leaf(&name).is_some());
        // An order whose address was never stored cannot be found again; that record is the second under the name.
        let address_lost = what == format!("name:{name}")
            && seen.iter().filter(|seen: &&String| seen.starts_with("name:")).count() == 1;
        assert_eq!(world.orders(), 1 + usize::from(address_lost), "{what} could not be written");
        seen.push(what);
    }
    assert!(seen.iter().any(|what| what.starts_with("account:")), "{seen:?}");
    assert!(seen.iter().any(|what| what.starts_with("install:")), "{seen:?}");
    assert!(seen.iter().filter(|what| what.starts_with("name:")).count() >= 3, "{seen:?}");
}

#[test]
fn a_clock_that_is_behind_waits_with_the_certificate_and_orders_no_other() {
    if !Pebble::available() {
        return;
    }
    let world = World::start(20);
    world.pass(-2 * YEAR);
    world.run_until(|report| {
        let problem = report.failing.get("a.example");
        problem.is_some_and(|problem| problem.error.contains("is the clock right?"))
    });
    assert!(world.program.leaf("a.example").is_none(), "it is not used");
    world.ahead.store(0, Ordering::SeqCst);
    world.run_until(|_| world.program.leaf("a.example").is_some());
    assert_eq!(world.orders(), 1);
}

#[test]
fn certificates_are_renewed_once_at_two_thirds_of_their_life() {
    if !Pebble::available() {
        return;
    }
    let world = World::start(20);
    let obtained = |name: &'static str| move |world: &World| world.program.leaf(name).is_some();
    world.run_until(|report| report.obtained == 1);
    let first = world.program.leaf("a.example");
    // Pebble's certificates are valid for five years.
    world.pass(3 * YEAR);
    world.program.0.names.lock().unwrap().push("b.example".to_owned());
    world.run_until(|report| report.obtained == 1);
    assert_eq!(world.program.leaf("a.example"), first, "three years are less than two thirds");
    assert!(obtained("b.example")(&world));
    world.pass(YEAR);
    // By this clock even the renewed ones are four years old: they must not be ordered again and again.
    world.program.0.names.lock().unwrap().push("c.example".to_owned());
    world.run_until(|report| report.obtained == 3);
    assert_ne!(world.program.leaf("a.example"), first);
    world.program.0.names.lock().unwrap().push("d.example".to_owned());
    world.run_until(|_| obtained("d.example")(&world));
    assert_eq!(world.orders(), 6, "a, b, then a, b, c, then d");
}

#[test]
fn the_authority_can_ask_for_an_early_renewal() {
    if !Pebble::available() {
        return;
    }
    let world = World::start(20);
    world.run_until(|report| report.obtained == 1);
    let first = world.program.leaf("a.example");
    world.pass(7 * HOUR);
    let suggest = |year: u32| Door::SuggestRenewal {
        start: format!("{year}-01-01T00:00:00Z"),
        end: format!("{year}-01-02T00:00:00Z"),
    };
    world.pebble.take_exchanges();
    world.pebble.set_door(suggest(2020));
    world.run_until(|report| report.obtained == 1);
    assert_ne!(world.program.leaf("a.example"), first);
    let exchanges = world.pebble.take_exchanges();
    assert!(exchanges.iter().any(|e| e.request.starts_with("GET /renewal/")), "{exchanges:?}");
}

#[test]
fn an_authority_that_talks_nonsense_is_named_and_waited_for() {
    if !Pebble::available() {
        return;
    }
    let world = World::start(0);
    let large: &'static str = Box::leak("x".repeat(certify::http::MAX_ANSWER + 1).into_boxed_str());
    let cases = [
        ("200 OK", large, "too large"),
        ("200 OK", "<html>welcome</html>", "not that of an ACME server"),
        ("200 OK", "{}", "not that of an ACME server"),
        ("302 Found", "", "not that of an ACME server"),
        ("503 Service Unavailable", "<html>later</html>", "503"),
    ];
    for (status, body, said) in cases {
        world.pebble.set_door(Door::Answer { path: "/dir", status, retry_after: 5000, body });
        let now = system_clock()();
        world.run_until(|report| {
            let Some(problem) = &report.authority else { return false };
            assert!(problem.error.contains(said), "{status}: {problem:?}");
            assert!(report.failing.is_empty(), "the name is not to blame");
            let asked = status.starts_with("503");
            assert_eq!(problem.next_attempt >= now + 5000, asked, "{status}: {problem:?}");
            true
        });
    }
    world.pebble.set_door(Door::Open);
    world.run_until(|report| report.obtained == 1);
}
