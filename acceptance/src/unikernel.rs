//! The gateway and the site server as unikernels: the image, the tender, and networks of their own for each.
//!
//! `ACCEPTANCE_WAY` says how they run: `host` (the default), `hvt` in a virtual machine, `hvt-process` as a confined
//! process. In the last two every gateway has two TAP interfaces, every site server one, in the network namespace of the
//! test process, which must be one made for it: [`enter_namespace`] or `unshare --net`.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, OnceLock};

use hvt_image::build;
use hvt_image::project::{Project, Wanted};

use crate::programs::folder;

/// The size of a gateway's block device, unless the test has made it.
const GATEWAY_STORAGE: u64 = 64 << 20;
/// The same of a site server.
const SITES_STORAGE: u64 = 1 << 30;
/// Memory of a gateway, in MiB.
const GATEWAY_MEMORY: u32 = 256;
/// Memory of a site server, in MiB: `hvt`'s default.
const SITES_MEMORY: u32 = 512;
/// Where backends and git servers are, behind the networks; other peers are on the addresses after it.
const BACKENDS: Ipv4Addr = Ipv4Addr::new(10, 72, 0, 1);
const BACKENDS_V6: Ipv6Addr = Ipv6Addr::new(0xfd72, 0, 0, 0, 0, 0, 0, 1);

/// How the programs under test run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// As a process of this machine.
    Host,
    /// In a virtual machine.
    Hvt,
    /// The image as a confined process.
    HvtProcess,
}

/// How they run in this test process.
///
/// # Panics
/// If `ACCEPTANCE_WAY` is none of the three.
pub fn way() -> Way {
    match std::env::var("ACCEPTANCE_WAY").as_deref() {
        Err(_) | Ok("host") => Way::Host,
        Ok("hvt") => Way::Hvt,
        Ok("hvt-process") => Way::HvtProcess,
        Ok(other) => panic!("ACCEPTANCE_WAY={other}: host, hvt or hvt-process"),
    }
}

/// The address that backends and git servers listen on, so that they are reached.
pub fn backend_address() -> IpAddr {
    match way() {
        Way::Host => Ipv4Addr::LOCALHOST.into(),
        _ => {
            prepare();
            BACKENDS.into()
        }
    }
}

/// An address that gateways reach and nobody else listens on, for a peer whose port is not free to choose. For each
/// `number` it is another one.
///
/// # Panics
/// If it cannot be had.
pub fn peer_address(number: u8) -> Ipv4Addr {
    match way() {
        // Every test process has its own.
        Way::Host => {
            let [_, _, high, low] = std::process::id().to_be_bytes();
            Ipv4Addr::new(127, 64 + number, high, low)
        }
        _ => {
            prepare();
            let address = Ipv4Addr::from(u32::from(BACKENDS) + 1 + u32::from(number));
            ip(&["address", "replace", &format!("{address}/32"), "dev", "lo"]);
            address
        }
    }
}

/// The same for IPv6.
pub fn backend_address_v6() -> IpAddr {
    match way() {
        Way::Host => Ipv6Addr::LOCALHOST.into(),
        _ => {
            prepare();
            BACKENDS_V6.into()
        }
    }
}

/// The network that gateways see this machine's clients come from.
pub fn client_network() -> &'static str {
    match way() {
        Way::Host => "127.0.0.1/32",
        _ => "10.70.0.0/16",
    }
}

/// Runs the calling test again in a network namespace of its own with this way; false in the test process itself, which
/// then goes on. True when it has been run, or can't be run here.
///
/// # Panics
/// If the test fails there, or what it needs is missing and `REQUIRE_PEERS=1` is set.
pub fn enter_namespace(test: &str, way: &str) -> bool {
    if std::env::var_os("ACCEPTANCE_WAY").is_some() {
        return false;
    }
    if !said(missing(way == "hvt", true)) {
        return true;
    }
    let own = std::env::current_exe().expect("the test's own file");
    let output = Command::new("unshare")
        .arg("--net")
        .arg(own)
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env("ACCEPTANCE_WAY", way)
        .output()
        .expect("unshare starts");
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{test} as {way}:\n{said}\n{complained}");
    assert!(said.contains("1 passed"), "there is no test {test}:\n{said}");
    true
}

/// The tender for images of any package: what `HVT` names, or what lies beside this `program` of the workspace. None where
/// it, or what is needed of the machine, is missing.
///
/// # Panics
/// If something is missing and `REQUIRE_PEERS=1` is set.
pub fn tender(program: &str, kvm: bool, taps: bool) -> Option<PathBuf> {
    let beside = Path::new(program).with_file_name("hvt");
    let hvt = std::env::var_os("HVT").map_or(beside, PathBuf::from);
    let built = hvt.exists();
    let missing = missing(kvm, taps);
    said(missing.or_else(|| (!built).then_some("there is no hvt: cargo build -p hvt-tender")))
        .then_some(hvt)
}

/// What the machine lacks of this.
fn missing(kvm: bool, taps: bool) -> Option<&'static str> {
    let made = || {
        let tap = ["--net", "ip", "tuntap", "add", "probe", "mode", "tap"];
        let output = Command::new("unshare").args(tap).output();
        output.is_ok_and(|output| output.status.success())
    };
    if taps && !made() {
        return Some("no TAP interfaces: root and the command ip are needed");
    }
    let device = || File::options().read(true).write(true).open("/dev/kvm");
    (kvm && device().is_err()).then_some("/dev/kvm can't be opened")
}

/// Whether nothing is missing; what is has been said.
fn said(missing: Option<&str>) -> bool {
    if let Some(missing) = missing {
        assert!(std::env::var_os("REQUIRE_PEERS").is_none_or(|v| v != "1"), "{missing}");
        println!("SKIPPED: {missing}");
    }
    missing.is_none()
}

/// The image of a package, built if it is not fresh.
///
/// # Panics
/// If it cannot be built.
pub fn image(package: &str) -> PathBuf {
    let project = Project::read().expect("the workspace");
    build::build(&project, package, Wanted::Program(None)).expect("an image")
}

/// The image of a package, built once in this process.
fn image_once(package: &'static str) -> PathBuf {
    static IMAGES: Mutex<BTreeMap<&str, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut images = IMAGES.lock().expect("no build has failed before");
    images.entry(package).or_insert_with(|| image(package)).clone()
}

/// The networks of one unikernel. They go away with the namespace.
#[derive(Clone, Copy, Debug)]
pub struct Networks {
    number: u8,
    has_service: bool,
    has_private: bool,
}

impl Networks {
    /// Two TAP interfaces that nobody else has: a gateway's.
    ///
    /// # Panics
    /// If they cannot be made.
    pub fn make() -> Self {
        Self::with_private(true)
    }

    /// One TAP interface: a site server's.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn make_service() -> Self {
        Self::with_private(false)
    }

    fn with_private(has_private: bool) -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        prepare();
        let number = NEXT.fetch_add(1, Ordering::SeqCst);
        let networks = Self { number, has_service: true, has_private };
        let taps = [(networks.service_tap(), 70), (networks.private_tap(), 71)];
        for (name, net) in taps.into_iter().take(1 + usize::from(has_private)) {
            let own = format!("10.{net}.{}.1/24", networks.number);
            let own_v6 = format!("fd{net}:{}::1/64", networks.number);
            ip(&["tuntap", "add", &name, "mode", "tap"]);
            ip(&["address", "add", &own, "dev", &name]);
            // Alone on its wire, so there is nobody to ask whether the address is taken.
            ip(&["address", "add", &own_v6, "dev", &name, "nodad"]);
            ip(&["link", "set", &name, "up"]);
        }
        networks
    }

    /// The same, for a tender that is told by its own options how clients come in.
    pub fn without_service(self) -> Self {
        Self { has_service: false, ..self }
    }

    /// The address for clients.
    pub fn service(&self) -> IpAddr {
        Ipv4Addr::new(10, 70, self.number, 2).into()
    }

    /// The gateway's address for its backends and its administrator.
    pub fn private(&self) -> IpAddr {
        Ipv4Addr::new(10, 71, self.number, 2).into()
    }

    /// [`Self::service`] for IPv6.
    pub fn service_v6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd70, u16::from(self.number), 0, 0, 0, 0, 0, 2)
    }

    /// [`Self::private`] for IPv6.
    pub fn private_v6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd71, u16::from(self.number), 0, 0, 0, 0, 0, 2)
    }

    /// The host's side of the wire to clients.
    pub fn service_tap(&self) -> String {
        format!("service{}", self.number)
    }

    fn private_tap(&self) -> String {
        format!("private{}", self.number)
    }

    /// The tender with the gateway's or, where there is one network, the site server's image, and this storage; the
    /// program's own arguments come behind.
    ///
    /// # Panics
    /// If the storage or the image cannot be made.
    pub fn command(&self, storage: &Path) -> Command {
        let mut command = self.tender(storage, &[] as &[&str]);
        command.args(self.address_options());
        command
    }

    /// The options for all addresses.
    pub fn address_options(&self) -> Vec<String> {
        let v4 = format!("--ipv4={}/24", self.service());
        if !self.has_private {
            return vec![v4, format!("--ipv4-gateway=10.70.{}.1", self.number)];
        }
        let v6 = format!("--ipv6={}/64", self.service_v6());
        [v4, v6].into_iter().chain(self.private_options()).collect()
    }

    /// The options for the private network.
    pub fn private_options(&self) -> [String; 4] {
        [
            format!("--private-ipv4={}/24", self.private()),
            format!("--private-ipv4-gateway=10.71.{}.1", self.number),
            format!("--private-ipv6={}/64", self.private_v6()),
            format!("--private-ipv6-gateway=fd71:{:x}::1", self.number),
        ]
    }

    /// The tender with these options of its own, the image, the networks and this storage, and no address yet.
    ///
    /// # Panics
    /// If the storage or the image cannot be made.
    pub fn tender(&self, storage: &Path, options: &[impl AsRef<OsStr>]) -> Command {
        let (image, memory, size) = match self.has_private {
            true => (image_once("tlstunnel"), GATEWAY_MEMORY, GATEWAY_STORAGE),
            false => (image_once("unipi"), SITES_MEMORY, SITES_STORAGE),
        };
        if !storage.exists() {
            File::create(storage).expect("storage").set_len(size).expect("room");
        }
        let mut command = Command::new(hvt());
        command.args([&format!("--mem={memory}"), "--stats"]);
        if way() == Way::HvtProcess {
            command.arg("--backend=process");
        }
        if self.has_service {
            command.arg(format!("--net:service={}", self.service_tap()));
        }
        if self.has_private {
            command.arg(format!("--net:private={}", self.private_tap()));
        }
        command
            .arg(format!("--block:storage={}", storage.display()))
            .args(options)
            .arg("--")
            .arg(image);
        command
    }
}

/// The gateway's addresses behind its networks.
pub fn addresses(networks: &Networks) -> [SocketAddr; 4] {
    let (service, private) = (networks.service(), networks.private());
    [(service, 443), (service, 80), (private, 1234), (private, 9090)].map(SocketAddr::from)
}

/// The tender: `HVT` names it, or cargo builds it beside the tests.
fn hvt() -> PathBuf {
    static HVT: OnceLock<PathBuf> = OnceLock::new();
    let path = HVT.get_or_init(|| {
        let named = std::env::var_os("HVT").map(PathBuf::from);
        let hvt = named.unwrap_or_else(|| folder().join("hvt"));
        assert!(hvt.exists(), "there is no hvt: cargo build -p hvt-tender");
        hvt
    });
    path.clone()
}

/// Brings the loopback and the backends' address up, once.
fn prepare() {
    static PREPARED: OnceLock<()> = OnceLock::new();
    PREPARED.get_or_init(|| {
        // A new namespace has nothing but a loopback; test programs before this one may have left their TAPs.
        let interfaces = std::fs::read_to_string("/proc/self/net/dev").expect("proc");
        let names = interfaces.lines().filter_map(|line| Some(line.split_once(':')?.0.trim()));
        for name in names.filter(|name| *name != "lo") {
            let left = name.starts_with("service") || name.starts_with("private");
            assert!(left, "there is {name}: this needs a namespace: unshare --net");
            ip(&["link", "delete", name]);
        }
        ip(&["link", "set", "lo", "up"]);
        ip(&["address", "replace", &format!("{BACKENDS}/32"), "dev", "lo"]);
        ip(&["address", "replace", &format!("{BACKENDS_V6}/128"), "dev", "lo", "nodad"]);
    });
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().expect("ip starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments:?}: {said}");
}
