//! The loop: takes the next step of the plan, one at a time, for as long as the program runs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use instant_acme::{Account, CertificateIdentifier, Error, RevocationReason, RevocationRequest};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::account;
use crate::challenge::TxtPublisher;
use crate::failure::{ACCOUNT_DOES_NOT_EXIST, ALREADY_REVOKED, BAD_NONCE, Failure, Scope};
use crate::host::{Host, HostError};
use crate::http::Client;
use crate::leftovers::Leftovers;
use crate::order::Work;
use crate::plan::{Plan, Step};
use crate::record::{
    AccountRecord, NameRecord, TxtRecord, account_key, decode, encode, is_txt_key, name_key,
    name_of,
};
use crate::report::{CLOCK_TOLERANCE, Reports};
use crate::requests::{Answer, Reason, Request, RequestError, Requests};
use crate::schedule::{Pace, Window};
use crate::settings::Settings;

/// Seconds since 1970.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// One attempt takes at most this long; the order goes on with the next.
const ATTEMPT_TIME: Duration = Duration::from_secs(300);
/// A nonce may be refused at any time, as often as an authority likes (RFC 8555, section 6.5). Each repetition goes on
/// where the last one stopped.
const NONCE_REPEATS: usize = 8;
/// The longest sleep: a clock that was set is noticed after this.
const LONGEST_SLEEP: i64 = 3600;
/// After a start, for an order that was begun to be gone on with before its TXT record is taken away.
const ORDER_GOES_ON: i64 = 3600;
/// After a change of the configuration, for more of them to come.
const SETTLE: Duration = Duration::from_millis(200);
/// When the storage cannot be read at start.
const LOAD_AGAIN: Duration = Duration::from_secs(30);
/// When the authority does not say when to renew, it is asked again after this many seconds.
const ASK_LATER: i64 = 6 * 3600;

/// The clock on the wall.
pub fn system_clock() -> Clock {
    Arc::new(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}

/// Looks after the certificates of one program.
pub struct Keeper<H: Host> {
    host: H,
    settings: Settings,
    client: Client,
    clock: Clock,
    reports: Reports,
    txt: Option<Arc<dyn TxtPublisher>>,
    leftovers: Leftovers,
    requests: Requests,
    asked: mpsc::Receiver<(Request, Answer)>,
    plan: Plan,
    known_account: Option<AccountRecord>,
    account: Option<Account>,
}

impl<H: Host> std::fmt::Debug for Keeper<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl<H: Host> Keeper<H> {
    /// A keeper of the certificates that `host` wants; it reports to `reports`.
    pub fn new(
        host: H,
        settings: Settings,
        client: Client,
        clock: Clock,
        reports: Reports,
    ) -> Self {
        let (requests, asked) = Requests::channel();
        Self {
            host,
            settings,
            client,
            clock,
            reports,
            txt: None,
            leftovers: Leftovers::default(),
            requests,
            asked,
            plan: Plan::default(),
            known_account: None,
            account: None,
        }
    }

    /// Answers dns-01 challenges through `publisher`. Without one they cannot be answered.
    #[must_use]
    pub fn with_txt(mut self, publisher: Arc<dyn TxtPublisher>) -> Self {
        self.txt = Some(publisher);
        self
    }

    /// Where people hand in what they want done.
    pub fn requests(&self) -> Requests {
        self.requests.clone()
    }

    /// Works for ever; drop the future to stop. It may be dropped at any time: what was begun is gone on with by the next
    /// keeper on the same records.
    pub async fn run(mut self) {
        while let Err(error) = self.load().await {
            tracing::error!(%error, "the records of certificates cannot be read");
            sleep(LOAD_AGAIN).await;
        }
        loop {
            let (version, wanted) = self.host.wanted();
            for gone in self.plan.update(wanted) {
                if let Err(error) = self.host.save(name_key(&gone), None).await {
                    tracing::warn!(name = gone, %error, "a record that is needed no more stays");
                }
            }
            self.describe();
            if let Ok((request, answer)) = self.asked.try_recv() {
                self.serve(request, answer).await;
                continue;
            }
            let now = (self.clock)();
            self.leftovers.sweep(&self.host, self.txt.as_deref(), now, |_| false).await;
            match self.plan.next(now) {
                Step::Attempt(name) => self.attempt(&name).await,
                Step::AskWindow(name) => self.ask_window(&name).await,
                Step::Wait(until) => {
                    let until = until.min(self.leftovers.due());
                    let seconds = until.saturating_sub(now).clamp(1, LONGEST_SLEEP);
                    let time = Duration::from_secs(u64::try_from(seconds).unwrap_or(1));
                    let asked = tokio::select! {
                        () = sleep(time) => None,
                        () = self.host.changed(version) => {
                            sleep(SETTLE).await;
                            None
                        }
                        asked = self.asked.recv() => asked,
                    };
                    if let Some((request, answer)) = asked {
                        self.serve(request, answer).await;
                    }
                }
            }
        }
    }

    async fn serve(&mut self, request: Request, answer: Answer) {
        let done = match timeout(ATTEMPT_TIME, self.carry_out(&request)).await {
            Ok(done) => done,
            Err(_) => Err(RequestError::Failed("the authority takes too long".to_owned())),
        };
        match &done {
            Ok(()) => tracing::info!(?request, "done as asked"),
            Err(error) => tracing::warn!(?request, %error, "not done"),
        }
        // Who asked may have gone.
        let _ = answer.send(done);
    }

    async fn carry_out(&mut self, request: &Request) -> Result<(), RequestError> {
        match request {
            Request::Renew { name } => self.mark_for_renewal(name).await,
            Request::Revoke { name, reason } => self.revoke(name, *reason).await,
            Request::RollOver => {
                self.open_account().await?;
                let Self { host, settings, client, known_account, .. } = self;
                let rolled = account::roll_over(host, settings, client, known_account).await;
                // The next one is opened with the key that is stored now.
                self.account = None;
                Ok(rolled?)
            }
        }
    }

    async fn mark_for_renewal(&mut self, name: &str) -> Result<(), RequestError> {
        let record = self.plan.renew(name, (self.clock)())?;
        let saved = self.host.save(name_key(name), Some(encode(&record)?)).await;
        if saved.is_err() {
            self.plan.keep(name);
        }
        Ok(saved.map_err(Failure::from)?)
    }

    /// The new certificate is made sure of first, so that a crash leaves no name with a revoked one for long.
    async fn revoke(&mut self, name: &str, reason: Reason) -> Result<(), RequestError> {
        let (record, current) =
            self.plan.name(name).ok_or_else(|| RequestError::Name(name.to_owned()))?;
        let current = current
            .filter(|_| record.issued_by.as_ref() == Some(&self.settings.directory))
            .ok_or_else(|| RequestError::NoCertificate(name.to_owned()))?;
        self.mark_for_renewal(name).await?;
        let reason = match reason {
            Reason::Unspecified => None,
            Reason::KeyCompromise => Some(RevocationReason::KeyCompromise),
            Reason::AffiliationChanged => Some(RevocationReason::AffiliationChanged),
            Reason::Superseded => Some(RevocationReason::Superseded),
            Reason::CessationOfOperation => Some(RevocationReason::CessationOfOperation),
        };
        let wanted = RevocationRequest { certificate: &current.leaf, reason };
        let mut repeats = NONCE_REPEATS;
        let failure = loop {
            let account = self.open_account().await?;
            let Err(error) = account.revoke(&wanted).await else { return Ok(()) };
            let failure = Failure::from_acme(&error, self.client.last_retry_after());
            match failure {
                _ if failure.is(ALREADY_REVOKED) => return Ok(()),
                _ if repeats > 0 && failure.is(BAD_NONCE) => repeats -= 1,
                _ => break failure,
            }
        };
        if let Some(record) = self.plan.keep(name) {
            self.host.save(name_key(name), Some(encode(&record)?)).await.map_err(Failure::from)?;
        }
        Err(failure.into())
    }

    async fn load(&mut self) -> Result<(), HostError> {
        let own = account_key(&self.settings.directory);
        let (mut names, mut txt) = (BTreeMap::new(), Vec::new());
        for (key, bytes) in self.host.records().await? {
            if let Some(name) = name_of(&key) {
                names.insert(
                    name.to_owned(),
                    decode::<NameRecord>(&key, &bytes).unwrap_or_default(),
                );
            } else if key == own {
                self.known_account = decode(&key, &bytes);
            } else if is_txt_key(&key) {
                txt.extend(decode::<TxtRecord>(&key, &bytes));
            }
        }
        let now = (self.clock)();
        for record in txt {
            // An order that was begun shows its record again, and takes it away in its end.
            let going_on = names.get(&record.certificate).is_some_and(|name| name.order.is_some());
            self.leftovers
                .found(record, if going_on { now.saturating_add(ORDER_GOES_ON) } else { now });
        }
        self.plan = Plan::new(self.settings.directory.clone(), names);
        Ok(())
    }

    async fn attempt(&mut self, name: &str) {
        let Some((mut record, current)) = self.plan.name(name) else { return };
        let Self {
            host,
            settings,
            client,
            clock,
            reports,
            txt,
            leftovers,
            known_account,
            account,
            ..
        } = &mut *self;
        let (txt, current) = (txt.as_deref(), current.as_ref());
        let work = Work { host, settings, client, clock, reports, txt, leftovers, name, current };
        let time = ATTEMPT_TIME + txt.map_or(Duration::ZERO, TxtPublisher::patience);
        let outcome = timeout(time, obtain(&work, account, known_account, &mut record))
            .await
            .unwrap_or_else(|_| {
                let late = "the attempt took too long; it is gone on with later";
                Err(Failure::new(Scope::Name, Pace::Unreachable, late))
            });
        let now = (self.clock)();
        let record = match &outcome {
            Ok(()) => self.plan.succeeded(name, now),
            Err(failure) => {
                // The directory is read again, in case its addresses have changed.
                self.account = None;
                self.plan.failed(name, record, failure, now)
            }
        };
        match &outcome {
            Ok(()) => self.reports.edit(|report| report.obtained += 1),
            Err(Failure { message, .. }) => {
                self.reports.edit(|report| report.failed += 1);
                let failures = record.failures;
                tracing::warn!(name, failures, error = message, "no certificate could be obtained");
            }
        }
        let saved = match encode(&record) {
            Ok(bytes) => self.host.save(name_key(name), Some(bytes)).await.map_err(Failure::from),
            Err(failure) => Err(failure),
        };
        if let Err(Failure { message, .. }) = saved {
            tracing::error!(name, error = message, "how far a certificate has come is not stored");
        }
        let (host, txt) = (&self.host, self.txt.as_deref());
        self.leftovers.sweep(host, txt, now, |record| record.certificate == name).await;
    }

    async fn ask_window(&mut self, name: &str) {
        let Some((_, Some(current))) = self.plan.name(name) else { return };
        let now = (self.clock)();
        let asked = match self.open_account().await {
            Ok(account) => match CertificateIdentifier::try_from(&current.leaf) {
                Ok(id) => account.renewal_info(&id).await,
                // Without an authority key identifier nobody can be asked about it.
                Err(_) => {
                    Err(Error::Unsupported("a certificate without an authority key identifier"))
                }
            },
            Err(failure) => return self.put_off(&failure, name, now),
        };
        match asked {
            Ok((info, again)) => {
                let window = Window {
                    start: info.suggested_window.start.unix_timestamp(),
                    end: info.suggested_window.end.unix_timestamp(),
                };
                tracing::debug!(name, ?window, "the authority says when to renew");
                let again = i64::try_from(again.as_secs()).unwrap_or(i64::MAX);
                self.plan.window(name, Some(window), again, now);
            }
            Err(Error::Unsupported(_)) => self.plan.window(name, None, i64::MAX, now),
            Err(error) => {
                let failure = Failure::from_acme(&error, self.client.last_retry_after());
                self.put_off(&failure, name, now);
            }
        }
    }

    /// Nobody said when to renew.
    fn put_off(&mut self, failure: &Failure, name: &str, now: i64) {
        tracing::info!(name, error = failure.message, "the authority does not say when to renew");
        self.plan.window(name, None, ASK_LATER, now);
        if failure.scope == Scope::Authority {
            self.account = None;
            self.plan.unreachable(failure, now);
        }
    }

    async fn open_account(&mut self) -> Result<Account, Failure> {
        let Self { host, settings, client, known_account, account, .. } = self;
        open(host, settings, client, account, known_account).await
    }

    fn describe(&self) {
        let now = (self.clock)();
        let by_authority = self.client.authority_time().map(|time| now.saturating_sub(time));
        let by_certificate = self
            .plan
            .latest_issue()
            .map(|issued| now.saturating_sub(issued))
            .filter(|age| *age < 0);
        let wrong = |ahead: &i64| ahead.saturating_abs() > CLOCK_TOLERANCE;
        let clock_ahead = by_authority.filter(wrong).or_else(|| by_certificate.filter(wrong));
        self.reports.edit(|report| {
            if let Some(ahead) = clock_ahead
                && report.clock_ahead.is_none()
            {
                tracing::error!(
                    ahead,
                    "the clock is wrong: seconds ahead of the authority's, or behind if negative"
                );
            }
            report.clock_ahead = clock_ahead;
            self.plan.describe(report);
        });
    }
}

async fn open<H: Host>(
    host: &H,
    settings: &Settings,
    client: &Client,
    account: &mut Option<Account>,
    known: &mut Option<AccountRecord>,
) -> Result<Account, Failure> {
    if let Some(account) = account {
        return Ok(account.clone());
    }
    let opened = account::open(host, settings, client, known).await?;
    *account = Some(opened.clone());
    Ok(opened)
}

async fn obtain<H: Host>(
    work: &Work<'_, H>,
    account: &mut Option<Account>,
    known: &mut Option<AccountRecord>,
    record: &mut NameRecord,
) -> Result<(), Failure> {
    let mut repeats = NONCE_REPEATS;
    // Through all repetitions, since the authority may look at any time.
    let mut published = Vec::new();
    loop {
        let outcome = match open(work.host, work.settings, work.client, account, known).await {
            Ok(account) => match known.clone() {
                Some(of_account) => {
                    work.obtain(&account, &of_account, record, &mut published).await
                }
                None => Err(Failure::local("the account has no record")),
            },
            Err(failure) => Err(failure),
        };
        match outcome {
            Err(failure) if repeats > 0 && failure.is(BAD_NONCE) => repeats -= 1,
            Err(failure) if repeats > 0 && failure.is(ACCOUNT_DOES_NOT_EXIST) => {
                tracing::warn!("the authority does not know our account any more");
                repeats = 0;
                *account = None;
                account::forget(work.host, work.settings, known).await?;
            }
            other => return other,
        }
    }
}
