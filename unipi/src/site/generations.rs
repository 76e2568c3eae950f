//! The sites that were published, the current one, and the log of how they came about.
//!
//! One pointer is swapped; a request keeps the site that it began with. Everything is in memory.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwapOption;
use serde::Serialize;

use super::{Problem, Site};

/// A site with its number; numbers grow by one from 1 and are never used again while the program runs.
#[derive(Clone, Debug)]
pub struct Generation {
    /// The number.
    pub number: u64,
    /// The site.
    pub site: Arc<Site>,
}

/// Something that happened, or did not.
#[derive(Clone, Debug, Serialize)]
pub struct Deploy {
    /// When, in seconds since 1970.
    pub time: u64,
    /// What became of it.
    pub outcome: Outcome,
    /// Who or what asked for it: `start`, `poll`, the sender of a webhook.
    pub by: String,
    /// The generation that came of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// The commit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit: Option<super::CommitInfo>,
    /// Bytes of the site.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Files of the site.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<usize>,
    /// What is wrong with the site, or why there is no new one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
}

/// What became of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// A new site is live.
    Live,
    /// A new site is there, and a pinned one stays live.
    Held,
    /// An older site is live again.
    RolledBack,
    /// There is no new site; the old one stays.
    Failed,
}

/// Why a generation cannot be gone back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RollbackError {
    /// Not kept any more, or never there.
    #[error("generation {0} is not kept: the deploy log says which are")]
    Unknown(u64),
}

/// Published sites: the current one, the newest `keep`, and the log.
#[derive(Debug)]
pub struct Generations {
    current: ArcSwapOption<Generation>,
    state: Mutex<State>,
    keep: usize,
}

#[derive(Debug, Default)]
struct State {
    kept: VecDeque<Generation>,
    log: VecDeque<Deploy>,
    last: u64,
    pinned: bool,
}

/// Entries of the log that are kept.
pub const MAX_LOG: usize = 100;

impl Generations {
    /// None yet; `keep` of them will be kept for going back, at least one.
    pub fn new(keep: usize) -> Self {
        Self { current: ArcSwapOption::empty(), state: Mutex::default(), keep: keep.max(1) }
    }

    /// The generation that is served.
    pub fn current(&self) -> Option<Arc<Generation>> {
        self.current.load_full()
    }

    /// The sites that are kept, oldest first.
    pub fn kept(&self) -> Vec<Generation> {
        self.state().kept.iter().cloned().collect()
    }

    /// What happened, newest first.
    pub fn log(&self) -> Vec<Deploy> {
        self.state().log.iter().rev().cloned().collect()
    }

    /// Whether new sites wait until [`Generations::unpin`].
    pub fn is_pinned(&self) -> bool {
        self.state().pinned
    }

    /// Makes `site` the current one, unless another is pinned; it is kept either way.
    pub fn publish(&self, site: Site, by: &str, now: u64) -> Generation {
        let mut state = self.state();
        let outcome = if state.pinned { Outcome::Held } else { Outcome::Live };
        self.add(&mut state, Arc::new(site), outcome, by, now)
    }

    /// Makes the site of generation `number` the current one again, as a new generation, so that no cache mistakes it
    /// for something older than what it holds.
    ///
    /// # Errors
    /// [`RollbackError`].
    pub fn roll_back(&self, number: u64, by: &str, now: u64) -> Result<Generation, RollbackError> {
        let mut state = self.state();
        let old = state.kept.iter().find(|kept| kept.number == number);
        let old = Arc::clone(&old.ok_or(RollbackError::Unknown(number))?.site);
        let newest = state.kept.iter().map(|kept| kept.site.last_modified().0).max();
        let site = Arc::new(old.restamped(newest, now));
        Ok(self.add(&mut state, site, Outcome::RolledBack, by, now))
    }

    /// Keeps what is current in place: new sites are built and kept, and wait.
    pub fn pin(&self) {
        self.state().pinned = true;
    }

    /// Lets new sites go live again, the newest one at once.
    pub fn unpin(&self, by: &str, now: u64) {
        let mut state = self.state();
        state.pinned = false;
        let newest = state.kept.back().cloned();
        let waiting =
            newest.filter(|newest| self.current().is_none_or(|c| c.number < newest.number));
        if let Some(newest) = waiting {
            self.current.store(Some(Arc::new(newest.clone())));
            log(&mut state, entry(&newest, Outcome::Live, by, now));
        }
    }

    /// Notes that there is no new site, and why.
    pub fn failed(&self, why: impl Into<String>, by: &str, now: u64) {
        let problem = Problem { path: String::new(), line: None, text: why.into() };
        let deploy = Deploy {
            time: now,
            outcome: Outcome::Failed,
            by: by.to_owned(),
            generation: None,
            commit: None,
            size: None,
            files: None,
            problems: vec![problem],
        };
        log(&mut self.state(), deploy);
    }

    fn add(
        &self,
        state: &mut State,
        site: Arc<Site>,
        outcome: Outcome,
        by: &str,
        now: u64,
    ) -> Generation {
        state.last += 1;
        let generation = Generation { number: state.last, site };
        state.kept.push_back(generation.clone());
        if outcome != Outcome::Held {
            self.current.store(Some(Arc::new(generation.clone())));
        }
        let current = self.current().map(|current| current.number);
        while state.kept.len() > self.keep {
            // A pinned site is never the one to go.
            let oldest = state.kept.iter().position(|kept| Some(kept.number) != current);
            match oldest.filter(|_| state.kept.len() > 1) {
                Some(oldest) => drop(state.kept.remove(oldest)),
                None => break,
            }
        }
        log(state, entry(&generation, outcome, by, now));
        generation
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing here leaves the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn entry(generation: &Generation, outcome: Outcome, by: &str, now: u64) -> Deploy {
    let site = &generation.site;
    Deploy {
        time: now,
        outcome,
        by: by.to_owned(),
        generation: Some(generation.number),
        commit: Some(site.commit().clone()),
        size: Some(site.size()),
        files: Some(site.len()),
        problems: site.problems().to_vec(),
    }
}

fn log(state: &mut State, deploy: Deploy) {
    if state.log.len() == MAX_LOG {
        state.log.pop_front();
    }
    state.log.push_back(deploy);
}
