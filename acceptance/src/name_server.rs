//! DNS servers of a test's own: the real BIND 9 (`named`) and Knot (`knotd`), on a port of the loopback.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::peer::{Process, available, eventually, run};
use crate::unikernel::{Way, way};

/// The secret of every test key, in base64 (32 bytes).
pub const SECRET: &str = "dGVzdCBrZXkgb2YgdGhlIGFjY2VwdGFuY2UgdGVzdHM=";

/// A zone that a server holds.
#[derive(Clone, Debug, Default)]
pub struct Zone {
    /// Its name, without the final dot.
    pub name: String,
    /// Names of its servers (with their addresses as glue where they lie in it).
    pub servers: Vec<(String, IpAddr)>,
    /// More records, in the form of a zone file.
    pub records: String,
    /// Who may change what.
    pub policy: Policy,
    /// Where this server copies the zone from; then `servers` and `records` count for nothing.
    pub primary: Option<SocketAddr>,
    /// Who is told of changes.
    pub notify: Vec<SocketAddr>,
}

/// Who may change a zone: every key of the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Nobody.
    #[default]
    Closed,
    /// TXT records at and below the zone's name.
    Txt,
    /// Everything.
    All,
}

/// Which program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// BIND 9.
    Bind,
    /// Knot DNS.
    Knot,
}

/// What a server is to hold.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Which program.
    pub kind: Kind,
    /// Where it listens. BIND takes only addresses that an interface has, such as [`crate::unikernel::backend_address`]; Knot any.
    pub address: SocketAddr,
    /// Names and algorithms (`hmac-sha256`) of TSIG keys.
    pub keys: Vec<(String, String)>,
    /// The secret of all keys, in base64.
    pub secret: String,
    /// The zones.
    pub zones: Vec<Zone>,
    /// Whether it asks others for what it does not hold (BIND alone).
    pub recursion: bool,
}

/// A running server; dropping it kills it.
#[derive(Debug)]
pub struct NameServer {
    folder: TempDir,
    setup: Setup,
    process: Option<Process>,
}

impl Kind {
    /// Whether the program is there, and `dig`.
    pub fn available(self) -> bool {
        match self {
            Self::Bind => available(&["named", "dig"]),
            Self::Knot => available(&["knotd", "dig"]),
        }
    }
}

impl Setup {
    /// A server without zones at `address`, with the key `acme` for hmac-sha256.
    pub fn new(kind: Kind, address: SocketAddr) -> Self {
        let keys = vec![("acme".to_owned(), "hmac-sha256".to_owned())];
        let secret = SECRET.to_owned();
        Self { kind, address, keys, secret, zones: Vec::new(), recursion: false }
    }

    /// The same with one more zone.
    #[must_use]
    pub fn with(mut self, zone: Zone) -> Self {
        self.zones.push(zone);
        self
    }

    /// Starts it.
    pub fn start(self) -> NameServer {
        NameServer::start(self)
    }
}

impl Zone {
    /// A zone whose only server is `ns1.NAME` at `address`, and which may be changed as `policy` says.
    pub fn new(name: &str, address: IpAddr, policy: Policy) -> Self {
        Self {
            name: name.to_owned(),
            servers: vec![(format!("ns1.{name}"), address)],
            policy,
            ..Self::default()
        }
    }

    fn file(&self) -> String {
        let mut text = format!(
            "$ORIGIN {0}.\n$TTL 60\n@ SOA {1}. admin.{0}. 1 3600 600 86400 5\n",
            self.name,
            self.servers.first().map_or("ns1.invalid", |(name, _)| name)
        );
        for (name, address) in &self.servers {
            let _ = writeln!(text, "@ NS {name}.");
            if name.ends_with(&format!(".{}", self.name)) {
                let kind = if address.is_ipv4() { "A" } else { "AAAA" };
                let _ = writeln!(text, "{name}. {kind} {address}");
            }
        }
        text.push_str(&self.records);
        text.push('\n');
        text
    }
}

impl NameServer {
    /// Starts a server.
    ///
    /// # Panics
    /// If it does not answer; its log is in the message.
    pub fn start(setup: Setup) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let mut server = Self { folder, setup, process: None };
        server.spawn();
        server
    }

    /// Starts the process again, with the zones as they are on its disk.
    ///
    /// # Panics
    /// If it does not answer; its log is in the message.
    pub fn spawn(&mut self) {
        let folder = self.folder.path();
        for zone in self.setup.zones.iter().filter(|zone| zone.primary.is_none()) {
            let file = folder.join(format!("{}.zone", zone.name));
            if !file.exists() {
                std::fs::write(&file, zone.file()).expect("written");
            }
        }
        let config = folder.join("config");
        let text = match self.setup.kind {
            Kind::Bind => self.setup.bind_config(folder.to_str().expect("UTF-8")),
            Kind::Knot => self.setup.knot_config(folder.to_str().expect("UTF-8")),
        };
        std::fs::write(&config, text).expect("written");
        let mut command = match self.setup.kind {
            Kind::Bind => Command::new("/usr/sbin/named"),
            Kind::Knot => Command::new("/usr/sbin/knotd"),
        };
        match self.setup.kind {
            Kind::Bind => command.args(["-g", "-n", "1", "-c"]).arg(&config),
            Kind::Knot => command.arg("-c").arg(&config),
        };
        self.process = Some(Process::start(&mut command, &folder.join("log")));
        let names: Vec<String> = self.setup.zones.iter().map(|zone| zone.name.clone()).collect();
        for name in names {
            self.wait_for(&format!("{name} is served"), &name, "SOA", |answer| !answer.is_empty());
        }
    }

    /// Gives every key another secret (base64), from the next [`NameServer::spawn`] on.
    pub fn set_secret(&mut self, secret: &str) {
        secret.clone_into(&mut self.setup.secret);
    }

    /// Ends the process with SIGKILL.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.setup.address
    }

    /// A key as the gateway's `--dns-key` takes it: the first one.
    pub fn key(&self) -> String {
        let (name, algorithm) = self.setup.keys.first().expect("a key");
        format!(
            "{name}:{}:{}",
            algorithm.trim_start_matches("hmac-").to_uppercase(),
            self.setup.secret
        )
    }

    /// What it answers, one record in a line (`dig +short`).
    pub fn ask(&self, name: &str, kind: &str) -> Vec<String> {
        dig(self.setup.address, &["+short", name, kind]).lines().map(str::to_owned).collect()
    }

    /// Changes records by `lines` as `nsupdate` takes them, signed with the first key.
    ///
    /// # Panics
    /// If the server does not take them.
    pub fn update(&self, lines: &str) {
        let address = self.setup.address;
        let script = format!("server {} {}\n{lines}send\n", address.ip(), address.port());
        let (name, algorithm) = self.setup.keys.first().expect("a key");
        let mut command = Command::new("nsupdate");
        command.args(["-v", "-y", &format!("{algorithm}:{name}:{}", self.setup.secret)]);
        let output = run(&mut command, script.as_bytes(), Duration::from_secs(20));
        assert!(output.status.success(), "nsupdate: {output:?}\n{}", self.log());
    }

    /// Waits until an answer is as wanted.
    ///
    /// # Panics
    /// If it does not become so; the server's log is in the message.
    pub fn wait_for(&self, what: &str, name: &str, kind: &str, good: impl Fn(&[String]) -> bool) {
        let mut last = Vec::new();
        let attempts = 200;
        for _ in 0..attempts {
            last = self.ask(name, kind);
            if good(&last) && !last.iter().any(|line| line.starts_with(';')) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("did not come true: {what}; it answers {last:?}\n{}", self.log());
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Setup {
    fn bind_config(&self, folder: &str) -> String {
        let SocketAddr::V4(address) = self.address else { panic!("IPv4") };
        // A gateway that is a unikernel has to see the address of the network that it shares with us.
        let source = match way() {
            Way::Host => format!("query-source {};", address.ip()),
            _ => String::new(),
        };
        let mut text = format!(
            "options {{ directory \"{folder}\"; pid-file none; session-keyfile none; \
             listen-on port {port} {{ {ip}; }}; listen-on-v6 {{ none; }}; {source} \
             dnssec-validation no; recursion {recursion}; \
             allow-transfer {{ any; }}; notify explicit; minimal-responses no; \
             empty-zones-enable no; serial-query-rate 1000; max-ncache-ttl 1; max-cache-ttl 1; \
             transfer-source {ip}; notify-source {ip}; allow-new-zones no; min-refresh-time 1; min-retry-time 1; }};\n\
             controls {{ }};\n",
            port = address.port(),
            ip = address.ip(),
            recursion = if self.recursion { "yes; allow-recursion { any; }" } else { "no" },
        );
        let secret = &self.secret;
        for (name, algorithm) in &self.keys {
            let _ =
                writeln!(text, "key \"{name}\" {{ algorithm {algorithm}; secret \"{secret}\"; }};");
        }
        for zone in &self.zones {
            let name = &zone.name;
            let _ = write!(text, "zone \"{name}\" {{ file \"{name}.zone\"; ");
            match zone.primary {
                Some(primary) => {
                    let _ = writeln!(
                        text,
                        "type secondary; allow-notify {{ any; }}; primaries {{ {} port {}; }}; }};",
                        primary.ip(),
                        primary.port()
                    );
                    continue;
                }
                None => text.push_str("type primary; "),
            }
            let grants = self.keys.iter().map(|(key, _)| match zone.policy {
                Policy::Txt => format!("grant {key} subdomain {name}. TXT;"),
                _ => format!("grant {key} subdomain {name}. ANY;"),
            });
            if zone.policy != Policy::Closed {
                let _ = write!(text, "update-policy {{ {} }}; ", grants.collect::<String>());
            }
            text.push_str("also-notify {");
            for other in &zone.notify {
                let _ = write!(text, " {} port {};", other.ip(), other.port());
            }
            text.push_str(" }; };\n");
        }
        text
    }

    fn knot_config(&self, folder: &str) -> String {
        let mut text = format!(
            "server:\n  rundir: {folder}\n  listen: {}@{}\n  udp-workers: 1\n  tcp-workers: 1\n\
             \x20 background-workers: 1\nlog:\n  - target: stderr\n    any: info\n\
             database:\n  storage: {folder}\nkey:\n",
            self.address.ip(),
            self.address.port()
        );
        let secret = &self.secret;
        for (name, algorithm) in &self.keys {
            let _ =
                write!(text, "  - id: {name}\n    algorithm: {algorithm}\n    secret: {secret}\n");
        }
        let keys: Vec<&str> = self.keys.iter().map(|(name, _)| name.as_str()).collect();
        let keys = keys.join(", ");
        let _ = write!(
            text,
            "acl:\n  - id: txt\n    key: [{keys}]\n    action: update\n    update-type: [TXT]\n\
             \x20 - id: all\n    key: [{keys}]\n    action: update\n\
             \x20 - id: transfer\n    address: [127.0.0.0/8, 10.72.0.0/24]\n    action: [transfer, notify]\nremote:\n"
        );
        let others = self.zones.iter().flat_map(|zone| zone.primary.iter().chain(&zone.notify));
        for other in others {
            let _ = write!(text, "  - id: r{0}\n    address: {1}@{0}\n", other.port(), other.ip());
        }
        text.push_str("zone:\n");
        for zone in &self.zones {
            let acl = match zone.policy {
                Policy::Closed => "transfer",
                Policy::Txt => "transfer, txt",
                Policy::All => "transfer, all",
            };
            let _ = write!(
                text,
                "  - domain: {0}\n    storage: {folder}\n    file: {0}.zone\n    acl: [{acl}]\n",
                zone.name
            );
            for (role, other) in zone
                .primary
                .iter()
                .map(|other| ("master", other))
                .chain(zone.notify.iter().map(|other| ("notify", other)))
            {
                let _ = writeln!(text, "    {role}: r{}", other.port());
            }
        }
        text
    }
}

/// Runs `dig` against a server and gives its output.
///
/// # Panics
/// If it cannot be run.
pub fn dig(server: SocketAddr, arguments: &[&str]) -> String {
    let mut command = Command::new("dig");
    command
        .args([&format!("@{}", server.ip()), "-p", &server.port().to_string()])
        .args(["+tries=1", "+time=2"])
        .args(arguments);
    let output = run(&mut command, b"", Duration::from_secs(20));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A port that is free for UDP and TCP on `ip` now.
///
/// # Panics
/// If there is none.
pub fn free_port(ip: IpAddr) -> SocketAddr {
    let mut found = None;
    eventually("a port is free", || {
        let listener = TcpListener::bind((ip, 0)).expect("a free port");
        let address = listener.local_addr().expect("bound");
        found = UdpSocket::bind(address).is_ok().then_some(address);
        found.is_some()
    });
    found.expect("found")
}

/// Whether the program under test may open port 53 there; where tests must not be skipped it is said aloud.
///
/// # Panics
/// If it may not, and `REQUIRE_PEERS=1` is set.
pub fn port_53_is_ours(address: IpAddr) -> bool {
    if way() != Way::Host {
        // The guest's own.
        return true;
    }
    let bound = UdpSocket::bind((address, 53));
    if let Err(error) = &bound {
        assert!(
            std::env::var_os("REQUIRE_PEERS").is_none_or(|v| v != "1"),
            "port 53 cannot be opened: {error}; this test needs root"
        );
        println!("SKIPPED: port 53 cannot be opened: {error}; this test needs root");
    }
    bound.is_ok()
}
