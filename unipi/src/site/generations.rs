//! The sites that were published, the current one, and the log of how they came about.
//!
//! One pointer is swapped; a request keeps the site that it began with. Everything is in memory; a [`Snapshot`] is what
//! has to be kept elsewhere, beside the sites, to have the same again.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use serde::{Deserialize, Serialize};

use super::{Coding, Problem, Site};

/// A site with its number; numbers grow by one from 1 and are never used again while the program runs.
#[derive(Clone, Debug)]
pub struct Generation {
    /// The number.
    pub number: u64,
    /// The site.
    pub site: Arc<Site>,
}

/// Something that happened, or did not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deploy {
    /// When, in seconds since 1970.
    pub time: u64,
    /// What became of it.
    pub outcome: Outcome,
    /// Who or what asked for it: `start`, `poll`, the sender of a webhook.
    pub by: String,
    /// The generation that came of it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub generation: Option<u64>,
    /// The commit.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub commit: Option<super::CommitInfo>,
    /// Bytes of the site.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub size: Option<u64>,
    /// Files of the site.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub files: Option<usize>,
    /// What is wrong with the site, or why there is no new one.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub problems: Vec<Problem>,
}

/// What became of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// A site that was kept for going back is gone, for want of memory.
    Dropped,
    /// What is live stays, whatever comes.
    Pinned,
    /// New sites go live again.
    Unpinned,
}

impl Outcome {
    /// As programs read it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Held => "held",
            Self::RolledBack => "rolled-back",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
            Self::Pinned => "pinned",
            Self::Unpinned => "unpinned",
        }
    }

    /// As people read it.
    pub fn words(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Held => "held back",
            Self::RolledBack => "rolled back to",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
            Self::Pinned => "pinned",
            Self::Unpinned => "unpinned",
        }
    }
}

/// Everything about the generations but the sites themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Those that are kept, oldest first.
    pub kept: Vec<Stamp>,
    /// The number of the one that is served.
    pub current: Option<u64>,
    /// The highest number that was given.
    pub last: u64,
    /// Whether new sites wait.
    pub pinned: bool,
    /// What happened, oldest first.
    pub log: Vec<Deploy>,
}

/// Which site a generation is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// The generation's number.
    pub number: u64,
    /// The commit that its site was made of.
    pub commit: String,
    /// What clients were told as its Last-Modified, in seconds since 1970.
    pub last_modified: u64,
}

/// Why a generation cannot be gone back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RollbackError {
    /// Not kept any more, or never there.
    #[error("generation {0} is not kept: the deploy log says which are")]
    Unknown(u64),
    /// There is no other site.
    #[error("no earlier site is kept")]
    NoEarlier,
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

    /// The newest generation before the current one that has another commit.
    ///
    /// # Errors
    /// [`RollbackError::NoEarlier`].
    pub fn before_current(&self) -> Result<u64, RollbackError> {
        let current = self.current().ok_or(RollbackError::NoEarlier)?;
        let state = self.state();
        let earlier = state.kept.iter().rev().find(|kept| {
            kept.number < current.number && kept.site.commit().id != current.site.commit().id
        });
        earlier.map(|earlier| earlier.number).ok_or(RollbackError::NoEarlier)
    }

    /// Makes room for a site of which `incoming` bytes are there: takes the oldest generations away, never the current
    /// one, and then compressed variants of that, until the rest and what comes hold no more than [`budget`] together.
    /// The log says which generations went, and why.
    pub fn make_room(&self, incoming: u64, now: u64) -> Room {
        let mut room = Room { gone: Vec::new(), left: u64::MAX, thinned: false };
        let Some(current) = self.current() else { return room };
        let budget = budget(current.site.size());
        let mut state = self.state();
        loop {
            let held = held(state.kept.iter());
            room.left = budget.saturating_sub(held);
            if incoming <= room.left {
                return room;
            }
            let why = format!(
                "with the site that comes, sites would hold more than {budget} bytes of memory"
            );
            let Some(oldest) =
                take_oldest(&mut state, |number| number != current.number, &why, now)
            else {
                room.thinned = true;
                room.left =
                    budget.saturating_sub(thinned(&current, budget.saturating_sub(incoming)));
                if incoming > room.left {
                    // What is live stays, whatever it takes.
                    room.left = u64::MAX;
                }
                return room;
            };
            room.gone.push(oldest);
        }
    }

    /// Whether another variant of the current site's pages, which takes about as much as those in Brotli, is within what
    /// all generations may hold.
    pub fn has_room_for_variant(&self) -> bool {
        let Some(current) = self.current() else { return false };
        has_room_for_variant(&current, self.state().kept.iter())
    }

    /// Takes generations from before the current one away, the oldest first, until there is room for another variant of
    /// its pages; none where even that would not help. The log says which, and why.
    pub fn make_room_for_variant(&self, now: u64) -> Vec<Generation> {
        let Some(current) = self.current() else { return Vec::new() };
        let mut state = self.state();
        let earlier = |number: u64| number < current.number;
        let rest = state.kept.iter().filter(|kept| !earlier(kept.number));
        let mut gone = Vec::new();
        if !has_room_for_variant(&current, rest) {
            return gone;
        }
        let why = "its memory goes to gzip variants of the current site";
        while !has_room_for_variant(&current, state.kept.iter()) {
            let Some(oldest) = take_oldest(&mut state, earlier, why, now) else { break };
            gone.push(oldest);
        }
        gone
    }

    /// When the current generation went live, in seconds since 1970; none when the log does not know any more.
    pub fn live_since(&self) -> Option<u64> {
        let current = self.current()?.number;
        let state = self.state();
        let of_current = state.log.iter().rev().find(|deploy| {
            deploy.generation == Some(current)
                && [Outcome::Live, Outcome::RolledBack].contains(&deploy.outcome)
        });
        of_current.map(|deploy| deploy.time)
    }

    /// Keeps what is current in place: new sites are built and kept, and wait.
    pub fn pin(&self, by: &str, now: u64) {
        let mut state = self.state();
        if !std::mem::replace(&mut state.pinned, true) {
            log(&mut state, event(Outcome::Pinned, by, now));
        }
    }

    /// Lets new sites go live again, the newest one at once.
    pub fn unpin(&self, by: &str, now: u64) {
        let mut state = self.state();
        if !std::mem::replace(&mut state.pinned, false) {
            return;
        }
        log(&mut state, event(Outcome::Unpinned, by, now));
        let newest = state.kept.back().cloned();
        let waiting =
            newest.filter(|newest| self.current().is_none_or(|c| c.number < newest.number));
        if let Some(newest) = waiting {
            self.current.store(Some(Arc::new(newest.clone())));
            log(&mut state, entry(&newest, Outcome::Live, by, now));
        }
    }

    /// What is to be kept elsewhere.
    pub fn snapshot(&self) -> Snapshot {
        let state = self.state();
        let stamps = state.kept.iter().map(|kept| Stamp {
            number: kept.number,
            commit: kept.site.commit().id.clone(),
            last_modified: seconds(kept.site.last_modified().0),
        });
        Snapshot {
            kept: stamps.collect(),
            current: self.current().map(|current| current.number),
            last: state.last,
            pinned: state.pinned,
            log: state.log.iter().cloned().collect(),
        }
    }

    /// Brings back what a snapshot tells of, as far as `sites` has it by commit; where the current one is missing, the
    /// newest takes its place.
    pub fn restore(&self, snapshot: Snapshot, sites: &HashMap<String, Arc<Site>>) {
        let mut state = self.state();
        let kept = snapshot.kept.iter().filter_map(|stamp| {
            let site = sites.get(&stamp.commit)?;
            let site = Arc::new(site.stamped(stamp.last_modified));
            Some(Generation { number: stamp.number, site })
        });
        state.kept = kept.collect();
        state.log = snapshot.log.into_iter().take(MAX_LOG).collect();
        state.last = snapshot.last.max(state.kept.back().map_or(0, |newest| newest.number));
        state.pinned = snapshot.pinned;
        let current = state.kept.iter().find(|kept| Some(kept.number) == snapshot.current);
        let current = current.or_else(|| state.kept.back()).cloned();
        self.current.store(current.map(Arc::new));
    }

    /// Notes that there is no new site, and why. The same failure again takes the place of the one before: a remote that
    /// is down for a day does not push everything else out of the log.
    pub fn failed(&self, why: impl Into<String>, by: &str, now: u64) {
        let problem = Problem { path: String::new(), line: None, text: why.into() };
        let deploy = Deploy { problems: vec![problem], ..event(Outcome::Failed, by, now) };
        let mut state = self.state();
        let is_same =
            |last: &Deploy| last.outcome == Outcome::Failed && last.problems == deploy.problems;
        if state.log.back().is_some_and(is_same) {
            state.log.pop_back();
        }
        log(&mut state, deploy);
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

/// What became of [`Generations::make_room`].
#[derive(Debug)]
pub struct Room {
    /// What had to go.
    pub gone: Vec<Generation>,
    /// Bytes that may come before more has to go.
    pub left: u64,
    /// Whether variants of the current one went too: they are to be made again.
    pub thinned: bool,
}

/// Hundredths of the current site's size that all sites may hold together while a new one comes: with what the program
/// needs besides, two and a half times the site.
const BUDGET: u64 = 218;
/// Sites that hold less than this together, in bytes, are not worth saving memory on.
pub const SMALL: u64 = 64 << 20;

/// Bytes of memory that all generations of a site may hold while a new one comes, if the current one has `size`.
pub fn budget(size: u64) -> u64 {
    (size / 100).saturating_mul(BUDGET).max(SMALL)
}

/// Takes variants of a site away that most clients do not miss, until it holds no more than `allowed` bytes, if it can;
/// gives what it holds then. Brotli stays: nearly everybody takes it.
fn thinned(generation: &Generation, allowed: u64) -> u64 {
    let mut left = held([generation].into_iter());
    for coding in [Coding::Zstd, Coding::Gzip] {
        if left > allowed {
            generation.site.pages().for_each(|(_, page)| page.blob.forget(coding));
            left = held([generation].into_iter());
        }
    }
    left
}

/// Takes the oldest generation that `may_go` away, and says so in the log.
fn take_oldest(
    state: &mut State,
    may_go: impl Fn(u64) -> bool,
    why: &str,
    now: u64,
) -> Option<Generation> {
    let oldest = state.kept.iter().position(|kept| may_go(kept.number))?;
    let oldest = state.kept.remove(oldest)?;
    let text = format!("generation {} cannot be gone back to any more: {why}", oldest.number);
    let problem = Problem { path: String::new(), line: None, text };
    let dropped = entry(&oldest, Outcome::Dropped, "memory", now);
    log(state, Deploy { problems: vec![problem], ..dropped });
    Some(oldest)
}

/// Whether `kept` may hold another variant of the current site's pages.
fn has_room_for_variant<'g>(
    current: &Generation,
    kept: impl Iterator<Item = &'g Generation>,
) -> bool {
    let pages = current.site.pages();
    let brotli = pages.filter_map(|(_, page)| page.blob.length(Coding::Brotli)).sum::<usize>();
    held(kept).saturating_add(brotli as u64) <= budget(current.site.size())
}

/// Bytes that generations hold together: each blob once, with its variants.
fn held<'g>(generations: impl Iterator<Item = &'g Generation>) -> u64 {
    let mut seen = HashSet::new();
    let pages = generations.flat_map(|generation| generation.site.pages());
    let blobs = pages.map(|(_, page)| &page.blob).filter(|blob| seen.insert(Arc::as_ptr(blob)));
    blobs.map(|blob| blob.size() as u64).sum()
}

/// What happened without a site.
fn event(outcome: Outcome, by: &str, now: u64) -> Deploy {
    Deploy {
        time: now,
        outcome,
        by: by.to_owned(),
        generation: None,
        commit: None,
        size: None,
        files: None,
        problems: Vec::new(),
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
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
