//! Encrypting a store at once: one in the clear, or one whose key is changed.
//!
//! Every secret is written anew in one transaction, so that a store is under one key, whole, at every moment. What the
//! store has let go of stays on the device until something else is written there; therefore its free space is overwritten
//! afterwards. A mark, written by the same transaction, has the next start do so if this one is cut short.

use blockdev::{Store, StoreError, Table};
use certify::vault::{Sealing, StoreKeys};

use super::records::{
    ACME, CERTIFICATES, FILLER, KEYS, META, OVERWRITE, SCHEMA, SCHEMA_VERSION, SchemaRecord, VAULT,
    encode, is_secret,
};
use super::storage::{StorageError, damaged};

/// Entries that are read at once.
const PAGE: usize = 1000;
/// What overwrites free space: large values first, then as many as fit into what is left.
const FILLERS: [usize; 2] = [32 << 10, 3 << 10];
/// Values of one transaction.
const FILLERS_AT_ONCE: usize = 32;
/// The most that is overwritten, in bytes.
const MAX_OVERWRITTEN: usize = 1 << 30;

/// Encrypts every secret with the current key, all of them or none. They lie there as `sealing` says.
///
/// # Errors
/// When one of them cannot be opened, or there is no room; nothing was changed then.
pub(super) fn seal_anew(
    store: &Store,
    keys: &StoreKeys,
    sealing: Sealing,
) -> Result<(), StorageError> {
    let count = store.write::<_, StorageError>(|tx| {
        let mut count = 0_usize;
        for table in [KEYS, CERTIFICATES, ACME, META] {
            let mut after: Option<Vec<u8>> = None;
            loop {
                let page = tx.scan(Table(table), &[], after.as_deref(), PAGE)?;
                let whole = page.len() == PAGE;
                after = page.last().map(|(key, _)| key.clone());
                for (key, value) in page.into_iter().filter(|(key, _)| is_secret(table, key)) {
                    let sealed = keys
                        .sealed_anew(sealing, table, &key, value)
                        .map_err(|error| damaged(table, &key, &error.to_string()))?;
                    tx.put(Table(table), &key, &sealed)?;
                    count += 1;
                }
                if !whole {
                    break;
                }
            }
        }
        tx.put(Table(META), VAULT, &keys.proof(META, VAULT)?)?;
        let schema = encode(&SchemaRecord { version: SCHEMA_VERSION })
            .map_err(|error| damaged(META, SCHEMA, &error.to_string()))?;
        tx.put(Table(META), SCHEMA, &schema)?;
        if count > 0 {
            tx.put(Table(META), OVERWRITE, &[])?;
        }
        Ok(count)
    })?;
    match sealing {
        Sealing::Previous => {
            tracing::warn!(count, "the storage's key is changed; the old one is needed no more");
        }
        _ => tracing::warn!(count, "secrets in the storage are encrypted from now on"),
    }
    Ok(())
}

/// Overwrites what the store let go of, if that is to be done still.
///
/// # Errors
/// When the store fails. The next start tries again.
pub(super) fn overwrite_what_was(store: &Store) -> Result<(), StorageError> {
    remove_filler(store)?;
    if store.read::<_, StoreError>(|tx| tx.get(Table(META), OVERWRITE))?.is_none() {
        return Ok(());
    }
    fill(store)?;
    remove_filler(store)?;
    store.write::<_, StoreError>(|tx| tx.delete(Table(META), OVERWRITE))?;
    Ok(())
}

/// Fills the store.
fn fill(store: &Store) -> Result<(), StorageError> {
    let (mut number, mut left) = (0_u64, MAX_OVERWRITTEN);
    for size in FILLERS {
        let filler = vec![0; size];
        let full = loop {
            let batch = (left / size).min(FILLERS_AT_ONCE);
            if batch == 0 {
                break false;
            }
            let filled = store.write::<(), StoreError>(|tx| {
                (0..batch).try_for_each(|i| {
                    let key = number.saturating_add(u64::try_from(i).unwrap_or(0));
                    tx.put(Table(FILLER), &key.to_be_bytes(), &filler)
                })
            });
            match filled {
                Ok(()) => {
                    number += u64::try_from(batch).unwrap_or(0);
                    left -= batch * size;
                }
                Err(StoreError::Full { .. }) => break true,
                Err(error) => return Err(error.into()),
            }
        };
        if !full {
            tracing::warn!(
                bytes = MAX_OVERWRITTEN,
                "the device is too large to overwrite all of it: older forms of secrets may be left in its free parts"
            );
            break;
        }
    }
    Ok(())
}

/// A crash may have left some.
fn remove_filler(store: &Store) -> Result<(), StorageError> {
    loop {
        let whole = store.write::<bool, StoreError>(|tx| {
            let page = tx.scan(Table(FILLER), &[], None, FILLERS_AT_ONCE)?;
            for (key, _) in &page {
                tx.delete(Table(FILLER), key)?;
            }
            Ok(page.len() == FILLERS_AT_ONCE)
        })?;
        if !whole {
            return Ok(());
        }
    }
}
