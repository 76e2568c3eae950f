//! The original's way to certificates against a real BIND, with an authority of the test's own that signs what stands in
//! the zone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use acceptance::name_server::{Kind, NameServer, Policy, Setup, Zone, free_port};
use acceptance::zone_signer::{ZoneSigner, place};
use certify::dns::tlsa::TlsaServer;
use certify::schedule::Validity;
use certify::{
    Challenge, Clock, Current, Host, HostError, Record, Report, Reports, TlsaKeeper, Wanted,
    system_clock,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

const ZONE: &str = "example.test";
const DAY: i64 = 86_400;

/// Records and the certificate in use. A clone is another handle on the same.
#[derive(Clone, Default)]
struct Program(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    records: BTreeMap<String, Vec<u8>>,
    chain: Vec<CertificateDer<'static>>,
    key_pem: String,
}

impl Program {
    fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.0.lock().unwrap().chain.clone()
    }
}

impl Host for Program {
    fn wanted(&self) -> (u64, Vec<Wanted>) {
        let current = self.chain().first().map(|leaf| {
            let (_, parsed) = X509Certificate::from_der(leaf).unwrap();
            let validity = Validity {
                not_before: parsed.validity().not_before.timestamp(),
                not_after: parsed.validity().not_after.timestamp(),
            };
            Current { leaf: leaf.clone(), validity }
        });
        (0, vec![Wanted { name: ZONE.to_owned(), current }])
    }

    async fn changed(&self, _since: u64) {
        std::future::pending().await
    }

    async fn records(&self) -> Result<Vec<Record>, HostError> {
        let records = self.0.lock().unwrap().records.clone();
        Ok(records.into_iter().map(|(key, value)| (key, Zeroizing::new(value))).collect())
    }

    async fn save(&self, key: String, record: Option<Zeroizing<Vec<u8>>>) -> Result<(), HostError> {
        self.0.lock().unwrap().records.insert(key, record.expect("a record").to_vec());
        Ok(())
    }

    async fn install(
        &self,
        name: String,
        chain_pem: String,
        key_pem: Zeroizing<String>,
    ) -> Result<(), HostError> {
        assert_eq!(name, ZONE);
        let mut state = self.0.lock().unwrap();
        let chain = CertificateDer::pem_slice_iter(chain_pem.as_bytes());
        state.chain = chain.collect::<Result<_, _>>().unwrap();
        state.key_pem = key_pem.to_string();
        Ok(())
    }

    fn publish(&self, _challenge: &Challenge) {}

    fn withdraw(&self, _challenge: &Challenge) {}
}

struct World {
    server: NameServer,
    signer: ZoneSigner,
    program: Program,
    /// How far the keeper's clock is ahead, in seconds.
    ahead: Arc<AtomicI64>,
}

impl World {
    fn start(policy: Policy) -> Self {
        let address = free_port(Ipv4Addr::LOCALHOST.into());
        let mut setup = Setup::new(Kind::Bind, address).with(Zone::new(ZONE, address.ip(), policy));
        setup.keys = vec![(format!("tlstunnel._update.{ZONE}"), "hmac-sha256".to_owned())];
        Self {
            server: setup.start(),
            signer: ZoneSigner::new(),
            program: Program::default(),
            ahead: Arc::default(),
        }
    }

    /// Runs a keeper until `done`, then drops it wherever it is. Updates are signed with the real time.
    fn run_until(&self, what: &str, mut done: impl FnMut(&Report) -> bool) {
        let (ahead, wall) = (Arc::clone(&self.ahead), system_clock());
        let clock: Clock = Arc::new(move || wall() + ahead.load(Ordering::SeqCst));
        let reports = Reports::default();
        let key = self.server.key().parse().unwrap();
        let server = TlsaServer::new(self.server.address(), key, system_clock());
        let keeper = TlsaKeeper::new(self.program.clone(), server, clock, reports.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let work = tokio::spawn(keeper.run());
            let end = Instant::now() + Duration::from_secs(60);
            while !done(&reports.read()) {
                let (report, log) = (reports.read(), self.server.log());
                assert!(Instant::now() < end, "{what}: {report:?}\n{log}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            work.abort();
        });
    }

    fn request(&self) -> Option<Vec<u8>> {
        self.signer.request(&self.server, ZONE)
    }
}

#[test]
fn a_certificate_is_asked_for_found_and_renewed() {
    if !Kind::Bind.available() || !ZoneSigner::available() {
        return;
    }
    let world = World::start(Policy::All);
    let mut request = None;
    world.run_until("a request stands there", |_| {
        request = world.request();
        request.is_some()
    });
    let request = request.unwrap();
    let text = world.signer.describe(&request);
    for said in [format!("Subject: CN = {ZONE}"), format!("DNS:{ZONE}, DNS:*.{ZONE}")] {
        assert!(text.contains(&said), "{said}: {text}");
    }

    // A crash after that: the request is the same, nobody is asked twice, and what others put there does no harm.
    let stranger = World::start(Policy::All);
    stranger.run_until("another request", |_| stranger.request().is_some());
    let foreign = world.signer.sign(&stranger.request().unwrap(), 90);
    let untrusted = stranger.signer.sign(&request, 365);
    world.signer.put(
        &world.server,
        ZONE,
        &[
            (3, 0, foreign),
            (3, 0, untrusted),
            (3, 0, b"no certificate".to_vec()),
            (0, 0, vec![0; 3]),
            (1, 1, vec![7; 32]),
        ],
    );
    world.run_until("what is wrong with it is said", |report| {
        let problem = report.failing.get(ZONE);
        problem.is_some_and(|problem| {
            problem.error.contains("does not hold together")
                || problem.error.contains("cannot be used")
        }) || !world.program.chain().is_empty()
    });
    world.signer.answer(&world.server, ZONE, 90);
    world.ahead.fetch_add(2 * 3600, Ordering::SeqCst);
    world.run_until("the certificate is in use", |_| world.program.chain().len() == 2);
    let first = world.program.chain();
    assert_eq!(world.request(), Some(request.clone()), "the same request all the time");
    let issuer = X509Certificate::from_der(&first[0]).unwrap().1.issuer().to_string();
    assert_eq!(issuer, "CN=middle");

    // Nothing is done before it is time, then the request stands there alone again, for the same key.
    world.ahead.store(80 * DAY, Ordering::SeqCst);
    let records = world.server.ask(&place(ZONE), "TLSA").len();
    assert!(records > 3);
    world.run_until("nothing is due", |report| report.names == 1);
    assert_eq!(world.server.ask(&place(ZONE), "TLSA").len(), records);
    world.ahead.store(84 * DAY, Ordering::SeqCst);
    world.run_until("it is asked for again", |_| {
        world.server.ask(&place(ZONE), "TLSA").len() == 1 && world.request().is_some()
    });
    assert_eq!(world.program.chain(), first, "what is in use stays in use");
    assert_eq!(world.request(), Some(request), "the key is kept");
    world.signer.answer(&world.server, ZONE, 180);
    world.ahead.fetch_add(3600, Ordering::SeqCst);
    world.run_until("the new one is in use", |_| world.program.chain()[0] != first[0]);
}

#[test]
fn what_the_server_refuses_is_said_and_tried_again() {
    if !Kind::Bind.available() || !ZoneSigner::available() {
        return;
    }
    let world = World::start(Policy::Txt);
    world.run_until("the policy is to blame", |report| {
        let problem = report.failing.get(ZONE);
        problem.is_some_and(|problem| problem.error.contains("its policy must allow the key"))
    });
    assert!(world.request().is_none());
    let records = world.program.0.lock().unwrap().records.len();
    assert_eq!(records, 1, "the key that was made is kept");
}
