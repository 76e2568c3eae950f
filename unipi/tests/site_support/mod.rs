//! Harness for the running program: a repository of the test's own, served by the real `git daemon`, and the real
//! `unipi` in front of it, as a process or, as `ACCEPTANCE_WAY` says, as a unikernel ([`unikernel`]).
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use acceptance::unikernel::{Networks, Way, backend_address, way};
use tempfile::TempDir;

mod unikernel;

/// Whether every one of `programs` is installed; a missing one fails where `REQUIRE_PEERS=1`.
pub fn available(programs: &[&str]) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> =
        std::env::split_paths(&paths).chain(["/usr/sbin".into(), "/sbin".into()]).collect();
    let missing: Vec<_> = programs
        .iter()
        .filter(|program| !folders.iter().any(|folder| folder.join(program).exists()))
        .collect();
    if missing.is_empty() {
        return true;
    }
    assert!(std::env::var_os("REQUIRE_PEERS").is_none_or(|v| v != "1"), "missing: {missing:?}");
    println!("SKIPPED: missing peers {missing:?}");
    false
}

/// A process that is killed when the value is dropped.
pub struct Process(pub Child);

impl Process {
    pub fn start(command: &mut Command, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).expect("log");
        command.stdin(Stdio::null()).stdout(file.try_clone().expect("log")).stderr(file);
        Self(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    /// Sends SIGTERM and waits; the exit code.
    pub fn terminate(mut self) -> Option<i32> {
        let id = self.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().expect("kill").success());
        self.0.wait().expect("status").code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until `condition` holds: 30 seconds against hanging, no claim about speed.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < end, "did not come true within 30 s: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A bare repository behind `git daemon`, and a clone to push from.
pub struct Forge {
    folder: TempDir,
    port: u16,
    daemon: Option<Process>,
}

impl Forge {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let listener = TcpListener::bind((backend_address(), 0)).expect("port");
        let port = listener.local_addr().expect("port").port();
        drop(listener);
        let mut forge = Self { folder, port, daemon: None };
        std::fs::create_dir(forge.work()).expect("folder");
        forge.git_in(forge.folder.path(), &["init", "-q", "--bare", "-b", "main", "site.git"]);
        forge.git(&["init", "-q", "-b", "main"]);
        forge.git(&["remote", "add", "origin", "../site.git"]);
        forge.up();
        forge
    }

    pub fn up(&mut self) {
        let mut command = Command::new("git");
        command
            .args(["daemon", "--reuseaddr", "--export-all", "--log-destination=stderr"])
            .arg(format!("--listen={}", backend_address()))
            .arg(format!("--port={}", self.port))
            .arg(format!("--base-path={}", self.folder.path().display()))
            .arg(self.folder.path());
        self.daemon = Some(Process::start(&mut command, &self.folder.path().join("daemon.log")));
        eventually("git daemon listens", || {
            std::net::TcpStream::connect((backend_address(), self.port)).is_ok()
        });
    }

    /// The daemon is one of two processes: `git` and `git-daemon`, which ends with SIGTERM to the first.
    pub fn down(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            daemon.terminate();
        }
        eventually("git daemon is gone", || {
            std::net::TcpStream::connect((backend_address(), self.port)).is_err()
        });
    }

    pub fn remote(&self) -> String {
        format!("git://{}:{}/site.git#main", backend_address(), self.port)
    }

    pub fn work(&self) -> PathBuf {
        self.folder.path().join("work")
    }

    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.work().join(path);
        std::fs::create_dir_all(path.parent().expect("parent")).expect("folder");
        std::fs::write(path, content).expect("file");
    }

    /// Commits everything and pushes it.
    pub fn push(&self, message: &str) {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "-m", message]);
        self.git(&["push", "-q", "origin", "HEAD:main"]);
    }

    pub fn git(&self, arguments: &[&str]) -> String {
        self.git_in(&self.work(), arguments)
    }

    fn git_in(&self, folder: &Path, arguments: &[&str]) -> String {
        let output = Command::new("git")
            .args(["-c", "user.name=Author", "-c", "user.email=author@example.org"])
            .args(["-c", "commit.gpgsign=false"])
            .args(arguments)
            .current_dir(folder)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_SYSTEM", "/dev/null")
            .output()
            .expect("git");
        assert!(output.status.success(), "git {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
    }
}

impl Drop for Forge {
    fn drop(&mut self) {
        self.down();
    }
}

/// A running `unipi`.
pub struct Unipi {
    folder: TempDir,
    process: Option<Process>,
    networks: Option<Networks>,
    pub http: SocketAddr,
    pub https: Option<SocketAddr>,
    pub metrics: SocketAddr,
    pub control: Option<SocketAddr>,
}

impl Unipi {
    pub fn start(remote: &str, options: &[&str]) -> Self {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let folder = tempfile::tempdir().expect("folder");
        let mut unipi = Self {
            folder,
            process: None,
            networks: None,
            http: nowhere,
            https: None,
            metrics: nowhere,
            control: None,
        };
        unipi.spawn(remote, options);
        unipi
    }

    /// Starts the program again in the same folder.
    pub fn spawn(&mut self, remote: &str, options: &[&str]) {
        if way() != Way::Host {
            return self.spawn_unikernel(remote, options);
        }
        let ready = self.path("ready.json");
        let _ = std::fs::remove_file(&ready);
        let mut command = Command::new(env!("CARGO_BIN_EXE_unipi"));
        command
            .args(["--listen-http", "127.0.0.1:0", "--metrics", "127.0.0.1:0"])
            .args(Some("--remote").filter(|_| !remote.is_empty()))
            .args(Some(remote).filter(|remote| !remote.is_empty()))
            .arg("--ready-file")
            .arg(&ready)
            .args(options)
            .current_dir(self.folder.path());
        self.process = Some(Process::start(&mut command, &self.path("log")));
        let end = Instant::now() + Duration::from_secs(30);
        let bound = loop {
            let text = std::fs::read_to_string(&ready).unwrap_or_default();
            if let Ok(bound) = serde_json::from_str::<serde_json::Value>(&text) {
                break bound;
            }
            let ended = self.process.as_mut().expect("started").0.try_wait().expect("status");
            assert!(
                ended.is_none() && Instant::now() < end,
                "no start ({ended:?}):\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(5));
        };
        let address = |kind: &str| bound[kind][0].as_str().and_then(|a| a.parse().ok());
        self.http = address("http").expect("address");
        self.https = address("https");
        self.metrics = address("metrics").expect("address");
        self.control = address("control");
    }

    /// Runs the real `tlstunnel-ctl` on it; what it printed, and whether it succeeded.
    pub fn ctl(&self, arguments: &[&str]) -> (bool, String) {
        self.ctl_as("control.key", arguments)
    }

    /// The same with another key.
    pub fn ctl_as(&self, key_file: &str, arguments: &[&str]) -> (bool, String) {
        let output = Command::new(acceptance::programs::program("tlstunnel-ctl"))
            .args(["--remote", &self.control.expect("a control port").to_string()])
            .args(["--key-file", key_file])
            .args(arguments)
            .current_dir(self.folder.path())
            .output()
            .expect("tlstunnel-ctl");
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(text).expect("UTF-8"))
    }

    /// The same, which must succeed; as JSON.
    pub fn ctl_json(&self, arguments: &[&str]) -> serde_json::Value {
        let (done, text) = self.ctl(&[arguments, &["--json"]].concat());
        assert!(done, "{arguments:?}: {text}\n{}", self.log());
        serde_json::from_str(&text).expect("JSON")
    }

    /// Ends it as a power cut does.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("running");
        process.0.kill().expect("kill");
        process.0.wait().expect("status");
    }

    pub fn stop(&mut self) -> Option<i32> {
        self.process.take().expect("running").terminate()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Asks for `path` of `name` over TLS, with what is trusted in the file `ca`.
    pub fn get_secure(&self, ca: &Path, name: &str, path: &str, arguments: &[&str]) -> Answer {
        let https = self.https.expect("TLS");
        let url = format!("https://{name}:{}{path}", https.port());
        let resolve = format!("{name}:{}:{}", https.port(), https.ip());
        let ca = ca.to_str().expect("UTF-8");
        let all: Vec<&str> =
            ["--cacert", ca, "--resolve", &resolve].iter().chain(arguments).copied().collect();
        get(&url, &all)
    }

    /// The sample of a metric whose line begins with this.
    pub fn metric(&self, prefix: &str) -> u64 {
        let text = get(&format!("http://{}/metrics", self.metrics), &[]).body;
        let text = String::from_utf8(text).expect("UTF-8");
        let line = text.lines().find(|line| line.starts_with(prefix));
        let value = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
        value.unwrap_or_else(|| panic!("no {prefix} in:\n{text}"))
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http)
    }

    /// Waits until `path` shows `text`.
    pub fn shows(&self, path: &str, text: &str) {
        self.host_shows("localhost", path, text);
    }

    /// Waits until `path` of `host` shows `text`.
    pub fn host_shows(&self, host: &str, path: &str, text: &str) {
        let end = Instant::now() + Duration::from_secs(30);
        let header = format!("Host: {host}");
        loop {
            let body = get(&self.url(path), &["-H", &header]).body;
            if body == text.as_bytes() {
                return;
            }
            assert!(
                Instant::now() < end,
                "{host}{path} shows {:?}, not {text:?}; log:\n{}",
                String::from_utf8_lossy(&body),
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// What curl got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub version: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Runs curl on `url`, with these further arguments.
pub fn get(url: &str, arguments: &[&str]) -> Answer {
    let output = curl(url, arguments);
    let text = &output.stdout;
    // Interim answers would come first; there are none here.
    let end = text.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or_else(|| {
        panic!("curl {url} {arguments:?}: {output:?}");
    });
    let head = String::from_utf8(text[..end].to_vec()).expect("head");
    let mut lines = head.split("\r\n");
    let mut first = lines.next().expect("status line").split(' ');
    let version = first.next().expect("version").to_owned();
    let status = first.next().and_then(|s| s.parse().ok()).expect("status");
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Answer { status, version, headers, body: text[end + 4..].to_vec() }
}

pub fn curl(url: &str, arguments: &[&str]) -> Output {
    Command::new("curl")
        .args(["-sS", "-i", "--path-as-is", "--max-time", "20", "--noproxy", "*"])
        .args(arguments)
        .arg(url)
        .output()
        .expect("curl")
}
