//! The state behind [`super::Configuration`]: every operation as plain blocking code, and the one way in which anything
//! changes, [`Core::commit`].

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use config_proto::key::{Key, KeyId};
use config_proto::message::{
    Applied, Changed, Diff, KeyAdded, MAX_PAGE, Refusal, RefusalCode, Role, RouteChange, Sealed,
};
use config_proto::model::{Document, RouteName};
use control_port::KeyRing;
use control_port::keys::MAX_KEYS;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use super::plan::NetChanges;
use super::records::{
    CertificateRecord, GenerationRecord, HeadRecord, KeyRecord, PemRecord, PendingRecord,
};
use super::storage::{Edit, Storage, StorageError};
use super::{MAX_CERTIFICATES, Settings, internal, invalid, plan, refuse, unix_now, warnings};
use crate::backend::Backends;
use crate::gateway::{Gateway, Snapshot};
use crate::route::ActiveRoute;
use crate::tls::certificates::{Certificate, CertificateTable, Source};

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

    pub(super) fn change_routes(
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

    pub(super) fn apply(
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

    pub(super) fn confirm(&self, author: String, generation: u64) -> Result<Changed, Refusal> {
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

    pub(super) fn rollback(&self, author: String, generation: u64) -> Result<Changed, Refusal> {
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

    pub(super) fn add_key(
        &self,
        author: String,
        id: KeyId,
        role: Role,
    ) -> Result<KeyAdded, Refusal> {
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

    pub(super) fn remove_key(&self, author: String, id: KeyId) -> Result<Changed, Refusal> {
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

    pub(super) fn set_certificate(
        &self,
        author: String,
        chain: String,
        key: String,
        source: Source,
    ) -> Result<Changed, Refusal> {
        let certificate = Certificate::from_pem(&chain, &key, source).map_err(invalid)?;
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
            source: source.to_string(),
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
    pub(super) fn commit(&self, proposal: Proposal) -> Result<u64, Refusal> {
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
    pub(super) fn write(&self, edit: &Edit) -> Result<u64, Refusal> {
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
