//! Has [`certify`] look after the certificates of the names that are registered.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use certify::http::Resolve;
use certify::options::AcmeOptions;
use certify::schedule::Validity;
use certify::{Challenge, Current, Host, HostError, Keeper, Record, Wanted};
use config_proto::message::Refusal;
use config_proto::model::RouteName;
use zeroize::Zeroizing;

use super::RunError;
use crate::backend::Resolver;
use crate::config::Configuration;
use crate::config::warnings::terminates;
use crate::gateway::{Gateway, Phase};
use crate::tls::certificates::{Certificate, Source};

/// The work, ready to be spawned; none without `--acme`. It ends when the gateway begins to stop.
///
/// # Errors
/// When `--acme-ca` cannot be read or used.
pub(super) fn keeper(
    options: &AcmeOptions,
    gateway: &Arc<Gateway>,
    configuration: &Configuration,
) -> Result<Option<impl Future<Output = ()> + Send + use<>>, RunError> {
    let Some(settings) = options.settings() else { return Ok(None) };
    let client = options.client(Addresses(gateway.resolver.clone()))?;
    let host = Registered { gateway: Arc::clone(gateway), configuration: configuration.clone() };
    let reports = gateway.certificates.clone();
    let keeper = Keeper::new(host, settings, client, certify::system_clock(), reports);
    let mut phase = gateway.phase.subscribe();
    Ok(Some(async move {
        tokio::select! {
            () = keeper.run() => {}
            _ = phase.wait_for(|phase| *phase != Phase::Serving) => {}
        }
    }))
}

/// The names of the directory are resolved as those of backends are.
struct Addresses(Resolver);

impl Resolve for Addresses {
    fn resolve<'a>(
        &'a self,
        host: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<IpAddr>, String>> + Send + 'a>> {
        Box::pin(async move { self.0.resolve(host).await.map_err(|error| error.to_string()) })
    }
}

/// The names that are registered.
struct Registered {
    gateway: Arc<Gateway>,
    configuration: Configuration,
}

impl Host for Registered {
    /// Exact names whose TLS is terminated here, unless a person gave the certificate that is shown.
    fn wanted(&self) -> (u64, Vec<Wanted>) {
        let snapshot = self.gateway.snapshot.load_full();
        let wanted = snapshot
            .routes
            .iter_after(None)
            .filter(|active| terminates(&active.route))
            .filter_map(|active| {
                let RouteName::Exact(name) = &active.route.name else { return None };
                let shown = snapshot.certificates.find(Some(name));
                let current = match shown.map(|shown| (shown.source(), shown)) {
                    None | Some((Source::SelfSigned, _)) => None,
                    Some((Source::Acme, shown)) if shown.is_own(name) => Some(current(shown)?),
                    Some(_) => return None,
                };
                Some(Wanted { name: name.clone(), current })
            })
            .collect();
        (snapshot.generation, wanted)
    }

    async fn changed(&self, since: u64) {
        self.configuration.generation_other_than(since).await;
    }

    async fn records(&self) -> Result<Vec<Record>, HostError> {
        self.configuration.acme_records().await.map_err(failed)
    }

    async fn save(&self, key: String, record: Option<Zeroizing<Vec<u8>>>) -> Result<(), HostError> {
        self.configuration.save_acme_record(key, record).await.map_err(failed)
    }

    async fn install(
        &self,
        name: String,
        chain_pem: String,
        key_pem: Zeroizing<String>,
    ) -> Result<(), HostError> {
        let installed = self.configuration.install_acme_certificate(name, chain_pem, key_pem);
        installed.await.map_err(failed)
    }

    fn publish(&self, challenge: &Challenge) {
        self.gateway.challenges.publish(challenge);
    }

    fn withdraw(&self, challenge: &Challenge) {
        self.gateway.challenges.withdraw(challenge);
    }
}

fn current(certificate: &Certificate) -> Option<Current> {
    let leaf = certificate.certified_key().cert.first()?.clone();
    let validity =
        Validity { not_before: certificate.not_before(), not_after: certificate.not_after() };
    Some(Current { leaf, validity })
}

fn failed(refusal: Refusal) -> HostError {
    HostError(refusal.message)
}
