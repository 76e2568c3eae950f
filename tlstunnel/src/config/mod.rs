//! The configuration: routes, keys and certificates, and every generation that the routes have been through.
//!
//! # The way of a change
//!
//! `plan` computes which routes become what → `warnings` says what is legal and perhaps not meant → every new route
//! is made ready ([`crate::route::ActiveRoute::new`] refuses what cannot work) → `storage` writes routes, undo log and
//! head in one transaction → the new snapshot is published. Durable first, then visible; a failure leaves both as they
//! were. The cost does not depend on how many other routes there are. The links of this chain stand in `state`, what sets it going in
//! `routes`, `keys` and `certificates`.
//!
//! Changes come one at a time. Each runs as a whole on a blocking thread, so that a client that goes away in the middle
//! leaves no change that is durable and not visible.
//!
//! This room must not know the control protocol's frames or who listens; it answers with the vocabulary of
//! [`config_proto::message`].

mod acme;
pub mod certificates;
mod confirm;
mod encryption;
mod keys;
pub mod offline;
pub mod open;
pub(crate) mod plan;
mod records;
mod routes;
mod state;
mod storage;
pub(crate) mod warnings;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use config_proto::key::{Key, KeyId};
use config_proto::message::{
    Applied, CertificateCursor, CertificateList, Changed, Diff, Generation, History, KeyAdded,
    MAX_PAGE, Refusal, RefusalCode, Role, Sealed, StorageState,
};
use config_proto::model::{Document, Route, RouteName, RouteSettings};
use control_port::KeyRing;
use tokio::time::Instant;

use crate::tls::certificates::{Certificate, Source};

pub use open::{OpenError, Start};
use state::{Core, Head, PendingChange, Proposal, page_of_changes};
pub use storage::StorageError;

/// The author of what the gateway does at start.
pub const AUTHOR_START: &str = "start";
/// The author of generation 1 of a store that held the original's layout.
pub const AUTHOR_MIGRATION: &str = "migration";
/// The author of an automatic rollback.
pub const AUTHOR_ROLLBACK: &str = "automatic-rollback";
/// The author of what certificates from an authority change.
pub const AUTHOR_ACME: &str = "acme";
/// The longest time that a change may wait for confirmation, in seconds.
pub const MAX_CONFIRM_SECONDS: u32 = 86_400;
/// The most uploaded certificates. Every certificate is in memory.
pub const MAX_CERTIFICATES: usize = 100_000;

/// Memory is told to people in these.
const MIB: u64 = 1 << 20;

/// What the configuration must know of the options.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The domains that are served; names without dots go under the first.
    pub domains: Vec<String>,
    /// How many generations are kept, at least 1.
    pub history: u32,
    /// Bytes of memory that all routes together may take, as [`crate::route::cost`] estimates.
    pub route_memory: u64,
}

/// The configuration of a running gateway. A clone is another handle on the same one.
#[derive(Clone, Debug)]
pub struct Configuration {
    core: Arc<Core>,
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
    pub fn keys(&self) -> &Arc<KeyRing> {
        &self.core.keys
    }

    /// The domains that are served.
    pub fn domains(&self) -> &[String] {
        &self.core.settings.domains
    }

    /// Bytes of memory that all routes together may take.
    pub fn route_memory(&self) -> u64 {
        self.core.settings.route_memory
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
    /// When the id is taken or not valid, when there are [`control_port::keys::MAX_KEYS`] already, or when the store fails or is full.
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
            core.set_certificate(author, chain_pem, key_pem.0, Source::Uploaded)
        })
        .await
    }

    /// Gives the storage up, so that a successor can open it while this gateway still drains. Changes and questions about
    /// the history are refused from now on; what is in effect stays in effect.
    pub async fn close(&self) {
        let _writer = self.core.writer.lock().await;
        self.core.storage.store(None);
    }

    /// At most `limit` certificates in the order of their places, from the first after `after`, or from the very first.
    /// The cost grows with all certificates, and only what is in the page is copied.
    pub fn certificates(&self, after: Option<&CertificateCursor>, limit: usize) -> CertificateList {
        let snapshot = self.core.gateway.snapshot.load();
        let after = after.map(|cursor| (cursor.name.as_str(), cursor.sha256.as_str()));
        let mut found: Vec<&Certificate> = snapshot
            .certificates
            .iter()
            .map(|certificate| &**certificate)
            .filter(|certificate| after.is_none_or(|after| place(certificate) > after))
            .collect();
        let more = found.len() > limit;
        if more {
            found.select_nth_unstable_by(limit, |a, b| place(a).cmp(&place(b)));
            found.truncate(limit);
        }
        found.sort_unstable_by(|a, b| place(a).cmp(&place(b)));
        CertificateList { certificates: found.into_iter().map(Certificate::info).collect(), more }
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

/// The place of a certificate in lists, as in [`CertificateCursor`].
fn place(certificate: &Certificate) -> (&str, &str) {
    (certificate.names().first().map_or("", String::as_str), certificate.sha256())
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

/// A failure of the gateway itself, which the log is told too.
pub(crate) fn internal(error: impl std::fmt::Display) -> Refusal {
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
