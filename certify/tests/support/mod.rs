//! A program whose certificates are looked after, and its authority (pebble). Time is the keeper's argument, so a wait of an
//! hour is a keeper on the same records with a later clock.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use acceptance::pebble::{Pebble, Weather};
use certify::http::{Client, Resolve};
use certify::roots::roots_from_pem;
use certify::schedule::Validity;
use certify::{
    Challenge, ChallengeKind, Current, Host, HostError, Keeper, PerDomain, Record, Report, Reports,
    Requests, Settings, TxtPublisher, Wanted, system_clock,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::sync::watch;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

pub const HOUR: i64 = 3600;
pub const YEAR: i64 = 365 * 24 * HOUR;

/// Names, records and certificates in memory. A clone is another handle on the same.
#[derive(Clone)]
pub struct Program(pub Arc<State>);

pub struct State {
    pub names: Mutex<Vec<String>>,
    pub version: watch::Sender<u64>,
    pub records: Mutex<BTreeMap<String, Vec<u8>>>,
    pub in_use: Mutex<BTreeMap<String, CertificateDer<'static>>>,
    /// The chains as they were installed, newest last.
    pub chains: Mutex<Vec<String>>,
    pub answers: Mutex<HashMap<String, String>>,
    /// The first write that fails, as do all behind it; and how many there were.
    pub failing: AtomicUsize,
    pub writes: AtomicUsize,
    /// What failed first: the key of the record, or the name.
    pub failed: Mutex<Option<String>>,
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

    pub fn leaf(&self, name: &str) -> Option<CertificateDer<'static>> {
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
        self.0.chains.lock().unwrap().push(chain_pem.clone());
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

pub struct World {
    pub pebble: Pebble,
    pub program: Program,
    pub settings: Settings,
    /// How far the keeper's clock is ahead, in seconds.
    pub ahead: Arc<AtomicI64>,
    /// What makes TXT records.
    pub txt: Option<Arc<dyn TxtPublisher>>,
}

impl World {
    pub fn start(nonce_rejections: u8) -> Self {
        Self::start_in(&Weather { nonce_rejections, ..Weather::default() })
    }

    pub fn start_in(weather: &Weather) -> Self {
        let program = Program(Arc::new(State {
            names: Mutex::new(vec!["a.example".to_owned()]),
            version: watch::Sender::default(),
            records: Mutex::default(),
            in_use: Mutex::default(),
            chains: Mutex::default(),
            answers: Mutex::default(),
            failing: AtomicUsize::new(usize::MAX),
            writes: AtomicUsize::new(0),
            failed: Mutex::default(),
        }));
        let mut pebble = Pebble::prepare();
        let port_80 = answer_challenges(program.clone());
        pebble.serve_in(port_80, port_80, weather);
        let settings = Settings {
            directory: pebble.directory(),
            contacts: Vec::new(),
            challenge: ChallengeKind::Http01,
            external_account: None,
            profile: PerDomain::default(),
            key_type: PerDomain::default(),
            preferred_chain: None,
        };
        Self { pebble, program, settings, ahead: Arc::default(), txt: None }
    }

    /// Runs a keeper until `done`, then drops it wherever it is.
    pub fn run_until(&self, done: impl Fn(&Report) -> bool) {
        self.run(async |_, reports| {
            let end = Instant::now() + Duration::from_secs(60);
            while !done(&reports.read()) {
                assert!(Instant::now() < end, "{:?}\n{}", reports.read(), self.pebble.log());
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
    }

    /// Runs a keeper until `work` has ended, then drops it wherever it is.
    pub fn run<T>(&self, work: impl AsyncFnOnce(Requests, Reports) -> T) -> T {
        let roots = std::fs::read_to_string(self.pebble.ca_file()).unwrap();
        let client = Client::new(roots_from_pem(&roots).unwrap(), Loopback).unwrap();
        let settings = self.settings.clone();
        let (ahead, wall) = (Arc::clone(&self.ahead), system_clock());
        let clock = Arc::new(move || wall() + ahead.load(Ordering::SeqCst));
        let reports = Reports::default();
        let keeper = Keeper::new(self.program.clone(), settings, client, clock, reports.clone());
        let keeper = match &self.txt {
            Some(txt) => keeper.with_txt(Arc::clone(txt)),
            None => keeper,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let done = runtime.block_on(async {
            let requests = keeper.requests();
            let keeping = tokio::spawn(keeper.run());
            let done = work(requests, reports).await;
            keeping.abort();
            done
        });
        drop(runtime);
        assert!(self.program.0.answers.lock().unwrap().is_empty(), "challenges are withdrawn");
        done
    }

    pub fn pass(&self, seconds: i64) {
        self.ahead.fetch_add(seconds, Ordering::SeqCst);
    }

    pub fn orders(&self) -> usize {
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
