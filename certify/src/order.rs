//! One order from its placing to the certificate in use (RFC 8555, section 7.4).
//!
//! After every step that the authority remembers, what is needed to go on is stored. An attempt begins by looking at the
//! order that an earlier one left, so a crash or an outage costs time and no second order. The one window that the
//! protocol leaves open: an order that the authority accepted while we died before its address was stored.

use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, CertificateIdentifier, ChallengeStatus, ChallengeType, Error,
    Identifier, NewOrder, Order, OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PublicKeyData as _};
use tokio::task::spawn_blocking;
use zeroize::Zeroizing;

use crate::challenge::{Challenge, Published, TxtPublisher, tls_alpn_certificate};
use crate::check::{check, topmost_issuer};
use crate::failure::{Failure, Scope};
use crate::host::{Current, Host};
use crate::http::Client;
use crate::keeper::Clock;
use crate::leftovers::Leftovers;
use crate::record::{AccountRecord, NameRecord, OrderRecord, TxtRecord, encode, name_key};
use crate::report::Reports;
use crate::schedule::Pace;
use crate::settings::{ChallengeKind, Settings};
use crate::signed::Signer;

/// For the authority to look at a challenge, and again to issue.
const PATIENCE: Duration = Duration::from_secs(90);

/// What an order is worked on with.
pub(crate) struct Work<'w, H: Host> {
    pub(crate) host: &'w H,
    pub(crate) settings: &'w Settings,
    pub(crate) client: &'w Client,
    pub(crate) clock: &'w Clock,
    pub(crate) reports: &'w Reports,
    pub(crate) txt: Option<&'w dyn TxtPublisher>,
    pub(crate) leftovers: &'w Leftovers,
    pub(crate) name: &'w str,
    pub(crate) current: Option<&'w Current>,
}

impl<'w, H: Host> Work<'w, H> {
    /// Obtains a certificate and puts it into use. `record` is kept the same as what is stored. What is answered to challenges
    /// goes into `published`.
    pub(crate) async fn obtain(
        &self,
        account: &Account,
        account_record: &AccountRecord,
        record: &mut NameRecord,
        published: &mut Vec<Published<'w, H>>,
    ) -> Result<(), Failure> {
        let (mut order, key_pem) = match self.resume(account, record).await? {
            Some(begun) => begun,
            None => self.place(account, record).await?,
        };
        if order.state().status == OrderStatus::Pending {
            self.authorize(&mut order, published).await?;
        }
        let key = KeyPair::from_pem(&key_pem)
            .map_err(|error| Failure::local(format!("the stored key is damaged: {error}")))?;
        if order.state().status == OrderStatus::Ready {
            self.finalize(&mut order, &key).await?;
        }
        if has_failed(&mut order) {
            let reasons = self.reasons(account, order.url()).await;
            self.drop_order(record).await?;
            return Err(Failure::refused(reasons));
        }
        let chain = match order.poll_certificate(&polling()).await {
            Ok(chain) => chain,
            Err(error) => {
                let failure = self.failed(&error);
                // An order that failed while it was finalized stays so.
                if has_failed(&mut order) {
                    self.drop_order(record).await?;
                }
                return Err(failure);
            }
        };
        let chain = self.preferred(account_record, chain).await;
        let now = (self.clock)();
        let checked = match check(&chain, &key.subject_public_key_info(), self.name, now) {
            Ok(checked) => checked,
            Err(error) => {
                if !error.is_about_time() {
                    self.drop_order(record).await?;
                }
                return Err(Failure::local(error.to_string()));
            }
        };
        // A crash after installing and before noting it: what is in use is this very certificate.
        if self.current.is_none_or(|current| current.leaf != checked.leaf) {
            self.host.install(self.name.to_owned(), chain, key_pem).await?;
        }
        let days = checked.validity.not_after.saturating_sub(now) / 86_400;
        tracing::info!(name = self.name, days, "certificate obtained and in use");
        Ok(())
    }

    /// The order that an earlier attempt left, with its key, if it can be gone on with.
    async fn resume(
        &self,
        account: &Account,
        record: &mut NameRecord,
    ) -> Result<Option<(Order, Zeroizing<String>)>, Failure> {
        let Some(OrderRecord { directory, url, key_pem }) = record.order.clone() else {
            return Ok(None);
        };
        let key_pem = Zeroizing::new(key_pem);
        if directory != self.settings.directory {
            self.drop_order(record).await?;
            return Ok(None);
        }
        let Some(url) = url else { return Ok(None) };
        match account.order(url).await {
            Ok(order) => {
                tracing::info!(name = self.name, order = order.url(), "going on with the order");
                Ok(Some((order, key_pem)))
            }
            Err(error) => {
                let failure = self.failed(&error);
                // The authority knows no such order, for example because it has expired.
                let gone = matches!(error, Error::Api(_))
                    && (failure.scope, failure.pace) == (Scope::Name, Pace::Refused);
                if !gone {
                    return Err(failure);
                }
                tracing::info!(name = self.name, %error, "the order that was begun is gone");
                self.drop_order(record).await?;
                Ok(None)
            }
        }
    }

    async fn place(
        &self,
        account: &Account,
        record: &mut NameRecord,
    ) -> Result<(Order, Zeroizing<String>), Failure> {
        let key_pem = match &record.order {
            Some(begun) => Zeroizing::new(begun.key_pem.clone()),
            None => {
                let kind = self.settings.key_type.of(self.name).copied().unwrap_or_default();
                // Others are served meanwhile.
                let made = spawn_blocking(move || kind.generate()).await;
                let key = made.map_err(|error| Failure::local(error.to_string()))??;
                Zeroizing::new(key.serialize_pem())
            }
        };
        let begun = |url| OrderRecord {
            directory: self.settings.directory.clone(),
            url,
            key_pem: key_pem.to_string(),
        };
        record.order = Some(begun(None));
        self.save(record).await?;
        let identifiers = [Identifier::Dns(self.name.to_owned())];
        let plain = || {
            let order = NewOrder::new(&identifiers);
            match self.settings.profile.of(self.name) {
                Some(profile) => order.profile(profile),
                None => order,
            }
        };
        // The authority then knows that this one takes the place of that one (RFC 9773, section 5).
        let replaces = self
            .current
            .filter(|_| record.issued_by.as_ref() == Some(&self.settings.directory))
            .and_then(|current| CertificateIdentifier::try_from(&current.leaf).ok());
        let placed = match replaces {
            Some(replaces) => match account.new_order(&plain().replaces(replaces)).await {
                Err(error) if is_about_replacing(&error) => account.new_order(&plain()).await,
                other => other,
            },
            None => account.new_order(&plain()).await,
        };
        let order = placed.map_err(|error| self.failed(&error))?;
        record.order = Some(begun(Some(order.url().to_owned())));
        self.save(record).await?;
        self.reports.edit(|report| report.orders += 1);
        tracing::info!(name = self.name, order = order.url(), "order placed");
        Ok((order, key_pem))
    }

    /// Answers the challenges and waits until the authority has looked.
    async fn authorize(
        &self,
        order: &mut Order,
        published: &mut Vec<Published<'w, H>>,
    ) -> Result<(), Failure> {
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(|error| self.failed(&error))?;
            if authorization.status != AuthorizationStatus::Pending {
                continue;
            }
            let kind = self.settings.challenge;
            let wanted = match kind {
                ChallengeKind::Http01 => ChallengeType::Http01,
                ChallengeKind::TlsAlpn01 => ChallengeType::TlsAlpn01,
                ChallengeKind::Dns01 => ChallengeType::Dns01,
            };
            let mut challenge = authorization.challenge(wanted).ok_or_else(|| {
                Failure::refused(format!("the authority does not offer {kind} for this name"))
            })?;
            let answer = challenge.key_authorization();
            match kind {
                ChallengeKind::Http01 => {
                    let (token, key_authorization) =
                        (challenge.token.clone(), answer.as_str().to_owned());
                    let answer = Challenge::Http01 { token, key_authorization };
                    published.push(Published::new(self.host, answer));
                }
                ChallengeKind::TlsAlpn01 => {
                    let certificate = tls_alpn_certificate(self.name, &answer)?;
                    let answer = Challenge::TlsAlpn01 { name: self.name.to_owned(), certificate };
                    published.push(Published::new(self.host, answer));
                }
                ChallengeKind::Dns01 => {
                    let txt = self.txt.ok_or_else(|| {
                        Failure::local("dns-01 is asked for, and no DNS server is given to update")
                    })?;
                    let base = self.name.strip_prefix("*.").unwrap_or(self.name);
                    let record = TxtRecord {
                        certificate: self.name.to_owned(),
                        name: format!("_acme-challenge.{base}"),
                        value: answer.dns_value(),
                    };
                    self.leftovers.note(self.host, &record).await?;
                    txt.publish(&record.name, &record.value).await?;
                }
            }
            // After a crash the authority may be looking already, or have looked.
            if challenge.status == ChallengeStatus::Pending
                && let Err(error) = challenge.set_ready().await
            {
                let failure = self.failed(&error);
                // It had been told before, or answers with what it has found. What came of it is seen below, where an order
                // that has failed is not kept to be gone on with.
                if (failure.scope, failure.pace) != (Scope::Name, Pace::Refused) {
                    return Err(failure);
                }
            }
        }
        match order.poll_ready(&polling()).await {
            // What an order that has failed says about itself is less than its challenges say.
            Err(Error::Api(_)) if has_failed(order) => Ok(()),
            Err(error) => Err(self.failed(&error)),
            Ok(_) => Ok(()),
        }
    }

    async fn finalize(&self, order: &mut Order, key: &KeyPair) -> Result<(), Failure> {
        let request = CertificateParams::new(vec![self.name.to_owned()])
            .and_then(|mut params| {
                params.distinguished_name = DistinguishedName::new();
                params.serialize_request(key)
            })
            .map_err(|error| Failure::refused(format!("no request can be made: {error}")))?;
        order.finalize_csr(request.der()).await.map_err(|error| self.failed(&error))
    }

    /// The chain that the settings prefer, if the authority has it.
    async fn preferred(&self, account: &AccountRecord, chain: String) -> String {
        let alternates = self.client.last_alternates();
        let Some(wanted) = &self.settings.preferred_chain else { return chain };
        if topmost_issuer(&chain).as_ref() == Some(wanted) {
            return chain;
        }
        match self.alternate(account, wanted, alternates).await {
            Ok(Some(preferred)) => return preferred,
            Ok(None) => {
                let (name, issuer) = (self.name, topmost_issuer(&chain));
                tracing::warn!(name, wanted, ?issuer, "the authority has no such chain");
            }
            // Any chain is better than none.
            Err(Failure { message, .. }) => {
                tracing::warn!(name = self.name, error = message, "the other chains do not come");
            }
        }
        chain
    }

    async fn alternate(
        &self,
        account: &AccountRecord,
        wanted: &String,
        alternates: Vec<String>,
    ) -> Result<Option<String>, Failure> {
        if alternates.is_empty() {
            return Ok(None);
        }
        let signer = Signer::new(self.client, &self.settings.directory, account).await?;
        for url in alternates {
            let chain = signer.post(&url, b"").await?;
            if let Ok(chain) = std::str::from_utf8(&chain)
                && topmost_issuer(chain).as_ref() == Some(wanted)
            {
                return Ok(Some(chain.to_owned()));
            }
        }
        Ok(None)
    }

    /// Why an order has failed, as its challenges say.
    async fn reasons(&self, account: &Account, url: &str) -> String {
        let mut reasons = Vec::new();
        if let Ok(mut order) = account.order(url.to_owned()).await {
            let of_order = order.state().error.as_ref().map(ToString::to_string);
            let mut authorizations = order.authorizations();
            while let Some(Ok(authorization)) = authorizations.next().await {
                let errors = authorization.challenges.iter().filter_map(|c| c.error.as_ref());
                reasons.extend(errors.map(ToString::to_string));
            }
            if reasons.is_empty() {
                reasons.extend(of_order);
            }
        }
        match reasons.is_empty() {
            true => "the authority refused the order and does not say why".to_owned(),
            false => reasons.join("; "),
        }
    }

    async fn drop_order(&self, record: &mut NameRecord) -> Result<(), Failure> {
        record.order = None;
        self.save(record).await
    }

    async fn save(&self, record: &NameRecord) -> Result<(), Failure> {
        Ok(self.host.save(name_key(self.name), Some(encode(record)?)).await?)
    }

    fn failed(&self, error: &Error) -> Failure {
        Failure::from_acme(error, self.client.last_retry_after())
    }
}

/// Whether the authority has given the order up. It may say why before its status says so.
fn has_failed(order: &mut Order) -> bool {
    let state = order.state();
    state.status == OrderStatus::Invalid || state.error.is_some()
}

fn polling() -> RetryPolicy {
    RetryPolicy::new().backoff(1.5).timeout(PATIENCE)
}

/// Whether an order may fare better without saying what it replaces.
fn is_about_replacing(error: &Error) -> bool {
    match error {
        Error::Unsupported(_) => true,
        Error::Api(problem) => problem
            .r#type
            .as_deref()
            .is_some_and(|kind| kind.ends_with(":alreadyReplaced") || kind.ends_with(":malformed")),
        Error::Other(other) => other.downcast_ref::<crate::http::TransportError>().is_none(),
        _ => false,
    }
}
