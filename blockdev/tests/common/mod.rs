//! What several tests share.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::sync::Arc;

use blockdev::device::SplitMix64;
use blockdev::{BlockDevice, OpenOptions, Store, StoreError, Table};

pub const TABLES: [Table; 2] = [Table("routes"), Table("sites")];

/// What a store should hold.
pub type Model = BTreeMap<(usize, Vec<u8>), Vec<u8>>;

#[derive(Debug, Clone)]
pub enum Change {
    Put(usize, Vec<u8>, Vec<u8>),
    Delete(usize, Vec<u8>),
}

/// One to six changes; values of 1 to `longest` bytes.
pub fn random_changes(random: &mut SplitMix64, keys: u64, longest: u64) -> Vec<Change> {
    (0..=random.below(6))
        .map(|_| {
            let table = usize::try_from(random.below(2)).unwrap();
            let key = format!("key-{:04}", random.below(keys)).into_bytes();
            if random.below(4) == 0 {
                return Change::Delete(table, key);
            }
            let most = if random.below(8) == 0 { longest } else { 200 };
            let length = 1 + random.below(most);
            let fill = u8::try_from(random.below(256)).unwrap();
            let mut value = vec![fill; usize::try_from(length).unwrap()];
            value[0] = fill.wrapping_add(1);
            Change::Put(table, key, value)
        })
        .collect()
}

pub fn apply_to_model(model: &mut Model, changes: &[Change]) {
    for change in changes {
        match change.clone() {
            Change::Put(table, key, value) => drop(model.insert((table, key), value)),
            Change::Delete(table, key) => drop(model.remove(&(table, key))),
        }
    }
}

pub fn apply_to_store(store: &Store, changes: &[Change]) -> Result<(), StoreError> {
    store.write(|tx| {
        for change in changes {
            match change {
                Change::Put(table, key, value) => tx.put(TABLES[*table], key, value)?,
                Change::Delete(table, key) => drop(tx.delete(TABLES[*table], key)?),
            }
        }
        Ok(())
    })
}

/// Everything that the store holds, read in pages.
pub fn content(store: &Store) -> Model {
    let mut all = Model::new();
    store
        .read(|tx| {
            for (index, table) in TABLES.into_iter().enumerate() {
                let mut after: Option<Vec<u8>> = None;
                loop {
                    let page = tx.scan(table, b"", after.as_deref(), 7)?;
                    let Some((last, _)) = page.last() else { break };
                    after = Some(last.clone());
                    all.extend(page.into_iter().map(|(key, value)| ((index, key), value)));
                }
            }
            Ok::<_, StoreError>(())
        })
        .unwrap();
    all
}

pub fn open(device: Arc<dyn BlockDevice>) -> Store {
    Store::open(device, OpenOptions { cache_bytes: 1 << 20, ..OpenOptions::default() }).unwrap()
}

/// A number from the environment that scales a test.
pub fn scale(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}
