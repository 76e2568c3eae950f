//! The transactional store: tables of bytes on a block device.
//!
//! A transaction happens wholly or not at all, whatever crashes; a transaction that was acknowledged stays. The engine is
//! redb, a copy-on-write B-tree. Around it: `header` says what the device is and how long redb's file is, `area`
//! gives redb that file, `engine` keeps redb's handle usable through failures and a full device, `transaction` is
//! what callers see, and `content` looks at a device before it is touched.
//!
//! Layout: two header slots of 4 KiB (a sector, where that is larger), then redb's pages of 4 KiB. A reserve of an eighth
//! of the device (64 KiB to 1 MiB) takes only transactions that free room, so that a full store can always be emptied.
//!
//! A transaction must not be begun inside another one on the same thread, nor `usage` or `check` be called there: they
//! would wait for each other.

mod area;
mod content;
mod engine;
mod error;
mod header;
mod transaction;

use std::sync::Arc;

pub use content::Content;
pub use error::{OpenError, StoreError};
pub use transaction::{Entry, ReadTx, Table, WriteTx};

use crate::device::BlockDevice;
use crate::v1::{self, V1Image};
use area::Area;
use engine::{Engine, Space};
use header::{Found, Header, State, area_start};

/// The smallest device, in bytes, that can be formatted.
pub const MIN_CAPACITY: u64 = 512 << 10;
/// The longest key, in bytes.
pub const MAX_KEY_LEN: usize = 2048;
/// The longest value, in bytes.
pub const MAX_VALUE_LEN: usize = 64 << 20;
/// Where [`Store::migrate_v1`] keeps the original's data, under the keys `data`, `counter` and `timestamp` (big-endian).
pub const V1_BACKUP: Table = Table("v1-backup");

const MIN_RESERVE: u64 = 64 << 10;
const MAX_RESERVE: u64 = 1 << 20;

/// Whether a device may be formatted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// When it holds nothing but zeros. Large devices (above 256 MiB) are searched at both ends and in samples.
    #[default]
    WhenBlank,
    /// Whatever it holds, which is lost.
    Always,
    /// Not at all: there must be a store.
    Never,
}

/// How a store is opened.
#[derive(Debug, Clone, Copy)]
pub struct OpenOptions {
    /// Whether the device may be formatted.
    pub format: Format,
    /// Bytes of memory for the cache of pages.
    pub cache_bytes: usize,
    /// Whether every page in use is verified at opening (a crash always has it verified). Takes time in proportion to
    /// the data; without it, damage shows when it is read, perhaps as a panic.
    pub verify: bool,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { format: Format::WhenBlank, cache_bytes: 4 << 20, verify: true }
    }
}

/// How full a store is, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Taken by data and its indexes, in whole pages.
    pub used: u64,
    /// What can be taken, without the reserve.
    pub capacity: u64,
}

/// An open store. Clones share it; it is closed with the last one.
#[derive(Debug, Clone)]
pub struct Store {
    engine: Arc<Engine>,
}

impl Store {
    /// Opens the store on `device`, formatting it first where `options` allow.
    ///
    /// # Errors
    /// [`OpenError`]; the device is not changed, except when formatting itself fails.
    pub fn open(device: Arc<dyn BlockDevice>, options: OpenOptions) -> Result<Self, OpenError> {
        let found = Header::find(&*device)?;
        if options.format == Format::Always {
            return Self::format(device, options, |_| Ok::<(), OpenError>(()));
        }
        match found {
            Found::Newer(version) => return Err(OpenError::Version(version)),
            Found::Valid(header) if header.state == State::Ready => {
                return Self::open_ready(device, header, options);
            }
            _ => {}
        }
        match (content::look(&*device)?, options.format) {
            (Content::V1, _) => {
                Err(OpenError::Foreign { looks_like: content::V1_WORDS.to_owned() })
            }
            (Content::Foreign(looks_like), _) => Err(OpenError::Foreign { looks_like }),
            (_, Format::Never) => Err(OpenError::Blank),
            _ => Self::format(device, options, |_| Ok::<(), OpenError>(())),
        }
    }

    /// Formats `device`, whatever it holds, and runs `first` as its first transaction. Only once that is committed is
    /// it a store; a crash before leaves a device that counts as blank.
    ///
    /// # Errors
    /// What `first` returns, or why it was not possible.
    pub fn format<E: From<OpenError>>(
        device: Arc<dyn BlockDevice>,
        options: OpenOptions,
        first: impl FnOnce(&mut WriteTx<'_>) -> Result<(), E>,
    ) -> Result<Self, E> {
        let end = device.capacity();
        Self::format_before(device, options, end, first)
    }

    /// Turns a device of the original's into a store, with `convert` as the first transaction, and keeps the original's
    /// data in the table [`V1_BACKUP`].
    ///
    /// A crash leaves the original's data readable or the finished store: before the store's first byte is written, the
    /// data is moved to the end of the device, where the superblock in the last sector names it.
    ///
    /// # Errors
    /// [`OpenError::V1`] when the data cannot be read, [`OpenError::TooSmall`] when store and old data do not fit on
    /// the device together, both before anything is lost; what `convert` returns, or what failed.
    pub fn migrate_v1<E: From<OpenError>>(
        device: Arc<dyn BlockDevice>,
        options: OpenOptions,
        convert: impl FnOnce(&V1Image, &mut WriteTx<'_>) -> Result<(), E>,
    ) -> Result<Self, E> {
        let image = v1::read(&*device).map_err(OpenError::V1)?;
        check_capacity(&*device, device.capacity())?;
        let first_kept = v1::relocate(&*device).map_err(OpenError::V1)?;
        let end = first_kept.saturating_mul(u64::from(device.sector_size()));
        let store = Self::format_before(Arc::clone(&device), options, end, |tx| {
            let backup = [
                (&b"data"[..], image.data.as_slice()),
                (b"counter", &image.counter.to_be_bytes()),
                (b"timestamp", &image.timestamp.to_be_bytes()),
            ];
            for (key, value) in backup {
                tx.put(V1_BACKUP, key, value).map_err(OpenError::Store)?;
            }
            convert(&image, tx)
        })?;
        Ok(store)
    }

    /// Looks at what a device holds, without changing it.
    ///
    /// # Errors
    /// What the device answers.
    pub fn looks_like(device: &dyn BlockDevice) -> Result<Content, crate::device::DeviceError> {
        content::look(device)
    }

    /// Runs `read` on a snapshot of the store.
    ///
    /// # Errors
    /// What `read` returns, or why the snapshot could not be had.
    pub fn read<T, E: From<StoreError>>(
        &self,
        read: impl FnOnce(&ReadTx<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        self.engine.with_snapshot(|transaction| read(&ReadTx::new(&self.engine, transaction)))
    }

    /// Runs `write` as a transaction: committed and durable when it returns `Ok` and this returns `Ok`, undone when it
    /// returns `Err`. Transactions that write happen one after the other.
    ///
    /// # Errors
    /// What `write` returns, or why it could not be committed. After [`StoreError::Full`] nothing has changed; for
    /// [`StoreError::Device`] see there.
    pub fn write<T, E: From<StoreError>>(
        &self,
        write: impl FnOnce(&mut WriteTx<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let _writer = self.engine.lock_writer();
        let mut transaction = WriteTx::begin(&self.engine)?;
        let value = write(&mut transaction)?;
        transaction.commit()?;
        Ok(value)
    }

    /// How full the store is. Costs a walk over the tables after each change, and nothing between changes.
    ///
    /// # Errors
    /// [`StoreError::Device`] or [`StoreError::Corrupt`].
    pub fn usage(&self) -> Result<Usage, StoreError> {
        Ok(Usage { used: self.engine.used()?, capacity: self.engine.space().ordinary })
    }

    /// Verifies every page in use. `true`: all is well. `false`: something was damaged and could be repaired.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when it could not be repaired, or the device's. Waits for all transactions to end.
    pub fn check(&self) -> Result<bool, StoreError> {
        self.engine.check()
    }

    fn open_ready(
        device: Arc<dyn BlockDevice>,
        header: Header,
        options: OpenOptions,
    ) -> Result<Self, OpenError> {
        let capacity = device.capacity();
        let needed = area_start(&*device).saturating_add(header.length);
        if needed > capacity {
            return Err(OpenError::Truncated { capacity, needed });
        }
        let space = space_before(&*device, capacity);
        let area = Arc::new(Area::new(device, header, space.whole));
        // A new database is made in an empty file; a store that is ready cannot be one.
        if header.length == 0 {
            return Err(StoreError::Corrupt("its header tells of no data".to_owned()).into());
        }
        Ok(Self { engine: Arc::new(Engine::open(area, space, options)?) })
    }

    /// Formats without touching anything from byte `end` on until the first transaction is committed.
    fn format_before<E: From<OpenError>>(
        device: Arc<dyn BlockDevice>,
        options: OpenOptions,
        end: u64,
        first: impl FnOnce(&mut WriteTx<'_>) -> Result<(), E>,
    ) -> Result<Self, E> {
        check_capacity(&*device, end)?;
        let area = begin_formatting(&device, end)?;
        let engine = Engine::open(Arc::clone(&area), space_before(&*device, end), options)
            .map_err(OpenError::Store)?;
        let store = Self { engine: Arc::new(engine) };
        {
            let _writer = store.engine.lock_writer();
            let mut transaction = WriteTx::begin(&store.engine).map_err(OpenError::Store)?;
            first(&mut transaction)?;
            transaction.commit().map_err(OpenError::Store)?;
        }
        finish_formatting(&area).map_err(OpenError::from)?;
        store.engine.set_space(space_before(&*device, device.capacity()));
        Ok(store)
    }
}

/// Declares both header slots: what was there is no store any more, and no new one yet.
fn begin_formatting(device: &Arc<dyn BlockDevice>, end: u64) -> Result<Arc<Area>, OpenError> {
    let generation = match Header::find(&**device)? {
        Found::Valid(old) => old.generation.saturating_add(1),
        _ => 1,
    };
    let header = Header { state: State::Creating, generation, length: 0 };
    header.write(&**device)?;
    let area = Area::new(Arc::clone(device), header, space_before(&**device, end).whole);
    area.set_state(State::Creating)?;
    Ok(Arc::new(area))
}

/// From here on the device is a store. The original's last superblock, which would now be wrong, goes.
fn finish_formatting(area: &Area) -> Result<(), crate::device::DeviceError> {
    area.set_state(State::Ready)?;
    let device = area.device();
    let last = device.capacity() - u64::from(device.sector_size());
    if area_start(device) + area.len() <= last {
        device.write(last, &vec![0; device.sector_size() as usize])?;
        device.flush()?;
    }
    Ok(())
}

fn space_before(device: &dyn BlockDevice, end: u64) -> Space {
    let area_len = end.saturating_sub(area_start(device));
    Space::new(area_len, (area_len / 8).clamp(MIN_RESERVE, MAX_RESERVE))
}

fn check_capacity(device: &dyn BlockDevice, end: u64) -> Result<(), OpenError> {
    // A device with large sectors loses more to the headers.
    let needed = MIN_CAPACITY.max(area_start(device) + (256 << 10)) + (device.capacity() - end);
    match device.capacity() < needed {
        true => Err(OpenError::TooSmall { capacity: device.capacity(), needed }),
        false => Ok(()),
    }
}
