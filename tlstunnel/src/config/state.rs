//! The state behind [`super::Configuration`], and the one way in which anything changes, [`Core::commit`]. The operations
//! stand with what they are about: [`super::routes`], [`super::keys`], [`super::certificates`]. All of it is plain blocking
//! code.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use config_proto::key::KeyId;
use config_proto::message::{Diff, MAX_PAGE, Refusal, RefusalCode, RouteChange};
use config_proto::model::{Route, RouteName};
use control_port::KeyRing;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use super::plan::NetChanges;
use super::records::{CertificateRecord, GenerationRecord, HeadRecord, KeyRecord, PendingRecord};
use super::storage::{Edit, Storage, StorageError};
use super::{MIB, Settings, invalid, refuse, unix_now, warnings};
use crate::backend::Backends;
use crate::gateway::{Gateway, Snapshot};
use crate::route::{ActiveRoute, cost};
use crate::tls::certificates::{Certificate, CertificateTable};

/// While a change comes into effect, old and new routes may take this part more than the routes of any generation.
const CHANGE_SHARE: u64 = 4;

#[derive(Debug)]
pub(super) struct Core {
    pub(super) gateway: Arc<Gateway>,
    /// None once it was given up to a successor.
    pub(super) storage: ArcSwapOption<Storage>,
    pub(super) settings: Settings,
    pub(super) keys: Arc<KeyRing>,
    /// Whoever changes anything holds this.
    pub(super) writer: Arc<Mutex<()>>,
    pub(super) head: watch::Sender<Head>,
    /// Where active checks of backends run.
    pub(super) runtime: Handle,
}

/// Where the history stands.
#[derive(Clone, Debug, Default)]
pub(super) struct Head {
    pub(super) generation: u64,
    pub(super) oldest: u64,
    pub(super) pending: Option<PendingChange>,
}

/// A change that waits for confirmation, in a running gateway.
#[derive(Clone, Debug)]
pub(super) struct PendingChange {
    pub(super) record: PendingRecord,
    pub(super) expires: Instant,
}

/// One change, ready to be validated, written and published.
#[derive(Debug, Default)]
pub(super) struct Proposal {
    pub(super) author: String,
    pub(super) summary: String,
    pub(super) routes: Vec<RouteChange>,
    pub(super) keys: Vec<(KeyId, Option<KeyRecord>)>,
    pub(super) certificate: Option<(Arc<Certificate>, CertificateRecord)>,
    /// What waits for confirmation once this is in effect.
    pub(super) pending: Option<PendingChange>,
}

/// A changed route, ready for connections; none when it goes away.
#[derive(Debug)]
pub(super) struct ReadyChange {
    pub(super) name: RouteName,
    pub(super) after: Option<Arc<ActiveRoute>>,
}

impl Core {
    pub(super) fn storage(&self) -> Result<Arc<Storage>, Refusal> {
        self.storage.load_full().ok_or_else(|| {
            refuse(
                RefusalCode::Internal,
                "the gateway is stopping and has given its storage up",
                "ask its successor, or start it again",
            )
        })
    }

    pub(super) fn complete(&self, name: &str) -> Result<RouteName, Refusal> {
        RouteName::parse_under(name, self.settings.domains.first().map(String::as_str))
            .map_err(invalid)
    }

    /// Validates, writes, publishes, in this order. Whoever calls holds the writer's lock.
    pub(super) fn commit(&self, proposal: Proposal) -> Result<u64, Refusal> {
        let before = self.gateway.snapshot.load_full();
        self.require_room(&before, &proposal.routes)?;
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
    pub(super) fn write(&self, edit: &Edit) -> Result<u64, Refusal> {
        let storage = self.storage()?;
        match storage.commit(edit) {
            Ok(oldest) => Ok(oldest),
            Err(StorageError::Ahead) => {
                let loaded = storage.load(self.settings.route_memory)?;
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

    /// Refuses a change after which the routes would take more memory than they may, or for which old and new ones would
    /// take too much while it comes into effect, before anything is made of it.
    pub(super) fn require_room(
        &self,
        snapshot: &Snapshot,
        changes: &[RouteChange],
    ) -> Result<(), Refusal> {
        let sum = |routes: fn(&RouteChange) -> Option<&Route>| {
            changes.iter().filter_map(routes).map(cost).fold(0, u64::saturating_add)
        };
        let (before, limit) = (snapshot.routes.memory(), self.settings.route_memory);
        let made = sum(|change| change.after.as_ref());
        let both = before.saturating_add(made);
        let after = both.saturating_sub(sum(|change| change.before.as_ref()));
        let at_change = limit.saturating_add(limit / CHANGE_SHARE);
        if after > limit {
            let (after, limit) = (after.div_ceil(MIB), limit / MIB);
            return Err(refuse(
                RefusalCode::Full,
                format!(
                    "the routes would take {after} MiB of memory, and {limit} MiB are possible"
                ),
                "remove routes or backends, give the gateway more memory, or raise --route-memory; nothing was changed",
            ));
        }
        if both > at_change {
            let (both, at_change) = (both.div_ceil(MIB), at_change / MIB);
            return Err(refuse(
                RefusalCode::Full,
                format!(
                    "old and new routes would take {both} MiB of memory until the old ones are gone, and {at_change} MiB \
                     are possible"
                ),
                "change fewer routes at once, give the gateway more memory, or raise --route-memory; nothing was changed",
            ));
        }
        Ok(())
    }

    /// Makes every changed route ready for connections; the first that cannot work refuses all.
    pub(super) fn activate(
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

    pub(super) fn net_changes(&self, from: u64, to: u64) -> Result<NetChanges, Refusal> {
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

    pub(super) fn warnings(&self, changes: &[RouteChange]) -> Vec<String> {
        let snapshot = self.gateway.snapshot.load();
        warnings::about(
            changes.iter().filter_map(|change| change.after.as_ref()),
            &snapshot.certificates,
            &self.settings.domains,
        )
    }

    /// The current generation. A guard of `head` must never live while something is committed, so nobody else takes one
    /// in the middle of an expression.
    pub(super) fn generation(&self) -> u64 {
        self.head.borrow().generation
    }

    /// The change that waits for confirmation.
    pub(super) fn waiting(&self) -> Option<PendingChange> {
        self.head.borrow().pending.clone()
    }

    pub(super) fn require_no_pending(&self) -> Result<(), Refusal> {
        match &self.waiting() {
            Some(pending) => Err(self.pending_refusal(&pending.record)),
            None => Ok(()),
        }
    }

    pub(super) fn pending_refusal(&self, pending: &PendingRecord) -> Refusal {
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
    pub(super) fn record(&self) -> HeadRecord {
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

pub(super) fn page_of_changes(
    from: u64,
    to: u64,
    mut changes: impl Iterator<Item = RouteChange>,
) -> Diff {
    let limit = usize::try_from(MAX_PAGE).unwrap_or(usize::MAX);
    let page = changes.by_ref().take(limit).collect();
    Diff { from, to, changes: page, more: changes.next().is_some() }
}
