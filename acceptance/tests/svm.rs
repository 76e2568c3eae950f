//! The gateway's image under the real kvm-amd: a machine whose processor has AMD's virtualization, emulated and slow, runs
//! `hvt`, and curl inside it gets a page through TLS across a TAP interface.
//!
//! Opt-in, since the emulation takes minutes: `SVM_VM` names the emulator, see [`machine`].
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod machine;

use acceptance::programs::folder;
use acceptance::unikernel::image;
use machine::{Machine, curl, page};

const NPT: &str = "test -d /sys/module/kvm_amd
echo \"kvm-amd, nested paging: $(cat /sys/module/kvm_amd/parameters/npt)\"
";
const END: &str = "kill $gateway
wait $gateway && echo 'hvt ended with 0'
";

#[test]
fn a_page_through_tls_under_kvm_amd() {
    let Some(machine) = Machine::emulated() else {
        return println!("SKIPPED: SVM_VM names no emulator");
    };
    let files = [folder().join("hvt"), folder().join("tlstunnel-ctl"), image("tlstunnel"), curl()];
    let said = machine.run(&files, &(NPT.to_owned() + &page("hvt --stats") + END));
    for expected in
        ["kvm-amd, nested paging", "a page of the backend\n", "port 80: 301", "hvt ended with 0"]
    {
        assert!(said.contains(expected), "no {expected:?}");
    }
}
