//! Reading and writing the records of [`super::records`]; the only place that touches the store.

use blockdev::{ReadTx, Store, StoreError, Table, WriteTx};
use config_proto::key::KeyId;
use config_proto::message::{Generation, Refusal, RefusalCode, RouteChange, StorageState};
use config_proto::model::{Route, RouteSettings};
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::plan::NetChanges;
use super::records::{
    ACME, AUTHORITY, CERTIFICATES, CHANGES, CertificateRecord, ChangeRecord, GENERATIONS,
    GenerationRecord, HEAD, HeadRecord, KEYS, KeyRecord, META, PemRecord, PendingRecord, ROUTES,
    SCHEMA, SCHEMA_VERSION, SchemaRecord, change_key, generation_key, generation_of, name_of,
};
use super::{internal, refuse};

/// Entries that are read at once.
const PAGE: usize = 1000;
/// Generations that one commit takes off the old end, so that a lowered `--history` costs no single change much.
const EVICTED_AT_ONCE: u64 = 8;
/// Changes of evicted generations that one commit takes off, besides twice as many as it brings: they never pile up.
const ORPHANS_AT_ONCE: usize = 256;

/// Why the store's content cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// The store itself.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A record is not what this program writes.
    #[error("the record {key:?} of the table {table} is damaged: {reason}")]
    Record {
        /// The table.
        table: &'static str,
        /// Its key, as text.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// Written by a later version.
    #[error("the store has schema {0}, which is newer than this program: update it")]
    NewerSchema(u32),
    /// The store is ahead of what is in effect: a change that failed was made durable after all.
    #[error("an earlier change that failed was made durable after all")]
    Ahead,
}

impl From<StorageError> for Refusal {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Store(StoreError::Full { .. }) => refuse(
                RefusalCode::Full,
                error.to_string(),
                "remove routes, or lower --history; nothing was changed",
            ),
            StorageError::Store(StoreError::TooLong { .. }) => {
                Self { code: RefusalCode::Invalid, message: error.to_string(), hint: None }
            }
            error => internal(error),
        }
    }
}

/// Everything that a start needs.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub(super) head: HeadRecord,
    pub(super) routes: Vec<Route>,
    pub(super) keys: Vec<(KeyId, KeyRecord)>,
    /// In the order in which they came.
    pub(super) certificates: Vec<CertificateRecord>,
    pub(super) authority: Option<PemRecord>,
}

/// One change as it is written.
#[derive(Debug)]
pub(super) struct Edit {
    /// The generation that it makes.
    pub(super) number: u64,
    pub(super) record: GenerationRecord,
    pub(super) routes: Vec<RouteChange>,
    pub(super) keys: Vec<(KeyId, Option<KeyRecord>)>,
    /// By SHA-256.
    pub(super) certificates: Vec<(String, Option<CertificateRecord>)>,
    /// The oldest generation with a record so far.
    pub(super) oldest: u64,
    pub(super) pending: Option<PendingRecord>,
    /// How many generations are kept.
    pub(super) keep: u32,
}

/// The store with its schema.
#[derive(Clone, Debug)]
pub(super) struct Storage {
    store: Store,
}

impl Storage {
    /// Checks the schema of a store, or puts it into an empty one.
    pub(super) fn open(store: Store) -> Result<Self, StorageError> {
        let schema = store.read(|tx| read_record::<SchemaRecord>(tx, META, SCHEMA))?;
        match schema {
            Some(schema) if schema.version > SCHEMA_VERSION => {
                return Err(StorageError::NewerSchema(schema.version));
            }
            Some(_) => {}
            None => store
                .write(|tx| initialise(tx, &HeadRecord { oldest: 1, ..HeadRecord::default() }))?,
        }
        Ok(Self { store })
    }

    /// Reads everything but the history.
    pub(super) fn load(&self) -> Result<Loaded, StorageError> {
        self.store.read(|tx| {
            let mut loaded = Loaded {
                head: read_record(tx, META, HEAD)?.unwrap_or_default(),
                authority: read_record(tx, META, AUTHORITY)?,
                ..Loaded::default()
            };
            each(tx, ROUTES, &[], |key, settings: RouteSettings| {
                let name = name_of(key).ok_or_else(|| damaged(ROUTES, key, "no route name"))?;
                loaded.routes.push(Route { name, settings });
                Ok(())
            })?;
            each(tx, KEYS, &[], |key, record: KeyRecord| {
                let id = std::str::from_utf8(key)
                    .ok()
                    .and_then(|id| id.parse().ok())
                    .ok_or_else(|| damaged(KEYS, key, "no key id"))?;
                loaded.keys.push((id, record));
                Ok(())
            })?;
            each(tx, CERTIFICATES, &[], |_, record: CertificateRecord| {
                loaded.certificates.push(record);
                Ok(())
            })?;
            loaded.certificates.sort_by_key(|record| record.generation);
            Ok(loaded)
        })
    }

    /// Where the history stands in the store.
    pub(super) fn head(&self) -> Result<HeadRecord, StorageError> {
        self.store.read(|tx| Ok(read_record(tx, META, HEAD)?.unwrap_or_default()))
    }

    /// Writes a change in one transaction: all of it is durable when this returns, or nothing is changed. Returns the
    /// oldest generation that has a record now.
    ///
    /// # Errors
    /// After [`StoreError::Device`] only [`Storage::head`] can tell whether it happened.
    pub(super) fn commit(&self, edit: &Edit) -> Result<u64, StorageError> {
        self.store.write(|tx| {
            let stored: HeadRecord = match tx.get(Table(META), HEAD)? {
                Some(bytes) => decode(META, HEAD, &bytes)?,
                None => HeadRecord::default(),
            };
            if stored.generation != edit.number - 1 {
                return Err(StorageError::Ahead);
            }
            write_change(tx, edit)?;
            for (id, record) in &edit.keys {
                put_or_delete(tx, KEYS, id.as_str().as_bytes(), record.as_ref())?;
            }
            for (sha256, record) in &edit.certificates {
                put_or_delete(tx, CERTIFICATES, sha256.as_bytes(), record.as_ref())?;
            }
            let oldest = evict(tx, edit)?;
            let head =
                HeadRecord { generation: edit.number, oldest, pending: edit.pending.clone() };
            put(tx, META, HEAD, &head)?;
            Ok(oldest)
        })
    }

    /// Writes only where the history stands.
    pub(super) fn set_head(&self, head: &HeadRecord) -> Result<(), StorageError> {
        self.store.write(|tx| put(tx, META, HEAD, head))
    }

    /// Keeps the development authority.
    pub(super) fn set_authority(&self, authority: &PemRecord) -> Result<(), StorageError> {
        self.store.write(|tx| put(tx, META, AUTHORITY, authority))
    }

    /// What certify keeps.
    pub(super) fn acme_records(&self) -> Result<Vec<certify::Record>, StorageError> {
        self.store.read(|tx| {
            let mut records: Vec<certify::Record> = Vec::new();
            let mut after: Option<Vec<u8>> = None;
            loop {
                let page = tx.scan(Table(ACME), &[], after.as_deref(), PAGE)?;
                let whole = page.len() == PAGE;
                after = page.last().map(|(key, _)| key.clone());
                for (key, value) in page {
                    let name = String::from_utf8(key)
                        .map_err(|error| damaged(ACME, error.as_bytes(), "no text"))?;
                    records.push((name, Zeroizing::new(value)));
                }
                if !whole {
                    return Ok(records);
                }
            }
        })
    }

    /// Keeps a record of certify's, or removes it.
    pub(super) fn save_acme_record(
        &self,
        key: &str,
        record: Option<&[u8]>,
    ) -> Result<(), StorageError> {
        self.store.write(|tx| {
            match record {
                Some(record) => tx.put(Table(ACME), key.as_bytes(), record)?,
                None => {
                    tx.delete(Table(ACME), key.as_bytes())?;
                }
            }
            Ok(())
        })
    }

    /// Generations below `before`, newest first.
    pub(super) fn generations(
        &self,
        before: u64,
        limit: usize,
    ) -> Result<Vec<Generation>, StorageError> {
        self.store.read(|tx| {
            tx.scan_back(Table(GENERATIONS), &[], Some(&generation_key(before)), limit)?
                .into_iter()
                .map(|(key, value)| {
                    let number = generation_of(&key)
                        .ok_or_else(|| damaged(GENERATIONS, &key, "no generation"))?;
                    let GenerationRecord { time, author, summary } =
                        decode(GENERATIONS, &key, &value)?;
                    Ok(Generation { number, time, author, summary })
                })
                .collect()
        })
    }

    /// What the generations after `from`, up to and including `to`, did together.
    pub(super) fn net_changes(&self, from: u64, to: u64) -> Result<NetChanges, Refusal> {
        let mut net = NetChanges::default();
        self.store.read::<(), StorageError>(|tx| {
            for number in from.saturating_add(1)..=to {
                each(tx, CHANGES, &generation_key(number), |key, change: ChangeRecord| {
                    let name = key
                        .get(8..)
                        .and_then(name_of)
                        .ok_or_else(|| damaged(CHANGES, key, "no route name"))?;
                    net.then(name, change.before, change.after);
                    Ok(())
                })?;
            }
            Ok(())
        })?;
        Ok(net)
    }

    /// How full the store is.
    pub(super) fn usage(&self) -> Result<StorageState, Refusal> {
        let usage = self.store.usage().map_err(StorageError::from)?;
        Ok(StorageState { used: usage.used, capacity: usage.capacity })
    }
}

/// Puts the schema and a head into an empty store.
pub(super) fn initialise(tx: &mut WriteTx<'_>, head: &HeadRecord) -> Result<(), StorageError> {
    put(tx, META, SCHEMA, &SchemaRecord { version: SCHEMA_VERSION })?;
    put(tx, META, HEAD, head)
}

/// Writes routes, undo log and the generation's record.
pub(super) fn write_change(tx: &mut WriteTx<'_>, edit: &Edit) -> Result<(), StorageError> {
    for change in &edit.routes {
        let after = change.after.as_ref().map(|route| &route.settings);
        put_or_delete(tx, ROUTES, change.name.to_string().as_bytes(), after)?;
        let record = ChangeRecord {
            before: change.before.as_ref().map(|route| route.settings.clone()),
            after: after.cloned(),
        };
        put(tx, CHANGES, &change_key(edit.number, &change.name), &record)?;
    }
    put(tx, GENERATIONS, &generation_key(edit.number), &edit.record)
}

/// Takes off what is older than is kept, but never what undoing a change that waits needs.
///
/// A generation's own record goes at once, and with it the generation. What it did to each route stays behind without
/// an owner and goes by and by: a generation of many thousand routes must not make the change that drops it slow.
fn evict(tx: &mut WriteTx<'_>, edit: &Edit) -> Result<u64, StorageError> {
    let wanted = edit.number.saturating_add(1).saturating_sub(edit.keep.into());
    let needed = edit.pending.as_ref().map_or(u64::MAX, |pending| pending.generation);
    let oldest = wanted.min(needed).min(edit.oldest + EVICTED_AT_ONCE).max(edit.oldest);
    for number in edit.oldest..oldest {
        tx.delete(Table(GENERATIONS), &generation_key(number))?;
    }
    let mut left = ORPHANS_AT_ONCE.saturating_add(edit.routes.len().saturating_mul(2));
    while left > 0 {
        let page = tx.scan(Table(CHANGES), &[], None, left.min(PAGE))?;
        let orphans = page
            .iter()
            .take_while(|(key, _)| generation_of(key).is_some_and(|number| number < oldest))
            .count();
        for (change, _) in page.iter().take(orphans) {
            tx.delete(Table(CHANGES), change)?;
        }
        if orphans < left.min(PAGE) {
            break;
        }
        left -= orphans;
    }
    Ok(oldest)
}

/// Calls `f` with every record whose key begins with `prefix`, in the order of the keys.
fn each<T: DeserializeOwned>(
    tx: &ReadTx<'_>,
    table: &'static str,
    prefix: &[u8],
    mut f: impl FnMut(&[u8], T) -> Result<(), StorageError>,
) -> Result<(), StorageError> {
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = tx.scan(Table(table), prefix, after.as_deref(), PAGE)?;
        for (key, value) in &page {
            f(key, decode(table, key, value)?)?;
        }
        let whole = page.len() == PAGE;
        after = page.into_iter().next_back().map(|(key, _)| key);
        if !whole {
            return Ok(());
        }
    }
}

fn read_record<T: DeserializeOwned>(
    tx: &ReadTx<'_>,
    table: &'static str,
    key: &[u8],
) -> Result<Option<T>, StorageError> {
    tx.get(Table(table), key)?.map(|bytes| decode(table, key, &bytes)).transpose()
}

fn put<T: Serialize>(
    tx: &mut WriteTx<'_>,
    table: &'static str,
    key: &[u8],
    record: &T,
) -> Result<(), StorageError> {
    let bytes =
        super::records::encode(record).map_err(|error| damaged(table, key, &error.to_string()))?;
    Ok(tx.put(Table(table), key, &bytes)?)
}

fn put_or_delete<T: Serialize>(
    tx: &mut WriteTx<'_>,
    table: &'static str,
    key: &[u8],
    record: Option<&T>,
) -> Result<(), StorageError> {
    match record {
        Some(record) => put(tx, table, key, record),
        None => Ok(tx.delete(Table(table), key).map(|_| ())?),
    }
}

fn decode<T: DeserializeOwned>(
    table: &'static str,
    key: &[u8],
    bytes: &[u8],
) -> Result<T, StorageError> {
    super::records::decode(bytes).map_err(|error| damaged(table, key, &error.to_string()))
}

fn damaged(table: &'static str, key: &[u8], reason: &str) -> StorageError {
    StorageError::Record {
        table,
        key: String::from_utf8_lossy(key).into_owned(),
        reason: reason.to_owned(),
    }
}
