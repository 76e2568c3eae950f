//! The clock of `apply --confirm`: what is not confirmed in time is undone.

use std::time::Duration;

use config_proto::message::Refusal;
use tokio::time::Instant;

use super::records::PendingRecord;
use super::{AUTHOR_ROLLBACK, Configuration, Core, Head, PendingChange, Proposal, plan};

/// How long the gateway waits until it tries again to undo a change when the store failed.
const RETRY: Duration = Duration::from_secs(5);

impl Configuration {
    /// Undoes changes that are not confirmed in time, for as long as the gateway runs. One task of this must run; a
    /// change that waited when the gateway stopped goes on waiting, with the time that was left.
    pub async fn watch_confirmations(self) {
        let mut heads = self.core.head.subscribe();
        loop {
            let pending = heads.borrow_and_update().pending.clone();
            let Some(pending) = pending else {
                if heads.changed().await.is_err() {
                    return;
                }
                continue;
            };
            tokio::select! {
                () = tokio::time::sleep_until(pending.expires) => {}
                changed = heads.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
            }
            let generation = pending.record.generation;
            let undone = self
                .changing(AUTHOR_ROLLBACK, move |core, _| core.undo_unconfirmed(generation))
                .await;
            if let Err(error) = undone {
                tracing::error!(generation, %error, "the unconfirmed change could not be undone; trying again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

impl Core {
    /// Undoes the change of `generation` if it still waits.
    pub(super) fn undo_unconfirmed(&self, generation: u64) -> Result<(), Refusal> {
        let head = self.head.borrow().clone();
        let Some(PendingChange { record, .. }) =
            head.pending.as_ref().filter(|pending| pending.record.generation == generation)
        else {
            return Ok(());
        };
        let changes = self.net_changes(record.base, head.generation)?.backward();
        let summary = format!(
            "generation {generation} was not confirmed in time, back to the routes of generation {}: {}",
            record.base,
            plan::describe(&changes)
        );
        tracing::warn!(generation, "{summary}");
        self.commit(Proposal {
            author: AUTHOR_ROLLBACK.to_owned(),
            summary,
            routes: changes,
            ..Proposal::default()
        })?;
        Ok(())
    }

    /// What waited when the gateway stopped: with the time that is left by the clock on the wall, which may have been set
    /// in between, and never longer than was asked for.
    pub(super) fn resume(record: PendingRecord, now: i64) -> PendingChange {
        let left = record.deadline.saturating_sub(now).clamp(0, record.seconds.into());
        let left = Duration::from_secs(u64::try_from(left).unwrap_or(0));
        PendingChange { record, expires: Instant::now() + left }
    }

    /// Whether a change waits whose time is over.
    pub(super) fn overdue(head: &Head) -> Option<u64> {
        head.pending
            .as_ref()
            .filter(|pending| pending.expires <= Instant::now())
            .map(|pending| pending.record.generation)
    }
}
