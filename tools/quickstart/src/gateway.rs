//! Runs the real gateway as a child process and registers names with the real control tool.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::process::{Child, Command};

use crate::options::Options;
use crate::programs::Programs;

/// How long the gateway may take to open its device and its ports.
const START_LIMIT: Duration = Duration::from_secs(30);
const START_POLL: Duration = Duration::from_millis(20);

/// The gateway's process; it ends with this value.
#[derive(Debug)]
pub(crate) struct Gateway<'a> {
    child: Child,
    options: &'a Options,
}

impl<'a> Gateway<'a> {
    /// Starts the gateway and waits until it listens.
    pub(crate) async fn start(programs: &Programs, options: &'a Options) -> anyhow::Result<Self> {
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
        for (option, port) in [
            ("--listen-http", options.http_port),
            ("--listen-https", options.https_port),
            ("--control", options.control_port),
            ("--metrics", options.metrics_port),
        ] {
            command.args([option, &format!("127.0.0.1:{port}")]);
        }
        let child = command
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", programs.tlstunnel.display()))?;
        let mut gateway = Self { child, options };
        tokio::time::timeout(START_LIMIT, gateway.listening())
            .await
            .with_context(|| format!("the gateway did not listen within {START_LIMIT:?}"))??;
        Ok(gateway)
    }

    async fn listening(&mut self) -> anyhow::Result<()> {
        while !self.options.ready_file().exists() {
            if let Some(status) = self.child.try_wait()? {
                bail!(
                    "the gateway ended with {status}; its message is above. If a port is in use, choose others: \
                     --http-port, --https-port, --control-port, --metrics-port"
                );
            }
            tokio::time::sleep(START_POLL).await;
        }
        Ok(())
    }

    /// Registers `name` as a user does.
    pub(crate) async fn add(
        &self,
        programs: &Programs,
        name: &str,
        backend: SocketAddr,
    ) -> anyhow::Result<()> {
        let mut command = Command::from(programs.ctl(self.options));
        command.args(["add", "--replace", name, &backend.to_string()]);
        let status = command.status().await.context("cannot start tlstunnel-ctl")?;
        ensure!(status.success(), "tlstunnel-ctl could not add {name} ({status})");
        Ok(())
    }

    /// The gateway's process id; 0 once it has ended.
    pub(crate) fn process_id(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// Waits for Ctrl-C or SIGTERM, then stops the gateway gently; an end of the gateway by itself is an error.
    pub(crate) async fn run_until_stopped(&mut self) -> anyhow::Result<()> {
        let mut terminate =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            status = self.child.wait() => bail!("the gateway ended with {}", status?),
            result = tokio::signal::ctrl_c() => result?,
            _ = terminate.recv() => {}
        }
        // Ctrl-C in a terminal reaches the child as well; a SIGTERM for this process alone does not.
        if let Some(id) = self.child.id() {
            Command::new("kill").arg(id.to_string()).status().await?;
            self.child.wait().await?;
        }
        println!("Stopped.");
        Ok(())
    }
}
