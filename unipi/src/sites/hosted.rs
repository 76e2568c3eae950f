//! One site that is served: what it is told, its generations, and the one way in which a commit becomes one of them.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::room::let_go;
use super::{Config, Defaults};
use crate::background::Worker;
use crate::git::pace::Pace;
use crate::git::{self, Generation as Tree, ObjectId};
use crate::push::Cache;
use crate::refresh::Requests;
use crate::serve::unix_now;
use crate::site::generations::{Generation, RollbackError, Snapshot};
use crate::site::{
    BuildError, BuildOptions, Coding, CommitInfo, Entry, EntryKind, Generations, Problem, Scratch,
    Site, Source, build,
};
use crate::storage::{Kept, Storage};
use crate::trust::Untrusted;

/// A site.
#[derive(Debug)]
pub struct Hosted {
    /// The host name, or `default`.
    pub name: String,
    /// What it is told.
    pub config: Config,
    /// Whether the command line tells it, and nobody else may.
    pub fixed: bool,
    /// The sites that are served for it, now and before.
    pub generations: Generations,
    /// Who asks for a refresh.
    pub requests: Requests,
    pub(crate) options: BuildOptions,
    pub(crate) limits: git::Limits,
    storage: Option<Storage>,
    rollback_time: Duration,
    /// Does what takes long.
    pub(crate) work: Worker,
    pub(crate) deploying: tokio::sync::Mutex<Trees>,
    failure: Mutex<Option<String>>,
    compressing: Mutex<Option<AbortHandle>>,
    /// What was sent to who cloned last.
    pub(crate) packed: Arc<Cache>,
    closed: watch::Sender<bool>,
}

/// The commits behind the generations; changed by one deploy at a time.
#[derive(Debug, Default)]
pub(crate) struct Trees {
    /// What the remote was last found at.
    pub(crate) known: Option<Arc<Tree>>,
    /// What was refused, so that it is not fetched again and again.
    pub(crate) unwanted: Option<ObjectId>,
    by_commit: HashMap<ObjectId, Arc<Tree>>,
}

impl Trees {
    /// The commit with its files, if it is kept.
    pub(crate) fn get(&self, commit: &ObjectId) -> Option<Arc<Tree>> {
        self.by_commit.get(commit).cloned()
    }

    /// Every object that is at hand.
    pub(crate) fn newest(&self) -> Option<&Arc<Tree>> {
        self.known.as_ref()
    }

    /// Takes out the commits that no generation shows any more.
    pub(super) fn forget_gone(&mut self, snapshot: &Snapshot) -> Vec<Arc<Tree>> {
        let known = self.known.as_ref().map(|known| known.commit.id);
        let gone = self.by_commit.extract_if(|id, _| {
            let text = id.to_string();
            Some(*id) != known && snapshot.kept.iter().all(|kept| kept.commit != text)
        });
        gone.map(|(_, tree)| tree).collect()
    }
}

/// Why a commit does not become a site.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeployError {
    /// It is not signed as it has to be.
    #[error("{0}")]
    Untrusted(#[from] Untrusted),
    /// What is in it.
    #[error("{0}")]
    Build(#[from] BuildError),
    /// The site was removed, or replaced, meanwhile.
    #[error("the site was removed or replaced just now: try again")]
    Closed,
}

impl Hosted {
    /// A site without any generation yet.
    pub(super) fn new(
        name: String,
        config: Config,
        fixed: bool,
        defaults: &Defaults,
        storage: Option<Storage>,
        work: Worker,
    ) -> Self {
        let mut options = defaults.build.clone();
        options.max_size = config.max_size;
        let limits = git::Limits {
            pack_bytes: config.max_size,
            unpacked_bytes: config.max_size,
            ..defaults.limits
        };
        Self {
            generations: Generations::new(config.keep),
            requests: Requests::default(),
            name,
            config,
            fixed,
            options,
            limits,
            storage,
            rollback_time: defaults.rollback_time,
            work,
            deploying: tokio::sync::Mutex::default(),
            failure: Mutex::default(),
            compressing: Mutex::default(),
            packed: Arc::default(),
            closed: watch::Sender::new(false),
        }
    }

    /// Why the last attempt failed; none when it did not.
    pub fn failure(&self) -> Option<String> {
        self.failure_slot().clone()
    }

    /// Brings back what the last run kept, as far as it is sound.
    pub(super) async fn restore(self: &Arc<Self>) {
        let Some(storage) = &self.storage else { return };
        let site = &self.name;
        let kept = match storage.load(site, &self.limits).await {
            Ok(Some(kept)) if kept.source == self.config.source() => kept,
            Ok(Some(_)) => {
                tracing::info!(site, "what was kept came from elsewhere and is not served");
                return;
            }
            Ok(None) => {
                tracing::info!(site, "nothing was kept");
                return;
            }
            // Fetching again makes it whole.
            Err(error) => {
                tracing::error!(site, %error, "what was kept is damaged; the site is fetched again");
                let why = format!("what was kept is damaged ({error}); it is fetched again");
                self.generations.failed(why, "storage", unix_now());
                return;
            }
        };
        let mut trees = self.deploying.lock().await;
        let mut sites: HashMap<String, Arc<Site>> = HashMap::new();
        let mut before = Vec::new();
        for tree in kept.trees {
            // What the operator has allowed since then counts, not what went live once.
            if let Some(Err(error)) = self.config.signers.as_ref().map(|s| s.verify(&tree, None)) {
                tracing::warn!(site, %error, "a kept commit is not allowed any more");
                continue;
            }
            match build(source(&tree), &self.options, &before, unix_now()).await {
                Ok(built) => {
                    let built = Arc::new(built);
                    before.push(Arc::clone(&built));
                    sites.insert(tree.commit.id.to_string(), built);
                    trees.by_commit.insert(tree.commit.id, tree);
                }
                Err(error) => tracing::warn!(site, %error, "a kept commit cannot be served"),
            }
        }
        trees.known = kept.known.and_then(|known| trees.get(&known));
        self.generations.restore(kept.snapshot, &sites);
        if let Some(current) = self.generations.current() {
            let (number, commit) = (current.number, &current.site.commit().id);
            tracing::info!(site, number, commit, "what was kept is served");
            self.compress();
        }
    }

    /// Makes a site of a commit and publishes it: verify, build, swap, keep. `by` goes into the deploy log.
    ///
    /// # Errors
    /// [`DeployError`]; the old site stays.
    pub(crate) async fn deploy(
        self: &Arc<Self>,
        trees: &mut Trees,
        tree: Arc<Tree>,
        by: &str,
    ) -> Result<Generation, DeployError> {
        if *self.closed.borrow() {
            return Err(DeployError::Closed);
        }
        let deployed = self.publish(&tree, by).await;
        let generation = match deployed {
            Ok(generation) => generation,
            Err(error) => {
                trees.unwanted = Some(tree.tip());
                return Err(error);
            }
        };
        trees.unwanted = None;
        trees.by_commit.insert(tree.commit.id, Arc::clone(&tree));
        trees.known = Some(tree);
        *self.failure_slot() = None;
        self.settle(trees).await;
        Ok(generation)
    }

    async fn publish(&self, tree: &Tree, by: &str) -> Result<Generation, DeployError> {
        let site = &self.name;
        let by = match &self.config.signers {
            Some(signers) => {
                let signer = signers.verify(tree, Some(unix_now()))?;
                format!("{by}, signed by {signer}")
            }
            None => by.to_owned(),
        };
        let before: Vec<Arc<Site>> =
            self.generations.kept().into_iter().map(|kept| kept.site).collect();
        let built = build(source(tree), &self.options, &before, unix_now()).await?;
        drop(before);
        for problem in built.problems() {
            tracing::warn!(site, %problem, "the site has a problem");
        }
        let generation = self.generations.publish(built, &by, unix_now());
        let (number, size) = (generation.number, generation.site.size());
        let commit = &generation.site.commit().id;
        tracing::info!(site, number, size, commit, by, "a new site is there");
        Ok(generation)
    }

    /// Notes that there is no new site, and why.
    pub(crate) async fn failed(&self, why: String, by: &str) {
        self.generations.failed(why.clone(), by, unix_now());
        *self.failure_slot() = Some(why);
        let mut trees = self.deploying.lock().await;
        if !*self.closed.borrow() {
            self.keep(&mut trees).await;
        }
    }

    /// Notes that nothing is wrong with the remote any more. What it has may have been refused before, and still is.
    pub(crate) fn looked(&self, trees: &Trees) {
        if trees.unwanted.is_none() {
            *self.failure_slot() = None;
        }
    }

    /// Makes an earlier generation live again: `number`, or the one before the current one.
    ///
    /// # Errors
    /// [`RollbackError`].
    pub(crate) async fn roll_back(
        self: &Arc<Self>,
        number: Option<u64>,
        by: &str,
    ) -> Result<(u64, Generation), RollbackError> {
        let (this, by) = (Arc::clone(self), by.to_owned());
        let roll_back = async move {
            let mut trees = this.deploying.lock().await;
            let number = match number {
                Some(number) => number,
                None => this.generations.before_current()?,
            };
            let generation = this.generations.roll_back(number, &by, unix_now())?;
            this.settle(&mut trees).await;
            Ok((number, generation))
        };
        self.work.run(roll_back).await
    }

    /// Keeps what is live in place, or lets new generations go live again.
    pub(crate) async fn set_pinned(self: &Arc<Self>, pinned: bool, by: &str) {
        let (this, by) = (Arc::clone(self), by.to_owned());
        let pin = async move {
            let mut trees = this.deploying.lock().await;
            match pinned {
                true => this.generations.pin(&by, unix_now()),
                false => this.generations.unpin(&by, unix_now()),
            }
            this.settle(&mut trees).await;
        };
        self.work.run(pin).await;
    }

    /// Ends it: a deploy that is under way is waited for, and none comes after it.
    pub(super) async fn close(&self) {
        self.closed.send_replace(true);
        self.stop_compressing();
        drop(self.deploying.lock().await);
    }

    /// Waits for its end.
    pub(crate) async fn closing(&self) {
        // The sender lives as long as this.
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }

    /// Does what follows from another site being live.
    async fn settle(self: &Arc<Self>, trees: &mut Trees) {
        self.tidy().await;
        self.keep(trees).await;
        self.compress();
    }

    /// Writes everything to the storage, and forgets the commits that no generation shows any more.
    async fn keep(&self, trees: &mut Trees) {
        let snapshot = self.generations.snapshot();
        let known = trees.known.as_ref().map(|known| known.commit.id);
        self.work.handle().spawn(let_go(trees.forget_gone(&snapshot)));
        let Some(storage) = &self.storage else { return };
        let kept = Kept {
            source: self.config.source(),
            trees: trees.by_commit.values().cloned().collect(),
            known,
            snapshot,
        };
        if let Err(error) = storage.keep(&self.name, kept).await {
            let site = &self.name;
            tracing::error!(site, %error, "what is served is not kept for the next start");
        }
    }

    /// Lets go of the variants that only sites out of use have: they are half a site's size, and made again quickly.
    async fn tidy(&self) {
        self.stop_compressing();
        let Some(current) = self.generations.current() else { return };
        let (mut live, mut pace) = (HashSet::new(), Pace::default());
        for (_, page) in current.site.pages() {
            live.insert(page.blob.id().to_owned());
            pace.spend(PAGE_COST).await;
        }
        for kept in self.generations.kept() {
            for (_, page) in kept.site.pages() {
                let unused = !live.contains(page.blob.id());
                if unused {
                    pace.spend(page.blob.size() - page.blob.data().len()).await;
                    page.blob.forget_variants();
                }
                pace.spend(PAGE_COST).await;
            }
        }
    }

    /// Makes the compressed variants of the current site in the background, in place of those of the one before: all of a
    /// kind and then the next, so that what goes together lies together, as far as there is memory for them.
    ///
    /// gzip is worth more than a site of which nobody wanted to go back for a while: there are clients that know nothing
    /// else. Zstandard is not: who takes it takes another one too.
    pub(super) fn compress(self: &Arc<Self>) {
        let Some(current) = self.generations.current() else { return };
        let this = Arc::downgrade(self);
        let work = self.work.handle().spawn(async move {
            let mut scratch = Scratch::default();
            for coding in [Coding::Brotli, Coding::Gzip, Coding::Zstd] {
                let Some(this) = this.upgrade() else { return };
                if coding != Coding::Brotli && !this.generations.has_room_for_variant() {
                    drop(scratch);
                    if coding == Coding::Gzip {
                        this.give_up_earlier_ones_later().await;
                    }
                    return;
                }
                drop(this);
                for (_, page) in current.site.pages().filter(|(_, page)| page.compressible) {
                    page.blob.compress_as(coding, &mut scratch).await;
                }
            }
        });
        self.stop_compressing();
        *self.compressing() = Some(work.abort_handle());
    }

    /// When there was time enough to go back to what was before, uses its memory for what is live.
    async fn give_up_earlier_ones_later(self: Arc<Self>) {
        let live = unix_now().saturating_sub(self.generations.live_since().unwrap_or(0));
        let (this, work) = (Arc::downgrade(&self), self.work.clone());
        let rest = self.rollback_time.saturating_sub(Duration::from_secs(live));
        drop(self);
        tokio::time::sleep(rest).await;
        // Not here: the next deploy breaks this off, wherever it stands.
        work.handle().spawn(async move {
            let Some(this) = this.upgrade() else { return };
            let mut trees = this.deploying.lock().await;
            let gone = this.generations.make_room_for_variant(unix_now());
            for Generation { number, .. } in &gone {
                let site = &this.name;
                tracing::info!(site, number, "an earlier generation gives way to gzip variants");
            }
            if !gone.is_empty() && !*this.closed.borrow() {
                drop(gone);
                this.keep(&mut trees).await;
                this.compress();
            }
        });
    }

    fn stop_compressing(&self) {
        let work = self.compressing().take();
        work.inspect(AbortHandle::abort);
    }

    fn compressing(&self) -> MutexGuard<'_, Option<AbortHandle>> {
        self.compressing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failure_slot(&self) -> MutexGuard<'_, Option<String>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What looking at a page costs, in bytes as [`Pace`] counts work.
const PAGE_COST: usize = 64;

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
