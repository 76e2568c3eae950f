//! Answers to questions: lists, one route, the gateway's state, live connections.

use std::sync::Arc;

use config_proto::message::{
    BackendState, CertificateCursor, CertificateList, MAX_PAGE, Refusal, RouteActivity,
    RouteDetail, RouteList, RouteMemory, Severity, Status, StorageState, Top,
};
use config_proto::model::RouteName;

use super::Control;
use crate::backend::BackendSummary;
use crate::config::warnings::{certificate_for, terminates};
use crate::config::{plan, unix_now};
use crate::gateway::{Phase, Snapshot};
use crate::route::ActiveRoute;
use crate::tls::certificates::Certificate;
use crate::tls::server_config::offered_alpn;

impl Control {
    /// A page of routes in order of their names.
    pub(super) fn list(
        &self,
        filter: Option<&str>,
        after: Option<&RouteName>,
        limit: u32,
    ) -> RouteList {
        let snapshot = self.gateway.snapshot.load_full();
        let limit = page(limit);
        let filter = filter.map(str::to_ascii_lowercase);
        let mut found = snapshot.routes.iter_after(after).filter(|active| {
            filter.as_ref().is_none_or(|text| active.route.name.to_string().contains(text.as_str()))
        });
        let routes = found.by_ref().take(limit).map(|active| active.route.clone()).collect();
        RouteList { generation: snapshot.generation, routes, more: found.next().is_some() }
    }

    /// One route with the live state of its backends.
    pub(super) fn show(&self, name: &str) -> Result<RouteDetail, Refusal> {
        let name = self.configuration.complete(name)?;
        let snapshot = self.gateway.snapshot.load_full();
        let active = snapshot
            .routes
            .get(&name)
            .ok_or_else(|| plan::unknown_route(&snapshot.routes, &name))?;
        let certificate = shown_certificate(active, &snapshot);
        Ok(RouteDetail {
            route: active.route.clone(),
            backends: active.backends.summaries().into_iter().map(backend_state).collect(),
            certificate: certificate.map(Certificate::info),
            alpn: alpn(active, certificate, host_of(&name)),
            open: active.counters.open.value(),
            total: active.counters.total.value(),
            bytes_in: active.counters.bytes_in.value(),
            bytes_out: active.counters.bytes_out.value(),
        })
    }

    /// A page of certificates.
    pub(super) fn certificates(
        &self,
        after: Option<&CertificateCursor>,
        limit: u32,
    ) -> CertificateList {
        self.configuration.certificates(after, page(limit))
    }

    /// The gateway's state.
    ///
    /// # Errors
    /// When the gateway fails.
    pub(super) async fn status(self: &Arc<Self>) -> Result<Status, Refusal> {
        let usage = self.configuration.usage().await;
        self.walking(move |control| control.status_with(usage)).await
    }

    fn status_with(&self, usage: Result<StorageState, Refusal>) -> Status {
        let snapshot = self.gateway.snapshot.load_full();
        let mut problems: Vec<String> = self
            .findings(&snapshot, unix_now())
            .into_iter()
            .filter(|finding| finding.severity < Severity::Note)
            .map(|finding| format!("{}: {}", finding.subject, finding.message))
            .collect();
        let backends_down = snapshot
            .routes
            .iter_after(None)
            .flat_map(|active| active.backends.summaries())
            .filter(|backend| !backend.healthy)
            .count();
        if backends_down > 0 {
            problems
                .push(format!("{backends_down} backends are down; tlstunnel-ctl show says why"));
        }
        // Whoever asks for the state wants to hear of a storage that fails, not to fail with it.
        let storage = usage.unwrap_or_else(|refusal| {
            problems.push(refusal.message);
            StorageState { used: 0, capacity: 0 }
        });
        if storage.used > storage.capacity / 10 * 9 {
            problems.push("the store is more than nine tenths full".to_owned());
        }
        let route_memory = RouteMemory {
            used: snapshot.routes.memory(),
            limit: self.configuration.route_memory(),
        };
        if route_memory.used > route_memory.limit / 10 * 9 {
            problems.push("the routes take more than nine tenths of --route-memory".to_owned());
        }
        if *self.gateway.phase.borrow() != Phase::Serving {
            problems.push("the gateway is stopping".to_owned());
        }
        let certificates = self.certificates(None, MAX_PAGE);
        let counters = &self.gateway.counters;
        Status {
            name: self.settings.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            generation: snapshot.generation,
            routes: count(snapshot.routes.len()),
            domains: self.configuration.domains().to_vec(),
            uptime_seconds: self.gateway.started.elapsed().as_secs(),
            open: count(self.gateway.live.open()),
            total: counters.accepted.value(),
            backends_down: count(backends_down),
            certificates: certificates.certificates,
            more_certificates: certificates.more,
            control_refusals: self.refusals.total(),
            pending: self.configuration.pending(),
            storage,
            route_memory: Some(route_memory),
            problems,
        }
    }

    /// The busiest routes and the oldest connections.
    pub(super) fn top(&self, limit: u32) -> Top {
        let snapshot = self.gateway.snapshot.load_full();
        let limit = page(limit);
        let mut routes: Vec<RouteActivity> = snapshot
            .routes
            .iter_after(None)
            .filter(|active| active.counters.total.value() > 0)
            .map(|active| RouteActivity {
                name: active.route.name.clone(),
                open: active.counters.open.value(),
                total: active.counters.total.value(),
                bytes_in: active.counters.bytes_in.value(),
                bytes_out: active.counters.bytes_out.value(),
            })
            .collect();
        routes.sort_by_key(|route| {
            let bytes = route.bytes_in.saturating_add(route.bytes_out);
            std::cmp::Reverse((route.open, bytes, route.total))
        });
        routes.truncate(limit);
        let counters = &self.gateway.counters;
        let uptime_ms = self.gateway.started.elapsed().as_millis();
        Top {
            uptime_ms: u64::try_from(uptime_ms).unwrap_or(u64::MAX),
            open: count(self.gateway.live.open()),
            total: counters.accepted.value(),
            handshakes: counters.handshakes_tls13.value() + counters.handshakes_tls12.value(),
            handshake_failures: counters.handshake_failures.value()
                + counters.handshake_timeouts.value()
                + counters.hello_malformed.value(),
            bytes_in: counters.bytes_in.value(),
            bytes_out: counters.bytes_out.value(),
            routes,
            connections: self.gateway.live.oldest(limit),
        }
    }
}

/// The certificate that connections of this route are shown.
pub(super) fn shown_certificate<'s>(
    active: &ActiveRoute,
    snapshot: &'s Snapshot,
) -> Option<&'s Certificate> {
    terminates(&active.route)
        .then(|| certificate_for(&active.route.name, &snapshot.certificates))
        .flatten()
}

/// What is offered in ALPN under this certificate.
pub(super) fn alpn(
    active: &ActiveRoute,
    certificate: Option<&Certificate>,
    server_name: Option<&str>,
) -> Vec<String> {
    let Some(certificate) = certificate else { return Vec::new() };
    offered_alpn(active.alpn.as_deref(), certificate, server_name)
        .iter()
        .map(|protocol| String::from_utf8_lossy(protocol).into_owned())
        .collect()
}

fn host_of(name: &RouteName) -> Option<&str> {
    match name {
        RouteName::Exact(host) => Some(host),
        _ => None,
    }
}

fn backend_state(summary: BackendSummary) -> BackendState {
    BackendState {
        address: summary.address.to_string(),
        healthy: summary.healthy,
        open: summary.open,
        total: summary.total,
        failures: summary.failures,
        last_error: summary.last_error,
    }
}

fn page(limit: u32) -> usize {
    usize::try_from(limit.clamp(1, MAX_PAGE)).unwrap_or(1)
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}
