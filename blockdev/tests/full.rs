//! A full store: what is added is refused, what is deleted is deleted, and then there is room again.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::sync::Arc;

use blockdev::device::FaultPlan;
use blockdev::{BlockDevice, FaultDevice, MemoryDevice, Store, StoreError, Table};
use common::{content, open};

const TABLE: Table = common::TABLES[0];

/// Fills the store with values of `length` bytes; returns how many there are.
fn fill(store: &Store, length: usize) -> u32 {
    let start = u32::try_from(store.read(|tx| tx.len(TABLE)).unwrap()).unwrap();
    for number in start.. {
        let outcome: Result<(), StoreError> =
            store.write(|tx| tx.put(TABLE, &number.to_be_bytes(), &vec![7; length]));
        match outcome {
            Ok(()) => {}
            Err(StoreError::Full { .. }) => return number,
            Err(error) => panic!("{error}"),
        }
    }
    0
}

fn delete(store: &Store, number: u32) -> Result<bool, StoreError> {
    store.write(|tx| tx.delete(TABLE, &number.to_be_bytes()))
}

#[test]
fn deletes_work_on_a_full_store_and_make_room() {
    for (capacity, length) in
        [(512 << 10, 3000), (1 << 20, 100), (2 << 20, 10_000), (8 << 20, 10_000), (3 << 20, 40_000)]
    {
        let device = Arc::new(MemoryDevice::new(capacity));
        let store = open(device.clone());
        let count = fill(&store, length);
        let usage = store.usage().unwrap();
        assert!(usage.used <= usage.capacity, "{usage:?}");
        assert!(usage.used > usage.capacity * 6 / 10, "{capacity}: {usage:?} with {count}");

        // Again and again, so that the reserve would be used up if it were not given back.
        for round in 0..4 {
            for number in (0..count).skip(round).step_by(10) {
                let outcome = delete(&store, number);
                assert!(outcome.is_ok(), "{capacity}/{length}, round {round}: {outcome:?}");
            }
            for number in (0..count).skip(round).step_by(10) {
                let outcome: Result<(), StoreError> =
                    store.write(|tx| tx.put(TABLE, &number.to_be_bytes(), &vec![9; length / 2]));
                assert!(outcome.is_ok(), "{capacity}/{length}, round {round}: {outcome:?}");
            }
            let mut random_key = 1_000_000u32;
            while store
                .write(|tx| tx.put(TABLE, &random_key.to_be_bytes(), &vec![1; length / 2]))
                .is_ok_and(|()| true)
            {
                random_key += 1;
            }
            for number in 1_000_000..random_key {
                assert!(delete(&store, number).unwrap());
            }
        }
        assert!(store.check().unwrap());

        // All at once, and after opening anew.
        let before = content(&store);
        drop(store);
        let store = open(device);
        assert_eq!(content(&store), before);
        fill(&store, length);
        let emptied: Result<(), StoreError> = store.write(|tx| {
            for (key, _) in tx.scan(TABLE, b"", None, usize::MAX)? {
                tx.delete(TABLE, &key)?;
            }
            Ok(())
        });
        assert_eq!(emptied, Ok(()), "{capacity}/{length}");
        assert_eq!(store.read(|tx| tx.len(TABLE)), Ok::<_, StoreError>(0));
        assert!(fill(&store, length) >= count * 8 / 10, "{capacity}/{length}");
    }
}

#[test]
fn a_deletion_with_its_record_works_on_a_full_store() {
    let store = open(Arc::new(MemoryDevice::new(1 << 20)));
    let count = fill(&store, 500);
    for number in 0..count.min(200) {
        let outcome: Result<(), StoreError> = store.write(|tx| {
            tx.delete(TABLE, &number.to_be_bytes())?;
            tx.put(common::TABLES[1], &number.to_be_bytes(), &[3; 900])
        });
        // Records larger than what they replace fill the store in the end; then a plain deletion still works.
        if outcome.is_err() {
            assert!(number > 8, "only {number} deletions with a record");
            break;
        }
    }
    assert!(delete(&store, count - 1).unwrap());
}

#[test]
fn a_refused_transaction_changes_nothing_and_costs_the_handle_nothing() {
    let store = open(Arc::new(MemoryDevice::new(512 << 10)));
    store.write(|tx| tx.put(TABLE, b"a", b"1")).unwrap_or_else(|e: StoreError| panic!("{e}"));
    let before = content(&store);
    let outcome: Result<(), StoreError> = store.write(|tx| {
        tx.put(TABLE, b"b", b"2")?;
        let huge = tx.put(TABLE, b"c", &vec![0; 4 << 20]);
        assert!(matches!(huge, Err(StoreError::Full { .. })));
        // A closure that ignores the error cannot commit half of what it meant.
        Ok(())
    });
    assert!(matches!(outcome, Err(StoreError::Full { .. })));
    assert_eq!(content(&store), before);
    store.write(|tx| tx.put(TABLE, b"b", b"2")).unwrap_or_else(|e: StoreError| panic!("{e}"));
}

#[test]
fn a_sparse_file_on_a_full_disk_is_full_too() {
    let disk: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::new(8 << 20));
    let device = Arc::new(FaultDevice::new(disk, FaultPlan::default()));
    let store = open(device.clone());
    device.set_plan(FaultPlan { full_beyond: Some(1 << 20), ..Default::default() });
    let mut stored = 0u32;
    let error = loop {
        match store.write(|tx| tx.put(TABLE, &stored.to_be_bytes(), &[5; 5000])) {
            Ok(()) => stored += 1,
            Err(error) => break error,
        }
        assert!(stored < 1000);
    };
    assert!(
        matches!(error, StoreError::Device(blockdev::DeviceError::Full)),
        "the disk under it is to blame: {error}"
    );
    assert_eq!(content(&store).len(), stored as usize);
    assert!(delete(&store, 0).unwrap());
    device.set_plan(FaultPlan::default());
    store.write(|tx| tx.put(TABLE, b"x", &[5; 5000])).unwrap_or_else(|e: StoreError| panic!("{e}"));
}

/// Readers beside a writer that makes the store full again and again: consistent snapshots or the request to repeat,
/// and no deadlock.
#[test]
fn readers_go_on_while_the_store_runs_full() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let store = open(Arc::new(MemoryDevice::new(2 << 20)));
    let done = AtomicBool::new(false);
    let reads = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut reads = 0u32;
                    while !done.load(Ordering::Acquire) {
                        let counted: Result<_, StoreError> = store.read(|tx| {
                            Ok((tx.len(TABLE)?, tx.scan(TABLE, b"", None, 9999)?.len()))
                        });
                        match counted {
                            Ok((length, scanned)) => assert_eq!(length, scanned as u64),
                            Err(error) => assert_eq!(error, StoreError::Interrupted),
                        }
                        reads += 1;
                    }
                    reads
                })
            })
            .collect();
        let outcomes: Vec<_> = (0..3)
            .flat_map(|_| 0..fill(&store, 9000))
            .map(|number| delete(&store, number))
            .collect();
        done.store(true, Ordering::Release);
        assert!(outcomes.len() > 100);
        let refused: Vec<_> = outcomes.iter().filter(|outcome| **outcome != Ok(true)).collect();
        assert!(refused.is_empty(), "{} of {}: {:?}", refused.len(), outcomes.len(), refused);
        readers.into_iter().map(|reader| reader.join().unwrap()).sum::<u32>()
    });
    assert!(reads > 0);
    assert_eq!(store.read(|tx| tx.len(TABLE)), Ok::<_, StoreError>(0));
}
