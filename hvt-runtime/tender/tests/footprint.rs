//! What the tender itself costs: its memory besides the guest's, with the most memory that a guest can have.
//!
//! `HVT_KEEP_IMAGE=FILE` keeps the image, for measuring by hand how long a start takes.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

mod support;

use std::io::Read;
use std::process::Child;

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
        let mut command = hvt();
        let mut tender = Running(
            command.arg(format!("--mem={mib}")).arg("--").arg(file.path()).spawn().unwrap(),
        );
        tender.0.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
        let maps = std::fs::read_to_string(format!("/proc/{}/smaps", tender.0.id())).unwrap();
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
        assert_eq!(unsafe { libc::kill(tender.0.id() as i32, libc::SIGTERM) }, 0);
        assert_eq!(tender.0.wait().unwrap().code(), Some(0));
    }
}

/// A tender that does not outlive the test, however that ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both do nothing to one that was waited for.
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// KiB of a field over all mappings but the guest's, and over the guest's. Those are neighbours without a file that have the
/// guest's size together: not all of it may get large pages.
fn sum(maps: &str, field: &str, guest_kib: u64) -> (u64, u64) {
    // Size and field of each run of neighbours, and where it ends.
    let mut runs: Vec<(u64, u64, &str)> = Vec::new();
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        let value = || line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok());
        if let Some((start, end)) = first.split_once('-').filter(|_| !first.ends_with(':')) {
            let plain = words.nth(4).is_none();
            match runs.last_mut() {
                Some(last) if plain && last.2 == start => last.2 = end,
                _ => runs.push((0, 0, if plain { end } else { "" })),
            }
        } else if let (Some(last), Some(kib)) = (runs.last_mut(), value()) {
            last.0 += if first == "Size:" { kib } else { 0 };
            last.1 += if first == field { kib } else { 0 };
        }
    }
    let (guests, own): (Vec<_>, Vec<_>) = runs.into_iter().partition(|run| run.0 >= guest_kib);
    assert!(!guests.is_empty(), "the guest's memory is not found:\n{maps}");
    let total = |runs: Vec<(u64, u64, &str)>| runs.iter().map(|run| run.1).sum();
    (total(own), total(guests))
}
