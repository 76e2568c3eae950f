//! What outlives the program, on one block device: the sites with the generations that are kept of them, and what the
//! control port has configured.
//!
//! Of a site are kept git's objects and a head that refers to them. Objects are written first and taken away last, so
//! that the head is right at every moment. Each object is hashed again when it is loaded: damage is found, and costs a
//! fetch. Records ([`Storage::records`]) cannot be fetched again; therefore nothing here ever formats a device by
//! itself, except a blank one. They hold secrets, and are encrypted where there is a key for that ([`certify::vault`]). The store's calls block, and run on tokio's threads for that.

mod encryption;
mod objects;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use blockdev::{
    BlockDevice, DeviceError, FileDevice, Format, OpenError, OpenOptions, Store, StoreError, Table,
};
use certify::vault::{StoreKeys, Vault, VaultError};
use serde::{Deserialize, Serialize};

use crate::git::{self, Generation as Tree, Object, ObjectId, TreeError};
use crate::site::generations::Snapshot;

/// What is kept of a site beside its objects, by the site's key.
const HEADS: Table = Table("site-heads");
/// The tables of records, all of which hold secrets.
const RECORDS: [Table; 4] = [SITES, CONTROL_KEYS, ACME, CERTIFICATES];
/// Sites that were added at run time, by name.
pub const SITES: Table = Table("sites");
/// Control keys by id.
pub const CONTROL_KEYS: Table = Table("control-keys");
/// What [`certify`] keeps: accounts, and how far each name has come.
pub const ACME: Table = Table("acme");
/// Certificates that were obtained, by name.
pub const CERTIFICATES: Table = Table("acme-certificates");
/// Records that are read at a time.
const BATCH: usize = 100;

/// Why there is no storage, or why it did not do its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// The file or block device.
    #[error("the storage cannot be opened: {0}")]
    Device(#[from] DeviceError),
    /// What is on it.
    #[error("the storage cannot be used: {0}")]
    Open(#[from] OpenError),
    /// Reading or writing.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What was read is not what was written.
    #[error("{0}")]
    Damaged(String),
    /// What was read is no site.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The damaged file could not be put aside.
    #[error("the damaged storage {} cannot be put aside: {error}", path.display())]
    Aside {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// Records are encrypted, with another key or with one that is not given.
    #[error("the record {key:?} of {table} is encrypted: {error}")]
    Sealed {
        /// Of which table.
        table: &'static str,
        /// Which record.
        key: String,
        /// Why it cannot be had, or not be written.
        error: VaultError,
    },
    /// The key was not given.
    #[error("the storage's records are encrypted: give the key with --storage-key-file")]
    NoKey,
    /// Another key was given.
    #[error(
        "the storage's records are encrypted with another key than the one of --storage-key-file; nothing was changed. To change the key, give the one before with --storage-key-file-old"
    )]
    WrongKey,
    /// The work was cut short, as when the program ends.
    #[error("the storage's thread ended")]
    Thread,
}

impl StorageError {
    /// Whether the device holds a store of ours that cannot be read.
    pub fn is_damage(&self) -> bool {
        matches!(
            self,
            Self::Open(OpenError::Truncated { .. } | OpenError::Store(StoreError::Corrupt(_)))
        )
    }

    fn is_foreign(&self) -> bool {
        matches!(self, Self::Open(OpenError::Foreign { .. }))
    }
}

/// What is kept of a site.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Where the site comes from; another source's site is not this one's.
    pub source: String,
    /// The commits with their files, each once.
    pub trees: Vec<Arc<Tree>>,
    /// What the remote was last found at, by commit.
    pub known: Option<ObjectId>,
    /// Everything else.
    pub snapshot: Snapshot,
}

/// What is kept of a site, as it is found again.
#[derive(Serialize, Deserialize)]
struct Head {
    source: String,
    trees: Vec<Tip>,
    known: Option<String>,
    snapshot: Snapshot,
}

#[derive(Serialize, Deserialize)]
struct Tip {
    reference: String,
    id: String,
}

/// Where sites and records are kept.
#[derive(Clone, Debug)]
pub struct Storage {
    store: Store,
    /// By site, the objects that are there; unknown until they were loaded whole.
    held: Arc<Mutex<HashMap<String, HashSet<ObjectId>>>>,
    /// Encrypts records.
    vault: Option<Arc<Vault>>,
}

impl Storage {
    /// Opens the storage at `path`, which is made with `size` bytes if it is not there. What holds something else, or is
    /// damaged, is only erased if `format` says so; a store of a later version never is.
    ///
    /// # Errors
    /// When the device fails, is damaged, or holds something else.
    pub fn open(path: &Path, size: u64, format: bool) -> Result<Self, StorageError> {
        let device = FileDevice::open_or_create(PathBuf::from(path), size)?;
        Self::on_device(Arc::new(device), format)
    }

    /// The same on any device.
    ///
    /// # Errors
    /// When the device fails, is damaged, or holds something else.
    pub fn on_device(device: Arc<dyn BlockDevice>, format: bool) -> Result<Self, StorageError> {
        let mut options = OpenOptions::default();
        let opened = Store::open(Arc::clone(&device), options).map_err(StorageError::from);
        let store = match opened {
            Err(error) if format && (error.is_damage() || error.is_foreign()) => {
                tracing::warn!(%error, "the storage is formatted, as --format says");
                options.format = Format::Always;
                Store::open(device, options)?
            }
            opened => opened?,
        };
        Ok(Self { store, held: Arc::default(), vault: None })
    }

    /// Opens the storage where everything on it can be had again. A damaged one in a plain file is put aside as
    /// `PATH.damaged`, and a new one begun; nothing is erased.
    ///
    /// # Errors
    /// As [`Storage::open`], or when the file cannot be put aside.
    pub fn open_replaceable(path: &Path, size: u64, format: bool) -> Result<Self, StorageError> {
        let error = match Self::open(path, size, format) {
            Err(error) if error.is_damage() && path.is_file() => error,
            opened => return opened,
        };
        let mut aside = path.as_os_str().to_owned();
        aside.push(".damaged");
        let aside = PathBuf::from(aside);
        std::fs::rename(path, &aside)
            .map_err(|error| StorageError::Aside { path: path.to_owned(), error })?;
        tracing::error!(%error, aside = %aside.display(), "damaged storage was put aside; the site is fetched again");
        Self::open(path, size, format)
    }

    /// The same storage, whose records are encrypted with the current one of `keys` from now on, those that are there too:
    /// all of them or none. Without keys, nothing may be encrypted there. Blocks: for the start.
    ///
    /// # Errors
    /// When the keys are not the right ones, or the store fails; nothing has changed then.
    pub fn encrypted(self, keys: Option<StoreKeys>) -> Result<Self, StorageError> {
        let vault = encryption::apply(&self.store, keys, &RECORDS)?.map(Arc::new);
        Ok(Self { vault, ..self })
    }

    /// What is kept of `site`; every object is verified.
    ///
    /// # Errors
    /// [`StorageError`]; what is kept next replaces everything.
    pub async fn load(
        &self,
        site: &str,
        limits: &git::Limits,
    ) -> Result<Option<Kept>, StorageError> {
        let (store, name) = (self.store.clone(), site.to_owned());
        let read = tokio::task::spawn_blocking(move || {
            let head = store.read(|tx| tx.get(HEADS, &site_key(&name)))?;
            let Some(head) = head else { return Ok::<_, StorageError>(None) };
            let head: Head = serde_json::from_slice(&head)
                .map_err(|error| damaged(format!("the head cannot be read: {error}")))?;
            let Some(first) = head.trees.first() else { return Ok(None) };
            let hash = id(&first.id)?.kind();
            let objects = objects::read(&store, &name, hash)?;
            Ok(Some((head, objects)))
        });
        let Some((head, objects)) = read.await.map_err(|_| StorageError::Thread)?? else {
            return Ok(None);
        };
        let mut trees: Vec<Arc<Tree>> = Vec::with_capacity(head.trees.len());
        for Tip { reference, id: tip } in head.trees {
            let tree = Tree::assemble(reference, id(&tip)?, &objects, None, limits).await?;
            trees.push(Arc::new(tree));
        }
        let known = head.known.as_deref().map(id).transpose()?;
        self.held().insert(site.to_owned(), objects.keys().copied().collect());
        Ok(Some(Kept { source: head.source, trees, known, snapshot: head.snapshot }))
    }

    /// Keeps `kept` in the place of what is kept of `site`.
    ///
    /// # Errors
    /// [`StorageError`]; what was kept before is kept still.
    pub async fn keep(&self, site: &str, kept: Kept) -> Result<(), StorageError> {
        let (this, site) = (self.clone(), site.to_owned());
        let write = tokio::task::spawn_blocking(move || this.write(&site, &kept));
        write.await.map_err(|_| StorageError::Thread)?
    }

    fn write(&self, site: &str, kept: &Kept) -> Result<(), StorageError> {
        // Until it is known to have worked out, nothing is known.
        let before = self.held().remove(site);
        let before = match before {
            Some(before) => before,
            None => {
                objects::clear(&self.store, site)?;
                HashSet::new()
            }
        };
        let mut wanted: HashMap<ObjectId, &Object> = HashMap::new();
        for tree in &kept.trees {
            wanted.extend(tree.objects.iter().map(|(id, object)| (*id, object)));
        }
        let list: Vec<(ObjectId, Object)> =
            wanted.iter().map(|(id, object)| (*id, Object::clone(object))).collect();
        objects::write(&self.store, site, &list, &before)?;
        let trees = kept
            .trees
            .iter()
            .map(|tree| Tip { reference: tree.reference.clone(), id: tree.tip().to_string() });
        let head = Head {
            source: kept.source.clone(),
            trees: trees.collect(),
            known: kept.known.map(|known| known.to_string()),
            snapshot: kept.snapshot.clone(),
        };
        let head = serde_json::to_vec(&head).map_err(|error| damaged(error.to_string()))?;
        self.store.write(|tx| tx.put(HEADS, &site_key(site), &head))?;
        let gone = before.iter().filter(|id| !wanted.contains_key(*id)).copied();
        objects::delete(&self.store, site, gone)?;
        self.held().insert(site.to_owned(), wanted.into_keys().collect());
        Ok(())
    }

    /// Every record of `table`, in order of the keys. Blocks: for the start.
    ///
    /// # Errors
    /// When the store fails, or a key is no text.
    pub fn records(&self, table: Table) -> Result<Vec<(String, Vec<u8>)>, StorageError> {
        let records = self.store.read(|tx| {
            let mut records = Vec::new();
            let mut after: Option<Vec<u8>> = None;
            loop {
                let entries = tx.scan(table, b"", after.as_deref(), BATCH)?;
                let Some((last, _)) = entries.last() else {
                    return Ok::<_, StorageError>(records);
                };
                after = Some(last.clone());
                for (key, value) in entries {
                    let key = String::from_utf8(key)
                        .map_err(|_| damaged(format!("a key of {} is no text", table.0)))?;
                    records.push((key, value));
                }
            }
        })?;
        let opened = records.into_iter().map(|(key, value)| {
            let value = self.opened(table, &key, value)?;
            Ok((key, value))
        });
        opened.collect()
    }

    fn opened(&self, table: Table, key: &str, value: Vec<u8>) -> Result<Vec<u8>, StorageError> {
        match &self.vault {
            // Nothing counts that is not encrypted: whoever can write to the device could have put it there.
            Some(vault) => vault
                .open(table.0, key.as_bytes(), &value)
                .map(|plain| plain.to_vec())
                .map_err(|error| sealed(table, key, error)),
            None if Vault::is_sealed(&value) => Err(StorageError::NoKey),
            None => Ok(value),
        }
    }

    /// A record.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn get(&self, table: Table, key: &str) -> Result<Option<Vec<u8>>, StorageError> {
        let (store, key) = (self.store.clone(), key.to_owned());
        let name = key.clone();
        let read = move || store.read(|tx| tx.get(table, name.as_bytes()));
        let value = tokio::task::spawn_blocking(read).await.map_err(|_| StorageError::Thread)??;
        value.map(|value| self.opened(table, &key, value)).transpose()
    }

    /// Writes a record, durably.
    ///
    /// # Errors
    /// When the store fails or is full; nothing has changed then.
    pub async fn put(&self, table: Table, key: &str, value: Vec<u8>) -> Result<(), StorageError> {
        let value = match &self.vault {
            Some(vault) => vault
                .seal(table.0, key.as_bytes(), &value)
                .map_err(|error| sealed(table, key, error))?,
            None => value,
        };
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

    /// Takes away everything that is kept of a site.
    ///
    /// # Errors
    /// When the store fails; some of it may be left then, and is taken away when the site is kept again.
    pub async fn forget(&self, site: &str) -> Result<(), StorageError> {
        let (this, site) = (self.clone(), site.to_owned());
        let forget = move || {
            this.held().remove(&site);
            this.store.write(|tx| tx.delete(HEADS, &site_key(&site)))?;
            objects::clear(&this.store, &site)
        };
        tokio::task::spawn_blocking(forget).await.map_err(|_| StorageError::Thread)?
    }

    fn held(&self) -> MutexGuard<'_, HashMap<String, HashSet<ObjectId>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A site's name as the beginning of a key: no name's is the beginning of another's.
fn site_key(site: &str) -> Vec<u8> {
    // Host names are shorter than 256 bytes.
    let length = u16::try_from(site.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes(), site.as_bytes()].concat()
}

fn id(hex: &str) -> Result<ObjectId, StorageError> {
    ObjectId::from_hex(hex.as_bytes())
        .map_err(|error| damaged(format!("an object id cannot be read: {error}")))
}

fn sealed(table: Table, key: &str, error: VaultError) -> StorageError {
    StorageError::Sealed { table: table.0, key: key.to_owned(), error }
}

fn damaged(text: String) -> StorageError {
    StorageError::Damaged(text)
}
