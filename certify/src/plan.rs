//! What is done next, and when: the state of every name as a value. It knows no clock, no network and no storage.

use std::collections::BTreeMap;

use crate::failure::{Failure, Scope};
use crate::host::{Current, Wanted};
use crate::record::NameRecord;
use crate::report::{Problem, Report};
use crate::requests::RequestError;
use crate::schedule::{
    Fraction, LONGEST_RETRY_AFTER, PAUSE_AFTER_SUCCESS, Pace, Window, renew_at, wait_after,
};

/// After a "too many" for one name, the others wait this long too.
const PAUSE_AFTER_RATE_LIMIT: i64 = 60;
/// The pause between two questions for the window of one certificate: what the authority says, within these bounds.
const ASK_AGAIN: (i64, i64) = (3600, 86_400);

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Obtain a certificate for this name.
    Attempt(String),
    /// Ask when the certificate of this name should be renewed.
    AskWindow(String),
    /// Nothing before this time.
    Wait(i64),
}

/// All names and the authority.
#[derive(Default)]
pub(crate) struct Plan {
    directory: String,
    names: BTreeMap<String, Entry>,
    /// Failures that concern all names, in a row.
    failures: u32,
    /// Nothing is asked of the authority before this.
    not_before: i64,
    /// As far as the authority itself asked for that.
    held_until: i64,
    error: Option<String>,
}

struct Entry {
    record: NameRecord,
    current: Option<Current>,
    window: Option<Window>,
    ask_at: i64,
}

impl Plan {
    /// A plan for certificates from one authority, with what earlier runs left.
    pub(crate) fn new(directory: String, records: BTreeMap<String, NameRecord>) -> Self {
        let entry = |record| Entry { record, current: None, window: None, ask_at: i64::MIN };
        let names = records.into_iter().map(|(name, record)| (name, entry(record))).collect();
        Self { directory, names, ..Self::default() }
    }

    /// Takes over what is wanted now. Returns the names that are wanted no more.
    pub(crate) fn update(&mut self, wanted: Vec<Wanted>) -> Vec<String> {
        let mut before = std::mem::take(&mut self.names);
        for Wanted { name, current } in wanted {
            let mut entry = before.remove(&name).unwrap_or_else(|| Entry {
                record: NameRecord::default(),
                current: None,
                window: None,
                ask_at: i64::MIN,
            });
            let leaf = |current: &Option<Current>| current.as_ref().map(|c| c.leaf.clone());
            if leaf(&entry.current) != leaf(&current) {
                (entry.window, entry.ask_at) = (None, i64::MIN);
            }
            entry.current = current;
            self.names.insert(name, entry);
        }
        before.into_keys().collect()
    }

    /// What to do now.
    pub(crate) fn next(&self, now: i64) -> Step {
        let due = self.names.iter().map(|(name, entry)| (self.due(entry, now), name));
        let first = due.min();
        let asked = self
            .names
            .iter()
            .filter(|(_, entry)| entry.current.is_some())
            .map(|(name, entry)| (entry.ask_at, name))
            .min();
        let gate = within_reason(self.not_before, now);
        match (first, asked) {
            _ if now < gate => Step::Wait(gate),
            (Some((due, name)), _) if due <= now => Step::Attempt(name.clone()),
            (_, Some((ask_at, name))) if ask_at <= now => Step::AskWindow(name.clone()),
            (first, asked) => {
                let times = [first.map(|(due, _)| due), asked.map(|(ask_at, _)| ask_at)];
                Step::Wait(times.into_iter().flatten().min().unwrap_or(i64::MAX))
            }
        }
    }

    fn due(&self, entry: &Entry, now: i64) -> i64 {
        let record = &entry.record;
        let by_another = record.issued_by.as_ref().is_some_and(|by| *by != self.directory);
        let not_before = within_reason(record.not_before, now);
        match &entry.current {
            // The pause after a success is for the same authority.
            Some(_) if by_another && record.failures == 0 => i64::MIN,
            Some(current) if record.order.is_none() && !by_another && !record.renew => {
                let place = Fraction::of(&current.leaf);
                renew_at(current.validity, entry.window, place).max(not_before)
            }
            _ => not_before,
        }
    }

    /// What is stored about a name, and its certificate in use.
    pub(crate) fn name(&self, name: &str) -> Option<(NameRecord, Option<Current>)> {
        self.names.get(name).map(|entry| (entry.record.clone(), entry.current.clone()))
    }

    /// A person wants a new certificate for `name` now. Returns what is to be stored.
    ///
    /// # Errors
    /// When no certificate is looked after for it, or the authority has asked to wait.
    pub(crate) fn renew(&mut self, name: &str, now: i64) -> Result<NameRecord, RequestError> {
        let held = within_reason(self.held_until, now);
        let entry = self.names.get_mut(name).ok_or_else(|| RequestError::Name(name.to_owned()))?;
        let held = held.max(within_reason(entry.record.held_until, now));
        if held > now {
            return Err(RequestError::Held(held));
        }
        self.not_before = self.held_until;
        let record = &mut entry.record;
        (record.renew, record.not_before, record.failures) = (true, now, 0);
        record.last_error = None;
        Ok(record.clone())
    }

    /// Takes back what [`Plan::renew`] did.
    pub(crate) fn keep(&mut self, name: &str) -> Option<NameRecord> {
        let entry = self.names.get_mut(name)?;
        entry.record.renew = false;
        Some(entry.record.clone())
    }

    /// The latest beginning of a certificate in use: no clock can be right that shows less.
    pub(crate) fn latest_issue(&self) -> Option<i64> {
        let currents = self.names.values().filter_map(|entry| entry.current.as_ref());
        currents.map(|current| current.validity.not_before).max()
    }

    /// A certificate was obtained. Returns what is to be stored.
    pub(crate) fn succeeded(&mut self, name: &str, now: i64) -> NameRecord {
        self.answered();
        let record = NameRecord {
            not_before: now.saturating_add(PAUSE_AFTER_SUCCESS),
            issued_by: Some(self.directory.clone()),
            ..NameRecord::default()
        };
        self.set(name, record.clone());
        record
    }

    /// An attempt failed; `record` is what it left. Returns what is to be stored.
    pub(crate) fn failed(
        &mut self,
        name: &str,
        mut record: NameRecord,
        failure: &Failure,
        now: i64,
    ) -> NameRecord {
        match failure.scope {
            Scope::Authority => self.unreachable(failure, now),
            Scope::Name => {
                self.answered();
                record.failures = record.failures.saturating_add(1);
                let place = Fraction::of(
                    [name.as_bytes(), &record.failures.to_be_bytes()].concat().as_slice(),
                );
                let wait = wait_after(failure.pace, record.failures, failure.retry_after, place);
                record.not_before = now.saturating_add(wait);
                record.held_until = asked_until(failure, now);
                record.last_error = Some(failure.message.clone());
                if failure.pace == Pace::RateLimited {
                    self.not_before = now.saturating_add(PAUSE_AFTER_RATE_LIMIT);
                }
            }
        }
        self.set(name, record.clone());
        record
    }

    /// No name will fare better for a while.
    pub(crate) fn unreachable(&mut self, failure: &Failure, now: i64) {
        self.failures = self.failures.saturating_add(1);
        let place = Fraction::of(&self.failures.to_be_bytes());
        let wait = wait_after(failure.pace, self.failures, failure.retry_after, place);
        self.not_before = now.saturating_add(wait);
        self.held_until = asked_until(failure, now);
        self.error = Some(failure.message.clone());
    }

    /// The authority said when to renew, and after how many seconds to ask again; or it does not say.
    pub(crate) fn window(&mut self, name: &str, window: Option<Window>, again: i64, now: i64) {
        let (shortest, longest) = ASK_AGAIN;
        if let Some(entry) = self.names.get_mut(name) {
            entry.ask_at = now.saturating_add(again.clamp(shortest, longest));
            entry.window = window.or(entry.window);
        }
    }

    /// Writes what people see.
    pub(crate) fn describe(&self, report: &mut Report) {
        report.names = self.names.len();
        report.authority = self.error.as_ref().map(|error| Problem {
            error: error.clone(),
            failures: self.failures,
            next_attempt: self.not_before,
        });
        let problem = |entry: &Entry| {
            let NameRecord { failures, not_before, last_error, .. } = &entry.record;
            let error = last_error.clone()?;
            Some(Problem { error, failures: *failures, next_attempt: *not_before })
        };
        report.failing = self
            .names
            .iter()
            .filter_map(|(name, entry)| Some((name.clone(), problem(entry)?)))
            .collect();
    }

    /// The authority answers.
    fn answered(&mut self) {
        (self.failures, self.error) = (0, None);
    }

    fn set(&mut self, name: &str, record: NameRecord) {
        if let Some(entry) = self.names.get_mut(name) {
            entry.record = record;
        }
    }
}

/// Until when the authority itself asked to wait.
fn asked_until(failure: &Failure, now: i64) -> i64 {
    let asked = failure.retry_after.unwrap_or(0).min(LONGEST_RETRY_AFTER);
    now.saturating_add(i64::try_from(asked).unwrap_or(i64::MAX))
}

/// A time that lies further ahead than anything is ever put off was set by a clock that was wrong: it does not count.
fn within_reason(time: i64, now: i64) -> i64 {
    let longest = i64::try_from(LONGEST_RETRY_AFTER / 2 * 3).unwrap_or(i64::MAX);
    match time > now.saturating_add(longest) {
        true => now,
        false => time,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;
    use rustls_pki_types::CertificateDer;

    use super::*;
    use crate::record::OrderRecord;
    use crate::schedule::Validity;

    const CA: &str = "https://ca.example/dir";
    const DAY: i64 = 86_400;

    fn certificate(number: u8, not_before: i64) -> Current {
        let validity = Validity { not_before, not_after: not_before + 90 * DAY };
        Current { leaf: CertificateDer::from(vec![number]), validity }
    }

    fn wanted(name: &str, current: Option<Current>) -> Wanted {
        Wanted { name: name.to_owned(), current }
    }

    fn plan(names: Vec<Wanted>) -> Plan {
        let mut plan = Plan::new(CA.to_owned(), BTreeMap::new());
        plan.update(names);
        plan
    }

    fn attempt(name: &str) -> Step {
        Step::Attempt(name.to_owned())
    }

    #[test]
    fn a_new_name_is_attempted_at_once_and_rests_after_success() {
        let mut plan = plan(vec![wanted("a", None)]);
        assert_eq!(plan.next(100), attempt("a"));
        plan.succeeded("a", 100);
        plan.update(vec![wanted("a", Some(certificate(1, 0)))]);
        assert_eq!(plan.next(100), Step::AskWindow("a".into()));
        plan.window("a", None, i64::MAX, 100);
        assert_eq!(plan.next(100), Step::Wait(100 + DAY), "asked again within a day");
        assert_eq!(plan.next(61 * DAY), attempt("a"));
    }

    #[test]
    fn a_clock_that_is_years_ahead_orders_no_more_often_than_the_pause() {
        let mut plan = plan(vec![wanted("a", None)]);
        let now = 4000 * DAY;
        plan.succeeded("a", now);
        plan.update(vec![wanted("a", Some(certificate(1, 0)))]);
        plan.window("a", None, DAY, now);
        assert_eq!(plan.next(now), Step::Wait(now + PAUSE_AFTER_SUCCESS));
        let corrected = 10 * DAY;
        plan.window("a", None, DAY, corrected);
        assert!(matches!(plan.next(corrected), Step::Wait(until) if until > corrected));
    }

    #[test]
    fn a_window_of_the_authority_counts_until_the_certificate_changes() {
        let mut plan = plan(vec![wanted("a", Some(certificate(1, 0)))]);
        plan.window("a", Some(Window { start: 5, end: 6 }), 0, 4);
        assert_eq!(plan.next(4), Step::Wait(5));
        assert_eq!(plan.next(6), attempt("a"));
        plan.window("a", None, 0, 6);
        assert_eq!(plan.next(6), attempt("a"), "no answer takes no window away");
        plan.update(vec![wanted("a", Some(certificate(2, 0)))]);
        assert_eq!(plan.next(6), Step::AskWindow("a".into()));
    }

    #[test]
    fn another_authority_means_new_certificates_at_once() {
        let mut old = Plan::new("https://staging.example".into(), BTreeMap::new());
        old.update(vec![wanted("a", None)]);
        let record = old.succeeded("a", 1000);
        let mut plan = Plan::new(CA.to_owned(), BTreeMap::from([("a".to_owned(), record)]));
        plan.update(vec![wanted("a", Some(certificate(1, 0)))]);
        assert_eq!(plan.next(1001), attempt("a"));
        plan.succeeded("a", 1001);
        assert_eq!(plan.next(1001), Step::AskWindow("a".into()));
    }

    #[test]
    fn an_order_that_was_begun_is_due_even_with_a_certificate() {
        let order = OrderRecord { directory: CA.into(), url: None, key_pem: String::new() };
        let record = NameRecord { order: Some(order), ..NameRecord::default() };
        let mut plan = Plan::new(CA.to_owned(), BTreeMap::from([("a".to_owned(), record)]));
        plan.update(vec![wanted("a", Some(certificate(1, 0)))]);
        assert_eq!(plan.next(0), attempt("a"));
    }

    #[test]
    fn names_that_are_gone_are_said_and_forgotten() {
        let mut plan = plan(vec![wanted("a", None), wanted("b", None)]);
        assert_eq!(plan.update(vec![wanted("b", None)]), ["a"]);
        assert_eq!(plan.next(0), attempt("b"));
        assert!(plan.name("a").is_none());
    }

    #[test]
    fn one_bad_name_does_not_hold_the_others_up_and_a_dead_authority_holds_all() {
        let mut plan = plan(vec![wanted("a", None), wanted("b", None)]);
        let no = Failure::refused("no such host");
        plan.failed("a", NameRecord::default(), &no, 0);
        assert_eq!(plan.next(0), attempt("b"));
        let mut report = Report::default();
        plan.describe(&mut report);
        assert_eq!(report.failing["a"].error, "no such host");
        assert!(report.failing["a"].next_attempt >= 300 && report.authority.is_none());

        let down = Failure::new(Scope::Authority, Pace::Unreachable, "down");
        let record = plan.failed("b", NameRecord::default(), &down, 0);
        assert_eq!(record.failures, 0, "the name is not to blame");
        assert!(matches!(plan.next(4), Step::Wait(5..=6)));
        assert_eq!(plan.next(7), attempt("b"));
        plan.succeeded("b", 7);
        plan.describe(&mut report);
        assert!(report.authority.is_none());
    }

    proptest! {
        /// Whatever fails in whatever order: nothing is tried while it must wait, `Retry-After` holds, and every name is
        /// tried again in the end.
        #[test]
        fn attempts_respect_every_wait(
            outcomes in proptest::collection::vec((0..5_u8, proptest::option::of(0..100_000_u64)), 1..80)
        ) {
            let mut plan = plan(vec![wanted("a", None), wanted("b", None), wanted("c", None)]);
            let mut now = 1_000_000;
            let mut blocked: BTreeMap<String, i64> = BTreeMap::new();
            let mut gate = i64::MIN;
            for (outcome, retry_after) in outcomes {
                let name = loop {
                    match plan.next(now) {
                        Step::Attempt(name) => break name,
                        Step::AskWindow(name) => plan.window(&name, None, 0, now),
                        Step::Wait(until) => {
                            prop_assert!(until > now && until < i64::MAX);
                            now = until;
                        }
                    }
                };
                prop_assert!(now >= gate);
                prop_assert!(now >= blocked.get(&name).copied().unwrap_or(i64::MIN));
                let (record, _) = plan.name(&name).unwrap();
                let (scope, pace) = match outcome {
                    0 => (Scope::Authority, Pace::Unreachable),
                    1 => (Scope::Name, Pace::Refused),
                    2 => (Scope::Name, Pace::RateLimited),
                    3 => (Scope::Name, Pace::Local),
                    _ => {
                        plan.succeeded(&name, now);
                        blocked.insert(name, now + PAUSE_AFTER_SUCCESS);
                        continue;
                    }
                };
                let failure = Failure { retry_after, ..Failure::new(scope, pace, "no") };
                plan.failed(&name, record, &failure, now);
                let asked = now + i64::try_from(retry_after.unwrap_or(0)).unwrap();
                match scope {
                    Scope::Authority => gate = asked,
                    Scope::Name => {
                        blocked.insert(name, asked);
                    }
                }
            }
        }
    }
}
