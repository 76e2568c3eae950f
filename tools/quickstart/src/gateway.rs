//! Runs the real gateway, as a child process or in a virtual machine, and registers names with the real control tool.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::process::{Child, Command};

use crate::files;
use crate::options::Options;
use crate::programs::Programs;
use crate::stop::Stop;
use crate::unikernel::{self, Machine};

/// How long the gateway may take to open its device and its ports.
const START_LIMIT: Duration = Duration::from_secs(30);
const START_POLL: Duration = Duration::from_millis(20);

/// The running gateway; it ends with this value.
#[derive(Debug)]
pub(crate) struct Gateway<'a> {
    running: Running,
    options: &'a Options,
}

/// What runs it.
#[derive(Debug)]
enum Running {
    Process(Child),
    Unikernel(Machine),
}

impl<'a> Gateway<'a> {
    /// Starts the gateway and waits until it listens.
    pub(crate) async fn start(programs: &Programs, options: &'a Options) -> anyhow::Result<Self> {
        let running = match &programs.unikernel {
            None => Running::Process(process(programs, options)?),
            Some(unikernel) => {
                Running::Unikernel(Machine::start(programs, unikernel, options).await?)
            }
        };
        let mut gateway = Self { running, options };
        tokio::time::timeout(START_LIMIT, gateway.listening())
            .await
            .with_context(|| format!("the gateway did not listen within {START_LIMIT:?}"))??;
        if programs.unikernel.is_some() {
            gateway.fetch_authority(programs).await?;
        }
        Ok(gateway)
    }

    async fn listening(&mut self) -> anyhow::Result<()> {
        loop {
            if let Some(status) = self.child().try_wait()? {
                bail!(
                    "the gateway ended with {status}; its message is above. If a port is in use, choose others: \
                     --http-port, --https-port, --control-port, --metrics-port"
                );
            }
            let is_ready = match &mut self.running {
                Running::Process(_) => self.options.ready_file().exists(),
                Running::Unikernel(machine) => machine.is_ready(self.options).await?,
            };
            if is_ready {
                return Ok(());
            }
            tokio::time::sleep(START_POLL).await;
        }
    }

    /// Brings the development authority's certificate out of a gateway that has no files.
    async fn fetch_authority(&self, programs: &Programs) -> anyhow::Result<()> {
        let mut command = Command::from(programs.ctl(self.options));
        command.args(["cert", "show", "--last", &self.options.domain]).stderr(Stdio::inherit());
        let output = command.output().await.context("cannot start tlstunnel-ctl")?;
        ensure!(output.status.success(), "tlstunnel-ctl could not show the certificate");
        let text = String::from_utf8(output.stdout).context("a certificate that is no text")?;
        files::write(&self.options.ca_file(), &text, 0o644)
    }

    /// Registers `name` as a user does; `backend` is the address on this machine.
    pub(crate) async fn add(
        &self,
        programs: &Programs,
        name: &str,
        backend: SocketAddr,
    ) -> anyhow::Result<()> {
        let mut command = Command::from(programs.ctl(self.options));
        command.args(["add", "--replace", name, &self.reaches(backend).to_string()]);
        let status = command.status().await.context("cannot start tlstunnel-ctl")?;
        ensure!(status.success(), "tlstunnel-ctl could not add {name} ({status})");
        Ok(())
    }

    /// An address on this machine's loopback as the gateway reaches it.
    pub(crate) fn reaches(&self, address: SocketAddr) -> SocketAddr {
        match self.running {
            Running::Process(_) => address,
            Running::Unikernel(_) => (unikernel::HOST, address.port()).into(),
        }
    }

    /// Names that were added with a backend on this machine while the gateway ran the other way; their backends have
    /// another address now.
    pub(crate) async fn strangers(&self, programs: &Programs) -> anyhow::Result<Vec<String>> {
        let elsewhere = match self.running {
            Running::Process(_) => unikernel::HOST,
            Running::Unikernel(_) => Ipv4Addr::LOCALHOST,
        };
        let mut command = Command::from(programs.ctl(self.options));
        let output = command.arg("list").output().await.context("cannot start tlstunnel-ctl")?;
        ensure!(output.status.success(), "tlstunnel-ctl could not list the names");
        let list = String::from_utf8_lossy(&output.stdout).into_owned();
        let backend = format!(" {elsewhere}:");
        let lines = list.lines().filter(|line| line.contains(&backend));
        Ok(lines.filter_map(|line| Some(line.split_whitespace().next()?.to_owned())).collect())
    }

    /// What the gateway is, for people: a process, or a virtual machine's process. Its id is 0 once it has ended.
    pub(crate) fn process_id(&self) -> u32 {
        match &self.running {
            Running::Process(child) => child.id(),
            Running::Unikernel(machine) => machine.tender.id(),
        }
        .unwrap_or_default()
    }

    fn child(&mut self) -> &mut Child {
        match &mut self.running {
            Running::Process(child) => child,
            Running::Unikernel(machine) => &mut machine.tender,
        }
    }

    /// Waits until it is asked to, then stops the gateway gently; an end of the gateway by itself is an error.
    pub(crate) async fn run_until_stopped(&mut self, stop: &mut Stop) -> anyhow::Result<()> {
        let child = self.child();
        tokio::select! {
            status = child.wait() => bail!("the gateway ended with {}", status?),
            () = stop.asked() => {}
        }
        if let Some(id) = child.id() {
            Command::new("kill").arg(id.to_string()).status().await?;
            child.wait().await?;
        }
        println!("Stopped.");
        Ok(())
    }
}

/// The gateway as a process of this machine.
fn process(programs: &Programs, options: &Options) -> anyhow::Result<Child> {
    let ready_file = options.ready_file();
    // A file of an earlier run would say that the gateway is ready before it is.
    match std::fs::remove_file(&ready_file) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(e).with_context(|| format!("cannot remove {}", ready_file.display()));
        }
        _ => {}
    }
    let mut command = Command::new(&programs.tlstunnel);
    command
        .arg("--storage")
        .arg(options.storage_file())
        .arg("--key-file")
        .arg(options.key_file())
        .arg("--ready-file")
        .arg(&ready_file)
        .args(["--domains", &options.domain, "--self-signed"]);
    let ports = options.gateway_ports();
    let listeners = ["--listen-http", "--listen-https", "--control", "--metrics"];
    for (option, port) in listeners.into_iter().zip(ports) {
        command.args([option, &format!("127.0.0.1:{port}")]);
    }
    command
        .stdin(Stdio::null())
        .kill_on_drop(true)
        // Ctrl-C would reach it beside the demonstration's SIGTERM, and the second signal ends it at once.
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {}", programs.tlstunnel.display()))
}
