//! Where a script with tenders in it runs: in a network namespace of this machine, or in an emulated machine whose
//! processor has AMD's virtualization.
//!
//! The emulator is a tool of its own: a program that is called as `svm-vm -m MIB -c CPUS -t SECONDS -f FILE... -- SCRIPT`,
//! starts a Linux with kvm-amd, tun and busybox, puts the files (and the libraries they need) into `/t`, runs the script
//! with `/t` in its path, and ends with the script's exit status. `SVM_VM` names it.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::ffi::OsString;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Seconds until the emulated machine is given up. It is 20 to 100 times slower than this one.
const LIMIT: &str = "1200";
const MEMORY_MIB: &str = "2048";
/// A guest and the thread of its ring run at the same time.
const PROCESSORS: &str = "2";

/// A place for scripts.
pub enum Machine {
    /// A namespace of this machine.
    Here,
    /// What `SVM_VM` starts.
    Emulated(OsString),
}

impl Machine {
    /// The emulated one, if there is an emulator.
    pub fn emulated() -> Option<Self> {
        std::env::var_os("SVM_VM").map(Self::Emulated)
    }

    /// Runs a shell script and gives what it wrote. The files lie in `$T`, which is in the path.
    ///
    /// # Panics
    /// If the script fails.
    pub fn run(&self, files: &[PathBuf], script: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let mut command = match self {
            Self::Here => {
                for file in files {
                    symlink(file, folder.path().join(file.file_name().unwrap())).unwrap();
                }
                let path = std::env::var("PATH").unwrap_or_default();
                let mut command = Command::new("unshare");
                command.args(["--net", "/bin/sh", "-c", script]).env("T", folder.path());
                command.env("PATH", format!("{}:{path}", folder.path().display()));
                command
            }
            Self::Emulated(emulator) => {
                let mut command = Command::new(emulator);
                command.args(["-m", MEMORY_MIB, "-c", PROCESSORS, "-t", LIMIT]);
                for file in files {
                    command.arg("-f").arg(file);
                }
                command.arg("--").arg(format!("T=/t\n{script}"));
                command
            }
        };
        let output = command.output().expect("it starts");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        println!("{said}\n{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{}", output.status);
        said
    }
}

/// The real curl, for both places.
pub fn curl() -> PathBuf {
    let places = ["/usr/bin/curl", "/usr/local/bin/curl"].map(Path::new);
    places.iter().find(|path| path.exists()).expect("curl: tools/install-peers").to_path_buf()
}

/// Makes a TAP interface and gives it an address, in both places.
pub const TAP: &str = "set -e
tap() {
  ip tuntap add $1 mode tap 2>/dev/null || busybox tunctl -t $1 >/dev/null
  ip addr add $2 dev $1
  ip link set $1 up
}
ip link set lo up
D=$(mktemp -d)
";

/// The gateway's image as backend of curl: a page through TLS, and a redirect. `tender` is a command with options for the
/// gateway's devices behind it. It sets `$gateway`, the tender's process.
pub fn page(tender: &str) -> String {
    TAP.to_owned()
        + "tap service 10.9.0.1/24
tap private 10.9.1.1/24
mkdir $D/pages
echo 'a page of the backend' >$D/pages/index.html
busybox httpd -p 10.9.1.1:8000 -h $D/pages
busybox truncate -s 64M $D/storage
tlstunnel-ctl key generate --out $D/key >/dev/null
"
        + tender
        + " --mem=256 --net:service=service --net:private=private --block:storage=$D/storage -- $T/tlstunnel.hvt \
  --ipv4=10.9.0.2/24 --private-ipv4=10.9.1.2/24 --storage /dev/storage --domains apps.test --self-signed \
  --key \"$(cat $D/key)\" --control 10.9.1.2:1234 --handshake-timeout 5m --control-timeout 5m &
gateway=$!
ctl=\"tlstunnel-ctl --remote 10.9.1.2:1234 --key-file $D/key\"
tries=0
until $ctl add blog 10.9.1.1:8000; do
  tries=$((tries + 1)); test $tries -lt 100; kill -0 $gateway; sleep 2
done
$ctl cert show --last apps.test >$D/ca.pem
curl -sS --max-time 300 --cacert $D/ca.pem --connect-to ::10.9.0.2: https://blog.apps.test/index.html \\
  -w 'TLS handshake after %{time_appconnect} s, status %{http_code}\\n'
curl -sS --max-time 300 --connect-to ::10.9.0.2: http://blog.apps.test/ -o /dev/null -w 'port 80: %{http_code}\\n'
"
}
