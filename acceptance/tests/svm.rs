//! The gateway's image under the real kvm-amd: a machine whose processor has AMD's virtualization, emulated and slow, runs
//! `hvt`, and curl inside it gets a page through TLS across a TAP interface.
//!
//! Opt-in, since the emulation is a tool of its own and takes minutes: `SVM_VM` names a program that is called as
//! `svm-vm -m MIB -t SECONDS -f FILE... -- SCRIPT`, starts a Linux with kvm-amd, tun and busybox, puts the files (and the
//! libraries they need) into `/t`, runs the script with `/t` in its path, and ends with the script's exit status.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::PathBuf;
use std::process::Command;

use acceptance::programs::folder;
use acceptance::unikernel::image;

/// Seconds until the machine is given up. The emulation is 20 to 100 times slower than this machine.
const LIMIT: &str = "1200";
const MEMORY_MIB: &str = "2048";

const SCRIPT: &str = "set -e
test -d /sys/module/kvm_amd && echo \"kvm-amd, nested paging: $(cat /sys/module/kvm_amd/parameters/npt)\"
for tap in service private; do busybox tunctl -t $tap >/dev/null; ip link set $tap up; done
ip addr add 10.9.0.1/24 dev service
ip addr add 10.9.1.1/24 dev private
mkdir /tmp/pages
echo 'a page of the backend' >/tmp/pages/index.html
busybox httpd -p 10.9.1.1:8000 -h /tmp/pages
busybox truncate -s 64M /tmp/storage
tlstunnel-ctl key generate --out /tmp/key >/dev/null
hvt --mem=256 --stats --net:service=service --net:private=private --block:storage=/tmp/storage -- /t/tlstunnel.hvt \
  --ipv4=10.9.0.2/24 --private-ipv4=10.9.1.2/24 --storage /dev/storage --domains apps.test --self-signed \
  --key \"$(cat /tmp/key)\" --control 10.9.1.2:1234 --handshake-timeout 5m --control-timeout 5m &
hvt=$!
ctl='tlstunnel-ctl --remote 10.9.1.2:1234 --key-file /tmp/key'
tries=0
until $ctl add blog 10.9.1.1:8000; do
  tries=$((tries + 1)); test $tries -lt 100; kill -0 $hvt; sleep 2
done
$ctl cert show --last apps.test >/tmp/ca.pem
curl -sS --max-time 300 --cacert /tmp/ca.pem --connect-to ::10.9.0.2: https://blog.apps.test/index.html \\
  -w 'TLS handshake after %{time_appconnect} s, status %{http_code}\\n'
curl -sS --max-time 300 --connect-to ::10.9.0.2: http://blog.apps.test/ -o /dev/null -w 'port 80: %{http_code}\\n'
kill $hvt
wait $hvt && echo 'hvt ended with 0'
";

#[test]
fn a_page_through_tls_under_kvm_amd() {
    let Some(emulator) = std::env::var_os("SVM_VM") else {
        return println!("SKIPPED: SVM_VM names no emulator");
    };
    let curl = ["/usr/bin/curl", "/usr/local/bin/curl"].map(PathBuf::from);
    let curl = curl.iter().find(|path| path.exists()).expect("curl: tools/install-peers");
    let mut command = Command::new(emulator);
    command.args(["-m", MEMORY_MIB, "-t", LIMIT]);
    for file in [&folder().join("hvt"), &folder().join("tlstunnel-ctl"), &image("tlstunnel"), curl]
    {
        command.arg("-f").arg(file);
    }
    let output = command.arg("--").arg(SCRIPT).output().expect("the emulator starts");
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    println!("{said}\n{complained}");
    assert!(output.status.success(), "{}", output.status);
    for expected in
        ["kvm-amd, nested paging", "a page of the backend\n", "port 80: 301", "hvt ended with 0"]
    {
        assert!(said.contains(expected), "no {expected:?}");
    }
}
