//! The power goes at every write and flush of long random histories; what is left must be the state before or after the
//! transaction in flight, contents compared with a model.
//!
//! `BLOCKDEV_CRASH_ROUNDS` scales the number of histories (default 2); each is one seed.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use blockdev::device::SplitMix64;
use blockdev::{
    BlockDevice, DeviceError, FaultDevice, MemoryDevice, OpenOptions, Store, StoreError,
    device::FaultPlan,
};
use common::{Model, apply_to_model, apply_to_store, content, open, random_changes, scale};

const CAPACITY: usize = 1 << 20;

enum Call {
    Write(u64, Vec<u8>),
    Flush,
}

/// Carries everything out and remembers it.
#[derive(Debug)]
struct Recorder {
    memory: MemoryDevice,
    calls: Mutex<Vec<Call>>,
}

impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if matches!(self, Self::Flush) { "flush" } else { "write" })
    }
}

impl BlockDevice for Recorder {
    fn sector_size(&self) -> u32 {
        self.memory.sector_size()
    }
    fn sectors(&self) -> u64 {
        self.memory.sectors()
    }
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), DeviceError> {
        self.memory.read(offset, buffer)
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), DeviceError> {
        self.memory.write(offset, data)?;
        self.calls.lock().unwrap().push(Call::Write(offset, data.to_vec()));
        Ok(())
    }
    fn flush(&self) -> Result<(), DeviceError> {
        self.calls.lock().unwrap().push(Call::Flush);
        Ok(())
    }
}

/// Which states a crash may leave: `states[acknowledged]` or the one after it.
fn check_left_behind(image: Vec<u8>, states: &[Model], acknowledged: usize, at: &str) {
    let store = Store::open(Arc::new(MemoryDevice::from_image(image, 512)), OpenOptions::default())
        .unwrap_or_else(|e| panic!("{at}: does not open: {e}"));
    let found = content(&store);
    let allowed = &states[acknowledged..states.len().min(acknowledged + 2)];
    assert!(
        allowed.contains(&found),
        "{at}: a third state with {} entries, allowed have {:?}",
        found.len(),
        allowed.iter().map(Model::len).collect::<Vec<_>>()
    );
}

#[test]
fn every_write_and_flush_of_a_history() {
    for seed in 0..scale("BLOCKDEV_CRASH_ROUNDS", 2) {
        let (crashes, refused) = crash_everywhere(seed, 200, CAPACITY, 40, 20_000);
        assert!(crashes > 1000, "only {crashes} crashes were tried");
        assert_eq!(refused, 0);
        // A small device, which runs full: growing, the reserve and refusals are crashed into as well.
        let (crashes, refused) = crash_everywhere(seed, 200, 512 << 10, 200, 150_000);
        assert!(crashes > 1000, "only {crashes} crashes were tried");
        assert!(refused > 2, "only {refused} transactions were refused");
    }
}

/// Returns how many crashes were tried and how many transactions were refused because the store was full.
fn crash_everywhere(
    seed: u64,
    transactions: u32,
    capacity: usize,
    keys: u64,
    longest: u64,
) -> (usize, usize) {
    let mut refused = 0;
    let mut random = SplitMix64::new(seed);
    let device =
        Arc::new(Recorder { memory: MemoryDevice::new(capacity), calls: Mutex::new(Vec::new()) });
    // How many transactions were acknowledged when the device had carried out so many calls.
    let mut acknowledged_at = vec![(0, 0)];
    let mut states = vec![Model::new()];
    let mut store = open(device.clone());
    for number in 1..=transactions {
        // Now and then the store is closed and opened, which writes too.
        if number % 20 == 0 {
            drop(store);
            store = open(device.clone());
        }
        let changes = random_changes(&mut random, keys, longest);
        let mut next = states.last().unwrap().clone();
        match apply_to_store(&store, &changes) {
            Ok(()) => apply_to_model(&mut next, &changes),
            Err(error) => {
                assert!(matches!(error, StoreError::Full { .. }), "{error}");
                refused += 1;
            }
        }
        states.push(next);
        acknowledged_at.push((device.calls.lock().unwrap().len(), states.len() - 1));
    }
    assert_eq!(content(&store), *states.last().unwrap());
    drop(store);

    let calls = std::mem::take(&mut *device.calls.lock().unwrap());
    let disk = Arc::new(MemoryDevice::new(capacity));
    // The cache of the model: every version of a 512-byte piece since the last flush.
    let mut cache: BTreeMap<u64, Vec<Vec<u8>>> = BTreeMap::new();
    for (index, call) in calls.iter().enumerate() {
        match call {
            Call::Write(offset, data) => {
                for (piece, bytes) in (*offset..).step_by(512).zip(data.chunks(512)) {
                    cache.entry(piece).or_default().push(bytes.to_vec());
                }
            }
            Call::Flush => {}
        }
        let acknowledged =
            acknowledged_at.iter().rev().find(|(count, _)| *count <= index).unwrap().1;
        let mut image = disk.image();
        for (piece, versions) in &cache {
            let choice = usize::try_from(random.below(versions.len() as u64 + 1)).unwrap();
            if let Some(bytes) = versions.get(choice) {
                let at = usize::try_from(*piece).unwrap();
                image[at..at + 512].copy_from_slice(bytes);
            }
        }
        check_left_behind(
            image,
            &states,
            acknowledged,
            &format!("seed {seed}, crash at call {index}"),
        );
        if matches!(call, Call::Flush) {
            for (piece, versions) in std::mem::take(&mut cache) {
                disk.write(piece, versions.last().unwrap()).unwrap();
            }
        }
    }
    (calls.len(), refused)
}

/// The same with the live process: its device dies under it, and it must neither panic nor acknowledge anything more.
#[test]
fn a_device_that_dies_under_the_store() {
    for seed in 0..40 * scale("BLOCKDEV_CRASH_ROUNDS", 2) {
        let mut random = SplitMix64::new(seed);
        let disk = Arc::new(MemoryDevice::new(CAPACITY));
        let plan = FaultPlan { seed, crash_at: Some(1 + random.below(250)), ..Default::default() };
        let device = Arc::new(FaultDevice::new(disk.clone(), plan));
        let mut states = vec![Model::new()];
        let mut acknowledged = 0;
        if let Ok(store) = Store::open(device.clone(), OpenOptions::default()) {
            for _ in 0..60 {
                let changes = random_changes(&mut random, 40, 20_000);
                let mut next = states[acknowledged].clone();
                apply_to_model(&mut next, &changes);
                states.push(next);
                match apply_to_store(&store, &changes) {
                    Ok(()) => acknowledged += 1,
                    Err(error) => {
                        assert!(matches!(error, StoreError::Device(_)), "{error}");
                        break;
                    }
                }
            }
            let after: Result<(), StoreError> =
                store.write(|tx| tx.put(common::TABLES[0], b"k", b"v"));
            assert!(after.is_err() || !device.crashed());
            if after.is_ok() {
                let mut next = states[acknowledged].clone();
                next.insert((0, b"k".to_vec()), b"v".to_vec());
                states.push(next);
                acknowledged += 1;
            }
        }
        device.crash().unwrap();
        check_left_behind(disk.image(), &states, acknowledged, &format!("seed {seed}"));
    }
}

/// Opening with each call in turn failing: an error and no panic, and the next opening finds everything.
#[test]
fn every_single_call_of_opening_fails_once() {
    for blank in [true, false] {
        let disk = Arc::new(MemoryDevice::new(CAPACITY));
        let mut model = Model::new();
        if !blank {
            let store = open(disk.clone());
            let changes = random_changes(&mut SplitMix64::new(3), 20, 60_000);
            apply_to_model(&mut model, &changes);
            apply_to_store(&store, &changes).unwrap();
        }
        let image = disk.image();
        for n in 1.. {
            let disk = Arc::new(MemoryDevice::from_image(image.clone(), 512));
            let plan = FaultPlan { fail_call: Some(n), ..Default::default() };
            let device = Arc::new(FaultDevice::new(disk, plan));
            let outcome = Store::open(device.clone(), OpenOptions::default());
            let failed = outcome.is_err();
            drop(outcome);
            assert_eq!(content(&open(device.clone())), model, "blank {blank}, call {n}");
            if !failed && device.calls() >= n {
                assert!(n > 3);
                break;
            }
        }
    }
}

/// Each call in turn fails once. The call's error is reported, the state is before or after, and the next transaction
/// works on the same handle.
#[test]
fn every_single_call_fails_once() {
    let mut n = 1;
    loop {
        let disk = Arc::new(MemoryDevice::new(CAPACITY));
        let device = Arc::new(FaultDevice::new(disk, FaultPlan::default()));
        let store = open(device.clone());
        let mut random = SplitMix64::new(7);
        let mut model = Model::new();
        device.set_plan(FaultPlan { fail_call: Some(n), ..Default::default() });
        let mut failures = 0;
        for _ in 0..12 {
            let changes = random_changes(&mut random, 20, 60_000);
            let mut next = model.clone();
            apply_to_model(&mut next, &changes);
            if let Err(error) = apply_to_store(&store, &changes) {
                assert!(matches!(error, StoreError::Device(_)), "call {n}: {error}");
                failures += 1;
                let found = content(&store);
                assert!(found == model || found == next, "call {n}: a third state");
                model = found;
            } else {
                model = next;
            }
        }
        let failed = device.calls() >= n;
        device.set_plan(FaultPlan::default());
        assert!(
            failures <= 1,
            "call {n}: one failure of the device failed {failures} transactions"
        );
        assert_eq!(content(&store), model, "call {n}");
        assert!(store.check().unwrap(), "call {n}");
        if !failed {
            break;
        }
        n += 1;
    }
    assert!(n > 50, "only {n} calls were made");
}
