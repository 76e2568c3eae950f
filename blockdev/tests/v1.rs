//! The original's layout: five disk images from an independent encoder, damage of every kind, writing, and migration.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::sync::Arc;

use blockdev::device::{FaultPlan, SplitMix64};
use blockdev::store::{MIN_CAPACITY, V1_BACKUP};
use blockdev::v1::{self, Copy, V1Error};
use blockdev::{
    BlockDevice, Content, FaultDevice, FileDevice, MemoryDevice, OpenError, OpenOptions, Store,
    StoreError,
};
use proptest::prelude::*;
use sha2::{Digest, Sha256};

const ONE_NAME: &[u8] = include_bytes!("vectors/v1-one-name.img");
const EMPTY: &[u8] = include_bytes!("vectors/v1-empty.img");
const SIXTY: &[u8] = include_bytes!("vectors/v1-sixty-names-chained.img");
const STALE: &[u8] = include_bytes!("vectors/v1-first-superblock-stale.img");
const CORRUPT: &[u8] = include_bytes!("vectors/v1-data-corrupt.img");

fn device(image: &[u8]) -> MemoryDevice {
    MemoryDevice::from_image(image.to_vec(), 512)
}

/// Writes a sector of superblock with fields as given, and a valid checksum.
fn superblock(counter: u64, first: u64, length: u64, data: &[u8]) -> Vec<u8> {
    let mut sector = vec![0; 480];
    sector[1] = 1;
    sector[8..16].copy_from_slice(&counter.to_be_bytes());
    sector[24..32].copy_from_slice(&first.to_be_bytes());
    sector[32..40].copy_from_slice(&length.to_be_bytes());
    sector[40..72].copy_from_slice(&Sha256::digest(data));
    let digest = Sha256::digest(&sector);
    sector.extend_from_slice(&digest);
    sector
}

#[test]
fn the_five_images() {
    let one = v1::read(&device(ONE_NAME)).unwrap();
    assert_eq!((one.counter, one.data.len(), one.stale), (3, 0x23, None));
    assert_eq!(&one.data[..12], b"\xa0\x21\x30\x1f\x30\x1d\x0c\x10test");
    assert_eq!(one.timestamp, 0x165d_508b_17e4_0000);

    let empty = v1::read(&device(EMPTY)).unwrap();
    assert_eq!((empty.counter, empty.data, empty.stale), (0, Vec::new(), None));

    let sixty = v1::read(&device(SIXTY)).unwrap();
    assert_eq!((sixty.counter, sixty.data.len()), (9, 0x800));
    assert!(sixty.data.windows(18).any(|w| w == b"svc059.example.org"));

    let stale = v1::read(&device(STALE)).unwrap();
    assert_eq!((stale.counter, stale.stale), (5, Some(Copy::First)));
    assert_eq!(stale.data, one.data);

    assert_eq!(v1::read(&device(CORRUPT)), Err(V1Error::Checksum));
    assert_eq!(v1::probe(&device(CORRUPT)), Ok(true));
}

#[test]
fn the_copy_that_counts() {
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut image = ONE_NAME.to_vec();
        change(&mut image);
        v1::read(&device(&image)).map(|image| (image.counter, image.stale, image.data.len()))
    };
    let last = ONE_NAME.len() - 512;
    assert_eq!(with(&|i| i[100] ^= 1), Ok((3, Some(Copy::First), 35)));
    assert_eq!(with(&|i| i[last + 100] ^= 1), Ok((3, Some(Copy::Last), 35)));
    let older = superblock(2, 0, 0, b"");
    assert_eq!(with(&|i| i[last..].copy_from_slice(&older)), Ok((3, Some(Copy::Last), 35)));
    let newer = superblock(4, 0, 0, b"");
    assert_eq!(with(&|i| i[last..].copy_from_slice(&newer)), Ok((4, Some(Copy::First), 0)));
    let both = with(&|i| {
        i[0] = 9;
        i[last] = 9;
    });
    assert_eq!(both, Err(V1Error::NoSuperblock));
    assert_eq!(v1::read(&MemoryDevice::new(512)), Err(V1Error::NoSuperblock));
    assert_eq!(v1::read(&MemoryDevice::new(0)), Err(V1Error::NoSuperblock));
}

#[test]
fn hostile_chains_are_refused() {
    let read = |first: u64, length: u64, links: &[(usize, u64)]| {
        let mut image = vec![0; 32_768];
        image[..512].copy_from_slice(&superblock(1, first, length, b"x"));
        for (sector, next) in links {
            image[sector * 512..sector * 512 + 8].copy_from_slice(&next.to_be_bytes());
        }
        v1::read(&device(&image)).unwrap_err()
    };
    let range = |sector| V1Error::OutOfRange { sector, last: 62 };
    assert_eq!(read(63, 10, &[]), range(63));
    assert_eq!(read(u64::MAX, 10, &[]), range(u64::MAX));
    assert_eq!(read(1, 1000, &[(1, 1 << 60)]), range(1 << 60));
    assert_eq!(read(1, 1500, &[(1, 2), (2, 1)]), V1Error::Loop(1));
    assert_eq!(read(5, 1000, &[(5, 5)]), V1Error::Loop(5));
    assert_eq!(read(1, 1000, &[]), V1Error::ChainLength { found: 504, length: 1000 });
    assert_eq!(read(0, 10, &[]), V1Error::ChainLength { found: 0, length: 10 });
    assert_eq!(read(1, 10, &[(1, 2)]), V1Error::ChainLength { found: 1008, length: 10 });
    assert_eq!(read(1, 0, &[]), V1Error::ChainLength { found: 504, length: 0 });
    let most = 62 * 504;
    assert_eq!(read(1, most + 1, &[]), V1Error::Length { length: most + 1, most });
    assert_eq!(read(1, u64::MAX, &[]), V1Error::Length { length: u64::MAX, most });
    assert_eq!(read(1, 10, &[]), V1Error::Checksum);
}

#[test]
fn timestamps_are_the_originals() {
    // 1970-01-02 00:00:01.5: a day has 86,000 seconds.
    assert_eq!(v1::timestamp(86_401, 500_000_000), 86_001_500_000_000);
}

#[test]
fn an_export_is_what_an_independent_encoder_writes() {
    let one = v1::read(&device(ONE_NAME)).unwrap();
    let blank = MemoryDevice::new(ONE_NAME.len());
    v1::write(&blank, &one.data, one.counter, one.timestamp).unwrap();
    assert!(blank.image() == ONE_NAME, "the image differs");
    let blank = MemoryDevice::new(EMPTY.len());
    v1::write(&blank, b"", 0, one.timestamp).unwrap();
    assert!(blank.image() == EMPTY, "the image of no data differs");
    let full = vec![1; 62 * 504 + 1];
    let before = blank.image();
    assert_eq!(v1::write(&blank, &full, 1, 0), Err(V1Error::TooSmall { needed: 63, free: 62 }));
    assert_eq!(
        v1::write(&MemoryDevice::new(512), b"", 1, 0),
        Err(V1Error::TooSmall { needed: 2, free: 1 })
    );
    assert!(blank.image() == before);
}

#[test]
fn a_crash_while_writing_leaves_the_data_before_or_after() {
    for seed in 0..400 {
        let mut random = SplitMix64::new(seed);
        let disk = Arc::new(device(SIXTY));
        let before = v1::read(&*disk).unwrap();
        let plan = FaultPlan { seed, crash_at: Some(1 + random.below(20)), ..Default::default() };
        let faulty = FaultDevice::new(disk.clone(), plan);
        let data: Vec<u8> = (0..4000u32).map(|i| i.to_le_bytes()[0]).collect();
        let outcome = v1::write(&faulty, &data, before.counter + 1, 7);
        faulty.crash().unwrap();
        let after = v1::read(&*disk).unwrap();
        assert!(after.data == data || (outcome.is_err() && after.data == before.data), "{seed}");
    }
}

fn migrate(device: Arc<dyn BlockDevice>) -> Result<Store, OpenError> {
    Store::migrate_v1(device, OpenOptions::default(), |image, tx| {
        let summary = image.data.len().to_string();
        Ok::<_, OpenError>(tx.put(common::TABLES[0], b"length", summary.as_bytes())?)
    })
}

#[test]
fn a_device_of_the_originals_is_refused_until_it_is_migrated() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("storage");
    std::fs::write(&path, SIXTY).unwrap();
    let device = Arc::new(FileDevice::open(&path).unwrap());
    assert_eq!(Store::looks_like(&*device), Ok(Content::V1));
    let error = Store::open(device.clone(), OpenOptions::default()).unwrap_err();
    assert!(error.to_string().contains("the original tlstunnel's v1 layout"), "{error}");
    assert!(matches!(migrate(device.clone()), Err(OpenError::TooSmall { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), SIXTY);

    device.extend_to(MIN_CAPACITY * 2).unwrap();
    let data = v1::read(&*device).unwrap().data;
    let store = migrate(device.clone()).unwrap();
    drop(store);
    assert_eq!(Store::looks_like(&*device), Ok(Content::Store));
    let store = common::open(device);
    let kept = store.read(|tx| tx.get(V1_BACKUP, b"data"));
    assert_eq!(kept, Ok::<_, StoreError>(Some(data)));
    let length = store.read(|tx| tx.get(common::TABLES[0], b"length"));
    assert_eq!(length, Ok::<_, StoreError>(Some(b"2048".to_vec())));
    assert!(store.check().unwrap());
}

#[test]
fn data_that_cannot_be_read_is_not_migrated() {
    let mut image = CORRUPT.to_vec();
    image.resize(1 << 20, 0);
    let device = Arc::new(device(&image));
    assert!(matches!(migrate(device.clone()), Err(OpenError::V1(V1Error::Checksum))));
    assert!(device.image() == image);
    let refused =
        Store::migrate_v1(device, OpenOptions::default(), |_, _| Err::<(), _>(OpenError::Blank));
    assert!(refused.is_err());
}

#[test]
fn a_crash_anywhere_in_a_migration_loses_nothing() {
    let original = v1::read(&device(SIXTY)).unwrap().data;
    let mut finished = 0;
    for n in 1.. {
        let mut image = SIXTY.to_vec();
        image.resize(1 << 20, 0);
        let disk = Arc::new(device(&image));
        let plan = FaultPlan { seed: n, crash_at: Some(n), ..Default::default() };
        let faulty = Arc::new(FaultDevice::new(disk.clone(), plan));
        let outcome = migrate(faulty.clone());
        let acknowledged = outcome.is_ok();
        drop(outcome);
        let crashed = faulty.crashed();
        faulty.crash().unwrap();
        match Store::looks_like(&*disk).unwrap() {
            Content::V1 => {
                assert!(!acknowledged, "crash {n}");
                assert_eq!(v1::read(&*disk).unwrap().data, original, "crash {n}");
                // And it can be done again.
                drop(migrate(disk.clone()).unwrap());
            }
            Content::Store => finished += 1,
            other => panic!("crash {n}: {other:?}"),
        }
        let kept = common::open(disk).read(|tx| tx.get(V1_BACKUP, b"data"));
        assert_eq!(kept, Ok::<_, StoreError>(Some(original.clone())), "crash {n}");
        if !crashed {
            assert!(n > 20 && finished > 1);
            break;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read(
        old in proptest::collection::vec(any::<u8>(), 0..6000),
        new in proptest::collection::vec(any::<u8>(), 0..6000),
        sector in prop::sample::select(vec![512u32, 1024, 4096]),
    ) {
        let device = MemoryDevice::from_image(vec![0; 128 << 10], sector);
        v1::write(&device, &old, 1, 5).unwrap();
        prop_assert_eq!(&v1::read(&device).unwrap().data, &old);
        v1::write(&device, &new, 2, 6).unwrap();
        let image = v1::read(&device).unwrap();
        prop_assert_eq!((image.counter, image.timestamp, image.stale), (2, 6, None));
        prop_assert_eq!(&image.data, &new);
    }

    /// A flipped bit anywhere is either without effect or an error: never other data.
    #[test]
    fn a_flipped_bit_is_never_other_data(at in 0..32_768usize, bit in 0..8u8) {
        let mut image = SIXTY.to_vec();
        image[at] ^= 1 << bit;
        if let Ok(read) = v1::read(&device(&image)) {
            prop_assert_eq!(read.data, v1::read(&device(SIXTY)).unwrap().data);
        }
    }
}
