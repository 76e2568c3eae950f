//! Has [`certify`] look after certificates: those of the names that are registered or, in the original's way, those of the
//! domains that are served.

use std::collections::BTreeSet;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use certify::files::Files;
use certify::http::Resolve;
use certify::options::{AcmeOptions, AcmeOptionsError, Issuance};
use certify::schedule::Validity;
use certify::{Challenge, ChallengeKind, Current, Host, HostError, Record, TlsaKeeper, Wanted};
use config_proto::message::Refusal;
use config_proto::model::{Route, RouteName};
use zeroize::Zeroizing;

use crate::backend::Resolver;
use crate::config::Configuration;
use crate::config::warnings::{offers_h2, terminates};
use crate::demand::Demand;
use crate::gateway::{Gateway, Phase, Snapshot};
use crate::options::Options;
use crate::tls::certificates::{Certificate, Source};

/// The work with an authority; none without `--acme`.
///
/// # Errors
/// When something that the options name cannot be used.
pub(super) fn issuance(
    options: &AcmeOptions,
    on_demand: bool,
    gateway: &Arc<Gateway>,
    configuration: &Configuration,
) -> Result<Option<Issuance<Served>>, AcmeOptionsError> {
    if on_demand {
        gateway.demand.enable();
    }
    let names = WantedNames::Registered(Registered {
        domains: options.dns.acme_domain.clone(),
        wildcards: options.acme_challenge == ChallengeKind::Dns01,
    });
    let host = Served::new(gateway, configuration, names);
    options.issuance(host, Addresses(gateway.resolver.clone()), gateway.certificates.clone())
}

/// The original's way: a certificate through DNS for each of `--domains` and what is right below it.
pub(super) fn through_dns(
    options: &Options,
    gateway: &Arc<Gateway>,
    configuration: &Configuration,
) -> Option<TlsaKeeper<Served>> {
    let host = Served::new(gateway, configuration, WantedNames::Domains);
    options.acme.issuance_through_dns(host, gateway.certificates.clone())
}

/// Reads certificate files again when they change.
pub(super) fn watch(
    files: Files,
    options: &Options,
    gateway: &Gateway,
    configuration: &Configuration,
) -> impl Future<Output = ()> + Send + use<> {
    let configuration = configuration.clone();
    let replace = move |replacement| {
        let configuration = configuration.clone();
        async move {
            let replaced = configuration.replace_from_file(replacement).await;
            replaced.map_err(|refusal| refusal.message)
        }
    };
    let every = options.certificates.files.poll();
    files.watch(every, certify::system_clock(), gateway.certificates.clone(), replace)
}

/// Says in the log which certificates end soon.
pub(super) fn announce(
    options: &Options,
    gateway: &Arc<Gateway>,
) -> impl Future<Output = ()> + Send + use<> {
    let gateway = Arc::clone(gateway);
    let shown = move || gateway.snapshot.load().certificates.clone();
    certify::endings::announce(options.certificates.files.alert(), certify::system_clock(), shown)
}

/// Runs `work` until the gateway begins to stop.
pub(super) async fn while_serving(gateway: Arc<Gateway>, work: impl Future<Output = ()>) {
    let mut phase = gateway.phase.subscribe();
    tokio::select! {
        () = work => {}
        _ = phase.wait_for(|phase| *phase != Phase::Serving) => {}
    }
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

    fn alias<'a>(
        &'a self,
        name: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Option<String>, String>> + Send + 'a>> {
        Box::pin(async move { self.0.alias(name).await.map_err(|error| error.to_string()) })
    }
}

/// The gateway as [`certify`] sees it.
#[derive(Clone)]
pub(super) struct Served {
    gateway: Arc<Gateway>,
    configuration: Configuration,
    names: WantedNames,
}

/// Which names are to have certificates.
#[derive(Clone)]
enum WantedNames {
    /// Those that are registered, and those that options name.
    Registered(Registered),
    /// The domains that are served, each with everything right below it.
    Domains,
}

#[derive(Clone)]
struct Registered {
    /// Names and wildcards that are wanted whether there is a route or not.
    domains: Vec<String>,
    /// Whether certificates for wildcards can be obtained.
    wildcards: bool,
}

impl Served {
    fn new(gateway: &Arc<Gateway>, configuration: &Configuration, names: WantedNames) -> Self {
        Self { gateway: Arc::clone(gateway), configuration: configuration.clone(), names }
    }
}

impl Registered {
    /// Names whose TLS is terminated here, and those of options, unless a person gave the certificate that is shown.
    fn wanted(&self, snapshot: &Snapshot, demand: &Demand) -> Vec<Wanted> {
        let of_routes = snapshot
            .routes
            .iter_after(None)
            .filter(|active| terminates(&active.route))
            .filter_map(|active| self.name_of(&active.route, snapshot));
        let names: BTreeSet<String> = of_routes.chain(self.domains.iter().cloned()).collect();
        let wanted = names.iter().filter_map(|name| {
            wanted(name, snapshot.certificates.find(Some(name)), |shown| shown.is_own(name))
        });
        let is_due =
            |wanted: &Wanted| wanted.current.is_some() || self.is_asked_for(&wanted.name, demand);
        wanted.filter(is_due).collect()
    }

    /// The name that a route needs a certificate for. Exact names that a wildcard serves need none of their own, unless
    /// the route offers `h2`: under a shared certificate a browser could send requests for other names there.
    fn name_of(&self, route: &Route, snapshot: &Snapshot) -> Option<String> {
        match &route.name {
            RouteName::Wildcard(parent) if self.wildcards => Some(format!("*.{parent}")),
            RouteName::Exact(name) => {
                let parent = name.split_once('.').map_or("", |(_, parent)| parent);
                let served = self.is_wanted_wildcard(parent, snapshot);
                let shown = snapshot.certificates.find(Some(name));
                let has_own = shown.is_some_and(|shown| shown.is_own(name));
                (!served || has_own || offers_h2(route)).then(|| name.clone())
            }
            _ => None,
        }
    }

    /// Wildcards and names of options need no client.
    fn is_asked_for(&self, name: &str, demand: &Demand) -> bool {
        name.starts_with("*.")
            || self.domains.iter().any(|domain| domain == name)
            || demand.contains(name)
    }

    fn is_wanted_wildcard(&self, parent: &str, snapshot: &Snapshot) -> bool {
        let of_option = |name: &String| name.strip_prefix("*.") == Some(parent);
        let of_route = || {
            let route = snapshot.routes.get(&RouteName::Wildcard(parent.to_owned()));
            route.is_some_and(|active| terminates(&active.route))
        };
        self.wildcards && (self.domains.iter().any(of_option) || of_route())
    }
}

/// A domain whose certificate is to serve everything right below it too.
fn with_wildcard(domain: &str, snapshot: &Snapshot) -> Option<Wanted> {
    let wildcard = format!("*.{domain}");
    let serves_both = |shown: &Certificate| {
        [domain, &wildcard].iter().all(|name| shown.names().iter().any(|own| own == name))
    };
    wanted(domain, snapshot.certificates.find(Some(&wildcard)), serves_both)
}

/// `name`, for which this certificate is shown, and whether that is the one to replace: it comes from the authority, and is
/// the right one, as `fits` says. None where a person gave what is shown.
fn wanted(
    name: &str,
    shown: Option<&Arc<Certificate>>,
    fits: impl Fn(&Certificate) -> bool,
) -> Option<Wanted> {
    let current = match shown.map(|shown| (shown.source(), shown)) {
        None | Some((Source::SelfSigned, _)) => None,
        Some((Source::Acme, shown)) if fits(shown) => {
            let leaf = shown.certified_key().cert.first()?.clone();
            let validity =
                Validity { not_before: shown.not_before(), not_after: shown.not_after() };
            Some(Current { leaf, validity })
        }
        // Another one from the authority covers it, and its own is wanted besides.
        Some((Source::Acme, _)) => None,
        Some(_) => return None,
    };
    Some(Wanted { name: name.to_owned(), current })
}

impl Host for Served {
    fn wanted(&self) -> (u64, Vec<Wanted>) {
        let snapshot = self.gateway.snapshot.load_full();
        let wanted = match &self.names {
            WantedNames::Registered(names) => names.wanted(&snapshot, &self.gateway.demand),
            WantedNames::Domains => {
                let domains = self.configuration.domains();
                domains.iter().filter_map(|domain| with_wildcard(domain, &snapshot)).collect()
            }
        };
        (snapshot.generation, wanted)
    }

    async fn changed(&self, since: u64) {
        tokio::select! {
            () = self.configuration.generation_other_than(since) => {}
            () = self.gateway.demand.grown() => {}
        }
    }

    /// A name with a record was asked for before: its attempts go on, no sooner than they may.
    async fn records(&self) -> Result<Vec<Record>, HostError> {
        let records = self.configuration.acme_records().await.map_err(failed)?;
        if self.gateway.demand.is_enabled() {
            let names = records.iter().filter_map(|(key, _)| certify::name_of_record(key));
            names.for_each(|name| self.gateway.demand.ask(name));
        }
        Ok(records)
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

fn failed(refusal: Refusal) -> HostError {
    HostError(refusal.message)
}
