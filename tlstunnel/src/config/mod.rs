//! The configuration: routes, keys and certificates, and every generation that the routes have been through.
//!
//! # The way of a change
//!
//! [`plan`] computes which routes become what → [`warnings`] says what is legal and perhaps not meant → every new route
//! is made ready ([`ActiveRoute::new`] refuses what cannot work) → [`storage`] writes routes, undo log and head in one
//! transaction → the new snapshot is published. Durable first, then visible; a failure leaves both as they were. The
//! cost does not depend on how many other routes there are.
//!
//! Changes come one at a time. Each runs as a whole on a blocking thread, so that a client that goes away in the middle
//! leaves no change that is durable and not visible.
//!
//! This room must not know the control protocol's frames or who listens; it answers with the vocabulary of
//! [`config_proto::message`].

pub mod certificates;
mod confirm;
mod keys;
pub mod offline;
pub mod open;
pub(crate) mod plan;
mod records;
mod storage;
pub(crate) mod warnings;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use config_proto::key::{Key, KeyId};
use config_proto::message::{
    Applied, CertificateInfo, Changed, Diff, Generation, History, KeyAdded, MAX_PAGE, Refusal,
    RefusalCode, Role, RouteChange, Sealed, StorageState,
};
use config_proto::model::{Document, Route, RouteName, RouteSettings};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use crate::backend::Backends;
use crate::gateway::{Gateway, Snapshot};
use crate::route::ActiveRoute;
use crate::tls::certificates::{Certificate, CertificateTable, Source};

pub use keys::{KeyRing, MAX_KEYS};
pub use open::{OpenError, Start};
use plan::NetChanges;
use records::{
    CertificateRecord, GenerationRecord, HeadRecord, KeyRecord, PemRecord, PendingRecord,
};
pub use storage::StorageError;
use storage::{Edit, Storage};

/// The author of what the gateway does at start.
pub const AUTHOR_START: &str = "start";
/// The author of generation 1 of a store that held the original's layout.
pub const AUTHOR_MIGRATION: &str = "migration";
/// The author of an automatic rollback.
pub const AUTHOR_ROLLBACK: &str = "automatic-rollback";
/// The longest time that a change may wait for confirmation, in seconds.
pub const MAX_CONFIRM_SECONDS: u32 = 86_400;
/// The most uploaded certificates. Every certificate is in memory.
pub const MAX_CERTIFICATES: usize = 100_000;

/// What the configuration must know of the options.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The domains that are served; names without dots go under the first.
    pub domains: Vec<String>,
    /// How many generations are kept, at least 1.
    pub history: u32,
}

/// The configuration of a running gateway. A clone is another handle on the same one.
#[derive(Clone, Debug)]
pub struct Configuration {
    core: Arc<Core>,
}

#[derive(Debug)]
struct Core {
    gateway: Arc<Gateway>,
    /// None once it was given up to a successor.
    storage: ArcSwapOption<Storage>,
    settings: Settings,
    keys: KeyRing,
    /// Whoever changes anything holds this.
    writer: Arc<Mutex<()>>,
    head: watch::Sender<Head>,
    /// Where active checks of backends run.
    runtime: Handle,
}

/// Where the history stands.
#[derive(Clone, Debug, Default)]
struct Head {
    generation: u64,
    oldest: u64,
    pending: Option<PendingChange>,
}

/// A change that waits for confirmation, in a running gateway.
#[derive(Clone, Debug)]
struct PendingChange {
    record: PendingRecord,
    expires: Instant,
}

/// One change, ready to be validated, written and published.
#[derive(Debug, Default)]
struct Proposal {
    author: String,
    summary: String,
    routes: Vec<RouteChange>,
    keys: Vec<(KeyId, Option<KeyRecord>)>,
    certificate: Option<(Arc<Certificate>, CertificateRecord)>,
    /// What waits for confirmation once this is in effect.
    pending: Option<PendingChange>,
}

/// A changed route, ready for connections; none when it goes away.
#[derive(Debug)]
struct ReadyChange {
    name: RouteName,
    after: Option<Arc<ActiveRoute>>,
}

impl Configuration {
    /// Names without dots are put under the first domain.
    ///
    /// # Errors
    /// When it is no route name.
    pub fn complete(&self, name: &str) -> Result<RouteName, Refusal> {
        self.core.complete(name)
    }

    /// The control keys.
    pub fn keys(&self) -> &KeyRing {
        &self.core.keys
    }

    /// The domains that are served.
    pub fn domains(&self) -> &[String] {
        &self.core.settings.domains
    }

    /// The change that waits for confirmation, and the seconds until it is undone.
    pub fn pending(&self) -> Option<config_proto::message::Pending> {
        self.core.head.borrow().pending.as_ref().map(|pending| config_proto::message::Pending {
            generation: pending.record.generation,
            seconds_left: pending.expires.saturating_duration_since(Instant::now()).as_secs(),
        })
    }

    /// How full the store is.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn usage(&self) -> Result<StorageState, Refusal> {
        self.reading(|core| core.storage()?.usage()).await
    }

    /// Adds a route, or replaces the one of that name when `replace` is set.
    ///
    /// # Errors
    /// When there is one and replacing was not asked for, when the route cannot work, when a change waits for
    /// confirmation, or when the store fails or is full.
    pub async fn add(
        &self,
        author: &str,
        name: &str,
        settings: RouteSettings,
        replace: bool,
    ) -> Result<Changed, Refusal> {
        let route = Route { name: self.core.complete(name)?, settings };
        self.changing(author, move |core, author| {
            core.require_no_pending()?;
            let name = route.name.to_string();
            let changes = plan::add(&core.gateway.snapshot.load().routes, route, replace)?;
            core.change_routes(author, changes, Some(name))
        })
        .await
    }

    /// Removes a route.
    ///
    /// # Errors
    /// When there is none of that name, when a change waits for confirmation, or when the store fails or is full.
    pub async fn remove(&self, author: &str, name: &str) -> Result<Changed, Refusal> {
        let name = self.core.complete(name)?;
        self.changing(author, move |core, author| {
            core.require_no_pending()?;
            let changes = plan::remove(&core.gateway.snapshot.load().routes, &name)?;
            core.change_routes(author, changes, Some(name.to_string()))
        })
        .await
    }

    /// Makes the routes those of a document, or only says what would change. With `confirm_seconds` the change is undone
    /// unless [`Configuration::confirm`] comes in time.
    ///
    /// # Errors
    /// When a route cannot work (then nothing is changed), when a change waits for confirmation, or when the store fails
    /// or is full.
    pub async fn apply(
        &self,
        author: &str,
        document: Document,
        dry_run: bool,
        confirm_seconds: Option<u32>,
    ) -> Result<Applied, Refusal> {
        if confirm_seconds.is_some_and(|seconds| !(1..=MAX_CONFIRM_SECONDS).contains(&seconds)) {
            return Err(refuse(
                RefusalCode::Invalid,
                "the time for confirming is out of range",
                "give 1 to 86400 seconds",
            ));
        }
        self.changing(author, move |core, author| {
            core.apply(author, document, dry_run, confirm_seconds)
        })
        .await
    }

    /// Keeps the change that waits for confirmation.
    ///
    /// # Errors
    /// When `generation` is not the one that waits, or the store fails.
    pub async fn confirm(&self, author: &str, generation: u64) -> Result<Changed, Refusal> {
        self.changing(author, move |core, author| core.confirm(author, generation)).await
    }

    /// Makes the routes those of an earlier generation, as a new generation. Keys and certificates stay.
    ///
    /// # Errors
    /// When the generation is not kept (any more), or the store fails or is full.
    pub async fn rollback(&self, author: &str, generation: u64) -> Result<Changed, Refusal> {
        self.changing(author, move |core, author| core.rollback(author, generation)).await
    }

    /// Generations below `before`, newest first.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn history(&self, before: Option<u64>, limit: u32) -> Result<History, Refusal> {
        self.reading(move |core| {
            let limit = usize::try_from(limit.clamp(1, MAX_PAGE)).unwrap_or(1);
            let mut generations: Vec<Generation> =
                core.storage()?.generations(before.unwrap_or(u64::MAX), limit + 1)?;
            let more = generations.len() > limit;
            generations.truncate(limit);
            Ok(History { generations, more })
        })
        .await
    }

    /// What changed from one generation to a later one, or to the current.
    ///
    /// # Errors
    /// When the generations are not kept or in the wrong order, or the store fails.
    pub async fn diff(&self, from: u64, to: Option<u64>) -> Result<Diff, Refusal> {
        self.reading(move |core| {
            let to = to.unwrap_or_else(|| core.generation());
            if from > to {
                return Err(refuse(
                    RefusalCode::Invalid,
                    format!("generation {from} is not older than generation {to}"),
                    format!("tlstunnel-ctl diff {to} {from}"),
                ));
            }
            Ok(page_of_changes(from, to, core.net_changes(from, to)?.forward()))
        })
        .await
    }

    /// Makes a control key. The secret is in the answer and nowhere else in the clear that leaves the gateway.
    ///
    /// # Errors
    /// When the id is taken or not valid, when there are [`MAX_KEYS`] already, or when the store fails or is full.
    pub async fn add_key(&self, author: &str, id: &str, role: Role) -> Result<KeyAdded, Refusal> {
        let id: KeyId = id.parse().map_err(invalid)?;
        self.changing(author, move |core, author| core.add_key(author, id, role)).await
    }

    /// Removes a control key; its connections end.
    ///
    /// # Errors
    /// When there is none of that id, when it was given at start, or when the store fails.
    pub async fn remove_key(&self, author: &str, id: &str) -> Result<Changed, Refusal> {
        let id: KeyId = id.parse().map_err(invalid)?;
        self.changing(author, move |core, author| core.remove_key(author, id)).await
    }

    /// Adds a certificate, or replaces the one for the same names.
    ///
    /// # Errors
    /// When certificate and key cannot be used together or now, or when the store fails or is full.
    pub async fn set_certificate(
        &self,
        author: &str,
        chain_pem: String,
        key_pem: Sealed,
    ) -> Result<Changed, Refusal> {
        self.changing(author, move |core, author| {
            core.set_certificate(author, chain_pem, key_pem.0)
        })
        .await
    }

    /// Gives the storage up, so that a successor can open it while this gateway still drains. Changes and questions about
    /// the history are refused from now on; what is in effect stays in effect.
    pub async fn close(&self) {
        let _writer = self.core.writer.lock().await;
        self.core.storage.store(None);
    }

    /// Every certificate, in order of their first names.
    pub fn certificates(&self) -> Vec<CertificateInfo> {
        let snapshot = self.core.gateway.snapshot.load();
        let mut all: Vec<CertificateInfo> =
            snapshot.certificates.iter().map(|c| c.info()).collect();
        all.sort_by(|a, b| a.names.cmp(&b.names).then_with(|| a.sha256.cmp(&b.sha256)));
        all
    }

    /// Runs a change on a blocking thread, one at a time, to its end even when nobody waits for it any more.
    async fn changing<T: Send + 'static>(
        &self,
        author: &str,
        change: impl FnOnce(&Core, String) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let (core, author) = (Arc::clone(&self.core), author.to_owned());
        let writer = Arc::clone(&core.writer).lock_owned().await;
        let task = tokio::task::spawn_blocking(move || {
            let _writer = writer;
            change(&core, author)
        });
        task.await.map_err(internal)?
    }

    async fn reading<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Core) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let core = Arc::clone(&self.core);
        tokio::task::spawn_blocking(move || read(&core)).await.map_err(internal)?
    }
}

impl Core {
    fn storage(&self) -> Result<Arc<Storage>, Refusal> {
        self.storage.load_full().ok_or_else(|| {
            refuse(
                RefusalCode::Internal,
                "the gateway is stopping and has given its storage up",
                "ask its successor, or start it again",
            )
        })
    }

    fn complete(&self, name: &str) -> Result<RouteName, Refusal> {
        RouteName::parse_under(name, self.settings.domains.first().map(String::as_str))
            .map_err(invalid)
    }

    fn change_routes(
        &self,
        author: String,
        changes: Vec<RouteChange>,
        name: Option<String>,
    ) -> Result<Changed, Refusal> {
        if changes.is_empty() {
            let generation = self.generation();
            let message = match &name {
                Some(name) => format!("{name} is registered just so already"),
                None => "nothing to change".to_owned(),
            };
            return Ok(Changed { generation, message, name, warnings: Vec::new() });
        }
        let warnings = self.warnings(&changes);
        let summary = plan::describe(&changes);
        let generation = self.commit(Proposal {
            author,
            summary: summary.clone(),
            routes: changes,
            ..Proposal::default()
        })?;
        Ok(Changed { generation, message: summary, name, warnings })
    }

    fn apply(
        &self,
        author: String,
        document: Document,
        dry_run: bool,
        confirm_seconds: Option<u32>,
    ) -> Result<Applied, Refusal> {
        if !dry_run {
            self.require_no_pending()?;
        }
        let snapshot = self.gateway.snapshot.load_full();
        let changes = plan::apply(&snapshot.routes, document);
        let connections = changes
            .iter()
            .filter_map(|change| snapshot.routes.get(&change.name))
            .map(|active| active.counters.open.value())
            .sum();
        let warnings = self.warnings(&changes);
        let from = snapshot.generation;
        let diff = |to| page_of_changes(from, to, changes.iter().cloned());
        if dry_run || changes.is_empty() {
            self.activate(&snapshot, &changes)?;
            let (generation, diff) = (from, diff(from));
            return Ok(Applied {
                generation,
                applied: false,
                diff,
                connections,
                confirm_seconds: None,
                warnings,
            });
        }
        let diff = diff(from + 1);
        let pending = confirm_seconds.map(|seconds| PendingChange {
            record: PendingRecord {
                generation: from + 1,
                base: from,
                seconds,
                deadline: unix_now().saturating_add(seconds.into()),
            },
            expires: Instant::now() + Duration::from_secs(seconds.into()),
        });
        let generation = self.commit(Proposal {
            author,
            summary: plan::describe(&changes),
            routes: changes,
            pending,
            ..Proposal::default()
        })?;
        Ok(Applied { generation, applied: true, diff, connections, confirm_seconds, warnings })
    }

    fn confirm(&self, author: String, generation: u64) -> Result<Changed, Refusal> {
        let head = self.head.borrow().clone();
        match &head.pending {
            Some(pending) if pending.record.generation == generation => {}
            Some(pending) => {
                return Err(refuse(
                    RefusalCode::Invalid,
                    format!("generation {generation} does not wait for confirmation"),
                    format!("generation {} does", pending.record.generation),
                ));
            }
            None => {
                return Err(refuse(
                    RefusalCode::NotFound,
                    "no change waits for confirmation",
                    "tlstunnel-ctl history shows whether it was undone",
                ));
            }
        }
        let confirmed = Head { pending: None, ..head };
        self.storage()?.set_head(&confirmed.record())?;
        self.head.send_replace(confirmed);
        tracing::info!(generation, author, "the change is confirmed");
        Ok(Changed {
            generation: self.generation(),
            message: format!("generation {generation} is confirmed"),
            name: None,
            warnings: Vec::new(),
        })
    }

    fn rollback(&self, author: String, generation: u64) -> Result<Changed, Refusal> {
        let head = self.head.borrow().clone();
        if let Some(pending) = &head.pending
            && generation >= pending.record.generation
        {
            return Err(self.pending_refusal(&pending.record));
        }
        let changes = self.net_changes(generation, head.generation)?.backward();
        if changes.is_empty() && head.pending.is_none() {
            return Ok(Changed {
                generation: head.generation,
                message: format!("the routes are those of generation {generation} already"),
                name: None,
                warnings: Vec::new(),
            });
        }
        let warnings = self.warnings(&changes);
        let summary =
            format!("back to the routes of generation {generation}: {}", plan::describe(&changes));
        let generation = self.commit(Proposal {
            author,
            summary: summary.clone(),
            routes: changes,
            ..Proposal::default()
        })?;
        Ok(Changed { generation, message: summary, name: None, warnings })
    }

    fn add_key(&self, author: String, id: KeyId, role: Role) -> Result<KeyAdded, Refusal> {
        if self.keys.contains(&id) {
            return Err(refuse(
                RefusalCode::Exists,
                format!("there is a key {id} already"),
                "choose another id, or remove that key first",
            ));
        }
        if self.keys.len() >= MAX_KEYS {
            return Err(refuse(
                RefusalCode::Full,
                format!("there are {MAX_KEYS} keys already"),
                "remove keys that nobody uses",
            ));
        }
        let mut secret = zeroize::Zeroizing::new([0; config_proto::key::GENERATED_SECRET_LEN]);
        getrandom::fill(secret.as_mut_slice()).map_err(internal)?;
        let key = Key::generate(id.clone(), &secret);
        let record = KeyRecord {
            role: role.clone(),
            secret: key.secret_base64().to_string(),
            created: unix_now(),
        };
        let created = record.created;
        let secret = Sealed(record.secret.clone());
        // Before the commit, not inside it: the borrow would last to its end, where the head is replaced.
        let pending = self.waiting();
        let generation = self.commit(Proposal {
            author,
            summary: format!("key {id} added with role {role}"),
            keys: vec![(id.clone(), Some(record))],
            pending,
            ..Proposal::default()
        })?;
        self.keys.insert(key, role, created);
        Ok(KeyAdded { generation, id: id.to_string(), secret })
    }

    fn remove_key(&self, author: String, id: KeyId) -> Result<Changed, Refusal> {
        if !self.keys.contains(&id) {
            return Err(refuse(
                RefusalCode::NotFound,
                format!("there is no key {id}"),
                "tlstunnel-ctl key list shows what there is",
            ));
        }
        if self.keys.is_from_start(&id) {
            return Err(refuse(
                RefusalCode::Invalid,
                format!("the key {id} was given at start and cannot be removed from afar"),
                "change --key-file or --key and start the gateway again",
            ));
        }
        let summary = format!("key {id} removed");
        let pending = self.waiting();
        let generation = self.commit(Proposal {
            author,
            summary: summary.clone(),
            keys: vec![(id.clone(), None)],
            pending,
            ..Proposal::default()
        })?;
        self.keys.remove(&id);
        Ok(Changed {
            generation,
            message: summary,
            name: Some(id.to_string()),
            warnings: Vec::new(),
        })
    }

    fn set_certificate(
        &self,
        author: String,
        chain: String,
        key: String,
    ) -> Result<Changed, Refusal> {
        let certificate = Certificate::from_pem(&chain, &key, Source::Uploaded).map_err(invalid)?;
        certificate.check_dates(unix_now()).map_err(invalid)?;
        let certificates = &self.gateway.snapshot.load().certificates;
        if certificates.len() >= MAX_CERTIFICATES {
            return Err(refuse(
                RefusalCode::Full,
                format!("there are {MAX_CERTIFICATES} certificates already"),
                "use wildcard certificates",
            ));
        }
        let names = certificate.names().join(", ");
        let summary = format!("certificate for {names} set");
        let pending = self.waiting();
        let record = CertificateRecord {
            pem: PemRecord { chain, key },
            source: Source::Uploaded.to_string(),
            generation: self.generation() + 1,
        };
        let generation = self.commit(Proposal {
            author,
            summary: summary.clone(),
            certificate: Some((Arc::new(certificate), record)),
            pending,
            ..Proposal::default()
        })?;
        Ok(Changed { generation, message: summary, name: None, warnings: Vec::new() })
    }

    /// Validates, writes, publishes, in this order. Whoever calls holds the writer's lock.
    fn commit(&self, proposal: Proposal) -> Result<u64, Refusal> {
        let before = self.gateway.snapshot.load_full();
        let ready = self.activate(&before, &proposal.routes)?;
        let mut certificates = before.certificates.clone();
        let mut certificate_edits = Vec::new();
        if let Some((certificate, record)) = proposal.certificate {
            let rivals = rivals(&certificates, &certificate);
            certificate_edits.push((certificate.sha256().to_owned(), Some(record)));
            certificates.insert(certificate);
            // One that no name is left for is never shown again.
            certificate_edits.extend(
                rivals
                    .into_iter()
                    .filter(|sha256| certificates.get(sha256).is_none())
                    .map(|sha256| (sha256, None)),
            );
        }
        let head = self.head.borrow().clone();
        let number = head.generation + 1;
        let edit = Edit {
            number,
            record: GenerationRecord {
                time: unix_now(),
                author: proposal.author,
                summary: proposal.summary,
            },
            routes: proposal.routes,
            keys: proposal.keys,
            certificates: certificate_edits,
            oldest: head.oldest,
            pending: proposal.pending.as_ref().map(|pending| pending.record.clone()),
            keep: self.settings.history,
        };
        let oldest = self.write(&edit)?;

        let mut routes = before.routes.clone();
        for ReadyChange { name, after } in &ready {
            routes = match after {
                Some(route) => routes.with(Arc::clone(route)),
                None => routes.without(name),
            };
        }
        self.gateway.snapshot.store(Arc::new(Snapshot {
            generation: number,
            routes,
            certificates,
        }));
        self.head.send_replace(Head { generation: number, oldest, pending: proposal.pending });
        for ReadyChange { name, after } in &ready {
            let old = before.routes.get(name).map(|active| &*active.backends);
            let new = after.as_ref().map(|active| &*active.backends);
            Backends::switch_checks(old, new, &self.gateway.resolver, &self.runtime);
        }
        let GenerationRecord { author, summary, .. } = &edit.record;
        tracing::info!(generation = number, author, "{summary}");
        Ok(number)
    }

    /// Makes a change durable. When the device failed in the middle, looks whether it happened.
    fn write(&self, edit: &Edit) -> Result<u64, Refusal> {
        let storage = self.storage()?;
        match storage.commit(edit) {
            Ok(oldest) => Ok(oldest),
            Err(StorageError::Ahead) => {
                let loaded = storage.load()?;
                let certificates = self.gateway.snapshot.load().certificates.clone();
                self.publish_all(&loaded, certificates);
                Err(refuse(
                    RefusalCode::Internal,
                    "an earlier change that failed was made durable after all, and is in effect now",
                    "look at the history, then repeat this change if it is still wanted",
                ))
            }
            Err(error) => match storage.head() {
                Ok(head) if head.generation == edit.number => {
                    tracing::warn!(%error, generation = edit.number, "the storage failed, and the change is durable");
                    Ok(head.oldest)
                }
                _ => Err(error.into()),
            },
        }
    }

    /// Makes every changed route ready for connections; the first that cannot work refuses all.
    fn activate(
        &self,
        snapshot: &Snapshot,
        changes: &[RouteChange],
    ) -> Result<Vec<ReadyChange>, Refusal> {
        changes
            .iter()
            .map(|change| {
                let name = change.name.clone();
                let Some(route) = &change.after else {
                    return Ok(ReadyChange { name, after: None });
                };
                let previous = snapshot.routes.get(&change.name).map(|active| &**active);
                let counters =
                    previous.map(|active| Arc::clone(&active.counters)).unwrap_or_default();
                ActiveRoute::new(route, &self.gateway.limits, counters, previous)
                    .map(|active| ReadyChange { name, after: Some(Arc::new(active)) })
                    .map_err(|error| Refusal {
                        code: RefusalCode::Invalid,
                        message: format!("{}: {error}", change.name),
                        hint: None,
                    })
            })
            .collect()
    }

    fn net_changes(&self, from: u64, to: u64) -> Result<NetChanges, Refusal> {
        let head = self.head.borrow().clone();
        if to > head.generation {
            return Err(refuse(
                RefusalCode::NotFound,
                format!("there is no generation {to} yet"),
                format!("the current one is {}", head.generation),
            ));
        }
        if from > to {
            return Err(refuse(
                RefusalCode::NotFound,
                format!("there is no generation {from} yet"),
                format!("the current one is {to}"),
            ));
        }
        // The undo log of generation n leads back to n - 1.
        let reachable = head.oldest.saturating_sub(1);
        if from < reachable {
            return Err(refuse(
                RefusalCode::NotFound,
                format!("generation {from} is not kept any more"),
                format!("the oldest that is kept is {reachable}; --history sets how many are"),
            ));
        }
        self.storage()?.net_changes(from, to)
    }

    fn warnings(&self, changes: &[RouteChange]) -> Vec<String> {
        let snapshot = self.gateway.snapshot.load();
        warnings::about(
            changes.iter().filter_map(|change| change.after.as_ref()),
            &snapshot.certificates,
            &self.settings.domains,
        )
    }

    /// The current generation. A guard of `head` must never live while something is committed, so nobody else takes one
    /// in the middle of an expression.
    fn generation(&self) -> u64 {
        self.head.borrow().generation
    }

    /// The change that waits for confirmation.
    fn waiting(&self) -> Option<PendingChange> {
        self.head.borrow().pending.clone()
    }

    fn require_no_pending(&self) -> Result<(), Refusal> {
        match &self.waiting() {
            Some(pending) => Err(self.pending_refusal(&pending.record)),
            None => Ok(()),
        }
    }

    fn pending_refusal(&self, pending: &PendingRecord) -> Refusal {
        refuse(
            RefusalCode::Pending,
            format!("generation {} waits for confirmation", pending.generation),
            format!(
                "tlstunnel-ctl confirm {} keeps it, tlstunnel-ctl rollback {} undoes it now",
                pending.generation, pending.base
            ),
        )
    }
}

impl Head {
    fn record(&self) -> HeadRecord {
        HeadRecord {
            generation: self.generation,
            oldest: self.oldest,
            pending: self.pending.as_ref().map(|pending| pending.record.clone()),
        }
    }
}

/// The certificates that are shown for a name of `certificate` now, and may lose it.
fn rivals(table: &CertificateTable, certificate: &Certificate) -> Vec<String> {
    let mut rivals: Vec<String> = certificate
        .names()
        .iter()
        .filter_map(|name| table.find(Some(name)))
        .map(|shown| shown.sha256().to_owned())
        .collect();
    rivals.sort_unstable();
    rivals.dedup();
    rivals
}

fn page_of_changes(from: u64, to: u64, mut changes: impl Iterator<Item = RouteChange>) -> Diff {
    let limit = usize::try_from(MAX_PAGE).unwrap_or(usize::MAX);
    let page = changes.by_ref().take(limit).collect();
    Diff { from, to, changes: page, more: changes.next().is_some() }
}

/// A refusal with its three parts.
pub(crate) fn refuse(
    code: RefusalCode,
    message: impl Into<String>,
    hint: impl Into<String>,
) -> Refusal {
    Refusal { code, message: message.into(), hint: Some(hint.into()) }
}

fn invalid(error: impl std::fmt::Display) -> Refusal {
    Refusal { code: RefusalCode::Invalid, message: error.to_string(), hint: None }
}

fn internal(error: impl std::fmt::Display) -> Refusal {
    tracing::error!(%error, "the configuration could not be read or changed");
    refuse(RefusalCode::Internal, format!("the gateway failed: {error}"), "its log says more")
}

/// Seconds since 1970.
pub(crate) fn unix_now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

/// Reads a secret of the store.
fn decode_secret(id: &KeyId, secret: &str) -> Option<Key> {
    let secret = zeroize::Zeroizing::new(STANDARD.decode(secret).ok()?);
    Key::new(id.clone(), &secret).ok()
}
