//! Looking at a store while no gateway has it open, and writing it in the original's layout.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use blockdev::{FileDevice, Format, MemoryDevice, OpenOptions, Store, StoreError, v1};
use certify::options::vault_of_file;
use config_proto::v1::Sni;

use super::open::OpenError;
use super::storage::{Loaded, Storage, StorageError};

/// Bytes of a sector that carry data in the original's layout.
const SECTOR_DATA: usize = 504;
/// Bytes of a sector.
const SECTOR: usize = 512;
/// The smallest image, in sectors.
const MIN_SECTORS: usize = 64;

/// Why a command on a store failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OfflineError {
    /// The store.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It is damaged, or the device failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The new image.
    #[error("the image cannot be written to {path}: {error}")]
    Write {
        /// Where it should go.
        path: String,
        /// What the system says.
        error: std::io::Error,
    },
    /// The new image.
    #[error("the names do not fit the original's layout: {0}")]
    V1(#[from] v1::V1Error),
}

impl From<StorageError> for OfflineError {
    fn from(error: StorageError) -> Self {
        Self::Open(error.into())
    }
}

/// What is on a store, in words.
///
/// # Errors
/// When it cannot be opened: another process may use it.
pub fn info(path: &Path, key_file: Option<&Path>) -> Result<String, OfflineError> {
    let storage = open(path, key_file)?;
    let loaded = storage.load(u64::MAX)?;
    let mut text = String::new();
    let mut line = |what: &str, value: String| {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{what:<14}{value}");
    };
    line("generation", loaded.head.generation.to_string());
    line("oldest kept", loaded.head.oldest.saturating_sub(1).to_string());
    line("routes", loaded.routes.len().to_string());
    line("keys", loaded.keys.len().to_string());
    line("certificates", loaded.certificates.len().to_string());
    if let Some(pending) = &loaded.head.pending {
        line("waits", format!("generation {} for confirmation", pending.generation));
    }
    if let Ok(usage) = storage.usage() {
        line("used", format!("{} of {} bytes", usage.used, usage.capacity));
    }
    for generation in storage.generations(u64::MAX, 10)? {
        line(
            &format!("  {}", generation.number),
            format!("{}: {}", generation.author, generation.summary),
        );
    }
    Ok(text)
}

/// Reads everything on a store.
///
/// # Errors
/// When something is damaged.
pub fn check(path: &Path, key_file: Option<&Path>) -> Result<String, OfflineError> {
    let store = open_store(path)?;
    let sound = store.check()?;
    let storage = open_storage(store, key_file)?;
    let Loaded { head, routes, .. } = storage.load(u64::MAX)?;
    storage.net_changes(head.oldest.saturating_sub(1), head.generation).map_err(OpenError::from)?;
    let repaired = if sound { "" } else { " after a repair" };
    Ok(format!(
        "sound{repaired}: {} routes, generations {} to {}\n",
        routes.len(),
        head.oldest.saturating_sub(1),
        head.generation
    ))
}

/// Writes what the original can hold to a new image, and says what it cannot hold.
///
/// # Errors
/// When the store cannot be read or the image not written.
pub fn export_v1(path: &Path, key_file: Option<&Path>, out: &Path) -> Result<String, OfflineError> {
    let loaded = open(path, key_file)?.load(u64::MAX)?;
    let mut snis = Vec::new();
    let mut text = String::new();
    for route in &loaded.routes {
        // The original knows one backend by its address and nothing else.
        match Sni::from_route(route).filter(|sni| sni.to_route().as_ref() == Ok(route)) {
            Some(sni) => snis.push(sni),
            None => {
                let _ = writeln!(text, "left out, the original cannot express it: {}", route.name);
            }
        }
    }
    let data = config_proto::v1::store::encode(&snis);
    // The original writes new data into free sectors, so it needs room for two copies.
    let sectors = (2 * data.len().div_ceil(SECTOR_DATA) + 4).max(MIN_SECTORS);
    let device = MemoryDevice::new(sectors * SECTOR);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    v1::write(&device, &data, 1, v1::timestamp(since.as_secs(), since.subsec_nanos()))?;
    daemon::files::create_private(out)
        .and_then(|mut file| {
            file.write_all(&device.image())?;
            file.sync_all()
        })
        .map_err(|error| OfflineError::Write { path: out.display().to_string(), error })?;
    let _ = writeln!(text, "{} names written to {}", snis.len(), out.display());
    Ok(text)
}

fn open(path: &Path, key_file: Option<&Path>) -> Result<Storage, OfflineError> {
    open_storage(open_store(path)?, key_file)
}

fn open_storage(store: Store, key_file: Option<&Path>) -> Result<Storage, OfflineError> {
    let vault = key_file.map(vault_of_file).transpose().map_err(OpenError::from)?;
    Ok(Storage::open_as_it_is(store, vault)?)
}

fn open_store(path: &Path) -> Result<Store, OfflineError> {
    let device = FileDevice::open(path).map_err(OpenError::from)?;
    let options = OpenOptions { format: Format::Never, ..OpenOptions::default() };
    Ok(Store::open(Arc::new(device), options).map_err(OpenError::from)?)
}
