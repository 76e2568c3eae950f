//! The original's loop: certificates that are asked for and delivered through DNS ([`crate::dns::tlsa`]), for one host
//! each, and everything right below it where the program serves that.
//!
//! The key is made here and stays in the store. What is in use stays in use until something better has passed
//! [`crate::check`], whatever the zone says meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PublicKeyData as _};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use zeroize::Zeroizing;

use crate::challenge::TxtError;
use crate::dns::tlsa::{Posted, TlsaServer};
use crate::failure::{Failure, Scope};
use crate::host::{Current, Host, HostError, Wanted};
use crate::keeper::Clock;
use crate::posted::{Chain, choose};
use crate::record::{decode, encode};
use crate::report::{Problem, Reports};
use crate::schedule::{Fraction, Pace, Validity, wait_after};

/// What keys of records begin with; the host's name follows.
const RECORD: &str = "tlsa:";
/// After a request was put there: so often, and with this pause, it is looked whether it was answered.
const LOOKS: usize = 10;
const LOOK_PAUSE: Duration = Duration::from_secs(2);
/// A certificate is renewed this many seconds before its end, as the original does it.
const BEFORE_END: i64 = 7 * 86_400;
/// After a success nothing is done for this many seconds, whatever dates and clock say.
const PAUSE: i64 = 3600;
/// The longest sleep: a clock that was set is noticed after this.
const LONGEST_SLEEP: i64 = 3600;
/// After a change of the configuration, for more of them to come.
const SETTLE: Duration = Duration::from_millis(200);
/// When the storage cannot be read at start.
const LOAD_AGAIN: Duration = Duration::from_secs(30);

/// Looks after certificates that come through DNS.
#[derive(Debug)]
pub struct TlsaKeeper<H: Host> {
    host: H,
    server: TlsaServer,
    clock: ClockOf,
    reports: Reports,
    /// Whether what is right below a host is served by its certificate too.
    below: bool,
    records: BTreeMap<String, HostRecord>,
}

/// A clock has nothing to show.
struct ClockOf(Clock);

impl std::fmt::Debug for ClockOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}

/// Key and request of one host, and how it goes.
#[derive(Clone, Default, Serialize, Deserialize)]
struct HostRecord {
    key_pem: String,
    /// PKCS #10 in base64.
    request: String,
    #[serde(default)]
    failures: u32,
    /// Nothing is done before this, seconds since 1970.
    #[serde(default)]
    not_before: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
}

impl std::fmt::Debug for HostRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostRecord").field("failures", &self.failures).finish_non_exhaustive()
    }
}

impl<H: Host> TlsaKeeper<H> {
    /// A keeper of the certificates that `host` wants: each of its names stands for itself and `*.NAME`.
    pub fn new(host: H, server: TlsaServer, clock: Clock, reports: Reports) -> Self {
        let clock = ClockOf(clock);
        Self { host, server, clock, reports, below: true, records: BTreeMap::new() }
    }

    /// The same for names that each stand for themselves alone.
    #[must_use]
    pub fn for_single_names(self) -> Self {
        Self { below: false, ..self }
    }

    /// The names of a certificate for `name`.
    fn names(&self, name: &str) -> Vec<String> {
        let below = self.below.then(|| format!("*.{name}"));
        std::iter::once(name.to_owned()).chain(below).collect()
    }

    /// Works for ever; drop the future to stop. It may be dropped at any time.
    pub async fn run(mut self) {
        while let Err(error) = self.load().await {
            tracing::error!(%error, "the records of certificates cannot be read");
            sleep(LOAD_AGAIN).await;
        }
        loop {
            let (version, wanted) = self.host.wanted();
            let now = self.now();
            self.describe(&wanted);
            let next = wanted
                .iter()
                .map(|wanted| (self.due(wanted, now), wanted))
                .min_by_key(|next| next.0);
            match next {
                Some((due, Wanted { name, current })) if due <= now => {
                    self.attempt(name, current.as_ref()).await;
                }
                next => {
                    let until = next.map_or(i64::MAX, |(due, _)| due);
                    let seconds = until.saturating_sub(now).clamp(1, LONGEST_SLEEP);
                    tokio::select! {
                        () = sleep(Duration::from_secs(u64::try_from(seconds).unwrap_or(1))) => {}
                        () = self.host.changed(version) => sleep(SETTLE).await,
                    }
                }
            }
        }
    }

    async fn load(&mut self) -> Result<(), HostError> {
        for (key, bytes) in self.host.records().await? {
            if let Some(name) = key.strip_prefix(RECORD)
                && let Some(record) = decode(&key, &bytes)
            {
                self.records.insert(name.to_owned(), record);
            }
        }
        Ok(())
    }

    fn now(&self) -> i64 {
        (self.clock.0)()
    }

    fn due(&self, wanted: &Wanted, now: i64) -> i64 {
        let record = self.records.get(&wanted.name);
        // A time that lies further ahead than anything is ever put off was set by a clock that was wrong.
        let longest = now.saturating_add(2 * LONGEST_SLEEP);
        let not_before = record.map_or(i64::MIN, |record| record.not_before);
        let not_before = if not_before > longest { now } else { not_before };
        match &wanted.current {
            Some(current) => renew_at(current.validity).max(not_before),
            None => not_before,
        }
    }

    fn describe(&self, wanted: &[Wanted]) {
        let failing = wanted.iter().filter_map(|Wanted { name, .. }| {
            let HostRecord { failures, not_before, last_error, .. } = self.records.get(name)?;
            let error = last_error.clone()?;
            let (failures, next_attempt) = (*failures, *not_before);
            Some((name.clone(), Problem { error, failures, next_attempt }))
        });
        let failing = failing.collect();
        self.reports.edit(|report| {
            report.names = wanted.len();
            report.failing = failing;
        });
    }

    async fn attempt(&mut self, name: &str, current: Option<&Current>) {
        let outcome = self.obtain(name, current).await;
        let now = self.now();
        let record = self.records.entry(name.to_owned()).or_default();
        match outcome {
            Ok(()) => {
                (record.failures, record.last_error) = (0, None);
                record.not_before = now.saturating_add(PAUSE);
                self.reports.edit(|report| report.obtained += 1);
            }
            Err(failure) => {
                record.failures = record.failures.saturating_add(1);
                let place = Fraction::of(name.as_bytes());
                let wait = wait_after(failure.pace, record.failures, failure.retry_after, place);
                record.not_before = now.saturating_add(wait);
                let failures = record.failures;
                let error = failure.message;
                tracing::warn!(name, failures, error, "no certificate could be obtained");
                record.last_error = Some(error);
                self.reports.edit(|report| report.failed += 1);
            }
        }
        let record = record.clone();
        // Without a key there is nothing to keep.
        if !record.key_pem.is_empty()
            && let Err(Failure { message, .. }) = self.save(name, &record).await
        {
            tracing::error!(name, error = message, "how far a certificate has come is not stored");
        }
    }

    async fn obtain(&mut self, name: &str, current: Option<&Current>) -> Result<(), Failure> {
        let record = self.prepared(name).await?;
        let damaged = |error: &dyn std::fmt::Display| {
            Failure::local(format!("the stored key for {name} is damaged: {error}"))
        };
        let key = KeyPair::from_pem(&record.key_pem).map_err(|error| damaged(&error))?;
        let request = STANDARD.decode(&record.request).map_err(|error| damaged(&error))?;
        let public_key = key.subject_public_key_info();
        let mut names = self.names(name);
        names.sort_unstable();
        let best = |posted: &Posted, now| choose(posted, &public_key, &names, now);
        let better = |found: &Chain| {
            current.is_none_or(|current| found.validity.not_after > current.validity.not_after)
        };

        let posted = self.look(name).await?;
        let now = self.now();
        let mut found = best(&posted, now);
        let is_there = posted.requests.contains(&request);
        // What is there and as good as what is in use stands in the way of a new one.
        let useful =
            found.as_ref().is_ok_and(|found| better(found) && now < renew_at(found.validity));
        if !useful && (!is_there || found.is_ok()) {
            self.server.post(name, request).await.map_err(TxtError::from)?;
            tracing::info!(name, "a certificate is asked for in DNS");
            for _ in 0..LOOKS {
                sleep(LOOK_PAUSE).await;
                found = best(&self.look(name).await?, self.now());
                if found.is_ok() {
                    break;
                }
            }
        }
        let waiting = |reason: &str| {
            let message = format!("the request stands at _letsencrypt._tcp.{name}, and {reason}");
            Failure::new(Scope::Name, Pace::Unreachable, message)
        };
        let found = found.map_err(|reason| waiting(&reason.to_string()))?;
        if !better(&found) {
            return Err(waiting("no newer certificate has come yet"));
        }
        let key_pem = Zeroizing::new(record.key_pem);
        self.host.install(name.to_owned(), found.pem, key_pem).await?;
        let days = found.validity.not_after.saturating_sub(self.now()) / 86_400;
        tracing::info!(name, days, "certificate obtained and in use");
        Ok(())
    }

    async fn look(&self, name: &str) -> Result<Posted, Failure> {
        Ok(self.server.look(name).await.map_err(TxtError::from)?)
    }

    /// The record with a key and a request, which are durable before anybody sees them.
    async fn prepared(&mut self, name: &str) -> Result<HostRecord, Failure> {
        if let Some(record) = self.records.get(name)
            && !record.key_pem.is_empty()
        {
            return Ok(record.clone());
        }
        let names = self.names(name);
        let made = || -> Result<HostRecord, rcgen::Error> {
            let key = KeyPair::generate()?;
            let mut params = CertificateParams::new(names)?;
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, name);
            let request = STANDARD.encode(params.serialize_request(&key)?.der());
            Ok(HostRecord { key_pem: key.serialize_pem(), request, ..HostRecord::default() })
        };
        let mut record = made().map_err(|error| {
            Failure::local(format!("no request can be made for {name}: {error}"))
        })?;
        if let Some(HostRecord { failures, last_error, .. }) = self.records.get(name) {
            (record.failures, record.last_error) = (*failures, last_error.clone());
        }
        self.save(name, &record).await?;
        self.records.insert(name.to_owned(), record.clone());
        Ok(record)
    }

    async fn save(&self, name: &str, record: &HostRecord) -> Result<(), Failure> {
        Ok(self.host.save(format!("{RECORD}{name}"), Some(encode(record)?)).await?)
    }
}

/// Seven days before the end as the original does it, and for certificates of few days not before two thirds of them.
fn renew_at(validity: Validity) -> i64 {
    let lifetime = validity.not_after.saturating_sub(validity.not_before).max(0);
    let two_thirds = validity.not_before.saturating_add(lifetime / 3 * 2);
    validity.not_after.saturating_sub(BEFORE_END).max(two_thirds)
}
