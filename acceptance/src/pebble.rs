//! A certificate authority of a test's own: the real `pebble` behind a door that sees every request and can be shut.
//!
//! The door ends TLS itself, with the same key as pebble, so that it can count requests by path, answer in pebble's place,
//! or hold one back for ever. Pebble resolves names with its own test DNS server.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection, StreamOwned};
use tempfile::TempDir;

use crate::client;
use crate::peer::{Process, available, eventually, run};
use crate::unikernel::backend_address;

/// What the door does with requests.
#[derive(Clone, Debug, Default)]
pub enum Door {
    /// Lets them through.
    #[default]
    Open,
    /// Closes connections at once, as if nobody were there.
    Shut,
    /// Lets this many through. The next one reaches pebble, and its answer never comes back; those behind it wait.
    HoldAfter(usize),
    /// Offers renewal information (RFC 9773), which Debian's pebble does not have: every certificate is to be renewed
    /// between these two times, written as in RFC 3339.
    SuggestRenewal {
        /// The first moment.
        start: String,
        /// The last moment.
        end: String,
    },
    /// Answers requests for this path with this status, `Retry-After` and body, and lets the others through.
    Answer {
        /// The path.
        path: &'static str,
        /// The status line's number and text.
        status: &'static str,
        /// Seconds.
        retry_after: u32,
        /// JSON.
        body: &'static str,
    },
}

/// What pebble makes hard on purpose.
#[derive(Clone, Debug, Default)]
pub struct Weather {
    /// Percent of the nonces that it refuses.
    pub nonce_rejections: u8,
    /// Seconds that it waits at most before it looks at a challenge; the time is random. 0 looks at once.
    pub validation_delay: u8,
    /// Other roots, whose chains it offers beside the first.
    pub alternate_roots: u8,
}

/// A request that pebble has answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// Such as `POST /order-plz`.
    pub request: String,
    /// Such as 201.
    pub status: u16,
}

#[derive(Debug, Default)]
struct State {
    door: Door,
    exchanges: Vec<Exchange>,
    /// Whether a request is being held.
    holding: bool,
}

/// A running authority. It validates at the ports that [`Pebble::serve`] was told.
#[derive(Debug)]
pub struct Pebble {
    folder: TempDir,
    door: SocketAddr,
    inside: SocketAddr,
    management: SocketAddr,
    dns: SocketAddr,
    dns_management: SocketAddr,
    name_server: Option<SocketAddr>,
    /// Where all names are, by pebble's own DNS server.
    clients: Option<IpAddr>,
    state: Arc<Mutex<State>>,
    processes: Vec<Process>,
}

impl Pebble {
    /// Whether the programs are there.
    pub fn available() -> bool {
        available(&["pebble", "pebble-challtestsrv", "openssl", "curl"])
    }

    /// Opens the door; behind it there is nobody yet.
    ///
    /// # Panics
    /// If keys cannot be made.
    pub fn prepare() -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let ip = backend_address();
        let mut command = Command::new("openssl");
        command.current_dir(folder.path()).args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-keyout",
            "key.pem",
            "-out",
            "cert.pem",
            "-days",
            "2",
            "-subj",
            "/CN=pebble",
            "-addext",
            &format!("subjectAltName=DNS:localhost,IP:127.0.0.1,IP:{ip}"),
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ]);
        let made = run(&mut command, b"", Duration::from_secs(30));
        assert!(made.status.success(), "openssl: {made:?}");
        let listener = TcpListener::bind((ip, 0)).expect("a free port");
        let pebble = Self {
            door: listener.local_addr().expect("bound"),
            inside: free_port(),
            management: free_port(),
            // Where gateways can ask it too.
            dns: free_port_on(ip),
            dns_management: free_port(),
            name_server: None,
            clients: None,
            state: Arc::default(),
            processes: Vec::new(),
            folder,
        };
        pebble.open_door(listener);
        pebble
    }

    /// The directory's address as the gateway is told it.
    pub fn directory(&self) -> String {
        format!("https://{}/dir", self.door)
    }

    /// Another address of the same directory.
    pub fn other_directory(&self) -> String {
        format!("{}?again", self.directory())
    }

    /// What a gateway is told, so that it asks this authority.
    ///
    /// # Panics
    /// If the folder's name is no text.
    pub fn options(&self) -> Vec<String> {
        let ca_file = self.ca_file().to_str().expect("UTF-8").to_owned();
        vec!["--acme".to_owned(), self.directory(), "--acme-ca".to_owned(), ca_file]
    }

    /// What the directory's own certificate is verified with.
    pub fn ca_file(&self) -> PathBuf {
        self.folder.path().join("cert.pem")
    }

    /// Pebble's own DNS server, which answers once pebble is started.
    pub fn dns(&self) -> SocketAddr {
        self.dns
    }

    /// Where the records of that server are managed.
    pub fn dns_management(&self) -> SocketAddr {
        self.dns_management
    }

    /// Has pebble ask this DNS server instead of its own test server.
    pub fn ask_name_server(&mut self, name_server: SocketAddr) {
        self.name_server = Some(name_server);
    }

    /// Starts pebble: it validates http-01 at `http` and tls-alpn-01 at `https`, and refuses `nonce_rejections` percent of
    /// the nonces.
    pub fn serve(&mut self, http: SocketAddr, https: SocketAddr, nonce_rejections: u8) {
        self.serve_in(http, https, &Weather { nonce_rejections, ..Weather::default() });
    }

    /// The same in any weather.
    pub fn serve_in(&mut self, http: SocketAddr, https: SocketAddr, weather: &Weather) {
        let config = self.config(http, https);
        self.run(&config, weather);
    }

    fn config(&mut self, http: SocketAddr, https: SocketAddr) -> serde_json::Value {
        self.clients = Some(http.ip());
        serde_json::json!({ "pebble": {
            "listenAddress": self.inside.to_string(),
            "managementListenAddress": self.management.to_string(),
            "certificate": self.ca_file(),
            "privateKey": self.folder.path().join("key.pem"),
            "httpPort": http.port(),
            "tlsPort": https.port(),
            "ocspResponderURL": "",
            "externalAccountBindingRequired": false,
            // For those versions of pebble that know profiles.
            "profiles": {
                "default": { "description": "for long", "validityPeriod": 90 * 86_400 },
                "shortlived": { "description": "for days", "validityPeriod": 6 * 86_400 },
            },
        }})
    }

    /// The same, for accounts that are bound to the external account `key_id` alone; the key is in base64url.
    pub fn serve_bound(&mut self, http: SocketAddr, https: SocketAddr, key_id: &str, key: &str) {
        let mut config = self.config(http, https);
        config["pebble"]["externalAccountBindingRequired"] = true.into();
        config["pebble"]["externalAccountMACKeys"] = serde_json::json!({ key_id: key });
        self.run(&config, &Weather::default());
    }

    fn run(&mut self, config: &serde_json::Value, weather: &Weather) {
        let file = self.folder.path().join("pebble.json");
        std::fs::write(&file, config.to_string()).expect("written");
        let dns = self.dns;
        let mut names = Command::new("pebble-challtestsrv");
        let names_are_at = self.clients.map_or_else(|| "127.0.0.1".to_owned(), |ip| ip.to_string());
        names.args(["-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv6", ""]).args([
            "-defaultIPv4",
            &names_are_at,
            "-dns01",
            &dns.to_string(),
            "-management",
            &self.dns_management.to_string(),
        ]);
        let mut pebble = Command::new("pebble");
        pebble
            .arg("-config")
            .arg(&file)
            .args(["-dnsserver", &self.name_server.unwrap_or(dns).to_string()])
            .env("PEBBLE_WFE_NONCEREJECT", weather.nonce_rejections.to_string())
            .env("PEBBLE_ALTERNATE_ROOTS", weather.alternate_roots.to_string());
        match weather.validation_delay {
            0 => pebble.env("PEBBLE_VA_NOSLEEP", "1"),
            longest => pebble.env("PEBBLE_VA_SLEEPTIME", longest.to_string()),
        };
        let log = self.folder.path().join("log");
        // Those of before have the ports.
        self.processes.clear();
        self.processes = vec![Process::start(&mut names, &log), Process::start(&mut pebble, &log)];
        for address in [self.inside, self.management, self.dns_management] {
            eventually("pebble listens", || TcpStream::connect(address).is_ok());
        }
    }

    /// Whether this version of pebble knows profiles (2.7 and later do).
    pub fn offers_profiles(&self) -> bool {
        let mut command = Command::new("curl");
        command.arg("-sSf").arg("--cacert").arg(self.ca_file()).arg(self.directory());
        let done = run(&mut command, b"", Duration::from_secs(20));
        let directory = serde_json::from_slice::<serde_json::Value>(&done.stdout);
        directory.is_ok_and(|directory| directory["meta"]["profiles"].is_object())
    }

    /// Changes what the door does. Whatever is being held is let go of, without an answer.
    pub fn set_door(&self, door: Door) {
        let mut state = self.state.lock().expect("state");
        state.door = door;
        state.holding = false;
    }

    /// Whether a request is being held by [`Door::HoldAfter`].
    pub fn holding(&self) -> bool {
        self.state.lock().expect("state").holding
    }

    /// What pebble has answered since the last call.
    pub fn take_exchanges(&self) -> Vec<Exchange> {
        std::mem::take(&mut self.state.lock().expect("state").exchanges)
    }

    /// Makes the test DNS server answer `address` for `name`.
    ///
    /// # Panics
    /// If it does not take it.
    pub fn point(&self, name: &str, address: &str) {
        let host = format!("{name}.");
        for (what, record) in [
            // What was answered before would be answered besides.
            ("clear-a", serde_json::json!({ "host": host })),
            ("add-a", serde_json::json!({ "host": host, "addresses": [address] })),
        ] {
            let taken = crate::dns_hook::manage(self.dns_management, what, &record);
            assert_eq!(taken, Ok(()), "{what} {record}");
        }
    }

    /// Writes the root of what pebble issues to a file.
    ///
    /// # Panics
    /// If pebble does not tell.
    pub fn root_file(&self) -> PathBuf {
        self.alternate_root_file(0)
    }

    /// The same for one of [`Weather::alternate_roots`], counted from 1.
    ///
    /// # Panics
    /// If pebble does not tell.
    pub fn alternate_root_file(&self, number: u8) -> PathBuf {
        let file = self.folder.path().join(format!("root{number}.pem"));
        let answer = self.ask_management(&format!("roots/{number}"));
        std::fs::write(&file, answer).expect("written");
        file
    }

    /// What pebble says of a certificate with this serial number in hexadecimal digits: `Valid` or `Revoked`, and why.
    ///
    /// # Panics
    /// If pebble does not tell.
    pub fn certificate_status(&self, serial: &str) -> serde_json::Value {
        let answer = self.ask_management(&format!("cert-status-by-serial/{serial}"));
        serde_json::from_slice(&answer).expect("JSON")
    }

    fn ask_management(&self, path: &str) -> Vec<u8> {
        let url = format!("https://{}/{path}", self.management);
        let mut command = Command::new("curl");
        command.arg("-sSf").arg("--cacert").arg(self.ca_file()).arg(&url);
        let done = run(&mut command, b"", Duration::from_secs(20));
        assert!(done.status.success(), "{done:?}");
        done.stdout
    }

    /// What pebble has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn open_door(&self, listener: TcpListener) {
        let folder = self.folder.path();
        let certificate = CertificateDer::from_pem_file(folder.join("cert.pem")).expect("PEM");
        let key = PrivateKeyDer::from_pem_file(folder.join("key.pem")).expect("PEM");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .expect("a usable key");
        let door = DoorKeeper {
            server: Arc::new(server),
            client: client::config(&self.ca_file(), &[]),
            inside: self.inside,
            state: Arc::clone(&self.state),
        };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let door = door.clone();
                // A connection that breaks is the client's business.
                std::thread::spawn(move || door.connection(stream));
            }
        });
    }
}

#[derive(Clone)]
struct DoorKeeper {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    inside: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl DoorKeeper {
    fn connection(&self, stream: TcpStream) -> std::io::Result<()> {
        if matches!(self.state.lock().expect("state").door, Door::Shut) {
            return Ok(());
        }
        let connection =
            ServerConnection::new(Arc::clone(&self.server)).map_err(std::io::Error::other)?;
        let mut outside = StreamOwned::new(connection, stream);
        let request = read_request(&mut outside)?;
        let line = request.lines().next().unwrap_or_default();
        let line = line.strip_suffix(" HTTP/1.1").unwrap_or(line).to_owned();
        loop {
            let mut state = self.state.lock().expect("state");
            let holding = state.holding;
            match &mut state.door {
                Door::Open => break,
                Door::Shut => return Ok(()),
                Door::Answer { path, status, retry_after, body } => {
                    if !line.ends_with(*path) {
                        break;
                    }
                    let answer = format!(
                        "HTTP/1.1 {status}\r\ncontent-type: application/problem+json\r\n\
                         retry-after: {retry_after}\r\ncontent-length: {}\r\n\
                         connection: close\r\n\r\n{body}",
                        body.len()
                    );
                    drop(state);
                    return outside.write_all(answer.as_bytes());
                }
                Door::SuggestRenewal { start, end } => {
                    let answer = match line.split_once(' ') {
                        Some((_, "/dir")) => {
                            drop(state);
                            let answer = self.ask(&request, line)?;
                            let text = String::from_utf8_lossy(&answer);
                            let (_, body) = text.split_once("\r\n\r\n").unwrap_or_default();
                            let mut directory: serde_json::Value = serde_json::from_str(body)?;
                            let own = directory["newNonce"].as_str().unwrap_or_default();
                            directory["renewalInfo"] = own.replace("nonce-plz", "renewal").into();
                            directory
                        }
                        Some((_, path)) if path.starts_with("/renewal/") => {
                            let window = serde_json::json!({ "start": start, "end": end });
                            state.exchanges.push(Exchange { request: line, status: 200 });
                            drop(state);
                            serde_json::json!({ "suggestedWindow": window })
                        }
                        _ => break,
                    };
                    let answer = answer.to_string();
                    return write!(
                        outside,
                        "HTTP/1.1 200 OK\r\nretry-after: 21600\r\ncontent-length: {}\r\n\
                         connection: close\r\n\r\n{answer}",
                        answer.len()
                    );
                }
                Door::HoldAfter(0) if holding => {}
                Door::HoldAfter(0) => {
                    drop(state);
                    self.ask(&request, line)?;
                    self.state.lock().expect("state").holding = true;
                    return self.hold(outside);
                }
                Door::HoldAfter(left) => {
                    *left -= 1;
                    break;
                }
            }
            drop(state);
            std::thread::sleep(Duration::from_millis(5));
        }
        let answer = self.ask(&request, line)?;
        outside.write_all(&answer)?;
        outside.conn.send_close_notify();
        outside.flush()
    }

    /// Keeps the connection open without a word until it is closed or the door changes.
    fn hold(&self, outside: StreamOwned<ServerConnection, TcpStream>) -> std::io::Result<()> {
        while self.state.lock().expect("state").holding {
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(outside);
        Ok(())
    }

    fn ask(&self, request: &str, line: String) -> std::io::Result<Vec<u8>> {
        let name = ServerName::try_from("localhost").expect("a name");
        let connection =
            ClientConnection::new(Arc::clone(&self.client), name).map_err(std::io::Error::other)?;
        let mut inside = StreamOwned::new(connection, TcpStream::connect(self.inside)?);
        let request = request.replacen("\r\n", "\r\nConnection: close\r\n", 1);
        inside.write_all(request.as_bytes())?;
        inside.flush()?;
        let mut answer = Vec::new();
        match inside.read_to_end(&mut answer) {
            Err(error) if error.kind() != ErrorKind::UnexpectedEof => return Err(error),
            _ => {}
        }
        let head = String::from_utf8_lossy(&answer);
        let status = head.split(' ').nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
        let exchange = Exchange { request: line, status };
        self.state.lock().expect("state").exchanges.push(exchange);
        Ok(answer)
    }
}

/// Head and body of one request.
fn read_request(stream: &mut impl Read) -> std::io::Result<String> {
    let mut data = Vec::new();
    let mut piece = [0; 16 * 1024];
    loop {
        let text = String::from_utf8_lossy(&data);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
            });
            if body.len() >= length.unwrap_or(0) {
                return Ok(text.into_owned());
            }
        }
        match stream.read(&mut piece)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            n => data.extend_from_slice(&piece[..n]),
        }
    }
}

/// A port that is free now; pebble cannot choose one itself.
fn free_port() -> SocketAddr {
    free_port_on(Ipv4Addr::LOCALHOST.into())
}

fn free_port_on(ip: IpAddr) -> SocketAddr {
    TcpListener::bind((ip, 0)).and_then(|listener| listener.local_addr()).expect("a free port")
}
