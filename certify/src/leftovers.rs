//! TXT records that we have shown and that must go away again: after success, failure, and a crash in between.
//!
//! A record is noted in the store before it is published, and forgotten once it is withdrawn. What cannot be withdrawn is
//! tried again for as long as the program runs, and by the next one.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::challenge::TxtPublisher;
use crate::failure::Failure;
use crate::host::Host;
use crate::record::{TxtRecord, encode, txt_key};
use crate::schedule::{Fraction, Pace, wait_after};

/// The records, by their values.
#[derive(Debug, Default)]
pub(crate) struct Leftovers {
    records: Mutex<BTreeMap<String, Leftover>>,
}

#[derive(Clone, Debug)]
struct Leftover {
    record: TxtRecord,
    /// Withdrawals that failed in a row.
    failures: u32,
    /// When it is withdrawn, seconds since 1970; `i64::MAX` while the attempt that needs it goes on.
    due: i64,
}

impl Leftovers {
    /// A record that an earlier run has left.
    pub(crate) fn found(&self, record: TxtRecord, due: i64) {
        self.lock().insert(record.value.clone(), Leftover { record, failures: 0, due });
    }

    /// A record that is about to be published. It is durable once this returns.
    pub(crate) async fn note<H: Host>(&self, host: &H, record: &TxtRecord) -> Result<(), Failure> {
        host.save(txt_key(&record.value), Some(encode(record)?)).await?;
        self.found(record.clone(), i64::MAX);
        Ok(())
    }

    /// When the next one is to be withdrawn; `i64::MAX` if there is none.
    pub(crate) fn due(&self) -> i64 {
        self.lock().values().map(|leftover| leftover.due).min().unwrap_or(i64::MAX)
    }

    /// Withdraws what is due, and what `also` says.
    pub(crate) async fn sweep<H: Host>(
        &self,
        host: &H,
        txt: Option<&dyn TxtPublisher>,
        now: i64,
        also: impl Fn(&TxtRecord) -> bool,
    ) {
        let of_now = |leftover: &&Leftover| leftover.due <= now || also(&leftover.record);
        let all: Vec<Leftover> = self.lock().values().filter(of_now).cloned().collect();
        for mut leftover in all {
            let TxtRecord { name, value, .. } = &leftover.record;
            let withdrawn = match txt {
                Some(txt) => txt.withdraw(name, value).await.map_err(|error| error.message),
                None => Err("there is no DNS server to update any more".to_owned()),
            };
            let forgotten = match withdrawn {
                Ok(()) => host.save(txt_key(value), None).await.map_err(|error| error.to_string()),
                Err(message) => Err(message),
            };
            match forgotten {
                Ok(()) => {
                    self.lock().remove(value);
                }
                Err(error) => {
                    leftover.failures = leftover.failures.saturating_add(1);
                    let failures = leftover.failures;
                    let wait = wait_after(Pace::Unreachable, failures, None, Fraction::of(&[]));
                    leftover.due = now.saturating_add(wait);
                    tracing::warn!(name, wait, error, "a TXT record that is needed no more stays");
                    self.lock().insert(value.clone(), leftover);
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Leftover>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
