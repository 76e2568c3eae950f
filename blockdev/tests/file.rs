//! The file device with real processes: the lock, and `kill -9` between and inside transactions.
//!
//! The test program runs itself again as the child, told by an environment variable. `KILL_ROUNDS` is the number of
//! kills (default 200).
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use blockdev::device::SplitMix64;
use blockdev::{BlockDevice, DeviceError, FileDevice, Store, StoreError};
use common::{Model, apply_to_model, apply_to_store, content, open, random_changes, scale};

const ROLE: &str = "BLOCKDEV_TEST_CHILD";
const CAPACITY: u64 = 4 << 20;

/// The transaction with this number; a child and its parent agree on it.
fn transaction(number: u64) -> Vec<common::Change> {
    let mut random = SplitMix64::new(number);
    let mut changes = random_changes(&mut random, 60, 30_000);
    changes.push(common::Change::Put(0, b"number".to_vec(), number.to_be_bytes().to_vec()));
    changes
}

fn number_in(store: &Store) -> u64 {
    let value = store.read(|tx| tx.get(common::TABLES[0], b"number"));
    value
        .unwrap_or_else(|e: StoreError| panic!("{e}"))
        .map_or(0, |bytes| u64::from_be_bytes(bytes.try_into().unwrap()))
}

/// Not a test of its own: what the child does.
#[test]
fn child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let (what, path) = role.split_once(':').unwrap();
    if what == "lock" {
        println!("answer: {:?}", FileDevice::open(path).map(|_| ()));
        return;
    }
    let store = open(Arc::new(FileDevice::open(path).unwrap()));
    println!("acknowledged {}", number_in(&store));
    for number in number_in(&store) + 1.. {
        apply_to_store(&store, &transaction(number)).unwrap();
        println!("acknowledged {number}");
        std::io::stdout().flush().unwrap();
    }
}

fn start_child(what: &str, path: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--nocapture", "--test-threads=1"])
        .env(ROLE, format!("{what}:{}", path.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn acknowledged(line: &str) -> Option<u64> {
    line.split_once("acknowledged ")?.1.trim().parse().ok()
}

#[test]
fn kill_9_loses_nothing_that_was_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("storage");
    drop(FileDevice::open_or_create(&path, CAPACITY).unwrap());
    let mut random = SplitMix64::new(1);
    let mut model = Model::new();
    let mut applied = 0;
    let rounds = scale("KILL_ROUNDS", 200);
    for round in 0..rounds {
        let mut child = start_child("write", &path);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut newest = None;
        let patience = 1 + random.below(20);
        for line in lines
            .by_ref()
            .map_while(Result::ok)
            .filter(|l| l.contains("acknowledged"))
            .take(usize::try_from(patience).unwrap())
        {
            newest = acknowledged(&line).or(newest);
        }
        // Somewhere in a transaction, not just after one.
        for _ in 0..random.below(200_000) {
            std::hint::spin_loop();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        newest = lines.map_while(Result::ok).filter_map(|l| acknowledged(&l)).last().or(newest);
        let newest = newest.unwrap_or_else(|| panic!("round {round}: the child did not start"));

        let store = open(Arc::new(FileDevice::open(&path).unwrap()));
        let found = number_in(&store);
        assert!(
            found == newest || found == newest + 1,
            "round {round}: {newest} was acknowledged, the store has {found}"
        );
        while applied < found {
            applied += 1;
            apply_to_model(&mut model, &transaction(applied));
        }
        assert_eq!(content(&store), model, "round {round}");
    }
    assert!(applied >= rounds, "only {applied} transactions in {rounds} rounds");
}

#[test]
fn a_second_process_is_told_that_the_file_is_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("storage");
    let device = FileDevice::open_or_create(&path, CAPACITY).unwrap();
    let ask = || {
        let output = start_child("lock", &path).wait_with_output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let answer = ask();
    assert!(answer.contains("answer: Err(Locked("), "{answer}");
    let error = FileDevice::open(&path).unwrap_err();
    assert!(error.to_string().contains("another process uses"), "{error}");
    drop(device);
    let answer = ask();
    assert!(answer.contains("answer: Ok(())"), "{answer}");
}

#[test]
fn a_file_is_created_sparse_and_private_and_keeps_its_size() {
    use std::os::unix::fs::MetadataExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("storage");
    assert!(matches!(FileDevice::open(&path), Err(DeviceError::Missing(_))));
    let device = FileDevice::open_or_create(&path, (64 << 20) + 1).unwrap();
    assert_eq!(device.capacity(), (64 << 20) + 512);
    let metadata = std::fs::metadata(&path).unwrap();
    assert_eq!(metadata.mode() & 0o777, 0o600);
    assert!(metadata.blocks() * 512 < 1 << 20, "not sparse");
    device.write(512, &[1; 1024]).unwrap();
    device.flush().unwrap();
    drop(device);
    let device = FileDevice::open_or_create(&path, 1).unwrap();
    assert_eq!(device.capacity(), (64 << 20) + 512);
    let mut sectors = [0; 2048];
    device.read(0, &mut sectors).unwrap();
    assert_eq!((&sectors[..512], &sectors[512..1536]), (&[0; 512][..], &[1; 1024][..]));
    for (offset, length) in [(1, 512), (0, 100), (device.capacity(), 512), (u64::MAX - 511, 512)] {
        let error = device.read(offset, &mut vec![0; length]).unwrap_err();
        assert!(matches!(error, DeviceError::Range { .. }), "{offset}+{length}: {error}");
        let error = device.write(offset, &vec![0; length]).unwrap_err();
        assert!(matches!(error, DeviceError::Range { .. }), "{offset}+{length}: {error}");
    }
    device.extend_to(65 << 20).unwrap();
    assert_eq!(device.capacity(), 65 << 20);
    assert!(FileDevice::open(folder.path()).is_err());
}

/// A loop device stands for a disk; making one needs root and losetup.
#[test]
fn a_raw_block_device_has_its_own_sectors_and_one_user() {
    let folder = tempfile::tempdir().unwrap();
    let backing = folder.path().join("disk");
    std::fs::File::create(&backing).unwrap().set_len(CAPACITY).unwrap();
    let made = Command::new("losetup")
        .args(["--find", "--show", "--sector-size", "4096"])
        .arg(&backing)
        .output();
    let Some(output) = made.ok().filter(|output| output.status.success()) else {
        assert!(std::env::var("REQUIRE_PEERS").is_err(), "no loop device could be made");
        println!("skipped: making a loop device needs root and losetup");
        return;
    };
    let disk = Loop(String::from_utf8(output.stdout).unwrap().trim().to_owned());
    let device = Arc::new(FileDevice::open(&disk.0).unwrap());
    assert_eq!((device.sector_size(), device.capacity()), (4096, CAPACITY));
    assert!(matches!(FileDevice::open(&disk.0), Err(DeviceError::Locked(_))));
    assert!(matches!(device.write(512, &[0; 512]), Err(DeviceError::Range { .. })));
    assert!(device.extend_to(2 * CAPACITY).is_err());
    apply_to_store(&open(device.clone()), &transaction(7)).unwrap();
    drop(device);
    assert_eq!(number_in(&open(Arc::new(FileDevice::open(&disk.0).unwrap()))), 7);
}

struct Loop(String);

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}
