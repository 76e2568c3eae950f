//! Harness for the running program: a repository of the test's own, served by the real `git daemon`, and the real
//! `unipi` in front of it, as a process or, as `ACCEPTANCE_WAY` says, as a unikernel ([`unikernel`]).
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use acceptance::peer::read_ready_file;
pub use acceptance::peer::{Process, available, eventually};
use acceptance::unikernel::{Networks, Way, backend_address, way};
use tempfile::TempDir;

mod unikernel;

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
            daemon.stop("TERM");
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
        Self::start_on(None, remote, options)
    }

    /// The same on networks that were made before, where it is a unikernel.
    pub fn start_on(networks: Option<Networks>, remote: &str, options: &[&str]) -> Self {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let folder = tempfile::tempdir().expect("folder");
        let mut unipi = Self {
            folder,
            process: None,
            networks,
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
        let log = self.path("log");
        let mut process = Process::start(&mut command, &log);
        let bound = process.wait_until_up(&log, || read_ready_file(&ready));
        self.process = Some(process);
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
        self.process.take().expect("running").stop("TERM")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// What the certificate for `name` under `--self-signed-ca ca.pem` is verified with.
    pub fn development_ca(&self, name: &str) -> PathBuf {
        let file = self.path("ca.pem");
        if !file.exists() {
            let https = self.https.expect("TLS");
            std::fs::write(&file, unikernel::shown_authority(https, name)).expect("written");
        }
        file
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
