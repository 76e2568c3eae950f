//! The site server as a unikernel: the same options, told to a guest that has no files, one address, and fixed ports.

use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use acceptance::guest_options::{GuestOptions, administrator_key};
use acceptance::peer::run;
use acceptance::unikernel::Networks;

use super::{Process, Unipi};

/// How long one attempt may take to reach a unikernel that is just starting.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

impl Unipi {
    pub(super) fn spawn_unikernel(&mut self, remote: &str, options: &[&str]) {
        let networks = *self.networks.get_or_insert_with(Networks::make_service);
        let ip = networks.service();
        self.http = SocketAddr::new(ip, 80);
        self.metrics = SocketAddr::new(ip, 9100);
        (self.https, self.control) = (None, None);

        let mut told = GuestOptions::new(self.folder.path());
        let mut storage = self.path("unused.img");
        let mut rest = options.iter().copied();
        // Addresses are different in a guest, and so are files that the program writes.
        while let Some(option) = rest.next() {
            let mut value = || rest.next().expect("a value");
            match option {
                "--listen-https" => {
                    value();
                    self.https = Some(SocketAddr::new(ip, 443));
                }
                "--control" => {
                    value();
                    let control = SocketAddr::new(ip, 1235);
                    told.add_plain(option, &control.to_string());
                    self.control = Some(control);
                }
                "--key-file" => {
                    told.add_secret("--control-key", &administrator_key(&self.path(value())));
                }
                "--storage" => {
                    storage = self.path(value());
                    told.add_plain(option, "/dev/storage");
                }
                "--self-signed-ca" => drop(value()),
                _ => told.add(option, &mut rest),
            }
        }
        told.make_storage(&storage);
        let mut command = networks.tender(&storage, &[told.secrets()]);
        command
            .args(networks.address_options())
            .args(["--metrics", &self.metrics.to_string()])
            .args(Some("--remote").filter(|_| !remote.is_empty()))
            .args(Some(remote).filter(|remote| !remote.is_empty()))
            .args(told.arguments())
            .current_dir(self.folder.path());
        let (log, metrics) = (self.path("log"), self.metrics);
        let mut process = Process::start(&mut command, &log);
        process.wait_until_up(&log, || TcpStream::connect_timeout(&metrics, CONNECT_LIMIT).ok());
        self.process = Some(process);
    }
}

/// The certificate of the development authority, which nobody writes into a file: the last of what is shown for `name`.
pub(super) fn shown_authority(https: SocketAddr, name: &str) -> String {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-showcerts", "-connect", &https.to_string(), "-servername", name]);
    let output = run(&mut command, b"", Duration::from_secs(20));
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    let begin = shown.rfind("-----BEGIN CERTIFICATE-----");
    let last = begin.and_then(|at| shown[at..].split_once("-----END CERTIFICATE-----"));
    let (certificate, _) = last.unwrap_or_else(|| panic!("{name}: {output:?}"));
    format!("{certificate}-----END CERTIFICATE-----\n")
}
