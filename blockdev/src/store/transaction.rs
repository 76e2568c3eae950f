//! Transactions: what a caller reads and changes, all of it or nothing.
//!
//! A write transaction keeps a log of its changes. When redb runs out of its file in the middle, the engine makes the
//! file longer, and the log is replayed in a new transaction of redb's; the caller's closure does not notice.

use std::ops::Bound;

use redb::{ReadableTable, ReadableTableMetadata, TableDefinition, TableError};

use super::engine::{Engine, used_by};
use super::{MAX_KEY_LEN, MAX_VALUE_LEN, StoreError};

/// A table of bytes to bytes, by its name. It exists as soon as something is put into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Table(pub &'static str);

/// A key and its value.
pub type Entry = (Vec<u8>, Vec<u8>);

type Definition = TableDefinition<'static, &'static [u8], &'static [u8]>;

impl Table {
    const fn definition(self) -> Definition {
        TableDefinition::new(self.0)
    }
}

/// A consistent snapshot for reading. What is written meanwhile does not show in it.
#[derive(Debug)]
pub struct ReadTx<'e> {
    engine: &'e Engine,
    transaction: redb::ReadTransaction,
}

impl<'e> ReadTx<'e> {
    pub(super) fn new(engine: &'e Engine, transaction: redb::ReadTransaction) -> Self {
        Self { engine, transaction }
    }

    /// The value of `key`.
    ///
    /// # Errors
    /// [`StoreError::Device`] or [`StoreError::Corrupt`].
    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.with(table, None, |t| Ok(t.get(key)?.map(|value| value.value().to_vec())))
    }

    /// Up to `limit` entries whose keys begin with `prefix`, ascending, from the first key larger than `after`.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        self.with(table, Vec::new(), |t| scan(t, prefix, after, limit))
    }

    /// Up to `limit` entries whose keys begin with `prefix`, descending, from the last key smaller than `before`.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn scan_back(
        &self,
        table: Table,
        prefix: &[u8],
        before: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        self.with(table, Vec::new(), |t| scan_back(t, prefix, before, limit))
    }

    /// Number of entries.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn len(&self, table: Table) -> Result<u64, StoreError> {
        self.with(table, 0, |t| Ok(t.len()?))
    }

    fn with<T>(
        &self,
        table: Table,
        missing: T,
        read: impl FnOnce(&redb::ReadOnlyTable<&'static [u8], &'static [u8]>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let outcome = match self.transaction.open_table(table.definition()) {
            Ok(table) => read(&table),
            Err(TableError::TableDoesNotExist(_)) => Ok(missing),
            Err(error) => Err(error.into()),
        };
        outcome.map_err(|e| self.engine.note(e))
    }
}

enum Change {
    Put(Table, Vec<u8>, Vec<u8>),
    Delete(Table, Vec<u8>),
}

/// A transaction that changes the store; it reads its own changes. What it writes stays in memory until the commit.
pub struct WriteTx<'e> {
    engine: &'e Engine,
    transaction: Option<redb::WriteTransaction>,
    log: Vec<Change>,
    added: u64,
    freed: u64,
    /// Whether room that snapshots held was waited for.
    drained: bool,
    failed: Option<StoreError>,
}

impl std::fmt::Debug for WriteTx<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WriteTx").field("changes", &self.log.len()).finish_non_exhaustive()
    }
}

impl<'e> WriteTx<'e> {
    /// Begins; the caller holds the writer's lock.
    pub(super) fn begin(engine: &'e Engine) -> Result<Self, StoreError> {
        let transaction = Some(engine.begin_write()?);
        Ok(Self {
            engine,
            transaction,
            log: Vec::new(),
            added: 0,
            freed: 0,
            drained: false,
            failed: None,
        })
    }

    /// The value of `key`.
    ///
    /// # Errors
    /// [`StoreError::Device`] or [`StoreError::Corrupt`]; after those the transaction cannot be committed.
    pub fn get(&mut self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(table, |t| Ok(t.get(key)?.map(|value| value.value().to_vec())))
    }

    /// As [`ReadTx::scan`].
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn scan(
        &mut self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        self.read(table, |t| scan(t, prefix, after, limit))
    }

    /// As [`ReadTx::scan_back`].
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn scan_back(
        &mut self,
        table: Table,
        prefix: &[u8],
        before: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        self.read(table, |t| scan_back(t, prefix, before, limit))
    }

    /// Number of entries.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn len(&mut self, table: Table) -> Result<u64, StoreError> {
        self.read(table, |t| Ok(t.len()?))
    }

    /// Sets the value of `key`.
    ///
    /// # Errors
    /// [`StoreError::TooLong`]; [`StoreError::Full`], after which the transaction cannot be committed; or as
    /// [`get`](Self::get).
    pub fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        check_length("a key", key.len(), MAX_KEY_LEN)?;
        check_length("a value", value.len(), MAX_VALUE_LEN)?;
        self.freed += self.entry_len(table, key)?.unwrap_or(0);
        self.added += (key.len() + value.len()) as u64;
        self.change(Change::Put(table, key.to_vec(), value.to_vec()))
    }

    /// Removes `key`; tells whether it was there.
    ///
    /// # Errors
    /// As [`put`](Self::put). On a full store this works, unless it deletes a great many entries at once.
    pub fn delete(&mut self, table: Table, key: &[u8]) -> Result<bool, StoreError> {
        let Some(len) = self.entry_len(table, key)? else { return Ok(false) };
        self.freed += len;
        self.change(Change::Delete(table, key.to_vec()))?;
        Ok(true)
    }

    pub(super) fn commit(mut self) -> Result<(), StoreError> {
        loop {
            if let Some(error) = &self.failed {
                return Err(error.clone());
            }
            let Some(transaction) = self.transaction.take() else {
                return Err(StoreError::Interrupted);
            };
            if self.log.is_empty() {
                return transaction.abort().map_err(|e| self.engine.note(e.into()));
            }
            let outcome = match self.check_reserve(&transaction) {
                Ok(()) => transaction.commit().map_err(StoreError::from),
                Err(error) => {
                    transaction.abort().map_err(|e| self.engine.note(e.into()))?;
                    Err(error)
                }
            };
            match outcome {
                Ok(()) => {
                    self.engine.forget_used();
                    return Ok(());
                }
                Err(error) => self.recover(error)?,
            }
        }
    }

    fn read<T>(
        &mut self,
        table: Table,
        read: impl Fn(&redb::Table<'_, &'static [u8], &'static [u8]>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        loop {
            if let Some(error) = &self.failed {
                return Err(error.clone());
            }
            let transaction = self.transaction.as_ref().ok_or(StoreError::Interrupted)?;
            let outcome = transaction
                .open_table(table.definition())
                .map_err(StoreError::from)
                .and_then(|table| read(&table));
            match outcome {
                Ok(value) => return Ok(value),
                // Opening a table that is not there creates it, which may need room.
                Err(error) => self.recover(error)?,
            }
        }
    }

    fn entry_len(&mut self, table: Table, key: &[u8]) -> Result<Option<u64>, StoreError> {
        self.read(table, |t| Ok(t.get(key)?.map(|v| (key.len() + v.value().len()) as u64)))
    }

    fn change(&mut self, change: Change) -> Result<(), StoreError> {
        let transaction = self.transaction.as_ref().ok_or(StoreError::Interrupted)?;
        let outcome = apply(transaction, &change);
        self.log.push(change);
        outcome.or_else(|error| self.recover(error))
    }

    /// After a failure that may have been for want of room: makes room and replays the log, or fails for good.
    fn recover(&mut self, error: StoreError) -> Result<(), StoreError> {
        if !matches!(error, StoreError::Full { .. }) {
            return Err(self.fail(error));
        }
        let space = self.engine.space();
        loop {
            self.transaction = None;
            let length = self.engine.area.len();
            let next = match length {
                _ if length < space.ordinary => space.ordinary,
                _ if length < space.whole && self.allowance() > space.ordinary => space.whole,
                // Snapshots keep what was deleted since; reopening waits for their end.
                _ if !self.drained => {
                    self.drained = true;
                    length
                }
                _ => return Err(self.fail(StoreError::Full { capacity: space.ordinary })),
            };
            self.engine.reopen(Some(next)).map_err(|e| self.fail(e))?;
            if next == length {
                self.engine.release_deleted().map_err(|e| self.fail(e))?;
            }
            let transaction = self.engine.begin_write().map_err(|e| self.fail(e))?;
            let replayed = self.log.iter().try_for_each(|change| apply(&transaction, change));
            match replayed {
                Ok(()) => {
                    self.transaction = Some(transaction);
                    return Ok(());
                }
                Err(StoreError::Full { .. }) => {}
                Err(error) => return Err(self.fail(error)),
            }
        }
    }

    /// How many bytes of the area this transaction may fill, by what it frees.
    fn allowance(&self) -> u64 {
        /// What a transaction that frees room may add besides, such as a record of the deletion.
        const SLACK: u64 = 16 << 10;
        let space = self.engine.space();
        match self.freed {
            0 => space.ordinary,
            freed if self.added <= freed => space.whole,
            freed if self.added <= freed.saturating_add(SLACK) => space.with_half_reserve(),
            _ => space.ordinary,
        }
    }

    /// While the file reaches into the reserve, redb would give it to anyone: this does not.
    fn check_reserve(&self, transaction: &redb::WriteTransaction) -> Result<(), StoreError> {
        let space = self.engine.space();
        if self.engine.area.len() <= space.ordinary || self.allowance() == space.whole {
            return Ok(());
        }
        match used_by(transaction).map_err(|e| self.engine.note(e))? <= self.allowance() {
            true => Ok(()),
            false => Err(StoreError::Full { capacity: space.ordinary }),
        }
    }

    fn fail(&mut self, error: StoreError) -> StoreError {
        self.transaction = None;
        let error = self.engine.note(error);
        self.failed.get_or_insert(error).clone()
    }
}

fn apply(transaction: &redb::WriteTransaction, change: &Change) -> Result<(), StoreError> {
    match change {
        Change::Put(table, key, value) => {
            transaction.open_table(table.definition())?.insert(key.as_slice(), value.as_slice())?;
        }
        Change::Delete(table, key) => {
            transaction.open_table(table.definition())?.remove(key.as_slice())?;
        }
    }
    Ok(())
}

fn check_length(what: &'static str, length: usize, limit: usize) -> Result<(), StoreError> {
    match length > limit {
        true => Err(StoreError::TooLong { what, length, limit }),
        false => Ok(()),
    }
}

type Tree<'t> = &'t dyn DynTable;

/// What a scan needs of a table, whether it can be written or not.
trait DynTable {
    fn collect(
        &self,
        low: Bound<&[u8]>,
        high: Bound<&[u8]>,
        backwards: bool,
        limit: usize,
    ) -> Result<Vec<Entry>, StoreError>;
}

impl<T: ReadableTable<&'static [u8], &'static [u8]>> DynTable for T {
    fn collect(
        &self,
        low: Bound<&[u8]>,
        high: Bound<&[u8]>,
        backwards: bool,
        limit: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        let mut range = self.range::<&[u8]>((low, high))?;
        let mut entries = Vec::new();
        while entries.len() < limit {
            let next = if backwards { range.next_back() } else { range.next() };
            let Some(entry) = next else { break };
            let (key, value) = entry?;
            entries.push((key.value().to_vec(), value.value().to_vec()));
        }
        Ok(entries)
    }
}

fn scan(
    table: Tree<'_>,
    prefix: &[u8],
    after: Option<&[u8]>,
    limit: usize,
) -> Result<Vec<Entry>, StoreError> {
    let low = match after {
        Some(after) if after >= prefix => Bound::Excluded(after),
        _ => Bound::Included(prefix),
    };
    let end = prefix_end(prefix);
    collect(table, low, end.as_deref().map_or(Bound::Unbounded, Bound::Excluded), false, limit)
}

fn scan_back(
    table: Tree<'_>,
    prefix: &[u8],
    before: Option<&[u8]>,
    limit: usize,
) -> Result<Vec<Entry>, StoreError> {
    let end = prefix_end(prefix);
    let high = match (before, end.as_deref()) {
        (Some(before), Some(end)) => Bound::Excluded(before.min(end)),
        (Some(before), None) => Bound::Excluded(before),
        (None, Some(end)) => Bound::Excluded(end),
        (None, None) => Bound::Unbounded,
    };
    collect(table, Bound::Included(prefix), high, true, limit)
}

fn collect(
    table: Tree<'_>,
    low: Bound<&[u8]>,
    high: Bound<&[u8]>,
    backwards: bool,
    limit: usize,
) -> Result<Vec<Entry>, StoreError> {
    // An empty range may be given with its ends crossed, which redb does not take.
    match (low, high) {
        (Bound::Included(low) | Bound::Excluded(low), Bound::Excluded(high)) if low >= high => {
            Ok(Vec::new())
        }
        _ => table.collect(low, high, backwards, limit),
    }
}

/// The first key after all that begin with `prefix`; `None` when there is no such key.
fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}
