//! Packs: what the real git packs unpacks to the same; what is damaged or hostile is refused within the limits.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod git_support;

use std::process::Stdio;

use bytes::Bytes;
use git_support::{Repository, git_command, have, run};
use proptest::prelude::*;
use unipi::git::pack::{DeltaError, PackError, Unpacker, write};
use unipi::git::{HashKind, Limits, Object, ObjectKind, Objects};

fn unpack(pack: &[u8], piece: usize, known: Option<&Objects>) -> Result<Objects, PackError> {
    unpack_within(pack, piece, known, &Limits::default())
}

fn unpack_within(
    pack: &[u8],
    piece: usize,
    known: Option<&Objects>,
    limits: &Limits,
) -> Result<Objects, PackError> {
    run(async {
        let mut unpacker = Unpacker::new(HashKind::Sha1, limits, known);
        for piece in pack.chunks(piece) {
            unpacker.push(piece).await?;
        }
        unpacker.finish()
    })
}

/// A pack of everything in the repository, as git makes it with these options.
fn packed(repository: &Repository, options: &[&str], revisions: &str) -> Vec<u8> {
    let mut child = git_command(&repository.work())
        .args(["pack-objects", "-q", "--revs", "--stdout"])
        .args(options)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), revisions.as_bytes()).unwrap();
    child.wait_with_output().unwrap().stdout
}

fn versions() -> Repository {
    let repository = Repository::new();
    let mut text: Vec<String> = (0..400).map(|n| format!("line {n} of {}\n", n * n)).collect();
    for version in 0..12 {
        text[version * 30] = format!("changed in {version}\n");
        repository.write("page.html", text.concat());
        repository.write(format!("file{version}"), format!("{version}"));
        repository.publish(&format!("version {version}"));
    }
    repository
}

#[test]
fn packs_of_git_unpack_to_what_git_says() {
    if !have("git") {
        return;
    }
    let repository = versions();
    repository.git(&["tag", "-a", "-m", "tagged", "v1"]);
    let listed = repository.git(&["cat-file", "--batch-all-objects", "--batch-check"]);
    for options in [&["--delta-base-offset"][..], &[], &["--depth=0"], &["--compression=0"]] {
        let pack = packed(&repository, &[options, &["--all"]].concat(), "");
        for piece in [1, 7, 4096, usize::MAX >> 1] {
            let objects = unpack(&pack, piece, None).unwrap();
            let mut shown: Vec<String> = objects
                .iter()
                .map(|(id, object)| format!("{id} {} {}", object.kind, object.data.len()))
                .collect();
            shown.sort();
            assert_eq!(shown.join("\n"), listed);
        }
        for cut in [0, 3, 11, 12, 13, pack.len() / 2, pack.len() - 1] {
            let error = unpack(&pack[..cut], 1000, None).unwrap_err();
            assert_eq!(error, PackError::Truncated(cut as u64));
        }
        let longer = [&pack[..], b"x"].concat();
        assert_eq!(unpack(&longer, 1000, None).unwrap_err(), PackError::Trailing);
    }
}

#[test]
fn thin_packs_build_on_what_is_known_and_share_it() {
    if !have("git") {
        return;
    }
    let repository = versions();
    let known = unpack(&packed(&repository, &[], "HEAD~1\n"), 4096, None).unwrap();
    let thin = packed(&repository, &["--thin"], "HEAD\n^HEAD~1\n");
    assert!(matches!(unpack(&thin, 4096, None), Err(PackError::MissingBase(_))));
    let new = unpack(&thin, 4096, Some(&known)).unwrap();
    assert_eq!(new.len(), 4, "commit, tree, two blobs");
    assert!(new.keys().all(|id| !known.contains_key(id)));
    // A whole pack on top of it shares its memory.
    let again = unpack(&packed(&repository, &[], "HEAD\n"), 4096, Some(&known)).unwrap();
    for (id, object) in &known {
        assert_eq!(again[id].data.as_ptr(), object.data.as_ptr());
    }
}

#[test]
fn git_reads_what_is_written() {
    if !have("git") {
        return;
    }
    let repository = versions();
    let objects = unpack(&packed(&repository, &["--all"], ""), 4096, None).unwrap();
    let list: Vec<&Object> = objects.values().collect();
    let pack = run(write(HashKind::Sha1, &list)).unwrap();
    assert_eq!(unpack(&pack, 4096, None).unwrap(), objects);
    let file = repository.base().join("written.pack");
    std::fs::write(&file, pack).unwrap();
    let file = file.to_str().unwrap();
    repository.git(&["index-pack", "--strict", file]);
    repository.git(&["verify-pack", file]);
}

// === packs made by hand ===

#[derive(Default)]
struct Maker {
    bytes: Vec<u8>,
    count: u32,
}

impl Maker {
    fn offset(&self) -> usize {
        self.bytes.len() + 12
    }

    fn entry(&mut self, kind: u8, size: usize, base: &[u8], data: &[u8]) -> usize {
        let offset = self.offset();
        let mut first = (kind << 4) | u8::try_from(size & 15).unwrap();
        let mut rest = size >> 4;
        while rest > 0 {
            self.bytes.push(first | 0x80);
            first = u8::try_from(rest & 0x7f).unwrap();
            rest >>= 7;
        }
        self.bytes.push(first);
        self.bytes.extend_from_slice(base);
        self.bytes.extend_from_slice(&stored(data));
        self.count += 1;
        offset
    }

    fn blob(&mut self, data: &[u8]) -> usize {
        self.entry(3, data.len(), &[], data)
    }

    fn delta_at(&mut self, base: usize, delta: &[u8]) -> usize {
        let distance = distance(self.offset() - base);
        self.entry(6, delta.len(), &distance, delta)
    }

    fn finish(self) -> Vec<u8> {
        let mut pack = b"PACK\0\0\0\x02".to_vec();
        pack.extend_from_slice(&self.count.to_be_bytes());
        pack.extend_from_slice(&self.bytes);
        sealed(pack)
    }
}

fn sealed(mut pack: Vec<u8>) -> Vec<u8> {
    let mut hasher = gix_hash::hasher(HashKind::Sha1);
    hasher.update(&pack);
    pack.extend_from_slice(hasher.try_finalize().unwrap().as_slice());
    pack
}

/// A zlib stream (RFC 1950) of stored blocks (RFC 1951, section 3.2.4).
fn stored(data: &[u8]) -> Vec<u8> {
    let mut out = vec![0x78, 0x01];
    let mut chunks = data.chunks(0xffff).peekable();
    if chunks.peek().is_none() {
        out.extend_from_slice(&[1, 0, 0, 0xff, 0xff]);
    }
    while let Some(chunk) = chunks.next() {
        let length = u16::try_from(chunk.len()).unwrap();
        out.push(u8::from(chunks.peek().is_none()));
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&(!length).to_le_bytes());
        out.extend_from_slice(chunk);
    }
    let (mut a, mut b) = (1_u32, 0_u32);
    for byte in data {
        a = (a + u32::from(*byte)) % 65521;
        b = (b + a) % 65521;
    }
    out.extend_from_slice(&((b << 16) | a).to_be_bytes());
    out
}

fn distance(mut value: usize) -> Vec<u8> {
    let mut out = vec![u8::try_from(value & 0x7f).unwrap()];
    while value > 0x7f {
        value = (value >> 7) - 1;
        out.insert(0, 0x80 | u8::try_from(value & 0x7f).unwrap());
    }
    out
}

fn varint(mut value: usize) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let byte = u8::try_from(value & 0x7f).unwrap();
        value >>= 7;
        out.push(if value > 0 { byte | 0x80 } else { byte });
        if value == 0 {
            return out;
        }
    }
}

fn delta(base: usize, result: usize, instructions: &[u8]) -> Vec<u8> {
    [&varint(base)[..], &varint(result), instructions].concat()
}

fn only(make: impl FnOnce(&mut Maker)) -> Result<Objects, PackError> {
    let mut maker = Maker::default();
    make(&mut maker);
    unpack(&maker.finish(), 4096, None)
}

#[test]
fn wrong_deltas_are_refused_each_with_its_reason() {
    for (expected, delta) in [
        (DeltaError::BaseSize, delta(9, 1, b"\x01x")),
        (DeltaError::Reserved, delta(5, 1, b"\0")),
        (DeltaError::Copy, delta(5, 6, &[0x90, 6])),
        (DeltaError::Copy, delta(5, 1, &[0x9f, 0xff, 0xff, 0xff, 0xff, 1])),
        (DeltaError::Truncated, delta(5, 3, b"\x03ab")),
        (DeltaError::Truncated, delta(5, 3, &[0x91])),
        (DeltaError::Truncated, varint(5)),
        (DeltaError::Truncated, vec![]),
        (DeltaError::Size, vec![0xff; 12]),
        (DeltaError::ResultSize, delta(5, 1, b"\x02ab")),
        (DeltaError::ResultSize, delta(5, 3, b"\x02ab")),
        // Without a size it is 65536.
        (DeltaError::Copy, delta(5, 5, &[0x80])),
    ] {
        let error = only(|maker| {
            let base = maker.blob(b"hello");
            maker.delta_at(base, &delta);
        })
        .unwrap_err();
        assert!(matches!(error, PackError::Delta { error, .. } if error == expected), "{error:?}");
    }
    let objects = only(|maker| {
        let base = maker.blob(b"hello");
        maker.delta_at(base, &delta(5, 8, b"\x90\x05\x03, w"));
    })
    .unwrap();
    assert!(objects.values().any(|object| object.data == "hello, w"));
}

#[test]
fn wrong_entries_are_refused() {
    let refused = |expected: PackError, make: &dyn Fn(&mut Maker)| {
        assert_eq!(only(|maker| make(maker)).unwrap_err(), expected);
    };
    refused(PackError::UnknownType { offset: 12, number: 0 }, &|m| _ = m.entry(0, 1, &[], b"x"));
    refused(PackError::UnknownType { offset: 12, number: 5 }, &|m| _ = m.entry(5, 1, &[], b"x"));
    refused(PackError::BaseOutside(12), &|m| _ = m.entry(6, 1, &[0], b"x"));
    refused(PackError::BaseOutside(12), &|m| _ = m.entry(6, 1, &[13], b"x"));
    refused(PackError::BaseOutside(12), &|m| _ = m.entry(6, 1, &[1], b"x"));
    refused(PackError::EntryHeader(12), &|m| _ = m.entry(6, 1, &[0xff; 12], b"x"));
    // Longer and shorter than declared.
    refused(PackError::Data(12), &|m| _ = m.entry(3, 1, &[], b"xy"));
    refused(PackError::Data(12), &|m| _ = m.entry(3, 3, &[], b"xy"));
    // Between two entries there is no base.
    refused(PackError::MissingBase(1), &|m| {
        m.blob(b"hello");
        m.entry(6, 1, &[2], b"x");
    });
    refused(PackError::MissingBase(1), &|m| _ = m.entry(7, 1, &[7; 20], b"x"));
    assert_eq!(
        unpack(&sealed(b"PACK\0\0\0\x04\0\0\0\0".to_vec()), 9, None),
        Err(PackError::NotAPack)
    );
    assert_eq!(
        unpack(&sealed(b"JACK\0\0\0\x02\0\0\0\0".to_vec()), 9, None),
        Err(PackError::NotAPack)
    );
    let mut pack = sealed(b"PACK\0\0\0\x02\0\0\0\0".to_vec());
    assert_eq!(unpack(&pack, 9, None), Ok(Objects::new()));
    *pack.last_mut().unwrap() ^= 1;
    assert_eq!(unpack(&pack, 9, None), Err(PackError::Checksum));
}

#[test]
fn bombs_go_off_within_the_limits() {
    let limits = Limits { unpacked_bytes: 1 << 20, ..Limits::default() };
    let exceeded = PackError::Limit { name: "unpacked_bytes", limit: 1 << 20 };
    // An object that declares more than it may.
    let mut maker = Maker::default();
    maker.entry(3, 1 << 40, &[], b"x");
    assert_eq!(unpack_within(&maker.finish(), 99, None, &limits), Err(exceeded));
    // Each delta doubles its base.
    let mut maker = Maker::default();
    let mut base = maker.blob(&[0; 1000]);
    let mut size = 1000_usize;
    for _ in 0..30 {
        let length = u32::try_from(size).unwrap().to_le_bytes();
        let copy = [0xf0, length[0], length[1], length[2]];
        let twice = delta(size, size * 2, &[copy, copy].concat());
        base = maker.delta_at(base, &twice);
        size *= 2;
        if size > 8 << 20 {
            break;
        }
    }
    let exceeded = PackError::Limit { name: "unpacked_bytes", limit: 1 << 20 };
    assert_eq!(unpack_within(&maker.finish(), 99, None, &limits), Err(exceeded));
    // Many small objects weigh more than their content.
    let mut maker = Maker::default();
    for number in 0..5000_u32 {
        maker.blob(&number.to_le_bytes());
    }
    let exceeded = PackError::Limit { name: "unpacked_bytes", limit: 1 << 20 };
    assert_eq!(unpack_within(&maker.finish(), 999, None, &limits), Err(exceeded));
}

#[test]
fn a_long_chain_that_waits_for_its_end_is_resolved_once() {
    // Every delta names the next object by its id, so that all wait until the last entry, which is the only whole one.
    let length = 3000_usize;
    let mut contents: Vec<Vec<u8>> = vec![b"0".to_vec()];
    for number in 1..=length {
        contents.push(number.to_string().into_bytes());
    }
    let ids: Vec<_> = contents
        .iter()
        .map(|data| gix_object::compute_hash(HashKind::Sha1, ObjectKind::Blob, data).unwrap())
        .collect();
    let mut maker = Maker::default();
    for number in (1..=length).rev() {
        let insert = u8::try_from(contents[number].len()).unwrap();
        let instructions = [&[insert][..], &contents[number]].concat();
        let delta = delta(contents[number - 1].len(), contents[number].len(), &instructions);
        maker.entry(7, delta.len(), ids[number - 1].as_slice(), &delta);
    }
    maker.blob(&contents[0]);
    let objects = unpack(&maker.finish(), 4096, None).unwrap();
    assert_eq!(objects.len(), length + 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(
        std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(256)
    ))]

    #[test]
    fn any_bytes_end_in_a_result(
        pack in proptest::collection::vec(any::<u8>(), 0..400),
        count in 0_u32..5,
        piece in 1_usize..50,
    ) {
        let _ = unpack(&pack, piece, None);
        let mut framed = b"PACK\0\0\0\x02".to_vec();
        framed.extend_from_slice(&count.to_be_bytes());
        framed.extend_from_slice(&pack);
        let _ = unpack(&framed, piece, None);
    }

    #[test]
    fn any_delta_ends_in_a_result(
        base in proptest::collection::vec(any::<u8>(), 0..300),
        result in 0_usize..2000,
        instructions in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        let result = only(|maker| {
            let at = maker.blob(&base);
            maker.delta_at(at, &delta(base.len(), result, &instructions));
        });
        let framed_wrongly = matches!(
            result,
            Err(PackError::Delta { error: DeltaError::BaseSize, .. } | PackError::Checksum)
        );
        prop_assert!(!framed_wrongly);
    }

    #[test]
    fn what_is_written_is_read_back_and_no_flipped_bit_goes_unnoticed(
        blobs in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..2000), 1..20),
        piece in 1_usize..3000,
        position in any::<prop::sample::Index>(),
        bit in 0_u32..8,
    ) {
        let objects: Vec<Object> = blobs
            .into_iter()
            .map(|data| Object { kind: ObjectKind::Blob, data: Bytes::from(data) })
            .collect();
        let mut pack = run(write(HashKind::Sha1, &objects.iter().collect::<Vec<_>>())).unwrap();
        let read = unpack(&pack, piece, None).unwrap();
        for object in &objects {
            let id =
                gix_object::compute_hash(HashKind::Sha1, object.kind, &object.data).unwrap();
            prop_assert_eq!(&read[&id], object);
        }
        let position = position.index(pack.len());
        pack[position] ^= 1 << bit;
        prop_assert!(unpack(&pack, piece, None).is_err());
    }
}
