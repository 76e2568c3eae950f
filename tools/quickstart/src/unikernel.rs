//! The gateway as a unikernel, without root: what the machine must have for it, its networks, and the command that
//! starts it.
//!
//! Each of the image's two network devices ends in a process of passt, which turns frames into ordinary connections of
//! this user's. It lets clients in from ports of 127.0.0.1, and what the guest sends to its private network's router
//! arrives at 127.0.0.1 of this machine, where the demonstration's sites are.

use std::fs::File;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command as StdCommand, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustix::io::{FdFlags, fcntl_setfd};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::files;
use crate::options::{Backend, Options};
use crate::programs::{Programs, UnikernelPrograms};

/// This machine's loopback, as the guest reaches it: the router of its private network.
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(10, 78, 1, 1);

/// What the gateway needs at most here is a tenth of it.
const MEMORY_MIB: u32 = 256;
/// The block device's size, where there is none from an earlier start; the file is sparse.
const STORAGE: u64 = 64 << 20;
/// passt's default: it ends connections itself, so packets to it need not fit a wire.
const MTU: u32 = 65_520;
/// The longest wait for one answer about the gateway's health.
const HEALTH_LIMIT: Duration = Duration::from_secs(2);
/// Most octets of such an answer that are looked at.
const HEALTH_ANSWER: u64 = 4096;

/// One of the image's network devices.
struct Network {
    device: &'static str,
    guest: Ipv4Addr,
    /// passt, in its part as the router.
    router: Ipv4Addr,
}

const SERVICE: Network = Network {
    device: "service",
    guest: Ipv4Addr::new(10, 78, 0, 2),
    router: Ipv4Addr::new(10, 78, 0, 1),
};
const PRIVATE: Network =
    Network { device: "private", guest: Ipv4Addr::new(10, 78, 1, 2), router: HOST };

/// Looks for what a unikernel needs on this machine.
///
/// # Errors
/// When something is missing; the message says what, and what can be done about it.
pub(crate) fn check_machine(backend: Backend) -> anyhow::Result<()> {
    ensure!(
        cfg!(all(target_os = "linux", target_arch = "x86_64")),
        "unikernels are made for Linux on x86-64; without --unikernel the gateway runs as a process"
    );
    let opened = File::options().read(true).write(true).open("/dev/kvm");
    if let (Backend::Kvm, Err(error)) = (backend, opened) {
        let why = match error.kind() {
            ErrorKind::NotFound => {
                "this machine has no KVM (in a virtual machine, nested virtualization must be allowed)"
            }
            ErrorKind::PermissionDenied => {
                "this user may not use it (`sudo usermod -aG kvm $USER` and a new login change that)"
            }
            _ => "it does not work",
        };
        bail!(
            "/dev/kvm cannot be opened: {why}: {error}.\nWithout it, the same image runs as a confined process:\n  \
             cargo run --release -- --unikernel --backend=process"
        );
    }
    let passt = StdCommand::new("passt").arg("--version").stdout(Stdio::null()).status();
    match passt {
        Err(error) if error.kind() == ErrorKind::NotFound => bail!(
            "passt is missing, which gives the unikernel a network without root: sudo apt install passt"
        ),
        passt => passt.context("passt cannot be started").map(drop),
    }
}

/// The tender with the image in it, and the networks that it needs; the latter end when the former does.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) tender: Child,
    networks: Vec<(Child, PathBuf)>,
}

impl Machine {
    /// Starts networks and tender; the gateway listens a moment later.
    pub(crate) async fn start(
        programs: &Programs,
        unikernel: &UnikernelPrograms,
        options: &Options,
    ) -> anyhow::Result<Self> {
        for port in options.gateway_ports() {
            // passt says this too, but among other things.
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).with_context(|| {
                format!(
                    "port {port} is not free; choose others with --http-port, --https-port, --control-port, --metrics-port"
                )
            })?;
        }
        make_key(programs, options).await?;
        if !options.storage_file().exists() {
            File::create(options.storage_file())
                .and_then(|file| file.set_len(STORAGE))
                .with_context(|| format!("cannot make {}", options.storage_file().display()))?;
        }
        let mut command = Command::new(&unikernel.hvt);
        command.arg(format!("--mem={MEMORY_MIB}"));
        if options.backend == Backend::Process {
            command.arg("--backend=process");
        }
        let [http, https, control, metrics] = options.gateway_ports();
        let mut networks = Vec::new();
        let mut ends = Vec::new();
        for (network, ports) in [(&SERVICE, [http, https]), (&PRIVATE, [control, metrics])] {
            let (child, log, end) = network.start(ports, options)?;
            networks.push((child, log));
            command
                .arg(format!("--net:{}=@{}", network.device, end.as_raw_fd()))
                .arg(format!("--net-mtu:{}={MTU}", network.device));
            ends.push(end);
        }
        // Not before every passt is started: one that held the end of another would keep it alive.
        for end in &ends {
            fcntl_setfd(end, FdFlags::empty()).context("a descriptor for hvt")?;
        }
        command
            .arg(format!("--block:storage={}", options.storage_file().display()))
            .arg(format!("--args-file={}", options.secret_arguments().display()))
            .arg("--")
            .arg(&unikernel.image)
            .arg(format!("--ipv4={}/24", SERVICE.guest))
            .arg(format!("--private-ipv4={}/24", PRIVATE.guest))
            .arg(format!("--private-ipv4-gateway={}", PRIVATE.router))
            .args(["--storage", "/dev/storage", "--domains", &options.domain, "--self-signed"]);
        for (option, network, port) in [
            ("--listen-http", &SERVICE, http),
            ("--listen-https", &SERVICE, https),
            ("--control", &PRIVATE, control),
            ("--metrics", &PRIVATE, metrics),
        ] {
            command.args([option, &format!("{}:{port}", network.guest)]);
        }
        let tender = command
            .stdin(Stdio::null())
            .kill_on_drop(true)
            // As for a gateway that is a process.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", unikernel.hvt.display()))?;
        Ok(Self { tender, networks })
    }

    /// Whether the gateway in it listens by now.
    ///
    /// # Errors
    /// When a network has ended.
    pub(crate) async fn is_ready(&mut self, options: &Options) -> anyhow::Result<bool> {
        for (passt, log) in &mut self.networks {
            if let Some(status) = passt.try_wait()? {
                let said = std::fs::read_to_string(log).unwrap_or_default();
                bail!(
                    "passt ended with {status}, saying:\n{}\nIt needs a network interface with a default route.",
                    said.trim()
                );
            }
        }
        let metrics = SocketAddr::from((Ipv4Addr::LOCALHOST, options.metrics_port));
        // passt accepts before the guest does, so that a connection alone says nothing.
        let answer = tokio::time::timeout(HEALTH_LIMIT, health(metrics)).await;
        Ok(answer.is_ok_and(|answer| answer.is_ok_and(|text| text.starts_with("HTTP/1.1 200"))))
    }
}

impl Network {
    /// Starts passt with these ports open on 127.0.0.1; gives its log and the other end of its frames, for the tender.
    fn start(
        &self,
        ports: [u16; 2],
        options: &Options,
    ) -> anyhow::Result<(Child, PathBuf, OwnedFd)> {
        let (ours, its) = UnixStream::pair().context("no pair of sockets")?;
        let [ours, its] = [OwnedFd::from(ours), OwnedFd::from(its)];
        // Inherited by what is started from now on, until it is dropped below: by passt alone.
        fcntl_setfd(&its, FdFlags::empty()).context("a descriptor for passt")?;
        let path = options.network_log(self.device);
        let log =
            File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let child = Command::new("passt")
            .args(["--foreground", "--quiet", "--ipv4-only"])
            .args(["--address", &self.guest.to_string(), "--netmask", "24"])
            .args(["--gateway", &self.router.to_string()])
            .args(["--tcp-ports", &format!("127.0.0.1/{},{}", ports[0], ports[1])])
            .args(["--fd", &its.as_raw_fd().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            // It outlives a Ctrl-C, so that connections can end in good order.
            .process_group(0)
            .spawn()
            .context("cannot start passt")?;
        Ok((child, path, ours))
    }
}

/// The administrator's key, made at the first start, as an argument that nobody sees in the list of processes.
async fn make_key(programs: &Programs, options: &Options) -> anyhow::Result<()> {
    let path = options.key_file();
    if !path.exists() {
        let mut command = Command::from(programs.ctl(options));
        command.args(["key", "generate", "--out"]).arg(&path).stdout(Stdio::null());
        let status = command.status().await;
        ensure!(status?.success(), "tlstunnel-ctl could not make the key {}", path.display());
    }
    let key = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read the key {}", path.display()))?;
    files::write(&options.secret_arguments(), &format!("--key\n{}\n", key.trim()), 0o600)
}

async fn health(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream
        .write_all(b"GET /health/ready HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n")
        .await?;
    let mut answer = Vec::new();
    stream.take(HEALTH_ANSWER).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
