//! What the tender itself costs: its memory besides the guest's, with the most memory that a guest can have.
//!
//! `HVT_KEEP_IMAGE=FILE` keeps the image, for measuring by hand how long a start takes.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

mod support;

use std::io::Read;

use hvt_abi::hypercall::POLL;
use support::*;

/// The most of all resident memory of the tender, in KiB; a debug build's code takes more.
const RESIDENT_KIB: u64 = 3 * 1024;
/// The most that belongs to this process alone, in KiB: code and libraries are shared by all tenders of a machine.
const OWN_KIB: u64 = 1024;

#[test]
fn the_tenders_own_memory_is_small() {
    if !kvm() {
        return;
    }
    let guest =
        Guest::new().print("up\n").put_words(DATA, &[u64::MAX, 0, 0]).call(POLL, DATA).halt(0);
    let file = guest.file();
    if let Some(path) = std::env::var_os("HVT_KEEP_IMAGE") {
        std::fs::copy(file.path(), path).unwrap();
    }
    for mib in [64_u64, 4096] {
        let mut child =
            hvt().arg(format!("--mem={mib}")).arg("--").arg(file.path()).spawn().unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
        let maps = std::fs::read_to_string(format!("/proc/{}/smaps", child.id())).unwrap();
        let (resident, guests) = sum(&maps, "Rss:", mib * 1024);
        let (own, _) = sum(&maps, "Anonymous:", mib * 1024);
        println!(
            "{mib} MiB: tender {resident} KiB resident, {own} KiB its own; guest {guests} KiB"
        );
        assert!(own < OWN_KIB, "{mib} MiB: {own} KiB");
        assert!(cfg!(debug_assertions) || resident < RESIDENT_KIB, "{mib} MiB: {resident} KiB");
        // A few pages; each may be one of 2 MiB where the host gives such unasked.
        assert!(guests < 16 * 1024, "{mib} MiB: a guest that touches nothing has {guests} KiB");
        // SAFETY: signals a child that has not been waited for.
        assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGTERM) }, 0);
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}

/// KiB of a field over all mappings but those of the guest's size, and over those.
fn sum(maps: &str, field: &str, guest_kib: u64) -> (u64, u64) {
    let (mut own, mut guest, mut size) = (0, 0, 0);
    for line in maps.lines() {
        let kib = |name: &str| -> Option<u64> {
            line.strip_prefix(name)?.trim().trim_end_matches(" kB").parse().ok()
        };
        if let Some(kib) = kib("Size:") {
            size = kib;
        }
        if let Some(kib) = kib(field) {
            // Neighbouring anonymous mappings may be joined with it.
            let total = if size >= guest_kib { &mut guest } else { &mut own };
            *total += kib;
        }
    }
    assert!(guest > 0, "the guest's memory is not found:\n{maps}");
    (own, guest)
}
