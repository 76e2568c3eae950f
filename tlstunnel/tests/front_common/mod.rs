//! A gateway in a thread of its own (one single-threaded runtime, as in production), backends, and clients that
//! misbehave in chosen ways. Tests themselves are plain blocking code.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, Once};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use config_proto::model::{Route, RouteName, RouteSettings};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tlstunnel::gateway::{Gateway, Phase, Snapshot};
use tlstunnel::limits::Limits;
use tlstunnel::listen::{self, HttpSettings, HttpsSettings};
use tlstunnel::route::ActiveRoute;
use tlstunnel::tls::certificate::{Certificate, Source};
use tlstunnel::tls::self_signed::{PemPair, authority, leaf};

/// A running gateway.
pub struct World {
    pub gateway: Arc<Gateway>,
    pub https: SocketAddr,
    pub http: SocketAddr,
    pub ca: PemPair,
    log: Arc<Mutex<Vec<u8>>>,
    thread: Option<JoinHandle<()>>,
}

/// How a world is made.
#[derive(Default)]
pub struct Setup {
    pub limits: Limits,
    pub https: HttpsSettings,
}

impl World {
    /// A gateway with a certificate for `*.example.org` and `example.org`, and no routes.
    pub fn new() -> Self {
        Self::with(Setup::default())
    }

    pub fn with(setup: Setup) -> Self {
        let ca = authority("Test CA", SystemTime::now()).unwrap();
        let gateway = Gateway::new(setup.limits);
        let log = Arc::new(Mutex::new(Vec::new()));
        let (send, receive) = mpsc::channel();
        let thread = std::thread::spawn({
            let (gateway, log) = (Arc::clone(&gateway), Arc::clone(&log));
            move || {
                log_to(log);
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let https = listen::bind(([127, 0, 0, 1], 0).into(), false).unwrap();
                    let http = listen::bind(([127, 0, 0, 1], 0).into(), false).unwrap();
                    let addresses = (https.local_addr().unwrap(), http.local_addr().unwrap());
                    send.send(addresses).unwrap();
                    let settings = HttpSettings { https_port: addresses.0.port() };
                    let (a, b) = tokio::join!(
                        listen::run_https(Arc::clone(&gateway), https, setup.https),
                        listen::run_http(Arc::clone(&gateway), http, settings),
                    );
                    a.unwrap();
                    b.unwrap();
                    let mut phase = gateway.phase.subscribe();
                    while *phase.borrow() != Phase::Ended {
                        tokio::select! {
                            _ = phase.changed() => {}
                            () = tokio::time::sleep(Duration::from_millis(5)) => {
                                if gateway.live.open() == 0 { break; }
                            }
                        }
                    }
                });
            }
        });
        let (https, http) = receive.recv().unwrap();
        let world = Self { gateway, https, http, ca, log, thread: Some(thread) };
        world.certify(&["*.example.org", "example.org"]);
        world
    }

    /// Makes and publishes a certificate.
    pub fn certify(&self, names: &[&str]) -> Arc<Certificate> {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let pair = leaf(&self.ca, &names, SystemTime::now()).unwrap();
        let certificate =
            Certificate::from_pem(&pair.chain_pem, &pair.key_pem, Source::SelfSigned).unwrap();
        let certificate = Arc::new(certificate);
        self.change(|snapshot| snapshot.certificates.insert(Arc::clone(&certificate)));
        certificate
    }

    /// Publishes a route.
    pub fn route(&self, name: &str, backends: &[SocketAddr], settings: RouteSettings) {
        let name: RouteName = name.parse().unwrap();
        let backends = backends.iter().map(|&address| address.into()).collect();
        let route = Route { name, settings: RouteSettings { backends, ..settings } };
        let active = ActiveRoute::new(&route, &self.gateway.limits, Arc::default(), None).unwrap();
        self.change(|snapshot| snapshot.routes = snapshot.routes.with(Arc::new(active)));
    }

    fn change(&self, f: impl FnOnce(&mut Snapshot)) {
        let mut snapshot = Snapshot::clone(&self.gateway.snapshot.load());
        f(&mut snapshot);
        self.gateway.snapshot.store(Arc::new(snapshot));
    }

    pub fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca.chain_pem.as_bytes()).unwrap()).unwrap();
        roots
    }

    /// A client configuration that trusts the world's authority.
    pub fn client(&self, alpn: &[&str]) -> ClientConfig {
        self.client_with(alpn, rustls::ALL_VERSIONS)
    }

    pub fn client_with(
        &self,
        alpn: &[&str],
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> ClientConfig {
        let mut config =
            ClientConfig::builder_with_provider(Arc::clone(tlstunnel::tls::provider()))
                .with_protocol_versions(versions)
                .unwrap()
                .with_root_certificates(self.roots())
                .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
        config
    }

    /// A client that shows a certificate of the world's authority.
    pub fn client_with_certificate(
        &self,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> ClientConfig {
        let ca_key = rcgen::KeyPair::from_pem(&self.ca.key_pem).unwrap();
        let issuer = rcgen::Issuer::from_ca_cert_pem(&self.ca.chain_pem, ca_key).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["client.example".into()]).unwrap();
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let chain = vec![params.signed_by(&key, &issuer).unwrap().der().clone()];
        ClientConfig::builder_with_provider(Arc::clone(tlstunnel::tls::provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(self.roots())
            .with_client_auth_cert(chain, key.serialize_der().try_into().unwrap())
            .unwrap()
    }

    /// A plain connection to the https port.
    pub fn tcp(&self) -> TcpStream {
        tcp(self.https)
    }

    /// A TLS connection for `name`, handshake done.
    pub fn tls(&self, name: &str, alpn: &[&str]) -> io::Result<Tls> {
        tls(self.client(alpn), name, self.tcp())
    }

    /// Access-log lines so far, as JSON.
    pub fn log(&self) -> Vec<serde_json::Value> {
        let bytes = self.log.lock().unwrap().clone();
        String::from_utf8(bytes)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .filter(|line| line["target"] == "access")
            .collect()
    }

    /// Whether a log line contains this text.
    pub fn complaint(&self, text: &str) -> Option<()> {
        String::from_utf8_lossy(&self.log.lock().unwrap()).contains(text).then_some(())
    }

    /// Waits until `check` holds. Nothing depends on how long that takes; the bound only ends a failing test.
    pub fn wait<T>(&self, what: &str, check: impl Fn(&Self) -> Option<T>) -> T {
        for _ in 0..2000 {
            if let Some(value) = check(self) {
                return value;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("waited in vain for {what}; log: {:?}", self.log());
    }

    /// Waits for the access-log line of the connection whose outcome is this.
    pub fn outcome(&self, outcome: &str) -> serde_json::Value {
        self.wait(outcome, |world| world.log().into_iter().find(|line| line["outcome"] == outcome))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.gateway.phase.send_replace(Phase::Ended);
        let result = self.thread.take().unwrap().join();
        if !std::thread::panicking() {
            result.expect("the gateway's thread panicked");
        }
    }
}

thread_local! {
    /// The log of the world whose gateway runs in this thread.
    static LOG: RefCell<Option<Arc<Mutex<Vec<u8>>>>> = const { RefCell::new(None) };
}

/// Sends what this thread logs to `log`. The subscriber is one for the process, because tracing remembers process-wide
/// which events anybody wants, and worlds come and go in parallel.
fn log_to(log: Arc<Mutex<Vec<u8>>>) {
    static SUBSCRIBER: Once = Once::new();
    LOG.set(Some(log));
    SUBSCRIBER.call_once(|| {
        tracing_subscriber::fmt()
            .json()
            .flatten_event(true)
            .with_max_level(tracing::Level::INFO)
            .with_writer(|| LogWriter)
            .init();
    });
}

struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOG.with_borrow(|log| {
            if let Some(log) = log {
                log.lock().unwrap().extend_from_slice(bytes);
            }
        });
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Names the file of the authority to a process of clients.
pub const PATH_CA: &str = "FRONT_CA_FILE";

/// A client configuration in a process of clients.
pub fn client_trusting() -> ClientConfig {
    let mut roots = RootCertStore::empty();
    let pem = std::fs::read(std::env::var_os(PATH_CA).unwrap()).unwrap();
    roots.add(CertificateDer::from_pem_slice(&pem).unwrap()).unwrap();
    ClientConfig::builder_with_provider(Arc::clone(tlstunnel::tls::provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

pub type Tls<S = TcpStream> = StreamOwned<ClientConnection, S>;

/// Sockets of a test never wait for ever.
const PATIENCE: Duration = Duration::from_secs(30);

pub fn tcp(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

pub fn tls<S: Read + Write>(config: ClientConfig, name: &str, mut stream: S) -> io::Result<Tls<S>> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut connection = ClientConnection::new(Arc::new(config), name).unwrap();
    while connection.is_handshaking() {
        connection.complete_io(&mut stream)?;
    }
    Ok(StreamOwned::new(connection, stream))
}

/// The raw ClientHello of a client, in records as rustls makes them.
pub fn hello(config: ClientConfig, name: &str) -> Vec<u8> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut bytes).unwrap();
    }
    bytes
}

/// Reads to the end, which may be an abrupt one; returns what came.
pub fn read_all(stream: &mut impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    bytes
}

pub fn read_text(stream: &mut impl Read) -> String {
    String::from_utf8_lossy(&read_all(stream)).into_owned()
}

/// A backend that says `hello from NAME\n` at once, then echoes until its peer ends, then ends.
pub fn backend(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            std::thread::spawn(move || -> io::Result<()> {
                stream.write_all(format!("hello from {name}\n").as_bytes())?;
                let mut buffer = [0; 16384];
                loop {
                    match stream.read(&mut buffer)? {
                        0 => return stream.shutdown(Shutdown::Write),
                        n => stream.write_all(&buffer[..n])?,
                    }
                }
            });
        }
    });
    address
}

/// An address at which nobody listens.
pub fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Reads the greeting of a [`backend`].
pub fn greeting(stream: &mut impl Read) -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.last() != Some(&b'\n') && stream.read(&mut byte).unwrap() == 1 {
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}

/// Sends `text` through an established connection and expects it back from the echoing backend.
pub fn echo(stream: &mut (impl Read + Write), text: &str) {
    stream.write_all(text.as_bytes()).unwrap();
    stream.flush().unwrap();
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(String::from_utf8_lossy(&back), text);
}

/// Whether a peer program is there. Without it the test says so and passes, unless REQUIRE_PEERS=1.
pub fn peer(program: &str) -> bool {
    let found = std::process::Command::new(program)
        .arg("--version")
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .map(|mut child| child.wait())
        .is_ok();
    if !found {
        assert_ne!(std::env::var("REQUIRE_PEERS").as_deref(), Ok("1"), "{program} is missing");
        println!("{program} is missing: not tested against it");
    }
    found
}

/// Writes at most `piece` bytes at a time.
pub struct Dribble {
    pub stream: TcpStream,
    pub piece: usize,
}

impl Read for Dribble {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buffer)
    }
}

impl Write for Dribble {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(&bytes[..bytes.len().min(self.piece)])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// Cuts the payload of every handshake record before the first answer into records of `piece` bytes.
pub struct Reframe {
    pub stream: TcpStream,
    pub piece: usize,
    pub first_flight: bool,
}

impl Read for Reframe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.first_flight = false;
        self.stream.read(buffer)
    }
}

impl Write for Reframe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.first_flight {
            return self.stream.write(bytes);
        }
        self.stream.write_all(&reframe(bytes, self.piece))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// The same handshake bytes in records of `piece` bytes. `bytes` are whole records.
pub fn reframe(mut bytes: &[u8], piece: usize) -> Vec<u8> {
    let mut payload = Vec::new();
    while let [22, 3, _, high, low, rest @ ..] = bytes {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        payload.extend_from_slice(&rest[..length]);
        bytes = &rest[length..];
    }
    assert!(bytes.is_empty(), "more than a ClientHello");
    let mut out = Vec::new();
    for piece in payload.chunks(piece) {
        let [high, low] = u16::try_from(piece.len()).unwrap().to_be_bytes();
        out.extend_from_slice(&[22, 3, 1, high, low]);
        out.extend_from_slice(piece);
    }
    out
}
