//! A device that fails on purpose: it loses power, answers one call with an error, or runs full.
//!
//! It models a disk with a volatile cache. Writes stay in the cache until a flush; when the power goes, each 512-byte
//! piece of them independently reaches the disk in one of the versions written since the last flush, or not at all.
//! That covers dropped, torn and reordered writes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{BlockDevice, DeviceError, check_range};

const PIECE: usize = 512;

/// What goes wrong, and when. Calls are counted from 1; reads, writes and flushes count alike for `fail_call`, writes
/// and flushes alone for `crash_at`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FaultPlan {
    /// Seed of every random choice: the same seed and calls give the same disk.
    pub seed: u64,
    /// The power goes at this write or flush: it is not completed, and every later call fails.
    pub crash_at: Option<u64>,
    /// This one call fails with an I/O error and has no effect; later calls work.
    pub fail_call: Option<u64>,
    /// Writes that end beyond this many bytes fail with [`DeviceError::Full`], as a sparse file on a full disk does.
    pub full_beyond: Option<u64>,
}

/// A device with a volatile cache over another one, failing as its [`FaultPlan`] says.
#[derive(Debug)]
pub struct FaultDevice {
    disk: Arc<dyn BlockDevice>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    plan: FaultPlan,
    random: SplitMix64,
    /// Every version of a piece written since the last flush, oldest first.
    cache: BTreeMap<u64, Vec<[u8; PIECE]>>,
    calls: u64,
    mutations: u64,
    crashed: bool,
}

impl FaultDevice {
    /// Puts faults in front of `disk`, which holds what a crash leaves behind.
    pub fn new(disk: Arc<dyn BlockDevice>, plan: FaultPlan) -> Self {
        let state = State {
            plan,
            random: SplitMix64::new(plan.seed),
            cache: BTreeMap::new(),
            calls: 0,
            mutations: 0,
            crashed: false,
        };
        Self { disk, state: Mutex::new(state) }
    }

    /// Replaces the plan; counting starts again.
    pub fn set_plan(&self, plan: FaultPlan) {
        let mut state = self.lock();
        state.plan = plan;
        state.random = SplitMix64::new(plan.seed);
        (state.calls, state.mutations) = (0, 0);
    }

    /// Reads, writes and flushes since the plan was set.
    pub fn calls(&self) -> u64 {
        self.lock().calls
    }

    /// Writes and flushes since the plan was set.
    pub fn mutations(&self) -> u64 {
        self.lock().mutations
    }

    /// Whether the power is gone.
    pub fn crashed(&self) -> bool {
        self.lock().crashed
    }

    /// Takes the power away now.
    ///
    /// # Errors
    /// What the disk under it answers.
    pub fn crash(&self) -> Result<(), DeviceError> {
        self.lock().lose_power(&*self.disk)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BlockDevice for FaultDevice {
    fn sector_size(&self) -> u32 {
        self.disk.sector_size()
    }

    fn sectors(&self) -> u64 {
        self.disk.sectors()
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), DeviceError> {
        check_range(self, offset, buffer.len())?;
        let mut state = self.lock();
        state.count("read")?;
        self.disk.read(offset, buffer)?;
        let first = offset / PIECE as u64;
        for (piece, versions) in state.cache.range(first..first + (buffer.len() / PIECE) as u64) {
            let start = usize::try_from(piece - first).unwrap_or(usize::MAX) * PIECE;
            if let Some(newest) = versions.last() {
                buffer[start..start + PIECE].copy_from_slice(newest);
            }
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), DeviceError> {
        check_range(self, offset, data.len())?;
        let mut state = self.lock();
        state.count("write")?;
        let limit = state.plan.full_beyond;
        if limit.is_some_and(|limit| offset + data.len() as u64 > limit) {
            return Err(DeviceError::Full);
        }
        let (pieces, _) = data.as_chunks::<PIECE>();
        for (piece, bytes) in (offset / PIECE as u64..).zip(pieces) {
            state.cache.entry(piece).or_default().push(*bytes);
        }
        state.count_mutation(&*self.disk)
    }

    fn flush(&self) -> Result<(), DeviceError> {
        let mut state = self.lock();
        state.count("flush")?;
        state.count_mutation(&*self.disk)?;
        state.settle(&*self.disk, |_, versions| versions.last().copied())?;
        self.disk.flush()
    }
}

impl State {
    fn count(&mut self, call: &str) -> Result<(), DeviceError> {
        if self.crashed {
            return Err(injected(call, "the power is gone"));
        }
        self.calls += 1;
        match self.plan.fail_call == Some(self.calls) {
            true => Err(injected(call, "injected failure")),
            false => Ok(()),
        }
    }

    fn count_mutation(&mut self, disk: &dyn BlockDevice) -> Result<(), DeviceError> {
        self.mutations += 1;
        if self.plan.crash_at != Some(self.mutations) {
            return Ok(());
        }
        self.lose_power(disk)?;
        Err(injected("write", "the power is gone"))
    }

    fn lose_power(&mut self, disk: &dyn BlockDevice) -> Result<(), DeviceError> {
        self.crashed = true;
        self.settle(disk, |random, versions| {
            // One choice more than there are versions: the piece as it was before.
            let choice = random.below(versions.len() as u64 + 1);
            usize::try_from(choice).ok().and_then(|choice| versions.get(choice)).copied()
        })
    }

    fn settle(
        &mut self,
        disk: &dyn BlockDevice,
        mut choose: impl FnMut(&mut SplitMix64, &[[u8; PIECE]]) -> Option<[u8; PIECE]>,
    ) -> Result<(), DeviceError> {
        let sector_size = u64::from(disk.sector_size());
        for (piece, versions) in std::mem::take(&mut self.cache) {
            let Some(bytes) = choose(&mut self.random, &versions) else { continue };
            let offset = piece * PIECE as u64;
            let start = offset - offset % sector_size;
            let mut sector = vec![0; disk.sector_size() as usize];
            disk.read(start, &mut sector)?;
            let within = usize::try_from(offset - start).unwrap_or(0);
            sector[within..within + PIECE].copy_from_slice(&bytes);
            disk.write(start, &sector)?;
        }
        Ok(())
    }
}

fn injected(call: &str, message: &str) -> DeviceError {
    DeviceError::Io {
        doing: call.to_owned(),
        message: message.to_owned(),
        kind: std::io::ErrorKind::Other,
    }
}

/// SplitMix64: a small generator for repeatable tests, of no use for secrets.
#[derive(Debug, Clone)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// A sequence that depends on `seed` alone.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 to `bound - 1`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next_u64().checked_rem(bound).unwrap_or(0)
    }
}
