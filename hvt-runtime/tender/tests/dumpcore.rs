//! Core files: of a crash and an abort, in a machine and in a process, and none of a good end.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

mod support;

use std::path::{Path, PathBuf};

use hvt_abi::hypercall::EXIT_ABORT;
use support::*;

fn cores(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// The byte at a guest's address, by the program headers.
fn memory(core: &[u8], address: u64) -> Option<u8> {
    let count = usize::from(core[56]);
    (0..count).map(|i| 64 + 56 * i).find_map(|p| {
        let (kind, at, start, len) =
            (core[p], word(core, p + 8), word(core, p + 16), word(core, p + 32));
        let inside = kind == 1 && (start..start + len).contains(&address);
        inside.then(|| core[(at + address - start) as usize])
    })
}

#[test]
fn a_crash_leaves_memory_and_registers() {
    if !kvm() {
        return;
    }
    for (guest, options) in [(Guest::new(), vec![]), (Guest::process(), vec!["--backend=process"])]
    {
        let folder = tempfile::tempdir().unwrap();
        let option = format!("--dumpcore={}", folder.path().display());
        let mut options = options;
        options.push(&option);
        let start = guest.code.len() as u64;
        let guest = guest.put(DATA + 5, b"find me").store_byte(HEAP, 0x77).store_byte(RODATA, 1);
        guest.run(&options).is(80).says("core file: core.hvt.");
        let [path] = cores(folder.path()).try_into().unwrap();
        let core = std::fs::read(&path).unwrap();
        assert_eq!(core[..4], *b"\x7fELF");
        assert_eq!(core[16], 4, "ET_CORE");
        let find: Vec<u8> = (0..7).map(|i| memory(&core, DATA + 5 + i).unwrap()).collect();
        assert_eq!(find, b"find me");
        assert_eq!(memory(&core, HEAP), Some(0x77));
        assert_eq!(memory(&core, STACK_END - 1), Some(0));
        assert_eq!(memory(&core, STACK_BASE - 1), None, "the guard page");
        assert_eq!(memory(&core, 0), None);
        // NT_PRSTATUS: note header of 20 bytes, registers from 112, rip the 17th, rax the 11th.
        let registers = word(&core, 64 + 8) as usize + 20 + 112;
        assert_eq!(word(&core, registers + 16 * 8), TEXT + start + 23);
        assert_eq!(word(&core, registers + 10 * 8), RODATA);
        // Holes: the file takes far less room than its length.
        let metadata = std::fs::metadata(&path).unwrap();
        let blocks = std::os::unix::fs::MetadataExt::blocks(&metadata) * 512;
        assert!(metadata.len() > 14 << 20 && blocks < 1 << 20, "{} {blocks}", metadata.len());
    }
}

#[test]
fn only_a_bad_end_leaves_a_core() {
    if !kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let option = format!("--dumpcore={}", folder.path().display());
    Guest::new().halt(1).run(&[&option]).is(1);
    assert_eq!(cores(folder.path()).len(), 0);
    Guest::stock().halt(EXIT_ABORT).run(&[&option]).is(255).says("core file");
    assert_eq!(cores(folder.path()).len(), 1);
    Guest::new().halt(0).run(&["--dumpcore=/nonexistent"]).is(64).says("no folder for core files");
}

#[test]
fn gdb_reads_it() {
    if !kvm() {
        return;
    }
    let there = std::process::Command::new("gdb").arg("--version").output().is_ok();
    if !needs(there, "gdb is missing") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let guest =
        Guest::new().put(DATA, &[1, 2, 3, 4]).raw(&[0xbb, 0x45, 0x23, 1, 0]).store_byte(TEXT, 1);
    guest.run(&[&format!("--dumpcore={}", folder.path().display())]).is(80);
    let [core] = cores(folder.path()).try_into().unwrap();
    let output = std::process::Command::new("gdb")
        .args(["-nx", "-batch", "-ex", "info registers rbx rip", "-ex", "x/1xw 0x102000"])
        .arg(guest.file().path())
        .arg(&core)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("0x12345") && text.contains("0x10000f"), "{text}");
    assert!(text.contains("0x04030201"), "{text}");
}
