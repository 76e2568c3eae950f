//! The store as callers see it: transactions, scans, formatting, foreign content, arbitrary bytes.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::sync::Arc;

use blockdev::device::SplitMix64;
use blockdev::store::{MAX_KEY_LEN, MAX_VALUE_LEN, MIN_CAPACITY};
use blockdev::{Content, Format, MemoryDevice, OpenError, OpenOptions, Store, StoreError, Table};
use common::{Model, apply_to_model, apply_to_store, content, open, random_changes};
use proptest::prelude::*;

const TABLE: Table = Table("t");
const MIB: usize = 1 << 20;

fn keys(entries: Vec<(Vec<u8>, Vec<u8>)>) -> Vec<String> {
    entries.into_iter().map(|(key, _)| String::from_utf8(key).unwrap()).collect()
}

#[derive(Debug, PartialEq)]
enum CallersError {
    Mine,
    Store(StoreError),
}

impl From<StoreError> for CallersError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

#[test]
fn a_transaction_happens_wholly_or_not_at_all() {
    let store = open(Arc::new(MemoryDevice::new(MIB)));
    let entries: Result<u64, StoreError> = store.write(|tx| {
        tx.put(TABLE, b"a", b"1")?;
        assert_eq!(tx.get(TABLE, b"a")?, Some(b"1".to_vec()));
        tx.len(TABLE)
    });
    assert_eq!(entries, Ok(1));
    let refused = store.write(|tx| {
        tx.put(TABLE, b"b", b"2")?;
        assert!(tx.delete(TABLE, b"a")?);
        assert!(!tx.delete(TABLE, b"never there")?);
        Err::<(), _>(CallersError::Mine)
    });
    assert_eq!(refused, Err(CallersError::Mine));
    store
        .read(|tx| {
            assert_eq!(tx.get(TABLE, b"a")?, Some(b"1".to_vec()));
            assert_eq!(tx.get(TABLE, b"b")?, None);
            assert_eq!(tx.len(Table("never written"))?, 0);
            Ok::<_, StoreError>(())
        })
        .unwrap();
}

#[test]
fn a_snapshot_does_not_see_what_is_written_meanwhile() {
    let store = open(Arc::new(MemoryDevice::new(MIB)));
    let other = store.clone();
    store
        .read(|tx| {
            assert_eq!(tx.get(TABLE, b"a")?, None);
            let writer = std::thread::spawn(move || other.write(|tx| tx.put(TABLE, b"a", b"1")));
            writer.join().unwrap()?;
            assert_eq!(tx.get(TABLE, b"a")?, None);
            Ok::<_, StoreError>(())
        })
        .unwrap();
    assert_eq!(store.read(|tx| tx.get(TABLE, b"a")), Ok::<_, StoreError>(Some(b"1".to_vec())));
}

#[test]
fn scans_go_both_ways_in_pages() {
    let store = open(Arc::new(MemoryDevice::new(MIB)));
    store
        .write(|tx| {
            for key in ["a", "b/", "b/1", "b/2", "b/3", "b0", "c"] {
                tx.put(TABLE, key.as_bytes(), b"")?;
            }
            tx.put(TABLE, b"\xff\xff", b"")?;
            assert_eq!(keys(tx.scan(TABLE, b"b/", Some(b"b/1"), 9)?), ["b/2", "b/3"]);
            assert_eq!(keys(tx.scan_back(TABLE, b"b/", None, 2)?), ["b/3", "b/2"]);
            Ok::<_, StoreError>(())
        })
        .unwrap();
    store
        .read(|tx| {
            assert_eq!(keys(tx.scan(TABLE, b"b/", None, 2)?), ["b/", "b/1"]);
            assert_eq!(keys(tx.scan(TABLE, b"b/", Some(b"b/1"), 9)?), ["b/2", "b/3"]);
            assert_eq!(keys(tx.scan(TABLE, b"b/", Some(b"a"), 1)?), ["b/"]);
            assert!(tx.scan(TABLE, b"b/", Some(b"c"), 9)?.is_empty());
            assert!(tx.scan(TABLE, b"", None, 0)?.is_empty());
            assert_eq!(keys(tx.scan_back(TABLE, b"b/", Some(b"b/3"), 2)?), ["b/2", "b/1"]);
            assert_eq!(keys(tx.scan_back(TABLE, b"b/", Some(b"z"), 1)?), ["b/3"]);
            assert!(tx.scan_back(TABLE, b"b/", Some(b"a"), 9)?.is_empty());
            assert_eq!(keys(tx.scan_back(TABLE, b"", Some(b"b/"), 9)?), ["a"]);
            assert_eq!(tx.scan_back(TABLE, b"\xff", None, 9)?.len(), 1);
            assert_eq!(tx.scan(TABLE, b"\xff", None, 9)?.len(), 1);
            assert_eq!(tx.len(TABLE)?, 8);
            Ok::<_, StoreError>(())
        })
        .unwrap();
}

#[test]
fn too_long_is_the_callers_mistake_and_harmless() {
    let store = open(Arc::new(MemoryDevice::new(MIB)));
    store
        .write(|tx| {
            let key = tx.put(TABLE, &vec![1; MAX_KEY_LEN + 1], b"");
            assert!(matches!(key, Err(StoreError::TooLong { what: "a key", .. })));
            let value = tx.put(TABLE, b"k", &vec![1; MAX_VALUE_LEN + 1]);
            assert!(matches!(value, Err(StoreError::TooLong { what: "a value", .. })));
            tx.put(TABLE, &vec![1; MAX_KEY_LEN], b"fits")
        })
        .unwrap();
}

#[test]
fn usage_grows_and_shrinks_with_the_content() {
    let store = open(Arc::new(MemoryDevice::new(8 * MIB)));
    let empty = store.usage().unwrap();
    assert!(empty.capacity > 6 << 20 && empty.used < 256 << 10, "{empty:?}");
    store
        .write(|tx| tx.put(TABLE, b"k", &vec![1; MIB]))
        .unwrap_or_else(|e: StoreError| panic!("{e}"));
    let more = store.usage().unwrap();
    assert!(more.used >= empty.used + (1 << 20), "{more:?}");
    assert!(store.write(|tx| tx.delete(TABLE, b"k")).unwrap_or_else(|e: StoreError| panic!("{e}")));
    assert!(store.usage().unwrap().used < 256 << 10);
}

#[test]
fn formatting_is_done_when_blank_or_asked_for_only() {
    let options = |format| OpenOptions { format, ..OpenOptions::default() };
    let device = Arc::new(MemoryDevice::new(MIB));
    assert_eq!(Store::looks_like(&*device), Ok(Content::Blank));
    assert!(matches!(Store::open(device.clone(), options(Format::Never)), Err(OpenError::Blank)));
    assert!(device.image().iter().all(|byte| *byte == 0));
    let store = Store::open(device.clone(), options(Format::WhenBlank)).unwrap();
    store.write(|tx| tx.put(TABLE, b"k", b"v")).unwrap_or_else(|e: StoreError| panic!("{e}"));
    drop(store);
    assert_eq!(Store::looks_like(&*device), Ok(Content::Store));
    let store = Store::open(device.clone(), options(Format::Never)).unwrap();
    assert_eq!(store.read(|tx| tx.len(TABLE)), Ok::<_, StoreError>(1));
    drop(store);
    let store = Store::open(device.clone(), options(Format::Always)).unwrap();
    assert_eq!(store.read(|tx| tx.len(TABLE)), Ok::<_, StoreError>(0));
    drop(store);

    let cut = device.image()[..16 << 10].to_vec();
    let error =
        Store::open(Arc::new(MemoryDevice::from_image(cut, 512)), options(Format::WhenBlank));
    assert!(matches!(error, Err(OpenError::Truncated { .. })), "{error:?}");
    let small = Arc::new(MemoryDevice::new(usize::try_from(MIN_CAPACITY).unwrap() - 512));
    let error = Store::open(small, options(Format::WhenBlank)).unwrap_err();
    assert!(matches!(error, OpenError::TooSmall { needed: MIN_CAPACITY, .. }), "{error}");
    for size in [0, 512, 4096, 8192] {
        assert!(Store::open(Arc::new(MemoryDevice::new(size)), options(Format::Always)).is_err());
        assert!(
            Store::open(Arc::new(MemoryDevice::new(size)), options(Format::WhenBlank)).is_err()
        );
    }
}

#[test]
fn any_sector_size_will_do() {
    for sector in [512, 4096, 65_536] {
        let device = Arc::new(MemoryDevice::from_image(vec![0; 2 * MIB], sector));
        let mut random = SplitMix64::new(5);
        let mut model = Model::new();
        for _ in 0..5 {
            let store = open(device.clone());
            let changes = random_changes(&mut random, 20, 10_000);
            apply_to_model(&mut model, &changes);
            apply_to_store(&store, &changes).unwrap();
            assert_eq!(content(&store), model, "sectors of {sector}");
        }
    }
}

#[test]
fn foreign_content_is_named_and_left_alone() {
    let cases: &[(&str, usize, &[u8])] = &[
        ("ext4", 1080, &[0x53, 0xef]),
        ("XFS", 0, b"XFSB"),
        ("btrfs", 65_600, b"_BHRfS_M"),
        ("GPT", 512, b"EFI PART"),
        ("MBR", 510, &[0x55, 0xaa]),
        ("LUKS", 0, b"LUKS\xba\xbe"),
        ("LVM", 512, b"LABELONE"),
        ("squashfs", 0, b"hsqs"),
        ("gzip", 0, &[0x1f, 0x8b, 8]),
        ("ELF", 0, b"\x7fELF"),
        ("SQLite", 0, b"SQLite format 3\0"),
        ("ISO 9660", 32_769, b"CD001"),
        ("FAT", 82, b"FAT32   "),
        ("NTFS", 3, b"NTFS    "),
        ("swap", 4086, b"SWAPSPACE2"),
        ("RAID", 4096, &[0xfc, 0x4e, 0x2b, 0xa9]),
        ("qcow2", 0, b"QFI\xfb"),
        ("tar", 257, b"ustar"),
        ("redb", 0, b"redb\x1a\x0a\xa9\x0d\x0a"),
        ("PEM", 0, b"-----BEGIN CERTIFICATE-----\nMIIB\n"),
        ("text", 0, "routes:\n  - näme\n".as_bytes()),
        ("both superblocks damaged", 0, &[0, 1, 0, 0, 0, 0, 0, 0, 7]),
        ("unknown", 0, &[0xde, 0xad, 0xbe, 0xef]),
        ("unknown", MIB - 1, &[1]),
    ];
    for (name, at, bytes) in cases {
        let mut image = vec![0; MIB];
        image[*at..at + bytes.len()].copy_from_slice(bytes);
        let device = Arc::new(MemoryDevice::from_image(image.clone(), 512));
        for format in [Format::WhenBlank, Format::Never] {
            let options = OpenOptions { format, ..OpenOptions::default() };
            match Store::open(device.clone(), options) {
                Err(OpenError::Foreign { looks_like }) => {
                    assert!(looks_like.contains(name), "{name}: {looks_like}");
                }
                other => panic!("{name}: {other:?}"),
            }
        }
        assert!(device.image() == image, "{name}: the device was changed");
        let options = OpenOptions { format: Format::Always, ..OpenOptions::default() };
        assert!(Store::open(device, options).is_ok(), "{name}: could not be formatted");
    }
}

#[test]
fn damage_is_reported_and_not_formatted_away() {
    let device = Arc::new(MemoryDevice::new(MIB));
    let store = open(device.clone());
    let value: Vec<u8> = (0..60_000u32).map(|i| i.to_le_bytes()[0] | 1).collect();
    store.write(|tx| tx.put(TABLE, b"k", &value)).unwrap_or_else(|e: StoreError| panic!("{e}"));
    drop(store);
    let image = device.image();

    let mut both_headers = image.clone();
    both_headers[20] ^= 1;
    both_headers[4096 + 20] ^= 1;
    let mut no_magic = image.clone();
    no_magic[8192..8192 + 512].fill(0);
    let mut value_damaged = image.clone();
    let at = image.windows(600).position(|w| value.starts_with(w)).unwrap();
    value_damaged[at + 300] ^= 0x40;
    for (name, damaged) in
        [("headers", both_headers), ("magic", no_magic), ("value", value_damaged)]
    {
        let device = Arc::new(MemoryDevice::from_image(damaged, 512));
        let error = Store::open(device, OpenOptions::default()).unwrap_err();
        assert!(
            matches!(error, OpenError::Store(StoreError::Corrupt(_)) | OpenError::Foreign { .. }),
            "{name}: {error}"
        );
    }
    for slot in [0, 4096] {
        let mut one_header = image.clone();
        one_header[slot + 20] ^= 1;
        let device = Arc::new(MemoryDevice::from_image(one_header, 512));
        // The older header may tell of a shorter file, which is refused, but never of other content.
        if let Ok(store) = Store::open(device, OpenOptions::default()) {
            assert_eq!(
                store.read(|tx| tx.get(TABLE, b"k")),
                Ok::<_, StoreError>(Some(value.clone()))
            );
        }
    }
}

#[test]
fn the_whole_device_can_be_used() {
    for capacity in [3 * MIB, 5 * MIB + 512 * 7] {
        let store = open(Arc::new(MemoryDevice::new(capacity)));
        let mut number = 0u32;
        while store
            .write(|tx| tx.put(TABLE, &number.to_be_bytes(), &[3; 3000]))
            .is_ok_and(|()| true)
        {
            number += 1;
        }
        let stored = number as usize * 3000;
        assert!(stored > capacity / 2, "{stored} of {capacity}");
        let usage = store.usage().unwrap();
        assert!(usage.used > usage.capacity * 9 / 10, "{usage:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_store_is_a_map(seed in any::<u64>()) {
        let device = Arc::new(MemoryDevice::new(2 * MIB));
        let mut store = open(device.clone());
        let (mut random, mut model) = (SplitMix64::new(seed), Model::new());
        for _ in 0..30 {
            let changes = random_changes(&mut random, 30, 5000);
            if random.below(5) == 0 {
                drop(store);
                store = open(device.clone());
            }
            apply_to_store(&store, &changes).unwrap();
            apply_to_model(&mut model, &changes);
        }
        prop_assert_eq!(content(&store), model);
    }

    /// Arbitrary bytes, also over a real store: an error or a store, no panic, and nothing is written on an error.
    #[test]
    fn arbitrary_bytes_are_survived(
        over_a_store in any::<bool>(),
        patches in proptest::collection::vec((0..300_000usize, proptest::collection::vec(any::<u8>(), 1..200)), 1..20),
    ) {
        let device = Arc::new(MemoryDevice::new(MIB));
        if over_a_store {
            let store = open(device.clone());
            apply_to_store(&store, &random_changes(&mut SplitMix64::new(1), 40, 60_000)).unwrap();
        }
        for (at, bytes) in patches {
            blockdev::fuzz::patch(&device, at as u64, &bytes);
        }
        blockdev::fuzz::open(device);
    }
}
