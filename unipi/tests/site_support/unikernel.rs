//! The site server as a unikernel: the same options, told to a guest that has no files, one address, and fixed ports.

use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use acceptance::programs::program;
use acceptance::unikernel::Networks;

use super::{Process, Unipi};

/// The size of a block device, unless an option says otherwise.
const STORAGE: u64 = 1 << 30;

/// What the guest is told, and what is on this side.
#[derive(Default)]
struct Translated {
    arguments: Vec<String>,
    /// One a line: secrets, for `hvt --args-file`.
    secrets: Vec<String>,
    storage: Option<String>,
    storage_size: Option<u64>,
    https: bool,
    control: bool,
}

impl Unipi {
    pub(super) fn spawn_unikernel(&mut self, remote: &str, options: &[&str]) {
        let networks = *self.networks.get_or_insert_with(Networks::make_service);
        let ip = networks.service();
        self.http = SocketAddr::new(ip, 80);
        self.metrics = SocketAddr::new(ip, 9100);
        let told = self.translate(&SocketAddr::new(ip, 1235).to_string(), options);
        self.https = told.https.then(|| SocketAddr::new(ip, 443));
        self.control = told.control.then(|| SocketAddr::new(ip, 1235));

        let storage = self.path(told.storage.as_deref().unwrap_or("unused.img"));
        if !storage.exists() {
            let size = told.storage_size.unwrap_or(STORAGE);
            File::create(&storage).expect("storage").set_len(size).expect("room");
        }
        let secrets = self.path("arguments");
        std::fs::write(&secrets, told.secrets.join("\n")).expect("arguments");
        let secrets = format!("--args-file={}", secrets.display());
        let mut command = networks.tender(&storage, &[secrets]);
        command
            .args(networks.only_options())
            .args(["--metrics", &self.metrics.to_string()])
            .args(Some("--remote").filter(|_| !remote.is_empty()))
            .args(Some(remote).filter(|remote| !remote.is_empty()))
            .args(&told.arguments)
            .current_dir(self.folder.path());
        self.process = Some(Process::start(&mut command, &self.path("log")));
        let end = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect_timeout(&self.http, Duration::from_secs(1)).is_err() {
            let ended = self.process.as_mut().expect("started").0.try_wait().expect("status");
            assert!(
                ended.is_none() && Instant::now() < end,
                "no start ({ended:?}):\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Files become what is in them, addresses become the guest's.
    fn translate(&self, control: &str, options: &[&str]) -> Translated {
        let read = |path: &str| std::fs::read_to_string(self.path(path)).expect("an option's file");
        let mut told = Translated::default();
        let mut rest = options.iter().copied();
        while let Some(option) = rest.next() {
            let mut value = || rest.next().expect("a value");
            match option {
                "--listen-https" => {
                    value();
                    told.https = true;
                }
                "--control" => {
                    value();
                    told.control = true;
                    told.arguments.extend(["--control".to_owned(), control.to_owned()]);
                }
                "--key-file" => {
                    let path = value();
                    make_key(&self.path(path));
                    told.secrets.extend(["--control-key".to_owned(), read(path).trim().to_owned()]);
                }
                "--allowed-signers" => {
                    let text = read(value());
                    let lines = text.lines().map(|line| format!("--allowed-signer={line}"));
                    told.secrets.extend(lines);
                }
                "--storage" => {
                    told.storage = Some(value().to_owned());
                    told.arguments.extend(["--storage", "/dev/storage"].map(str::to_owned));
                }
                "--storage-size" => {
                    let megabytes = value().strip_suffix("MiB").and_then(|n| n.parse().ok());
                    told.storage_size = megabytes.map(|megabytes: u64| megabytes << 20);
                }
                _ => match option.strip_suffix("-file") {
                    Some(by_value) => {
                        let text = read(value()).trim_end().to_owned();
                        told.secrets.extend([by_value.to_owned(), text]);
                    }
                    None => told.arguments.push(option.to_owned()),
                },
            }
        }
        told
    }
}

/// The administrator's key, which a process would make.
fn make_key(path: &Path) {
    if path.exists() {
        return;
    }
    let mut command = Command::new(program("tlstunnel-ctl"));
    let output = command.args(["key", "generate", "--out"]).arg(path).output().expect("a new key");
    assert!(output.status.success(), "{output:?}");
}
