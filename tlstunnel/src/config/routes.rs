//! Changes of routes: one by one, as a whole document, confirmed or taken back.

use std::time::Duration;

use config_proto::message::{Applied, Changed, Refusal, RefusalCode, RouteChange};
use config_proto::model::Document;
use tokio::time::Instant;

use super::records::PendingRecord;
use super::state::{Core, Head, PendingChange, Proposal, page_of_changes};
use super::{plan, refuse, unix_now};

impl Core {
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
            self.require_room(&snapshot, &changes)?;
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
}
