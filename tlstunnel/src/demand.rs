//! Names that clients have asked for: with `--acme-on-demand` a certificate is ordered only then.
//!
//! Only names that are registered get in here, so strangers cannot make the gateway order anything by asking for names of
//! their own, and the set is no larger than the routing table.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The names that were asked for since start.
#[derive(Debug, Default)]
pub struct Demand {
    enabled: AtomicBool,
    asked: Mutex<HashSet<String>>,
    news: Notify,
}

impl Demand {
    /// From now on only names that were asked for get certificates.
    pub fn enable(&self) {
        self.enabled.store(true, Ordering::Relaxed);
    }

    /// Whether a certificate for `name` may come because of a client that asks for it. Without `--acme-on-demand` it needs
    /// no client.
    pub fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::Relaxed)
    }

    /// A client asks for `name`, which must be registered.
    pub fn ask(&self, name: &str) {
        let mut asked = self.lock();
        if !asked.contains(name) {
            asked.insert(name.to_owned());
            self.news.notify_one();
        }
    }

    /// Whether somebody has asked for `name`, or nobody needs to.
    pub fn contains(&self, name: &str) -> bool {
        !self.is_enabled() || self.lock().contains(name)
    }

    /// Returns once another name was asked for, also when that was before this was called. For one task alone.
    pub async fn grown(&self) {
        self.news.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<String>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
