//! Reading and writing the records of [`super::records`]; the only place that touches the store.

use std::sync::Arc;

use blockdev::{ReadTx, Store, StoreError, Table, WriteTx};
use certify::vault::{Sealing, StoreKeys, Vault, VaultError};
use config_proto::key::KeyId;
use config_proto::message::{Generation, Refusal, RefusalCode, RouteChange, StorageState};
use config_proto::model::{Route, RouteSettings};
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::encryption::{overwrite_what_was, seal_anew};
use super::plan::NetChanges;
use super::records::{
    ACME, AUTHORITY, CERTIFICATES, CHANGES, CertificateRecord, ChangeRecord, GENERATIONS,
    GenerationRecord, HEAD, HeadRecord, KEYS, KeyRecord, META, PemRecord, PendingRecord, ROUTES,
    SCHEMA, SCHEMA_IN_CLEAR, SCHEMA_VERSION, SchemaRecord, VAULT, change_key, generation_key,
    generation_of, name_of,
};
use super::{MIB, internal, refuse};
use crate::route::cost;

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
    /// The secrets are encrypted, and there is no key.
    #[error("its secrets are encrypted: give the key with --storage-key-file")]
    KeyNeeded,
    /// The secrets are encrypted with another key.
    #[error(
        "its secrets are encrypted with another key than the one of --storage-key-file; nothing was changed. To change the key, give the one before with --storage-key-file-old"
    )]
    WrongKey,
    /// Asked to look only, with a key that is to be changed.
    #[error("its secrets are encrypted with the old key: the next start with both keys changes it")]
    OldKey,
    /// Asked to look only, with a key for a store that has none.
    #[error("its secrets are not encrypted: leave --storage-key-file out")]
    NotEncrypted,
    /// A secret cannot be encrypted.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// More routes than there is memory for.
    #[error(
        "it holds {routes} routes with {backends} backends, which take about {memory} MiB of memory, and {limit} MiB are \
         possible: give the gateway more memory, or raise --route-memory"
    )]
    TooManyRoutes {
        /// Routes in the store.
        routes: u64,
        /// Their backends.
        backends: u64,
        /// What they take, in MiB.
        memory: u64,
        /// What they may take, in MiB.
        limit: u64,
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

impl Edit {
    /// Whether nothing is put into the store but the record of the change itself.
    fn only_removes(&self) -> bool {
        self.routes.iter().all(|change| change.after.is_none())
            && self.keys.iter().all(|(_, record)| record.is_none())
            && self.certificates.iter().all(|(_, record)| record.is_none())
    }
}

/// How much of the history a change takes off.
#[derive(Clone, Copy, Debug)]
enum Eviction {
    /// What is older than is kept, a piece at a time.
    Paced,
    /// Everything that undoing a change that waits does not need.
    All,
}

/// The store with its schema.
#[derive(Clone, Debug)]
pub(super) struct Storage {
    store: Store,
    /// What secrets are encrypted with; none when they lie in the clear.
    vault: Option<Arc<Vault>>,
}

impl Storage {
    /// Checks the schema of a store, or puts it into an empty one. With keys for a store in the clear, or one under the key
    /// before, encrypts what is secret there, all of it or nothing.
    pub(super) fn open(store: Store, keys: Option<StoreKeys>) -> Result<Self, StorageError> {
        let sealing = Self::open_schema(&store, keys.as_ref())?;
        if let Some(keys) = &keys {
            if sealing != Sealing::Current {
                seal_anew(&store, keys, sealing)?;
            }
            overwrite_what_was(&store)?;
        }
        Ok(Self { store, vault: keys.map(|keys| Arc::new(keys.current)) })
    }

    /// The same without encrypting anything.
    pub(super) fn open_as_it_is(store: Store, vault: Option<Vault>) -> Result<Self, StorageError> {
        let keys = vault.map(StoreKeys::from);
        let sealing = Self::open_schema(&store, keys.as_ref())?;
        match sealing {
            Sealing::Clear if keys.is_some() => Err(StorageError::NotEncrypted),
            Sealing::Previous => Err(StorageError::OldKey),
            _ => Ok(Self { store, vault: keys.map(|keys| Arc::new(keys.current)) }),
        }
    }

    fn open_schema(store: &Store, keys: Option<&StoreKeys>) -> Result<Sealing, StorageError> {
        let schema = store.read(|tx| read_record::<SchemaRecord>(tx, META, SCHEMA))?;
        match schema {
            Some(schema) if schema.version > SCHEMA_VERSION => {
                return Err(StorageError::NewerSchema(schema.version));
            }
            Some(_) => {}
            None => store
                .write(|tx| initialise(tx, &HeadRecord { oldest: 1, ..HeadRecord::default() }))?,
        }
        let proof = store.read::<_, StorageError>(|tx| Ok(tx.get(Table(META), VAULT)?))?;
        match keys {
            Some(keys) => {
                keys.sealing(META, VAULT, proof.as_deref()).map_err(|_| StorageError::WrongKey)
            }
            None if proof.is_some() => Err(StorageError::KeyNeeded),
            None => Ok(Sealing::Clear),
        }
    }

    /// Reads everything but the history.
    ///
    /// # Errors
    /// [`StorageError::TooManyRoutes`] when the routes would take more than `route_memory` bytes of memory; they are counted
    /// then, and not held.
    pub(super) fn load(&self, route_memory: u64) -> Result<Loaded, StorageError> {
        self.store.read(|tx| {
            let mut loaded = Loaded {
                head: read_record(tx, META, HEAD)?.unwrap_or_default(),
                authority: self.read_secret(tx, META, AUTHORITY)?,
                ..Loaded::default()
            };
            let mut all = RouteCount::default();
            each(tx, ROUTES, &[], |key, settings: RouteSettings| {
                let name = name_of(key).ok_or_else(|| damaged(ROUTES, key, "no route name"))?;
                let route = Route { name, settings };
                all.add(&route);
                if all.memory <= route_memory {
                    loaded.routes.push(route);
                }
                Ok(())
            })?;
            if all.memory > route_memory {
                return Err(all.too_many(route_memory));
            }
            self.each_secret(tx, KEYS, |key, record: KeyRecord| {
                let id = std::str::from_utf8(key)
                    .ok()
                    .and_then(|id| id.parse().ok())
                    .ok_or_else(|| damaged(KEYS, key, "no key id"))?;
                loaded.keys.push((id, record));
                Ok(())
            })?;
            self.each_secret(tx, CERTIFICATES, |_, record: CertificateRecord| {
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
        match self.try_commit(edit, Eviction::Paced) {
            // Whoever clears up a full store must succeed, and what the history holds is the least that is needed.
            Err(StorageError::Store(StoreError::Full { .. })) if edit.only_removes() => {
                let oldest = self.try_commit(edit, Eviction::All)?;
                tracing::warn!(oldest, "the store is full: the history has given way");
                Ok(oldest)
            }
            outcome => outcome,
        }
    }

    fn try_commit(&self, edit: &Edit, eviction: Eviction) -> Result<u64, StorageError> {
        self.store.write(|tx| {
            let stored: HeadRecord = match tx.get(Table(META), HEAD)? {
                Some(bytes) => decode(META, HEAD, &bytes)?,
                None => HeadRecord::default(),
            };
            if stored.generation != edit.number - 1 {
                return Err(StorageError::Ahead);
            }
            let oldest = evict(tx, edit, eviction)?;
            write_change(tx, edit)?;
            for (id, record) in &edit.keys {
                self.put_secret(tx, KEYS, id.as_str().as_bytes(), record.as_ref())?;
            }
            for (sha256, record) in &edit.certificates {
                self.put_secret(tx, CERTIFICATES, sha256.as_bytes(), record.as_ref())?;
            }
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
        self.store.write(|tx| self.put_secret(tx, META, AUTHORITY, Some(authority)))
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
                    let value = reveal(self.vault.as_deref(), ACME, &key, value)?;
                    let name = String::from_utf8(key)
                        .map_err(|error| damaged(ACME, error.as_bytes(), "no text"))?;
                    records.push((name, value));
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
                Some(record) => {
                    let record = Zeroizing::new(record.to_vec());
                    let hidden = hide(self.vault.as_deref(), ACME, key.as_bytes(), record)?;
                    tx.put(Table(ACME), key.as_bytes(), &hidden)?;
                }
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

    fn read_secret<T: DeserializeOwned>(
        &self,
        tx: &ReadTx<'_>,
        table: &'static str,
        key: &[u8],
    ) -> Result<Option<T>, StorageError> {
        let Some(bytes) = tx.get(Table(table), key)? else { return Ok(None) };
        let bytes = reveal(self.vault.as_deref(), table, key, bytes)?;
        decode(table, key, &bytes).map(Some)
    }

    fn put_secret<T: Serialize>(
        &self,
        tx: &mut WriteTx<'_>,
        table: &'static str,
        key: &[u8],
        record: Option<&T>,
    ) -> Result<(), StorageError> {
        let Some(record) = record else { return Ok(tx.delete(Table(table), key).map(|_| ())?) };
        let bytes = super::records::encode(record)
            .map_err(|error| damaged(table, key, &error.to_string()))?;
        let hidden = hide(self.vault.as_deref(), table, key, Zeroizing::new(bytes))?;
        Ok(tx.put(Table(table), key, &hidden)?)
    }

    fn each_secret<T: DeserializeOwned>(
        &self,
        tx: &ReadTx<'_>,
        table: &'static str,
        mut f: impl FnMut(&[u8], T) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        each_entry(tx, table, &[], |key, value| {
            let value = reveal(self.vault.as_deref(), table, key, value)?;
            f(key, decode(table, key, &value)?)
        })
    }

    /// How full the store is.
    pub(super) fn usage(&self) -> Result<StorageState, Refusal> {
        let usage = self.store.usage().map_err(StorageError::from)?;
        Ok(StorageState { used: usage.used, capacity: usage.capacity })
    }
}

/// How many routes there are, and what they take.
#[derive(Debug, Default)]
struct RouteCount {
    routes: u64,
    backends: u64,
    memory: u64,
}

impl RouteCount {
    fn add(&mut self, route: &Route) {
        self.routes += 1;
        self.backends += u64::try_from(route.settings.backends.len()).unwrap_or(u64::MAX);
        self.memory = self.memory.saturating_add(cost(route));
    }

    fn too_many(&self, limit: u64) -> StorageError {
        StorageError::TooManyRoutes {
            routes: self.routes,
            backends: self.backends,
            memory: self.memory.div_ceil(MIB),
            limit: limit / MIB,
        }
    }
}

/// Puts the schema and a head into an empty store.
pub(super) fn initialise(tx: &mut WriteTx<'_>, head: &HeadRecord) -> Result<(), StorageError> {
    put(tx, META, SCHEMA, &SchemaRecord { version: SCHEMA_IN_CLEAR })?;
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
fn evict(tx: &mut WriteTx<'_>, edit: &Edit, eviction: Eviction) -> Result<u64, StorageError> {
    let needed = edit.pending.as_ref().map_or(u64::MAX, |pending| pending.generation);
    let (wanted, mut left) = match eviction {
        Eviction::Paced => (
            edit.number
                .saturating_add(1)
                .saturating_sub(edit.keep.into())
                .min(edit.oldest + EVICTED_AT_ONCE),
            ORPHANS_AT_ONCE.saturating_add(edit.routes.len().saturating_mul(2)),
        ),
        Eviction::All => (edit.number, usize::MAX),
    };
    let oldest = wanted.min(needed).max(edit.oldest);
    for number in edit.oldest..oldest {
        tx.delete(Table(GENERATIONS), &generation_key(number))?;
    }
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
    each_entry(tx, table, prefix, |key, value| f(key, decode(table, key, &value)?))
}

fn each_entry(
    tx: &ReadTx<'_>,
    table: &'static str,
    prefix: &[u8],
    mut f: impl FnMut(&[u8], Vec<u8>) -> Result<(), StorageError>,
) -> Result<(), StorageError> {
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = tx.scan(Table(table), prefix, after.as_deref(), PAGE)?;
        let whole = page.len() == PAGE;
        after = page.last().map(|(key, _)| key.clone());
        for (key, value) in page {
            f(&key, value)?;
        }
        if !whole {
            return Ok(());
        }
    }
}

/// A secret as it is stored.
fn hide(
    vault: Option<&Vault>,
    table: &str,
    key: &[u8],
    mut secret: Zeroizing<Vec<u8>>,
) -> Result<Vec<u8>, StorageError> {
    match vault {
        Some(vault) => Ok(vault.seal(table, key, &secret)?),
        None => Ok(std::mem::take(&mut *secret)),
    }
}

/// A secret as it was before it was stored. In an encrypted store nothing counts that is not encrypted: whoever can write
/// to the device could have put it there.
fn reveal(
    vault: Option<&Vault>,
    table: &'static str,
    key: &[u8],
    stored: Vec<u8>,
) -> Result<Zeroizing<Vec<u8>>, StorageError> {
    match vault {
        Some(vault) => {
            vault.open(table, key, &stored).map_err(|error| damaged(table, key, &error.to_string()))
        }
        None => Ok(Zeroizing::new(stored)),
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

pub(super) fn damaged(table: &'static str, key: &[u8], reason: &str) -> StorageError {
    StorageError::Record {
        table,
        key: String::from_utf8_lossy(key).into_owned(),
        reason: reason.to_owned(),
    }
}
