//! A running gateway of a test's own: temporary folder, free ports, development certificate.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
};
use tempfile::TempDir;

use crate::guest_options::{GuestOptions, administrator_key};
use crate::peer::{Process, read_ready_file, run};
use crate::programs::program;
use crate::unikernel::{Networks, Way, addresses, way};

/// The domain that every test gateway serves.
pub const DOMAIN: &str = "apps.localhost";

/// How long a control command may take before the harness calls it hung.
const CTL_LIMIT: Duration = Duration::from_secs(30);
/// How long one attempt may take to reach a unikernel that is just starting.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// A gateway process with its folder. Dropping it kills the process with SIGKILL.
#[derive(Debug)]
pub struct Gateway {
    folder: TempDir,
    arguments: Vec<String>,
    process: Option<Process>,
    /// Where the log of this process begins.
    log_begin: usize,
    /// Where the gateway is a unikernel.
    networks: Option<Networks>,
    /// The tender's options for a unikernel whose clients' network gives it its addresses.
    automatic: Option<Vec<String>>,
    /// Where TLS is terminated.
    pub https: SocketAddr,
    /// Where port 80's work is done.
    pub http: SocketAddr,
    /// Where the control tool connects.
    pub control: SocketAddr,
    /// Where metrics are read.
    pub metrics: SocketAddr,
    /// Where a unikernel is reached by IPv6: https, http and control. A process says itself what options asked for.
    pub ipv6: Option<[SocketAddr; 3]>,
    /// Where delegated zones are answered for, if options ask for it.
    pub dns: Option<SocketAddr>,
}

impl Gateway {
    /// Starts a gateway with a self-signed wildcard certificate for [`DOMAIN`] and no routes.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with more options.
    ///
    /// # Panics
    /// If it does not come up; its log is in the message.
    pub fn start_with(options: &[&str]) -> Self {
        Self::start_on(None, options)
    }

    /// The same on networks that were made before, where the gateway is a unikernel.
    ///
    /// # Panics
    /// If it does not come up; its log is in the message.
    pub fn start_on(networks: Option<Networks>, options: &[&str]) -> Self {
        let mut gateway = Self::planned(networks, options);
        gateway.spawn();
        gateway
    }

    /// Starts a unikernel on these networks that is told no address of its clients' network; `tender` are options of the
    /// tender's. Where it is to be found there is for the caller to write into `https` and `http`.
    ///
    /// # Panics
    /// If it does not come up, or the way to run is that of a process.
    pub fn start_unaddressed(networks: Networks, tender: &[&str]) -> Self {
        assert!(way() != Way::Host, "of unikernels only");
        let mut gateway = Self::planned(Some(networks), &[]);
        gateway.automatic = Some(tender.iter().map(|&option| option.to_owned()).collect());
        gateway.spawn();
        gateway
    }

    fn planned(networks: Option<Networks>, options: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            folder,
            arguments: options.iter().map(|&o| o.to_owned()).collect(),
            process: None,
            log_begin: 0,
            networks,
            automatic: None,
            https: nowhere,
            http: nowhere,
            control: nowhere,
            metrics: nowhere,
            ipv6: None,
            dns: None,
        }
    }

    /// The process, with the same storage; the ports are the same as before if it ran before.
    ///
    /// # Panics
    /// If it does not come up.
    pub fn spawn(&mut self) {
        let is_first = !self.key_file().exists();
        self.begin();
        match way() {
            Way::Host => self.read_addresses(),
            _ => self.wait_for_unikernel(is_first),
        }
    }

    /// The same, without waiting for it to come up.
    pub fn begin(&mut self) {
        let arguments = self.arguments.clone();
        let mut command = self.command(&arguments);
        self.log_begin = self.log().len();
        self.process = Some(Process::start(&mut command, &self.path("log")));
    }

    /// Whether the process that was started last has come so far that it serves, by its own words.
    pub fn has_served(&self) -> bool {
        self.log()[self.log_begin..].contains(" serving ")
    }

    /// Runs it, on the same storage, with these options in the place of its own until it ends by itself.
    ///
    /// # Panics
    /// If it does not end.
    pub fn run_to_end(&mut self, options: &[&str]) -> Output {
        let arguments: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        run(&mut self.command(&arguments), b"", CTL_LIMIT)
    }

    fn command(&mut self, arguments: &[String]) -> Command {
        if way() != Way::Host {
            return self.unikernel(arguments);
        }
        let ready = self.path("ready.json");
        let _ = std::fs::remove_file(&ready);
        let mut command = Command::new(program("tlstunnel"));
        command
            .arg("--storage")
            .arg(self.storage())
            .arg("--key-file")
            .arg(self.key_file())
            .arg("--ready-file")
            .arg(&ready)
            .args(["--domains", DOMAIN, "--self-signed"])
            .args(["--listen-https", &self.https.to_string()])
            .args(["--listen-http", &self.http.to_string()])
            .args(["--control", &self.control.to_string()])
            .args(["--metrics", &self.metrics.to_string()])
            .args(arguments);
        command
    }

    fn read_addresses(&mut self) {
        let (ready, log) = (self.path("ready.json"), self.path("log"));
        let process = self.process.as_mut().expect("started");
        let bound = process.wait_until_up(&log, || read_ready_file(&ready));
        let address = |kind: &str| {
            bound[kind][0]
                .as_str()
                .and_then(|a| a.parse().ok())
                .unwrap_or_else(|| panic!("{kind}: {bound}"))
        };
        self.https = address("https");
        self.http = address("http");
        self.control = address("control");
        self.metrics = address("metrics");
        self.dns = bound["dns"][0].as_str().and_then(|address| address.parse().ok());
    }

    /// The same as a unikernel. There are no files in it: what they hold are arguments, and the certificate comes from a
    /// CA of the harness, by the control tool. Where an authority is to give others, it is a development certificate.
    fn unikernel(&mut self, arguments: &[String]) -> Command {
        let networks = *self.networks.get_or_insert_with(Networks::make);
        [self.https, self.http, self.control, self.metrics] = addresses(&networks);
        let (service, private) = (networks.service_v6(), networks.private_v6());
        let control_v6 = SocketAddr::from((private, self.control.port()));
        self.ipv6 = Some([
            (service, self.https.port()).into(),
            (service, self.http.port()).into(),
            control_v6,
        ]);
        let mut told = GuestOptions::new(self.folder());
        told.add_secret("--key", &administrator_key(&self.key_file()));
        let mut rest = arguments.iter().map(String::as_str);
        while let Some(option) = rest.next() {
            told.add(option, &mut rest);
        }
        told.make_storage(&self.storage());
        let secrets = told.secrets();
        let mut command = match &self.automatic {
            None => {
                let mut command = networks.tender(&self.storage(), &[secrets]);
                command.args(networks.address_options());
                command
            }
            Some(options) => {
                let options = [options.as_slice(), &[secrets]].concat();
                let mut command = networks.tender(&self.storage(), &options);
                command.args(networks.private_options());
                command
            }
        };
        command
            .args(["--storage", "/dev/storage", "--domains", DOMAIN])
            .args(["--control", &self.control.to_string(), "--control", &control_v6.to_string()])
            .args(["--metrics", &self.metrics.to_string()])
            .args(Some("--self-signed").filter(|_| self.obtains()))
            .args(told.arguments());
        command
    }

    /// Whether certificates come from an authority, and not from the harness.
    fn obtains(&self) -> bool {
        let obtains = |option: &String| ["--acme", "--dns-server"].contains(&option.as_str());
        self.arguments.iter().any(obtains)
    }

    fn wait_for_unikernel(&mut self, is_first: bool) {
        let listen = self.arguments.iter().position(|option| option == "--acme-dns-listen");
        self.dns = listen.and_then(|place| self.arguments[place + 1].parse().ok());
        let (log, control) = (self.path("log"), self.control);
        let process = self.process.as_mut().expect("started");
        process.wait_until_up(&log, || TcpStream::connect_timeout(&control, CONNECT_LIMIT).ok());
        if is_first && !self.obtains() {
            let [ca, chain, private] =
                [self.ca_file(), self.path("wildcard.pem"), self.path("wildcard.key")];
            wildcard(&ca, &chain, &private);
            let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
            self.ctl(&["cert", "set", "--cert", &text(&chain), "--key", &text(&private)]);
        }
    }

    /// What curl needs to find a name of this gateway, whatever address that has.
    pub fn curl_options(&self) -> [String; 2] {
        let ip = match self.https.ip() {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        ["--connect-to".to_owned(), format!("::{ip}:")]
    }

    /// Gives the next process another value of `option`.
    ///
    /// # Panics
    /// If the option was not given at start.
    pub fn replace_option(&mut self, option: &str, value: &str) {
        let place = self.arguments.iter().position(|o| o == option).expect("given at start");
        value.clone_into(&mut self.arguments[place + 1]);
    }

    /// Gives the next process more options.
    pub fn add_options(&mut self, options: &[&str]) {
        self.arguments.extend(options.iter().map(|&option| option.to_owned()));
    }

    /// Runs `tlstunnel-ctl` on this gateway and gives its output, whatever its exit code.
    pub fn ctl_output(&self, arguments: &[&str]) -> Output {
        run(&mut self.ctl_command(arguments), b"", CTL_LIMIT)
    }

    /// `tlstunnel-ctl` on this gateway, not started yet.
    pub fn ctl_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program("tlstunnel-ctl"));
        command
            .args(["--remote", &self.control.to_string()])
            .arg("--key-file")
            .arg(self.key_file())
            .args(arguments);
        command
    }

    /// Runs `tlstunnel-ctl` on this gateway and gives its standard output.
    ///
    /// # Panics
    /// If its exit code is not 0.
    pub fn ctl(&self, arguments: &[&str]) -> String {
        let output = self.ctl_output(arguments);
        assert!(
            output.status.success(),
            "tlstunnel-ctl {arguments:?}: {}\n{}{}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
            self.log()
        );
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// Ends the process with SIGKILL.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Sends `signal` (such as `TERM`) and waits for the end; gives the exit code.
    ///
    /// # Panics
    /// If it runs no more.
    pub fn stop(&mut self, signal: &str) -> Option<i32> {
        self.process.take().expect("running").stop(signal)
    }

    /// The process id.
    ///
    /// # Panics
    /// If it runs no more.
    pub fn process_id(&self) -> u32 {
        self.process.as_ref().expect("running").0.id()
    }

    /// Whether the process still runs.
    pub fn running(&mut self) -> bool {
        self.process.as_mut().is_some_and(|p| p.0.try_wait().ok().flatten().is_none())
    }

    /// KiB of memory that the process has in RAM.
    ///
    /// # Panics
    /// If it runs no more.
    pub fn resident_kib(&self) -> u64 {
        let path = format!("/proc/{}/status", self.process_id());
        let status = std::fs::read_to_string(path).expect("a running process");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
    }

    /// The value of a metric line that begins with `prefix`, summed over all that do.
    pub fn metric(&self, prefix: &str) -> f64 {
        crate::client::http_get(self.metrics, "/metrics")
            .lines()
            .filter(|line| line.starts_with(prefix))
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum()
    }

    /// What the gateway has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// The development CA's certificate.
    pub fn ca_file(&self) -> PathBuf {
        self.path("gateway.img-ca.pem")
    }

    /// The administrator's key.
    pub fn key_file(&self) -> PathBuf {
        self.path("admin.key")
    }

    /// The block device file.
    pub fn storage(&self) -> PathBuf {
        self.path("gateway.img")
    }

    /// The folder of this gateway, where tests may put files too.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// Makes a CA, and a certificate under it for [`DOMAIN`] and all names in it.
fn wildcard(ca_file: &Path, chain_file: &Path, key_file: &Path) {
    let mut parameters = CertificateParams::new(Vec::new()).expect("no names");
    parameters.distinguished_name.push(DnType::CommonName, "the harness's CA");
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate().expect("a key");
    let ca = CertifiedIssuer::self_signed(parameters, key).expect("a CA");
    let names = vec![DOMAIN.to_owned(), format!("*.{DOMAIN}")];
    let key = KeyPair::generate().expect("a key");
    let leaf = CertificateParams::new(names).expect("names").signed_by(&key, &ca).expect("signed");
    std::fs::write(ca_file, ca.pem()).expect("written");
    std::fs::write(chain_file, leaf.pem()).expect("written");
    std::fs::write(key_file, key.serialize_pem()).expect("written");
}
