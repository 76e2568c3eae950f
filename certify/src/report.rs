//! What people see of the work: for status, metrics and alerts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A clock that differs by no more than this many seconds is not spoken of.
pub const CLOCK_TOLERANCE: i64 = 300;

/// What fails now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Why, in words for people.
    pub error: String,
    /// Attempts that failed in a row.
    pub failures: u32,
    /// When it is tried again, seconds since 1970.
    pub next_attempt: i64,
}

/// The state of the work at one moment.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Names that are looked after.
    pub names: usize,
    /// What fails for all names: the authority cannot be reached, or refuses our account.
    pub authority: Option<Problem>,
    /// What fails for one name.
    pub failing: BTreeMap<String, Problem>,
    /// Seconds that our clock is ahead of what the authority's clock or our own certificates say, when that is more than
    /// [`CLOCK_TOLERANCE`]; behind if negative.
    pub clock_ahead: Option<i64>,
    /// Why certificate files that have changed are not used, by file.
    pub files: BTreeMap<String, String>,
    /// Certificates obtained since start.
    pub obtained: u64,
    /// Attempts that failed since start.
    pub failed: u64,
    /// Orders placed since start.
    pub orders: u64,
}

/// Where a [`crate::Keeper`] writes its [`Report`]. A clone is another handle on the same.
#[derive(Clone, Debug, Default)]
pub struct Reports {
    shared: Arc<Mutex<Report>>,
}

impl Reports {
    /// The state now.
    pub fn read(&self) -> Report {
        self.lock().clone()
    }

    pub(crate) fn edit(&self, change: impl FnOnce(&mut Report)) {
        change(&mut self.lock());
    }

    fn lock(&self) -> MutexGuard<'_, Report> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
