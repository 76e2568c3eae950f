//! Who was refused, counted by reason.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Too many control connections are open.
pub const OVER_CAP: &str = "over_cap";
/// The client failed too often lately.
pub const BACK_OFF: &str = "back_off";
/// The key's role does not allow the request.
pub const FORBIDDEN: &str = "forbidden";
/// The holder of a key sent what is no request.
pub const MALFORMED_REQUEST: &str = "malformed_request";
/// The connection's key was removed.
pub const KEY_REMOVED: &str = "key_removed";

/// Reasons beside those of the protocol itself.
const OWN_REASONS: [&str; 5] = [OVER_CAP, BACK_OFF, FORBIDDEN, MALFORMED_REQUEST, KEY_REMOVED];

/// Refusals by reason.
#[derive(Debug)]
pub struct Refusals {
    by_reason: BTreeMap<&'static str, AtomicU64>,
}

impl Refusals {
    /// None so far, by the reasons of protocol v2, of every port, and the `further` ones of this port.
    pub fn new(further: &[&'static str]) -> Self {
        let protocol = config_proto::v2::server::Refused::ALL.iter().map(|reason| reason.as_str());
        let reasons = protocol.chain(OWN_REASONS).chain(further.iter().copied());
        Self { by_reason: reasons.map(|reason| (reason, AtomicU64::new(0))).collect() }
    }

    /// Counts one.
    pub fn count(&self, reason: &'static str) {
        if let Some(counter) = self.by_reason.get(reason) {
            counter.fetch_add(1, Relaxed);
        }
    }

    /// How many there were.
    pub fn total(&self) -> u64 {
        self.totals().map(|(_, count)| count).sum()
    }

    /// Every reason and how often it was given.
    pub fn totals(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.by_reason.iter().map(|(reason, counter)| (*reason, counter.load(Relaxed)))
    }
}
