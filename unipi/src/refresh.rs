//! Refreshing: from "something may be new" to a look at the remote, and to a new site where there is something new.
//!
//! Each site has one loop, and one look runs at a time. What is asked for while it runs makes one more, however often it
//! was asked: a burst of webhooks costs two looks at the remote. A failure leaves the old site in place and is tried
//! again, at growing distances; a commit that was refused is not fetched again unless somebody asks.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::git::{FetchError, Fetched, Progress, Remote, fetch_unless};
use crate::sites::{DeployError, Hosted, Room, Trust};

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
    Deploy(#[from] DeployError),
}

/// The first pause after a failure; each further one is twice as long.
const FIRST_RETRY: Duration = Duration::from_secs(2);
/// The longest pause after a failure.
const LAST_RETRY: Duration = Duration::from_secs(300);
/// Who asks when nobody does.
const POLL: &str = "poll";
const RETRY: &str = "retry";

impl Hosted {
    /// Looks at the remote whenever somebody asks, it is time to, or time to try again; until the site is closed. A site
    /// that is only pushed has nothing to look at.
    pub(crate) async fn run(self: Arc<Self>) {
        let Some(remote) = &self.config.remote else { return };
        let site = &self.name;
        self.requests.ask("start");
        let mut failures = 0_u32;
        loop {
            let pause = match failures {
                0 => self.config.poll.map(with_jitter),
                failures => Some(with_jitter(retry_after(failures))),
            };
            let by = tokio::select! {
                by = self.requests.next(pause, failures) => by,
                () = self.closing() => return,
            };
            let started = Instant::now();
            self.requests.looks.fetch_add(1, Relaxed);
            match self.refresh(remote, &by).await {
                Ok(changed) => {
                    failures = 0;
                    let took = started.elapsed();
                    tracing::info!(site, by, changed, ?took, "looked at the remote");
                }
                Err(RefreshError::Deploy(DeployError::Closed)) => return,
                Err(error) => {
                    self.requests.failures.fetch_add(1, Relaxed);
                    // What was refused is refused again; only who changes it can help.
                    failures = match &error {
                        RefreshError::Fetch(_) => failures.saturating_add(1),
                        RefreshError::Deploy(_) => 0,
                    };
                    tracing::warn!(site, by, %error, failures, "no new site; the old one stays");
                    self.failed(error.to_string(), &by).await;
                    if let Some(Trust::Signed(hook)) = &self.config.hook {
                        hook.forget_deliveries();
                    }
                }
            }
        }
    }

    async fn refresh(self: &Arc<Self>, remote: &Remote, by: &str) -> Result<bool, RefreshError> {
        let (known, unwanted) = {
            let trees = self.deploying.lock().await;
            (trees.known.clone(), trees.unwanted)
        };
        let room = Room::new(self);
        let remote = Remote {
            progress: Some(Arc::new(move |progress| {
                if let Progress::Objects { unpacked, .. } = progress {
                    room.for_bytes(unpacked);
                }
            })),
            ..remote.clone()
        };
        let unwanted = unwanted.filter(|_| [POLL, RETRY].contains(&by));
        // A fetch can be broken off at any point; what comes after it cannot.
        let fetched = tokio::select! {
            fetched = fetch_unless(&remote, known.as_deref(), unwanted, &self.limits) => fetched?,
            () = self.closing() => return Err(DeployError::Closed.into()),
        };
        let Fetched::New { generation: tree, .. } = fetched else {
            self.looked(&*self.deploying.lock().await);
            return Ok(false);
        };
        drop(known);
        let mut trees = self.deploying.lock().await;
        self.deploy(&mut trees, tree, by).await?;
        Ok(true)
    }
}

impl Requests {
    /// Waits for a reason to refresh; says whose it is.
    async fn next(&self, pause: Option<Duration>, failures: u32) -> String {
        let unasked = if failures == 0 { POLL } else { RETRY };
        loop {
            if let Some(by) = self.take() {
                return by;
            }
            let elapsed = async {
                match pause {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.asked.notified() => {}
                () = elapsed => return unasked.to_owned(),
            }
        }
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
