//! The current site on the block device, so that a start serves at once even when the remote is down.
//!
//! What is kept are git's objects. Each is hashed again when it is loaded: damage is found, and costs a fetch. The store
//! holds nothing that could not be fetched again. Its calls block, and run on tokio's threads for that.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use blockdev::{
    BlockDevice, DeviceError, FileDevice, Format, OpenOptions, Store, StoreError, Table, WriteTx,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::git::{self, Generation, HashKind, Object, ObjectId, ObjectKind, Objects, TreeError};

/// What is kept beside the objects, under the key `head`.
const HEAD: Table = Table("site-head");
/// Objects in pieces: the id and the piece's number (32 bits, big-endian) → the kind, and the piece.
const OBJECTS: Table = Table("site-objects");
const HEAD_KEY: &[u8] = b"head";
/// Bytes of content in one piece.
const PIECE: usize = 8 << 20;
/// Pieces that are read at a time.
const BATCH: usize = 8;
/// Records that are read at a time.
const RECORDS_BATCH: usize = 100;

/// Why there is no storage, or why it did not do its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// The file or block device.
    #[error("the storage cannot be opened: {0}")]
    Device(#[from] DeviceError),
    /// What is on it.
    #[error("the storage cannot be used: {0}")]
    Open(#[from] blockdev::OpenError),
    /// Reading or writing.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What was read is not what was written.
    #[error("{0}")]
    Damaged(String),
    /// What was read is no site.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The work was cut short, as when the program ends.
    #[error("the storage's thread ended")]
    Thread,
}

#[derive(Serialize, Deserialize)]
struct Head {
    url: String,
    reference: String,
    tip: String,
    objects: usize,
}

/// Where the current site is kept.
#[derive(Clone, Debug)]
pub struct Storage {
    store: Store,
    /// The objects that are there; unknown until they were loaded whole.
    held: Arc<Mutex<Option<HashSet<ObjectId>>>>,
}

impl Storage {
    /// Opens the storage at `path`, which is made with `size` bytes if it is not there. A store that is damaged is made
    /// anew; something else than a store is only erased if `format` says so.
    ///
    /// # Errors
    /// When the device fails, or holds something else.
    pub fn open(path: &Path, size: u64, format: bool) -> Result<Self, StorageError> {
        let device = FileDevice::open_or_create(PathBuf::from(path), size)?;
        Self::on_device(Arc::new(device), format)
    }

    /// The same on any device.
    ///
    /// # Errors
    /// When the device fails, or holds something else.
    pub fn on_device(device: Arc<dyn BlockDevice>, format: bool) -> Result<Self, StorageError> {
        let mut options = OpenOptions::default();
        let store = match Store::open(Arc::clone(&device), options) {
            Ok(store) => store,
            Err(error) if is_damage(&error) || (format && is_foreign(&error)) => {
                tracing::warn!(%error, "the storage is made anew");
                options.format = Format::Always;
                Store::open(device, options)?
            }
            Err(error) => return Err(error.into()),
        };
        Ok(Self { store, held: Arc::default() })
    }

    /// The site that was kept, if it is of the remote at `url`; every object is verified.
    ///
    /// # Errors
    /// [`StorageError`]; what is kept next replaces everything.
    pub async fn load(
        &self,
        url: &str,
        limits: &git::Limits,
    ) -> Result<Option<Generation>, StorageError> {
        let store = self.store.clone();
        let read = tokio::task::spawn_blocking(move || read(&store));
        let Some((head, objects)) = read.await.map_err(|_| StorageError::Thread)?? else {
            return Ok(None);
        };
        let held = objects.keys().copied().collect();
        let tip = id(head.tip.as_bytes())?;
        let tree = Generation::assemble(head.reference, tip, &objects, None, limits).await?;
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Some(held);
        Ok((head.url == url).then_some(tree))
    }

    /// Keeps `tree` in the place of what is kept, in one step.
    ///
    /// # Errors
    /// [`StorageError`]; what was kept before is kept still.
    pub async fn keep(&self, url: String, tree: Arc<Generation>) -> Result<(), StorageError> {
        let (store, held) = (self.store.clone(), Arc::clone(&self.held));
        let write = tokio::task::spawn_blocking(move || {
            let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
            // Until it is known to have worked out, nothing is known.
            let before = held.take();
            store.write(|tx| write(tx, &url, &tree, before))?;
            *held = Some(tree.objects.keys().copied().collect());
            Ok(())
        });
        write.await.map_err(|_| StorageError::Thread)?
    }

    /// Every record of `table`, in order of the keys. Blocks: for the start.
    ///
    /// # Errors
    /// When the store fails, or a key is no text.
    pub fn records(&self, table: Table) -> Result<Vec<(String, Vec<u8>)>, StorageError> {
        self.store.read(|tx| {
            let mut records = Vec::new();
            let mut after: Option<Vec<u8>> = None;
            loop {
                let entries = tx.scan(table, b"", after.as_deref(), RECORDS_BATCH)?;
                let Some((last, _)) = entries.last() else { return Ok(records) };
                after = Some(last.clone());
                for (key, value) in entries {
                    let key = String::from_utf8(key)
                        .map_err(|_| damaged(format!("a key of {} is no text", table.0)))?;
                    records.push((key, value));
                }
            }
        })
    }

    /// A record.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn get(&self, table: Table, key: &str) -> Result<Option<Vec<u8>>, StorageError> {
        let (store, key) = (self.store.clone(), key.to_owned());
        let read = move || store.read(|tx| tx.get(table, key.as_bytes()));
        Ok(tokio::task::spawn_blocking(read).await.map_err(|_| StorageError::Thread)??)
    }

    /// Writes a record, durably.
    ///
    /// # Errors
    /// When the store fails or is full; nothing has changed then.
    pub async fn put(&self, table: Table, key: &str, value: Vec<u8>) -> Result<(), StorageError> {
        let (store, key) = (self.store.clone(), key.to_owned());
        let write = move || store.write(|tx| tx.put(table, key.as_bytes(), &value));
        Ok(tokio::task::spawn_blocking(write).await.map_err(|_| StorageError::Thread)??)
    }

    /// Takes a record away, durably.
    ///
    /// # Errors
    /// When the store fails; nothing has changed then.
    pub async fn delete(&self, table: Table, key: &str) -> Result<(), StorageError> {
        let (store, key) = (self.store.clone(), key.to_owned());
        let write = move || store.write(|tx| tx.delete(table, key.as_bytes()));
        tokio::task::spawn_blocking(write).await.map_err(|_| StorageError::Thread)??;
        Ok(())
    }
}

fn is_damage(error: &blockdev::OpenError) -> bool {
    use blockdev::OpenError::{Store, Truncated};
    matches!(error, Truncated { .. } | Store(StoreError::Corrupt(_)))
}

fn is_foreign(error: &blockdev::OpenError) -> bool {
    matches!(error, blockdev::OpenError::Foreign { .. })
}

fn write(
    tx: &mut WriteTx<'_>,
    url: &str,
    tree: &Generation,
    before: Option<HashSet<ObjectId>>,
) -> Result<(), StorageError> {
    let before = match before {
        Some(before) => before,
        None => {
            clear(tx)?;
            HashSet::new()
        }
    };
    for gone in before.iter().filter(|id| !tree.objects.contains_key(*id)) {
        let mut number = 0;
        while tx.delete(OBJECTS, &key(gone, number))? {
            number += 1;
        }
    }
    for (id, object) in tree.objects.iter().filter(|(id, _)| !before.contains(*id)) {
        let pieces = object.data.chunks(PIECE);
        // Empty content is a piece too.
        let empty = object.data.is_empty().then_some(&[][..]);
        for (number, piece) in (0_u32..).zip(pieces.chain(empty)) {
            let value = [&[kind_byte(object.kind)], piece].concat();
            tx.put(OBJECTS, &key(id, number), &value)?;
        }
    }
    let head = Head {
        url: url.to_owned(),
        reference: tree.reference.clone(),
        tip: tree.commit.id.to_string(),
        objects: tree.objects.len(),
    };
    let head = serde_json::to_vec(&head).map_err(|error| damaged(error.to_string()))?;
    Ok(tx.put(HEAD, HEAD_KEY, &head)?)
}

/// Takes all objects away.
fn clear(tx: &mut WriteTx<'_>) -> Result<(), StorageError> {
    loop {
        let entries = tx.scan(OBJECTS, b"", None, BATCH)?;
        if entries.is_empty() {
            return Ok(());
        }
        for (key, _) in entries {
            tx.delete(OBJECTS, &key)?;
        }
    }
}

/// Reads everything and verifies it.
fn read(store: &Store) -> Result<Option<(Head, Objects)>, StorageError> {
    store.read(|tx| {
        let Some(head) = tx.get(HEAD, HEAD_KEY)? else { return Ok(None) };
        let head: Head = serde_json::from_slice(&head)
            .map_err(|error| damaged(format!("the head cannot be read: {error}")))?;
        let tip = id(head.tip.as_bytes())?;
        let mut objects = Objects::with_capacity(head.objects.min(1 << 16));
        let mut pieces = Pieces { hash: tip.kind(), current: None };
        let mut after: Option<Vec<u8>> = None;
        loop {
            let entries = tx.scan(OBJECTS, b"", after.as_deref(), BATCH)?;
            let Some((last, _)) = entries.last() else { break };
            after = Some(last.clone());
            for (key, value) in entries {
                pieces.add(&key, value, &mut objects)?;
            }
        }
        pieces.finish(&mut objects)?;
        match objects.len() == head.objects {
            true => Ok(Some((head, objects))),
            false => {
                Err(damaged(format!("{} of {} objects are there", objects.len(), head.objects)))
            }
        }
    })
}

/// Puts objects together from their pieces, which come in order.
struct Pieces {
    hash: HashKind,
    current: Option<(ObjectId, u32, ObjectKind, Vec<u8>)>,
}

impl Pieces {
    fn add(&mut self, key: &[u8], value: Vec<u8>, into: &mut Objects) -> Result<(), StorageError> {
        let wrong = || damaged("an object's key cannot be read".to_owned());
        let (raw, number) = key.split_last_chunk::<4>().ok_or_else(wrong)?;
        let id = ObjectId::try_from(raw).map_err(|_| wrong())?;
        let number = u32::from_be_bytes(*number);
        let Some((&kind, piece)) = value.split_first() else { return Err(wrong()) };
        if let Some((current, next, _, data)) = &mut self.current
            && *current == id
            && *next == number
        {
            data.extend_from_slice(piece);
            *next += 1;
            return Ok(());
        }
        self.finish(into)?;
        if number != 0 {
            return Err(damaged(format!("a piece of {id} is missing")));
        }
        self.current = Some((id, 1, kind_of(kind).ok_or_else(wrong)?, piece.to_vec()));
        Ok(())
    }

    fn finish(&mut self, into: &mut Objects) -> Result<(), StorageError> {
        let Some((id, _, kind, data)) = self.current.take() else { return Ok(()) };
        let hash = gix_object::compute_hash(self.hash, kind, &data);
        if hash.ok() != Some(id) {
            return Err(damaged(format!("the object {id} has changed")));
        }
        into.insert(id, Object { kind, data: Bytes::from(data) });
        Ok(())
    }
}

fn key(id: &ObjectId, number: u32) -> Vec<u8> {
    [id.as_bytes(), &number.to_be_bytes()].concat()
}

fn id(hex: &[u8]) -> Result<ObjectId, StorageError> {
    ObjectId::from_hex(hex)
        .map_err(|error| damaged(format!("an object id cannot be read: {error}")))
}

fn kind_byte(kind: ObjectKind) -> u8 {
    match kind {
        ObjectKind::Commit => 1,
        ObjectKind::Tree => 2,
        ObjectKind::Blob => 3,
        ObjectKind::Tag => 4,
    }
}

fn kind_of(byte: u8) -> Option<ObjectKind> {
    [ObjectKind::Commit, ObjectKind::Tree, ObjectKind::Blob, ObjectKind::Tag]
        .into_iter()
        .find(|kind| kind_byte(*kind) == byte)
}

fn damaged(text: String) -> StorageError {
    StorageError::Damaged(text)
}
