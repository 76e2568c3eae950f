//! redb's handle and its care: opening, reopening after a failure, and growing to the whole device.
//!
//! redb's handle is dead after any failed call of the backend. The engine then opens another one, which recovers to the
//! last commit; readers hold the lock on the handle, so it is never taken away under them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use redb::{Builder, Database, ReadableDatabase};

use super::area::{Area, Backend, PAGE};
use super::{OpenOptions, StoreError};

/// How much of the area is for whom. The reserve lies between the two.
#[derive(Debug, Clone, Copy)]
pub(super) struct Space {
    /// Bytes that any transaction may fill.
    pub(super) ordinary: u64,
    /// Bytes that transactions which free room may fill.
    pub(super) whole: u64,
}

impl Space {
    pub(super) fn new(area_len: u64, reserve: u64) -> Self {
        let whole = area_len - area_len % PAGE;
        let ordinary = whole.saturating_sub(reserve);
        Self { ordinary: ordinary - ordinary % PAGE, whole }
    }

    /// For transactions that free some room and need little: half of the reserve stays for those that only free.
    pub(super) fn with_half_reserve(self) -> u64 {
        self.ordinary + (self.whole - self.ordinary) / 2
    }
}

#[derive(Debug)]
pub(super) struct Engine {
    pub(super) area: Arc<Area>,
    ordinary: AtomicU64,
    whole: AtomicU64,
    options: OpenOptions,
    database: RwLock<Option<Database>>,
    /// Held during a write transaction and while the handle is replaced.
    writer: Mutex<()>,
    /// The handle failed; the next caller replaces it.
    broken: AtomicBool,
    /// Bytes in use as of the last commit, when known.
    used: Mutex<Option<u64>>,
}

impl Engine {
    pub(super) fn open(
        area: Arc<Area>,
        space: Space,
        options: OpenOptions,
    ) -> Result<Self, StoreError> {
        let engine = Self {
            area,
            ordinary: AtomicU64::new(space.ordinary),
            whole: AtomicU64::new(space.whole),
            options,
            database: RwLock::new(None),
            writer: Mutex::new(()),
            broken: AtomicBool::new(true),
            used: Mutex::new(None),
        };
        engine.adapt_limit();
        engine.reopen(None)?;
        Ok(engine)
    }

    pub(super) fn space(&self) -> Space {
        Space {
            ordinary: self.ordinary.load(Ordering::Acquire),
            whole: self.whole.load(Ordering::Acquire),
        }
    }

    pub(super) fn set_space(&self, space: Space) {
        self.ordinary.store(space.ordinary, Ordering::Release);
        self.whole.store(space.whole, Ordering::Release);
        self.adapt_limit();
    }

    /// The lock that makes write transactions happen one after the other.
    pub(super) fn lock_writer(&self) -> MutexGuard<'_, ()> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `read` on a snapshot, while the handle stays where it is.
    pub(super) fn with_snapshot<T, E: From<StoreError>>(
        &self,
        read: impl FnOnce(redb::ReadTransaction) -> Result<T, E>,
    ) -> Result<T, E> {
        if self.broken.load(Ordering::Acquire)
            && let Ok(_writer) = self.writer.try_lock()
        {
            self.reopen(None)?;
        }
        let handle = self.handle();
        let database = handle.as_ref().ok_or(StoreError::Interrupted)?;
        read(database.begin_read().map_err(|e| self.note(e.into()))?)
    }

    /// Begins a write transaction; the caller holds the writer's lock.
    pub(super) fn begin_write(&self) -> Result<redb::WriteTransaction, StoreError> {
        self.adapt_limit();
        if self.broken.load(Ordering::Acquire) {
            self.reopen(None)?;
        }
        let handle = self.handle();
        let database = handle.as_ref().ok_or(StoreError::Interrupted)?;
        database.begin_write().map_err(|e| self.note(e.into()))
    }

    /// Replaces the handle, after setting the area's length where one is given. The caller holds the writer's lock.
    pub(super) fn reopen(&self, length: Option<u64>) -> Result<(), StoreError> {
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        self.broken.store(true, Ordering::Release);
        *database = None;
        if let Some(length) = length {
            self.area.set_limit(length.max(self.area.limit()));
            self.area.set_len(length)?;
        }
        *database = Some(self.open_database()?);
        self.broken.store(false, Ordering::Release);
        Ok(())
    }

    /// Lets redb reuse what was deleted while snapshots kept it: that happens in the commit after their end. The caller
    /// holds the writer's lock.
    pub(super) fn release_deleted(&self) -> Result<(), StoreError> {
        match self.begin_write()?.commit().map_err(StoreError::from) {
            Err(StoreError::Full { .. }) => self.reopen(None),
            outcome => outcome.map_err(|e| self.note(e)),
        }
    }

    /// Verifies every page in use. `Ok(false)`: it was damaged and could be repaired.
    pub(super) fn check(&self) -> Result<bool, StoreError> {
        let _writer = self.lock_writer();
        if self.broken.load(Ordering::Acquire) {
            self.reopen(None)?;
        }
        let mut handle = self.database.write().unwrap_or_else(PoisonError::into_inner);
        let database = handle.as_mut().ok_or(StoreError::Interrupted)?;
        let checked = no_panic(|| database.check_integrity().map_err(StoreError::from));
        checked.map_err(|e| self.note(e))
    }

    /// Bytes in use; counting walks the tables, so the result is kept until the next commit.
    pub(super) fn used(&self) -> Result<u64, StoreError> {
        let _writer = self.lock_writer();
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(used) = *used {
            return Ok(used);
        }
        let transaction = self.begin_write()?;
        let counted = used_by(&transaction).map_err(|e| self.note(e))?;
        transaction.abort().map_err(|e| self.note(e.into()))?;
        *used = Some(counted);
        Ok(counted)
    }

    pub(super) fn forget_used(&self) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Remembers that the handle is dead, where `error` means that.
    pub(super) fn note(&self, error: StoreError) -> StoreError {
        if error.is_fatal_for_handle() {
            self.broken.store(true, Ordering::Release);
        }
        error
    }

    fn handle(&self) -> RwLockReadGuard<'_, Option<Database>> {
        self.database.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the reserve back once the file has shrunk out of it.
    fn adapt_limit(&self) {
        let space = self.space();
        let in_reserve = self.area.len() > space.ordinary;
        self.area.set_limit(if in_reserve { space.whole } else { space.ordinary });
    }

    fn open_database(&self) -> Result<Database, StoreError> {
        let backend = Backend(Arc::clone(&self.area));
        no_panic(|| {
            Ok(Builder::new()
                .set_cache_size(self.options.cache_bytes)
                .set_check_integrity_on_open(self.options.verify)
                .create_with_backend(backend)?)
        })
    }
}

/// Bytes that a transaction's pages take, including what it replaces until it is committed.
pub(super) fn used_by(transaction: &redb::WriteTransaction) -> Result<u64, StoreError> {
    let pages = transaction.stats()?.allocated_pages();
    Ok(pages.saturating_add(1).saturating_mul(PAGE))
}

/// redb panics on some kinds of damage; that is an answer about the data, not a reason to end the program.
fn no_panic<T>(work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(StoreError::Corrupt("its structure contradicts itself".to_owned())))
}
