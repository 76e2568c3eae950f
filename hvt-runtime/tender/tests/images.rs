//! Files that claim to be images. Whatever they hold, the answer is a message and status 65, or a guest that runs.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

mod support;

use std::io::Write;
use std::path::PathBuf;

use hvt_abi::manifest::{BLOCK_BASIC, NET_BASIC};
use hvt_tender::image::{Image, ImageError, Rights};
use support::*;

const MEMORY: u64 = MEM_MIB << 20;
/// Offsets in the ELF header and in the program headers of [`Guest::elf`].
const ENTRY: usize = 24;
const PHDR: usize = 64;
const PHDR_LEN: usize = 56;

fn check(bytes: &[u8]) -> Result<Image, ImageError> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    Image::check(file, PathBuf::from("test"), MEMORY)
}

/// The program header's field at `offset`.
fn program(index: usize, offset: usize) -> usize {
    PHDR + index * PHDR_LEN + offset
}

fn guest() -> Guest {
    Guest::new().device("net0", NET_BASIC).device("disk", BLOCK_BASIC).halt(0)
}

fn with(at: usize, bytes: &[u8]) -> String {
    let mut elf = guest().elf();
    elf[at..at + bytes.len()].copy_from_slice(bytes);
    match check(&elf) {
        Ok(image) => panic!("accepted: {image:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_good_image_is_understood() {
    let image = check(&guest().elf()).unwrap();
    assert_eq!(image.entry, TEXT);
    let rights: Vec<_> = image.segments.iter().map(|s| (s.pages.clone(), s.rights)).collect();
    assert_eq!(
        rights,
        [
            (TEXT..TEXT + 0x1000, Rights::Execute),
            (RODATA..RODATA + 0x1000, Rights::Read),
            (DATA..DATA + 0x2000, Rights::Write),
        ]
    );
    assert_eq!((image.kernel_end, image.end), (DATA + 0x2000, DATA + 0x2000));
    let devices: Vec<_> = image.manifest.devices().map(|(h, _, name)| (h, name)).collect();
    assert_eq!(devices, [(1, "net0"), (2, "disk")]);
    assert_eq!(image.guest.unwrap().features, ALL);
}

#[test]
fn each_broken_rule_has_its_message() {
    let u64s = |v: u64| v.to_le_bytes().to_vec();
    let cells: [(usize, Vec<u8>, &str); 25] = [
        (0, vec![0], "not an ELF file"),
        (4, vec![1], "not a 64-bit"),
        (5, vec![2], "not little-endian"),
        (16, vec![3], "ET_EXEC"),
        (18, vec![183], "another processor"),
        (54, vec![32], "program headers have another size"),
        (56, vec![0, 0], "no program headers"),
        (56, vec![0xff, 0xff], "more than 128"),
        (32, u64s(u64::MAX - 8), "program headers can't be read"),
        (ENTRY, u64s(0xf_ffff), "entry point 0xfffff"),
        (ENTRY, u64s(MEMORY), "entry point"),
        (ENTRY, u64s(u64::MAX), "entry point"),
        (program(0, 16), u64s(0x1000), "below 0x100000"),
        (program(0, 16), u64s(u64::MAX - 0xfff), "do not fit"),
        (program(2, 40), u64s(MEMORY), "do not fit"),
        (program(2, 40), u64s(u64::MAX), "do not fit"),
        (program(2, 40), u64s(1), "more bytes in the file"),
        (program(0, 4), vec![7], "both writable and executable"),
        (program(0, 48), u64s(0), "not a power of two"),
        (program(0, 48), u64s(3), "not a power of two"),
        (program(0, 48), u64s(16), "not whole pages"),
        (program(1, 16), u64s(TEXT), "before the end of the one before"),
        (program(0, 8), u64s(u64::MAX), "place in the file"),
        (program(3, 0), vec![6], "no ABI1 note"),
        (program(4, 0), vec![6], "no MFT1 (manifest) note"),
    ];
    for (at, bytes, part) in cells {
        let message = with(at, &bytes);
        assert!(message.contains(part), "byte {at} {bytes:x?}: {message}");
    }
}

#[test]
fn notes_and_manifest_are_checked() {
    let elf = guest().elf();
    let find = |what: &[u8], skip: usize| {
        let all: Vec<_> = elf.windows(what.len()).enumerate().filter(|(_, w)| *w == what).collect();
        all[skip].0
    };
    let abi = find(b"Solo5", 0);
    let manifest = find(b"Solo5", 1) + 8 + 4;
    let guest_note = find(b"hvt\0", 0) + 4;
    let entry = |index: usize, offset: usize| manifest + 8 + index * 104 + offset;
    for (at, bytes, part) in [
        (abi + 8, [2, 0, 0, 0], "built for spt, version 2"),
        (abi + 8, [9, 0, 0, 0], "unknown target"),
        (abi + 12, [1, 0, 0, 0], "version 1"),
        (abi - 8, [15, 0, 0, 0], "15 bytes instead of 16"),
        (manifest, [2, 0, 0, 0], "version is 2"),
        (manifest + 4, [0, 0, 0, 0], "0 entries"),
        (manifest + 4, [4, 0, 0, 0], "4 entries"),
        (manifest + 4, [255; 4], "4294967295 entries"),
        (entry(0, 68), [1, 0, 0, 0], "first entry is not the reserved"),
        (entry(1, 68), [0, 0, 0, 0x40], "neither a block nor a network"),
        (entry(1, 0), [0, 0, 0, 0], "letters and digits"),
        (entry(1, 0), *b"../x", "letters and digits"),
        (entry(1, 0), *b"disk", "its name is taken"),
        (entry(1, 96), [1, 0, 0, 0], "marked as attached"),
        (guest_note, [2, 0, 0, 0], "version 2 is not 1"),
    ] {
        let message = with(at, &bytes);
        assert!(message.contains(part), "{part}: {message}");
    }
    let long = with(entry(1, 0), &[b'a'; 68]);
    assert!(long.contains("does not end"), "{long}");
}

#[test]
fn segments_without_bytes_are_never_a_reason_to_refuse() {
    // Solo5's own linker leaves an empty segment at address zero and one that is all .bss.
    let mut elf = guest().elf();
    let last = 5;
    for (offset, value) in [(0, 1 | 6 << 32), (8, 0), (16, 0), (32, 0), (40, 0), (48, 0x1000)] {
        elf[program(last, offset)..program(last, offset) + 8]
            .copy_from_slice(&u64::to_le_bytes(value));
    }
    let image = check(&elf).unwrap();
    assert_eq!(image.segments.len(), 3);
    let bss: u64 = 0x10_5000;
    elf[program(last, 16)..program(last, 24)].copy_from_slice(&bss.to_le_bytes());
    elf[program(last, 40)..program(last, 48)].copy_from_slice(&0x4321_u64.to_le_bytes());
    let image = check(&elf).unwrap();
    assert_eq!((image.kernel_end, image.end), (DATA + 0x2000, 0x10_a000));
}

#[test]
fn every_cut_and_every_flipped_bit_is_answered() {
    let elf = guest().elf();
    for len in (0..0x300).chain((0x300..elf.len()).step_by(61)) {
        let cut = check(&elf[..len]);
        // The loader, not the check, meets a segment whose bytes are cut off.
        if let Ok(image) = cut {
            assert!(len > 0x5000, "{len:#x}: {image:?}");
        }
    }
    let notes = 0x5000..elf.len();
    for at in (0..64 + 6 * PHDR_LEN).chain(notes.filter(|at| elf[*at] != 0)) {
        for bit in 0..8 {
            let mut broken = elf.clone();
            broken[at] ^= 1 << bit;
            if let Ok(image) = check(&broken) {
                assert!(
                    image.end <= MEMORY && image.segments.iter().all(|s| s.pages.end <= MEMORY)
                );
                let ordered = |w: &[_]| {
                    let [a, b]: &[hvt_tender::image::Segment; 2] = w.try_into().unwrap();
                    a.pages.end <= b.pages.start
                };
                assert!(image.segments.windows(2).all(ordered), "{at:#x}: {image:?}");
            }
        }
    }
}

#[test]
fn the_command_says_what_it_was_given() {
    let run = |path: &str| Ended::from(hvt().args(["--mem=4", path]).output().unwrap());
    run("/nonexistent/image").is(66).says("/nonexistent/image");
    run("/").is(65).says("not a regular file");
    run("/bin/sh").is(65).says("not a Solo5 image");
    Ended::from(hvt().output().unwrap()).is(64).says("no image given");
    Ended::from(hvt().arg("--frob").output().unwrap()).is(64).says("unknown option --frob");
    let version = Ended::from(hvt().arg("--version").output().unwrap());
    assert!(version.out.contains("ABI version 2"));
    let help = Ended::from(hvt().arg("--help").output().unwrap());
    assert!(help.is(0).out.contains("--net:NAME=IFACE"));
}

#[test]
fn a_guest_that_needs_more_memory_is_told_how_much() {
    if !kvm() {
        return;
    }
    let guest = Guest { stacks: [64 << 20, 0, 0], ..Guest::new().halt(0) };
    guest.run(&[]).is(64).says("needs 66 MiB of memory, --mem gives 16");
    let many = Guest { stacks: [0, 4096, 4097], ..Guest::new().halt(0) };
    many.run(&[]).is(64).says("4097 thread stacks");
    let huge = Guest { stacks: [u32::MAX, u32::MAX, 4096], ..Guest::new().halt(0) };
    huge.run(&[]).is(64).says("MiB of memory");
}
