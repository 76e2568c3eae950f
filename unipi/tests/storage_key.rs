//! Records in the storage that are encrypted: what is there when a key is given for the first time, a key that is changed,
//! and keys that are not the right ones.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use blockdev::device::FaultPlan;
use blockdev::{BlockDevice, FaultDevice, MemoryDevice, Store};
use certify::vault::{StoreKeys, Vault};
use unipi::storage::{ACME, CERTIFICATES, CONTROL_KEYS, SITES, Storage, StorageError};

const OLD: &str = "the old key, which has more than thirty-two bytes";
const NEW: &str = "the new key, which has more than thirty-two bytes";
const SIZE: usize = 512 << 10;

fn vault(key: &str) -> Vault {
    Vault::from_text(key).unwrap()
}

fn keys(key: &str) -> Option<StoreKeys> {
    Some(vault(key).into())
}

fn change() -> Option<StoreKeys> {
    Some(StoreKeys { current: vault(NEW), previous: Some(vault(OLD)) })
}

fn open(device: &Arc<MemoryDevice>, keys: Option<StoreKeys>) -> Result<Storage, StorageError> {
    open_at(Arc::clone(device) as Arc<_>, keys)
}

fn open_at(device: Arc<dyn BlockDevice>, keys: Option<StoreKeys>) -> Result<Storage, StorageError> {
    Storage::on_device(device, false)?.encrypted(keys)
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// A record in each table.
fn fill(storage: &Storage) {
    for table in [SITES, CONTROL_KEYS, ACME, CERTIFICATES] {
        for key in ["a", "b"] {
            run(storage.put(table, key, format!("secret {key} of {}", table.0).into_bytes()))
                .unwrap();
        }
    }
}

fn is_whole(storage: &Storage) {
    for table in [SITES, CONTROL_KEYS, ACME, CERTIFICATES] {
        let records = storage.records(table).unwrap();
        let expected = ["a", "b"]
            .map(|key| (key.to_owned(), format!("secret {key} of {}", table.0).into_bytes()));
        assert_eq!(records, expected);
    }
}

#[test]
fn what_is_there_is_encrypted_at_once_and_then_nothing_in_the_clear_counts() {
    let device = Arc::new(MemoryDevice::new(SIZE));
    fill(&open(&device, None).unwrap());
    is_whole(&open(&device, keys(OLD)).unwrap());
    for (given, expected) in [(None, "give the key"), (keys(NEW), "--storage-key-file-old")] {
        let error = open(&device, given).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let storage = open(&device, keys(OLD)).unwrap();
    run(storage.put(ACME, "c", b"late".to_vec())).unwrap();
    assert_eq!(run(storage.get(ACME, "c")).unwrap().unwrap(), b"late");
    run(storage.delete(ACME, "c")).unwrap();
    is_whole(&storage);
    drop(storage);

    // Who can write to the device cannot add a control key by it.
    let store = Store::open(Arc::clone(&device) as Arc<_>, blockdev::OpenOptions::default());
    let store = store.unwrap();
    store.write::<_, blockdev::StoreError>(|tx| tx.put(CONTROL_KEYS, b"intruder", b"{}")).unwrap();
    drop(store);
    let error = open(&device, keys(OLD)).unwrap().records(CONTROL_KEYS).unwrap_err();
    assert!(error.to_string().contains("intruder"), "{error}");
    let error = open(&device, change()).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("intruder"), "{error}");
}

/// Takes the power away at every write and flush.
#[test]
fn a_change_of_the_key_is_whole_at_every_moment() {
    let device = Arc::new(MemoryDevice::new(SIZE));
    fill(&open(&device, keys(OLD)).unwrap());
    let image = device.image();
    let (mut with_old, mut with_new) = (0, 0);
    for crash_at in 1.. {
        let device = Arc::new(MemoryDevice::from_image(image.clone(), 512));
        let plan = FaultPlan { seed: crash_at, crash_at: Some(crash_at), ..FaultPlan::default() };
        let faulty = Arc::new(FaultDevice::new(Arc::clone(&device) as Arc<_>, plan));
        let opened = open_at(Arc::clone(&faulty) as Arc<_>, change());
        let crashed = faulty.crashed();
        drop(opened);
        let opens = |key: &str| {
            let copy = Arc::new(MemoryDevice::from_image(device.image(), 512));
            open(&copy, keys(key)).inspect(is_whole).is_ok()
        };
        let (is_old, is_new) = (opens(OLD), opens(NEW));
        assert!(is_old ^ is_new, "write {crash_at}: {is_old} {is_new}");
        with_old += usize::from(is_old);
        with_new += usize::from(is_new);
        is_whole(&open(&device, change()).unwrap());
        is_whole(&open(&device, keys(NEW)).unwrap());
        if !crashed {
            break;
        }
    }
    assert!(with_old > 0 && with_new > 0, "{with_old} {with_new}");
}
