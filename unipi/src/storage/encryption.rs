//! Encrypting all records at once: those of a store in the clear, and those of one whose key is changed.
//!
//! It is one transaction: at every moment all records are under one key, and a proof beside them tells which. What they
//! were before stays in free parts of the device until something else is written there.

use blockdev::{Store, StoreError, Table, WriteTx};
use certify::vault::{Sealing, StoreKeys, Vault};

use super::{BATCH, StorageError, sealed};

/// What is about the store itself.
const META: Table = Table("storage");
/// The proof.
const PROOF: &[u8] = b"vault";

/// Sees to it that the records of `tables` are encrypted with the current one of `keys`.
pub(super) fn apply(
    store: &Store,
    keys: Option<StoreKeys>,
    tables: &[Table],
) -> Result<Option<Vault>, StorageError> {
    let proof = store.read::<_, StoreError>(|tx| tx.get(META, PROOF))?;
    let Some(keys) = keys else {
        return if proof.is_some() { Err(StorageError::NoKey) } else { Ok(None) };
    };
    let sealing =
        keys.sealing(META.0, PROOF, proof.as_deref()).map_err(|_| StorageError::WrongKey)?;
    if sealing != Sealing::Current {
        let count = store.write::<_, StorageError>(|tx| {
            let mut count = 0_usize;
            for table in tables {
                count += seal_anew(tx, &keys, sealing, *table)?;
            }
            let proof = keys.proof(META.0, PROOF);
            tx.put(META, PROOF, &proof.map_err(|error| sealed(META, "vault", error))?)?;
            Ok(count)
        })?;
        match sealing {
            Sealing::Previous => {
                tracing::warn!(
                    count,
                    "the storage's key is changed; the old one is needed no more"
                );
            }
            _ => tracing::warn!(count, "records in the storage are encrypted from now on"),
        }
    }
    Ok(Some(keys.current))
}

fn seal_anew(
    tx: &mut WriteTx<'_>,
    keys: &StoreKeys,
    sealing: Sealing,
    table: Table,
) -> Result<usize, StorageError> {
    let (mut count, mut after) = (0, None::<Vec<u8>>);
    loop {
        let page = tx.scan(table, b"", after.as_deref(), BATCH)?;
        let Some((last, _)) = page.last() else { return Ok(count) };
        after = Some(last.clone());
        for (key, value) in page {
            let lies = match sealing {
                // Before there was a proof, records were encrypted one by one, as they were written.
                Sealing::Clear if Vault::is_sealed(&value) => {
                    match keys.current.open(table.0, &key, &value) {
                        Ok(_) => Sealing::Current,
                        Err(_) => Sealing::Previous,
                    }
                }
                sealing => sealing,
            };
            let anew = keys
                .sealed_anew(lies, table.0, &key, value)
                .map_err(|error| sealed(table, &String::from_utf8_lossy(&key), error))?;
            tx.put(table, &key, &anew)?;
            count += 1;
        }
    }
}
