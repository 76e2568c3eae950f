//! Refreshing: from "something may be new" to a new site that is served and kept for the next start.
//!
//! One refresh runs at a time. What is asked for while it runs makes one more, however often it was asked: a burst of
//! webhooks costs two looks at the remote. A failure leaves the old site in place and is tried again, at growing
//! distances.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::git::{self, FetchError, Fetched, Generation as Tree, Remote};
use crate::serve::unix_now;
use crate::site::{
    BuildError, BuildOptions, CommitInfo, Entry, EntryKind, Generations, Problem, Site, Source,
    build,
};
use crate::storage::Storage;
use crate::webhook::Hook;

/// What asks for a refresh, and what became of them.
#[derive(Debug, Default)]
pub struct Requests {
    asked: Notify,
    by: Mutex<Option<String>>,
    /// Looks at the remote.
    pub looks: AtomicU64,
    /// Looks or fetches that failed.
    pub failures: AtomicU64,
}

impl Requests {
    /// Asks for a refresh; returns at once. `by` goes into the deploy log.
    pub fn ask(&self, by: &str) {
        let mut first = self.by();
        if first.is_none() {
            *first = Some(by.to_owned());
        }
        self.asked.notify_one();
    }

    fn take(&self) -> Option<String> {
        self.by().take()
    }

    fn by(&self) -> MutexGuard<'_, Option<String>> {
        self.by.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why there is no new site.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RefreshError {
    /// The remote, or what it sent.
    #[error("{0}")]
    Fetch(#[from] FetchError),
    /// What was fetched.
    #[error("{0}")]
    Build(#[from] BuildError),
}

/// When the remote is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// Look this often unasked.
    pub poll: Option<Duration>,
}

/// Keeps a site fresh.
pub struct Refresher {
    /// Where from.
    pub remote: Remote,
    /// What a fetch may cost.
    pub limits: git::Limits,
    /// How a site is made.
    pub options: BuildOptions,
    /// Where it goes.
    pub generations: Arc<Generations>,
    /// Who asks.
    pub requests: Arc<Requests>,
    /// Where it is kept for the next start.
    pub storage: Option<Storage>,
    /// Whose deliveries may come again after a failure.
    pub hook: Option<Arc<Hook>>,
    /// When.
    pub schedule: Schedule,
    known: Option<Arc<Tree>>,
}

/// The first pause after a failure; each further one is twice as long.
const FIRST_RETRY: Duration = Duration::from_secs(2);
/// The longest pause after a failure.
const LAST_RETRY: Duration = Duration::from_secs(300);

impl Refresher {
    /// A refresher that knows of nothing yet.
    pub fn new(
        remote: Remote,
        limits: git::Limits,
        options: BuildOptions,
        generations: Arc<Generations>,
        requests: Arc<Requests>,
    ) -> Self {
        let schedule = Schedule { poll: None };
        let (storage, hook, known) = (None, None, None);
        Self { remote, limits, options, generations, requests, storage, hook, schedule, known }
    }

    /// Serves what the last run kept, if it kept anything that is sound.
    pub async fn restore(&mut self) {
        let Some(storage) = &self.storage else { return };
        match storage.load(&self.remote.url.to_string(), &self.limits).await {
            Ok(None) => tracing::info!("the storage holds no site of this remote"),
            Ok(Some(tree)) => {
                let tree = Arc::new(tree);
                match self.publish(&tree, "storage").await {
                    Ok(()) => self.known = Some(tree),
                    Err(error) => tracing::warn!(%error, "the kept site cannot be served"),
                }
            }
            // Fetching again makes it whole.
            Err(error) => tracing::warn!(%error, "the kept site is damaged and is fetched again"),
        }
    }

    /// Refreshes whenever it is asked, polled or time to try again. Never returns.
    pub async fn run(mut self) {
        self.requests.ask("start");
        let mut failures = 0_u32;
        loop {
            let pause = match failures {
                0 => self.schedule.poll.map(with_jitter),
                failures => Some(with_jitter(retry_after(failures))),
            };
            let by = self.next(pause, failures).await;
            let started = Instant::now();
            self.requests.looks.fetch_add(1, Relaxed);
            match self.refresh(&by).await {
                Ok(changed) => {
                    failures = 0;
                    let took = started.elapsed();
                    tracing::info!(by, changed, ?took, "looked at the remote");
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    self.requests.failures.fetch_add(1, Relaxed);
                    tracing::warn!(by, %error, failures, "no new site; the old one stays");
                    self.generations.failed(error.to_string(), &by, unix_now());
                    if let Some(hook) = &self.hook {
                        hook.forget_deliveries();
                    }
                }
            }
        }
    }

    /// Waits for a reason to refresh; says whose it is.
    async fn next(&self, pause: Option<Duration>, failures: u32) -> String {
        let unasked = if failures == 0 { "poll" } else { "retry" };
        loop {
            if let Some(by) = self.requests.take() {
                return by;
            }
            let elapsed = async {
                match pause {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.requests.asked.notified() => {}
                () = elapsed => return unasked.to_owned(),
            }
        }
    }

    async fn refresh(&mut self, by: &str) -> Result<bool, RefreshError> {
        let fetched = git::fetch(&self.remote, self.known.as_deref(), &self.limits).await?;
        let Fetched::New { generation: tree, .. } = fetched else { return Ok(false) };
        self.publish(&tree, by).await?;
        if let Some(storage) = &self.storage {
            let url = self.remote.url.to_string();
            if let Err(error) = storage.keep(url, Arc::clone(&tree)).await {
                tracing::warn!(%error, "the site is served, but not kept for the next start");
            }
        }
        self.known = Some(tree);
        Ok(true)
    }

    async fn publish(&self, tree: &Tree, by: &str) -> Result<(), RefreshError> {
        let before: Vec<Arc<Site>> =
            self.generations.kept().into_iter().map(|kept| kept.site).collect();
        let site = build(source(tree), &self.options, &before, unix_now()).await?;
        drop(before);
        for problem in site.problems() {
            tracing::warn!(%problem, "the site has a problem");
        }
        let generation = self.generations.publish(site, by, unix_now());
        let (number, size) = (generation.number, generation.site.size());
        tracing::info!(
            number,
            size,
            commit = generation.site.commit().id,
            by,
            "a new site is there"
        );
        tokio::spawn(compress(generation.site));
        Ok(())
    }
}

/// Makes the compressed variants of a site, unless it goes out of use meanwhile.
async fn compress(site: Arc<Site>) {
    for (_, page) in site.pages() {
        if Arc::strong_count(&site) == 1 {
            return;
        }
        if page.compressible {
            page.blob.compress().await;
        }
    }
}

/// What a tree means to the site's builder.
fn source(tree: &Tree) -> Source {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let commit = &tree.commit;
    let author = commit.author.split(|&byte| byte == b'<').next().unwrap_or_default();
    let subject = commit.message.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let entries = tree.entries.iter().filter_map(|entry| {
        let kind = match entry.kind {
            git::EntryKind::File | git::EntryKind::Executable => EntryKind::File,
            git::EntryKind::Symlink => EntryKind::Link,
            // A notice tells of it.
            git::EntryKind::Submodule => return None,
        };
        let (path, id) = (entry.path.to_vec(), entry.id.to_string());
        Some(Entry { path, kind, id, data: entry.blob.clone() })
    });
    let notices = tree.notices.iter().map(|notice| {
        let (git::Notice::Submodule { path } | git::Notice::LfsPointer { path }) = notice;
        Problem { path: text(path), line: None, text: notice.to_string() }
    });
    Source {
        commit: CommitInfo {
            id: commit.id.to_string(),
            time: u64::try_from(commit.time).unwrap_or(0),
            author: text(author.trim_ascii()),
            subject: text(subject),
        },
        entries: entries.collect(),
        notices: notices.collect(),
    }
}

fn retry_after(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    FIRST_RETRY.saturating_mul(1 << doublings).min(LAST_RETRY)
}

/// From three quarters to five quarters of `pause`: many servers must not look at the same moment.
fn with_jitter(pause: Duration) -> Duration {
    let mut byte = [128_u8];
    // Without entropy there is no jitter.
    let _ = getrandom::fill(&mut byte);
    pause.mul_f64(0.75 + f64::from(byte[0]) / 510.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_grow_apart_up_to_a_limit() {
        assert_eq!(retry_after(1), Duration::from_secs(2));
        assert_eq!(retry_after(2), Duration::from_secs(4));
        assert_eq!(retry_after(7), Duration::from_secs(128));
        assert_eq!(retry_after(u32::MAX), LAST_RETRY);
        for _ in 0..100 {
            let pause = with_jitter(Duration::from_secs(100));
            assert!((75..=126).contains(&pause.as_secs()), "{pause:?}");
        }
    }

    #[test]
    fn bursts_become_one_request() {
        let requests = Requests::default();
        for by in ["GitHub", "poll", "GitHub"] {
            requests.ask(by);
        }
        assert_eq!(requests.take().as_deref(), Some("GitHub"));
        assert_eq!(requests.take(), None);
    }
}
