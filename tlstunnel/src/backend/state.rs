//! What is known about one backend while the gateway runs: health, open connections, failures.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use config_proto::model::BackendAddress;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::counters::{Counter, Gauge};

/// How long a backend is passed over after the first failed connection; doubles with each further one.
pub const FIRST_BACK_OFF: Duration = Duration::from_millis(500);
/// The longest time that a backend is passed over without being tried again.
pub const LONGEST_BACK_OFF: Duration = Duration::from_secs(10);
/// Characters of an error text that are kept for `show`.
const MAX_ERROR_CHARS: usize = 256;

/// One backend and its live state. Replacing a route keeps the state of the backends that stay.
#[derive(Debug)]
pub struct Backend {
    /// As configured.
    pub address: BackendAddress,
    /// A stable number for this address, for choosing by hash.
    pub(super) seed: u64,
    open: Gauge,
    total: Counter,
    failures: Counter,
    failures_in_a_row: AtomicU32,
    /// Set by active checks.
    down: AtomicBool,
    memory: Mutex<Memory>,
}

/// What is rarely touched.
#[derive(Debug, Default)]
struct Memory {
    passed_over_until: Option<Instant>,
    last_error: Option<String>,
    /// Addresses of a DNS name that failed lately.
    failed_addresses: Vec<(IpAddr, Instant)>,
    check: Option<AbortHandle>,
}

/// What `show` and `top` tell about a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendSummary {
    /// As configured.
    pub address: BackendAddress,
    /// Whether new connections are sent to it before those that are not.
    pub healthy: bool,
    /// Open connections.
    pub open: u64,
    /// Connections since start.
    pub total: u64,
    /// Failed attempts to connect since start, checks included.
    pub failures: u64,
    /// The last failure.
    pub last_error: Option<String>,
}

impl Backend {
    pub(super) fn new(address: BackendAddress) -> Self {
        Self {
            seed: super::pool::stable_hash(address.to_string().as_bytes()),
            address,
            open: Gauge::default(),
            total: Counter::default(),
            failures: Counter::default(),
            failures_in_a_row: AtomicU32::new(0),
            down: AtomicBool::new(false),
            memory: Mutex::default(),
        }
    }

    /// Whether new connections should come here: not down by checks, and not just failed.
    pub fn is_available(&self) -> bool {
        !self.down.load(Ordering::Relaxed)
            && (self.failures_in_a_row.load(Ordering::Relaxed) == 0
                || self.memory().passed_over_until.is_none_or(|until| until <= Instant::now()))
    }

    /// Open connections now.
    pub fn open(&self) -> u64 {
        self.open.value()
    }

    /// What `show` and `top` tell.
    pub fn summary(&self) -> BackendSummary {
        BackendSummary {
            address: self.address.clone(),
            healthy: self.is_available(),
            open: self.open.value(),
            total: self.total.value(),
            failures: self.failures.value(),
            last_error: self.memory().last_error.clone(),
        }
    }

    /// A client's connection is being opened; it counts as open, so that others choose by it. A backend that failed
    /// before is tried by one client at a time: the others pass it over for at most `limit`.
    pub(super) fn attempt(self: &Arc<Self>, limit: Duration) -> OpenGuard {
        if self.failures_in_a_row.load(Ordering::Relaxed) > 0 {
            self.memory().passed_over_until = Some(Instant::now() + limit);
        }
        self.open.enter();
        OpenGuard { backend: Arc::clone(self) }
    }

    /// A number that grows with every connection.
    pub(super) fn turn(&self) -> usize {
        usize::try_from(self.total.value()).unwrap_or(0)
    }

    /// Whether active checks found it down.
    pub(super) fn is_down(&self) -> bool {
        self.down.load(Ordering::Relaxed)
    }

    /// Whether a check is running.
    pub(super) fn is_checked(&self) -> bool {
        self.memory().check.as_ref().is_some_and(|check| !check.is_finished())
    }

    /// A client's connection could not be opened: pass this backend over for a while.
    pub(super) fn failed(&self, error: &str) {
        let in_a_row = self.failures_in_a_row.fetch_add(1, Ordering::Relaxed).min(16);
        let back_off = FIRST_BACK_OFF.saturating_mul(1 << in_a_row).min(LONGEST_BACK_OFF);
        self.memory().passed_over_until = Some(Instant::now() + back_off);
        self.note_failure(error);
    }

    /// Counts a failure and keeps its text.
    pub(super) fn note_failure(&self, error: &str) {
        self.failures.add_one();
        self.memory().last_error = Some(error.chars().take(MAX_ERROR_CHARS).collect());
    }

    /// What active checks found. Being up again also ends the back-off after failed connections.
    pub(super) fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::Relaxed);
        if !down {
            self.failures_in_a_row.store(0, Ordering::Relaxed);
        }
    }

    /// Moves addresses that failed lately behind the others, keeping the order otherwise.
    pub(super) fn order_addresses(&self, addresses: &mut [IpAddr]) {
        let now = Instant::now();
        let mut memory = self.memory();
        memory.failed_addresses.retain(|(_, until)| *until > now);
        addresses.sort_by_key(|ip| memory.failed_addresses.iter().any(|(failed, _)| failed == ip));
    }

    /// Remembers that one of several addresses failed.
    pub(super) fn address_failed(&self, address: IpAddr) {
        let mut memory = self.memory();
        memory.failed_addresses.retain(|(failed, _)| *failed != address);
        if memory.failed_addresses.len() < super::MAX_ADDRESSES {
            memory.failed_addresses.push((address, Instant::now() + LONGEST_BACK_OFF));
        }
    }

    /// Replaces the running check, if any, which ends.
    pub(super) fn replace_check(&self, check: Option<AbortHandle>) {
        if let Some(old) = std::mem::replace(&mut self.memory().check, check) {
            old.abort();
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.replace_check(None);
    }
}

/// Counts one open connection until it is dropped.
#[derive(Debug)]
pub(super) struct OpenGuard {
    backend: Arc<Backend>,
}

impl OpenGuard {
    pub(super) fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// The connection is open.
    pub(super) fn succeeded(self) -> Self {
        self.backend.total.add_one();
        self.backend.failures_in_a_row.store(0, Ordering::Relaxed);
        self
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.backend.open.leave();
    }
}
