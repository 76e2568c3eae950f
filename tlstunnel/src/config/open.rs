//! From a device to a running configuration: opening, migrating what the original left, publishing the first snapshot.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use blockdev::v1::V1Image;
use blockdev::{
    BlockDevice, Content, DeviceError, FileDevice, Format, MemoryDevice, OpenOptions, Store,
    WriteTx,
};
use certify::options::VaultOptionsError;
use certify::vault::StoreKeys;
use config_proto::key::Key;
use config_proto::message::{Refusal, RouteChange};
use config_proto::v1::DerError;
use control_port::KeyRing;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, watch};

use super::records::{GenerationRecord, HeadRecord, PendingRecord};
use super::storage::{Edit, Loaded, Storage, StorageError, initialise, write_change};
use super::{
    AUTHOR_MIGRATION, Configuration, Core, Head, Settings, certificates, decode_secret, unix_now,
};
use crate::backend::Backends;
use crate::gateway::{Gateway, Snapshot};
use crate::options::StorageOptions;
use crate::route::{ActiveRoute, RoutingTable};
use crate::tls::certificates::{Certificate, CertificateError};
use crate::tls::self_signed::SelfSignedError;

/// The pause between two attempts to open a storage that another gateway has.
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The file or block device.
    #[error("the storage cannot be opened: {0}")]
    Device(#[from] DeviceError),
    /// What is on it.
    #[error("the storage cannot be used: {}{}", .0, erasing(.0))]
    Content(#[from] blockdev::OpenError),
    /// A record.
    #[error("the storage cannot be used: {0}")]
    Storage(StorageError),
    /// The original's data.
    #[error("the original's names cannot be read, nothing was changed: {0}")]
    V1(#[from] DerError),
    /// The copy of the original's image.
    #[error(
        "the original's image cannot be copied to {path} before it is migrated, nothing was changed: {error}"
    )]
    Backup {
        /// Where it should go.
        path: String,
        /// What the system says.
        error: std::io::Error,
    },
    /// A development certificate.
    #[error(transparent)]
    SelfSigned(#[from] SelfSignedError),
    /// A development certificate.
    #[error("a development certificate cannot be used: {0}")]
    Certificate(CertificateError),
    /// The key that secrets are encrypted with.
    #[error(transparent)]
    StorageKey(#[from] VaultOptionsError),
    /// Something at start that is a change, and was refused.
    #[error("{0}")]
    Refused(#[from] Refusal),
}

/// The option for what the error speaks of.
fn erasing(error: &blockdev::OpenError) -> &'static str {
    match error {
        blockdev::OpenError::Foreign { .. } => " (--format)",
        _ => "",
    }
}

/// What a configuration is opened with, beside the store.
#[derive(Debug, Default)]
pub struct Start {
    /// The instance's name; the development authority is named after it.
    pub name: String,
    /// The administrator's key.
    pub administrator: Option<Key>,
    /// Certificates from files.
    pub certificates: Vec<Arc<Certificate>>,
    /// Whether development certificates are served and made.
    pub self_signed: bool,
    /// What secrets are encrypted with in the store.
    pub storage_keys: Option<StoreKeys>,
}

/// Opens what `--storage` names, or memory.
///
/// # Errors
/// When it cannot be opened, or holds something else.
pub fn store(options: &StorageOptions) -> Result<Store, OpenError> {
    let Some(path) = &options.storage else {
        tracing::warn!(
            "without --storage, names, keys and certificates are lost when the gateway stops"
        );
        let capacity = usize::try_from(options.storage_size).unwrap_or(usize::MAX);
        return on_device(Arc::new(MemoryDevice::new(capacity)), options.format);
    };
    let device = open_file(path, options)?;
    if Store::looks_like(&device)? == Content::V1
        && device.capacity() < options.storage_size
        && !path.starts_with("/dev")
    {
        grow_v1(&device, path, options.storage_size)?;
    }
    on_device(Arc::new(device), options.format)
}

/// Opens the file. While another gateway has it, waits as long as `--storage-wait` says.
fn open_file(path: &Path, options: &StorageOptions) -> Result<FileDevice, DeviceError> {
    let deadline = Instant::now() + options.storage_wait;
    loop {
        match FileDevice::open_or_create(path, options.storage_size) {
            Err(DeviceError::Locked(_)) if Instant::now() < deadline => {
                std::thread::sleep(LOCK_RETRY);
            }
            other => return other,
        }
    }
}

/// Opens the store on a device; a blank one is formatted, one with the original's layout is migrated, and one with
/// something else only erased when `format` says so.
///
/// # Errors
/// When the device fails, or holds something else.
pub fn on_device(device: Arc<dyn BlockDevice>, format: bool) -> Result<Store, OpenError> {
    let mut options = OpenOptions::default();
    match Store::looks_like(&*device)? {
        Content::V1 => {
            tracing::warn!(
                "the storage has the original's layout: it is migrated, its data kept aside"
            );
            return Store::migrate_v1(device, options, import);
        }
        // Only what is no store is ever erased: the option may stay in a unit file.
        Content::Foreign(what) if format => {
            tracing::warn!(content = what, "the storage is erased, as --format says");
            options.format = Format::Always;
        }
        _ => {}
    }
    Ok(Store::open(device, options)?)
}

/// The original's devices are commonly a few kilobytes: a file is made larger, once there is a copy of it. Making it
/// larger takes away the meaning of its last sector, so the data is written anew at the new size.
fn grow_v1(device: &FileDevice, path: &Path, size: u64) -> Result<(), OpenError> {
    let image = blockdev::v1::read(device).map_err(blockdev::OpenError::V1)?;
    let mut backup = path.as_os_str().to_owned();
    backup.push(".v1");
    copy_new(path, Path::new(&backup)).map_err(|error| OpenError::Backup {
        path: backup.to_string_lossy().into_owned(),
        error,
    })?;
    device.extend_to(size)?;
    blockdev::v1::write(device, &image.data, image.counter.saturating_add(1), image.timestamp)
        .map_err(blockdev::OpenError::V1)?;
    Ok(())
}

/// Copies a file to one that is not there yet, durably.
fn copy_new(from: &Path, to: &Path) -> std::io::Result<()> {
    let mut target = match daemon::files::create_private(to) {
        // A copy of an attempt that was interrupted: made before anything was changed, so it is whole or is made again.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let whole = std::fs::metadata(to)?.len() == std::fs::metadata(from)?.len();
            if whole {
                return Ok(());
            }
            std::fs::OpenOptions::new().write(true).truncate(true).open(to)?
        }
        other => other?,
    };
    std::io::copy(&mut std::fs::File::open(from)?, &mut target)?;
    target.sync_all()
}

/// Makes generation 1 of what the original held.
fn import(image: &V1Image, tx: &mut WriteTx<'_>) -> Result<(), OpenError> {
    let mut routes = Vec::new();
    for sni in config_proto::v1::store::decode(&image.data)? {
        match sni.to_route() {
            Ok(route) => routes.push(RouteChange {
                name: route.name.clone(),
                before: None,
                after: Some(route),
            }),
            Err(error) => {
                tracing::warn!(name = sni.name, %error, "a name of the original cannot be taken over");
            }
        }
    }
    // The original's map has each name once; names that differ in case only are one to us, and the last one counts.
    routes.sort_by(|a, b| a.name.cmp(&b.name));
    routes.reverse();
    routes.dedup_by(|a, b| a.name == b.name);
    initialise(tx, &HeadRecord { generation: 1, oldest: 1, pending: None })?;
    let record = GenerationRecord {
        time: unix_now(),
        author: AUTHOR_MIGRATION.to_owned(),
        summary: format!("{} names taken over from the original's storage", routes.len()),
    };
    let edit = Edit {
        number: 1,
        record,
        routes,
        keys: Vec::new(),
        certificates: Vec::new(),
        oldest: 1,
        pending: None::<PendingRecord>,
        keep: 1,
    };
    Ok(write_change(tx, &edit)?)
}

impl Configuration {
    /// Loads everything, publishes the first snapshot, undoes what was not confirmed in time while the gateway was off.
    /// Returns the configuration, and the development authority as PEM when there is one. Blocks; active checks of
    /// backends run on `runtime`.
    ///
    /// # Errors
    /// When the store cannot be read, or development certificates cannot be made.
    pub fn open(
        gateway: Arc<Gateway>,
        store: Store,
        settings: Settings,
        start: Start,
        runtime: Handle,
    ) -> Result<(Self, Option<String>), OpenError> {
        let storage = Storage::open(store, start.storage_keys)?;
        let loaded = storage.load(settings.route_memory)?;
        let keys = Arc::new(KeyRing::new(start.administrator));
        for (id, record) in &loaded.keys {
            match decode_secret(id, &record.secret) {
                // The key given at start goes first: it is how somebody who lost the other comes back in.
                Some(_) if keys.is_from_start(id) => {
                    tracing::warn!(%id, "a key of the store has the id of the one given at start and is not used");
                }
                Some(key) => keys.insert(key, record.role.clone(), record.created),
                None => tracing::error!(%id, "a key of the store cannot be used"),
            }
        }
        let core = Core {
            gateway,
            storage: ArcSwapOption::from_pointee(storage),
            settings,
            keys,
            writer: Arc::new(Mutex::new(())),
            head: watch::Sender::default(),
            runtime,
        };
        core.publish_all(
            &loaded,
            certificates::table(start.certificates, &loaded, start.self_signed),
        );
        let overdue = Core::overdue(&core.head.borrow());
        if let Some(generation) = overdue {
            core.undo_unconfirmed(generation)?;
        }
        let authority = match start.self_signed {
            true => Some(core.make_self_signed(loaded.authority, &start.name)?),
            false => None,
        };
        Ok((Self { core: Arc::new(core) }, authority))
    }
}

impl Core {
    /// Makes what the store holds the current state.
    pub(super) fn publish_all(
        &self,
        loaded: &Loaded,
        certificates: crate::tls::certificates::CertificateTable,
    ) {
        let before = self.gateway.snapshot.load_full();
        let mut routes = RoutingTable::default();
        for route in &loaded.routes {
            let previous = before.routes.get(&route.name).map(|active| &**active);
            let counters = previous.map(|active| Arc::clone(&active.counters)).unwrap_or_default();
            match ActiveRoute::new(route, &self.gateway.limits, counters, previous) {
                Ok(active) => routes = routes.with(Arc::new(active)),
                // The others go on being served.
                Err(error) => {
                    tracing::error!(name = %route.name, %error, "a route of the store cannot be used");
                }
            }
        }
        let HeadRecord { generation, oldest, pending } = loaded.head.clone();
        let pending = pending.map(|record| Self::resume(record, unix_now()));
        self.gateway.snapshot.store(Arc::new(Snapshot {
            generation,
            routes: routes.clone(),
            certificates,
        }));
        self.head.send_replace(Head { generation, oldest, pending });
        for active in routes.iter_after(None) {
            let old = before.routes.get(&active.route.name).map(|old| &*old.backends);
            let new = Some(&*active.backends);
            Backends::switch_checks(old, new, &self.gateway.resolver, &self.runtime);
        }
    }
}
