//! Room for a site that is on its way: older ones go, one by one, as it turns out how much comes.
//!
//! A change of one page drops nothing, however large the site is. Memory is given back a little at a time: it takes the
//! system milliseconds to take a large site's back.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use super::Hosted;
use crate::git::Generation as Tree;
use crate::git::pace::Pace;
use crate::serve::unix_now;

/// Watches how much comes, for one fetch or push.
#[derive(Debug)]
pub(crate) struct Room {
    site: Weak<Hosted>,
    /// Bytes that may come before it is looked again.
    left: AtomicU64,
    /// Whether the current site lost variants.
    thinned: AtomicBool,
}

impl Room {
    pub(crate) fn new(site: &Arc<Hosted>) -> Self {
        Self {
            site: Arc::downgrade(site),
            left: AtomicU64::new(0),
            thinned: AtomicBool::new(false),
        }
    }

    /// Notes that `bytes` are there now.
    pub(crate) fn for_bytes(&self, bytes: u64) {
        if bytes <= self.left.load(Relaxed) {
            return;
        }
        let Some(site) = self.site.upgrade() else { return };
        let room = site.generations.make_room(bytes, unix_now());
        self.left.store(room.left, Relaxed);
        self.thinned.fetch_or(room.thinned, Relaxed);
        for gone in &room.gone {
            let (site, number, bytes) = (&site.name, gone.number, gone.site.size());
            tracing::warn!(
                site,
                number,
                bytes,
                "an earlier generation went: a new site comes, and memory is short"
            );
        }
        // Whoever holds the trees is about to keep them, which does the same.
        if !room.gone.is_empty()
            && let Ok(mut trees) = site.deploying.try_lock()
        {
            let gone = trees.forget_gone(&site.generations.snapshot());
            site.work.handle().spawn(let_go(gone));
        }
    }
}

impl Drop for Room {
    /// Whatever became of it: what is live now gets all its variants.
    fn drop(&mut self) {
        if *self.thinned.get_mut() {
            self.site.upgrade().inspect(Hosted::compress);
        }
    }
}

/// Frees what nobody else holds, a little at a time.
pub(super) async fn let_go(trees: Vec<Arc<Tree>>) {
    let mut pace = Pace::default();
    for tree in trees {
        let Some(Tree { entries, objects, .. }) = Arc::into_inner(tree) else { continue };
        for entry in entries {
            pace.spend(entry.path.len() + 64).await;
        }
        for (_, object) in objects {
            pace.spend(object.data.len() + 64).await;
        }
    }
}
