//! Metrics in the OpenMetrics text format, which Prometheus reads: collected from the gateway's own counters when asked.
//!
//! Nothing is registered for a route: its samples are written while it is in the snapshot, and are gone with it. Routes
//! that no connection has come for yet have no samples, so that a million names that sleep cost nothing here.

use std::fmt;
use std::sync::Arc;

use control_port::Refusals;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::{Registry, Unit};

use crate::config::unix_now;
use crate::counters::{Counters, Histogram, LATENCY_BOUNDS_US};
use crate::gateway::{Gateway, Snapshot};
use crate::route::ActiveRoute;

use super::system;

const NO_LABELS: [(&str, &str); 0] = [];

/// The media type of [`Metrics::text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Everything that is measured.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// Measures a gateway. `syslog_dropped` counts log lines that were lost on their way to a syslog server.
    pub fn new(
        gateway: Arc<Gateway>,
        refusals: Arc<Refusals>,
        syslog_dropped: Option<Arc<crate::counters::Counter>>,
    ) -> Self {
        let mut registry = Registry::with_prefix("tlstunnel");
        registry.register_collector(Box::new(Source { gateway, refusals, syslog_dropped }));
        Self { registry }
    }

    /// The metrics now.
    ///
    /// # Errors
    /// Never in practice: writing to memory does not fail.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[derive(Debug)]
struct Source {
    gateway: Arc<Gateway>,
    refusals: Arc<Refusals>,
    syslog_dropped: Option<Arc<crate::counters::Counter>>,
}

impl Collector for Source {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Families { encoder };
        let snapshot = self.gateway.snapshot.load_full();
        self.whole_gateway(&mut out, &snapshot)?;
        connections(&mut out, &self.gateway.counters)?;
        own(&mut out)?;
        certificates(&mut out, &snapshot)?;
        issuance(&mut out, &self.gateway.certificates.read())?;
        let routes: Vec<&Arc<ActiveRoute>> = snapshot
            .routes
            .iter_after(None)
            .filter(|active| {
                active.counters.total.value() > 0 || active.counters.failed.value() > 0
            })
            .collect();
        per_route(&mut out, &routes)?;
        backends(&mut out, &snapshot)
    }
}

impl Source {
    fn whole_gateway(&self, out: &mut Families<'_>, snapshot: &Snapshot) -> fmt::Result {
        out.family("build", "The program", MetricType::Info, |f| {
            f.encode_info(&[("version", env!("CARGO_PKG_VERSION"))])
        })?;
        out.gauge(
            "uptime",
            "Time since start",
            Some(&Unit::Seconds),
            self.gateway.started.elapsed().as_secs(),
        )?;
        out.gauge(
            "config_generation",
            "The current generation of the configuration",
            None,
            snapshot.generation,
        )?;
        out.gauge("routes", "Routes", None, count(snapshot.routes.len()))?;
        out.gauge(
            "route_memory",
            "Memory that the routes take, estimated",
            Some(&Unit::Bytes),
            snapshot.routes.memory(),
        )?;
        let open = count(self.gateway.live.open());
        out.gauge("connections_open", "Open connections", None, open)?;
        let control = self.gateway.counters.control_requests.value();
        out.counter("control_requests", "Control requests that their key permits", None, control)?;
        out.family(
            "control_refusals",
            "Refusals at the control port by reason",
            MetricType::Counter,
            |f| {
                self.refusals
                    .totals()
                    .try_for_each(|(reason, n)| counter(f, &[("reason", reason)], n))
            },
        )?;
        if let Some(dropped) = &self.syslog_dropped {
            out.counter(
                "syslog_dropped",
                "Log lines lost before the syslog server",
                None,
                dropped.value(),
            )?;
        }
        Ok(())
    }
}

fn connections(out: &mut Families<'_>, counters: &Counters) -> fmt::Result {
    out.counter(
        "connections_accepted",
        "TLS connections accepted",
        None,
        counters.accepted.value(),
    )?;
    let over_cap = counters.refused_over_cap.value();
    out.counter(
        "connections_over_cap",
        "Connections refused because a cap was reached",
        None,
        over_cap,
    )?;
    out.family("handshakes", "TLS handshakes that succeeded", MetricType::Counter, |f| {
        counter(f, &[("version", "1.3")], counters.handshakes_tls13.value())?;
        counter(f, &[("version", "1.2")], counters.handshakes_tls12.value())
    })?;
    let resumed = counters.handshakes_resumed.value();
    out.counter("handshakes_resumed", "Handshakes that resumed a session", None, resumed)?;
    out.family(
        "handshake_failures",
        "Connections without a handshake, by reason",
        MetricType::Counter,
        |f| {
            counter(f, &[("reason", "malformed")], counters.hello_malformed.value())?;
            counter(f, &[("reason", "timeout")], counters.handshake_timeouts.value())?;
            counter(f, &[("reason", "tls")], counters.handshake_failures.value())
        },
    )?;
    let unknown = counters.unknown_names.value();
    out.counter("unknown_names", "Connections for names without a route", None, unknown)?;
    let unreachable = counters.backend_unreachable.value();
    out.counter(
        "backend_unreachable",
        "Connections that no backend could serve",
        None,
        unreachable,
    )?;
    out.family("forwarded_bytes", "Bytes forwarded", MetricType::Counter, |f| {
        counter(f, &[("direction", "in")], counters.bytes_in.value())?;
        counter(f, &[("direction", "out")], counters.bytes_out.value())
    })?;
    out.family("http_requests", "Requests on the http port by answer", MetricType::Counter, |f| {
        counter(f, &[("answer", "redirect")], counters.redirects.value())?;
        counter(f, &[("answer", "refused")], counters.http_refused.value())
    })
}

/// What the system says of this program and its network; nothing where it does not say.
fn own(out: &mut Families<'_>) -> fmt::Result {
    let process = system::process();
    out.with_unit(
        "process_memory",
        "Memory of this program by kind, as /proc/self/status has it",
        &Unit::Bytes,
        MetricType::Gauge,
        |f| {
            process.memory.iter().try_for_each(|(kind, n)| gauge(f, &[("kind", *kind)], signed(*n)))
        },
    )?;
    if let Some(threads) = process.threads {
        out.gauge("process_threads", "Threads of this program", None, threads)?;
    }
    out.family(
        "network",
        "Sockets of this program's network and what they hold, as /proc/net/sockstat has it",
        MetricType::Gauge,
        |f| {
            system::sockets().into_iter().try_for_each(|sample| {
                gauge(f, &[("of", sample.of), ("count", sample.count)], signed(sample.n))
            })
        },
    )
}

fn issuance(out: &mut Families<'_>, report: &certify::Report) -> fmt::Result {
    out.gauge("acme_names", "Names looked after", None, count(report.names))?;
    out.counter("acme_orders", "Orders placed with the authority", None, report.orders)?;
    out.family("acme_attempts", "Attempts to obtain a certificate", MetricType::Counter, |f| {
        counter(f, &[("result", "obtained")], report.obtained)?;
        counter(f, &[("result", "failed")], report.failed)
    })?;
    out.family(
        "clock_ahead_seconds",
        "Seconds that the clock is ahead of the authority's; 0 when it is right",
        MetricType::Gauge,
        |f| gauge(f, &NO_LABELS, report.clock_ahead.unwrap_or(0)),
    )?;
    out.family(
        "certificate_file_errors",
        "Certificate files that have changed and cannot be used",
        MetricType::Gauge,
        |f| report.files.keys().try_for_each(|file| gauge(f, &[("file", file.clone())], 1)),
    )?;
    let of_authority = report.authority.as_ref().map_or(0, |problem| problem.failures.into());
    out.gauge("acme_authority_failures", "Failures in a row for all names", None, of_authority)?;
    out.family("acme_failures", "Failures in a row of a name", MetricType::Gauge, |f| {
        report.failing.iter().try_for_each(|(name, problem)| {
            gauge(f, &[("name", name.clone())], problem.failures.into())
        })
    })
}

fn certificates(out: &mut Families<'_>, snapshot: &Snapshot) -> fmt::Result {
    let each = |f: &mut MetricEncoder<'_>, value: &dyn Fn(i64) -> i64| {
        snapshot.certificates.iter().try_for_each(|certificate| {
            let labels = [
                ("name", certificate.names().first().cloned().unwrap_or_default()),
                ("source", certificate.source().to_string()),
                ("sha256", certificate.sha256().get(..16).unwrap_or_default().to_owned()),
            ];
            gauge(f, &labels, value(certificate.not_after()))
        })
    };
    let now = unix_now();
    out.family(
        "certificate_not_after",
        "End of validity, seconds since 1970",
        MetricType::Gauge,
        |f| each(f, &|not_after| not_after),
    )?;
    out.family(
        "certificate_seconds_left",
        "Seconds until the end of validity",
        MetricType::Gauge,
        |f| each(f, &|not_after| not_after.saturating_sub(now)),
    )
}

fn per_route(out: &mut Families<'_>, routes: &[&Arc<ActiveRoute>]) -> fmt::Result {
    let each = |f: &mut MetricEncoder<'_>, value: fn(&ActiveRoute) -> u64| {
        routes.iter().try_for_each(|active| counter(f, &of_route(active), value(active)))
    };
    out.family("route_connections", "Connections by route", MetricType::Counter, |f| {
        each(f, |active| active.counters.total.value())
    })?;
    out.family(
        "route_failures",
        "Connections that no backend could serve, by route",
        MetricType::Counter,
        |f| each(f, |active| active.counters.failed.value()),
    )?;
    out.family("route_open", "Open connections by route", MetricType::Gauge, |f| {
        routes.iter().try_for_each(|active| {
            gauge(f, &of_route(active), signed(active.counters.open.value()))
        })
    })?;
    out.family(
        "route_bytes_in",
        "Bytes from clients to backends by route",
        MetricType::Counter,
        |f| each(f, |active| active.counters.bytes_in.value()),
    )?;
    out.family(
        "route_bytes_out",
        "Bytes from backends to clients by route",
        MetricType::Counter,
        |f| each(f, |active| active.counters.bytes_out.value()),
    )?;
    out.with_unit(
        "route_setup",
        "Time from accept to the first byte sent to the backend, by route",
        &Unit::Seconds,
        MetricType::Histogram,
        |f| {
            routes.iter().try_for_each(|active| {
                histogram(f, &of_route(active), &active.counters.setup_latency)
            })
        },
    )
}

fn backends(out: &mut Families<'_>, snapshot: &Snapshot) -> fmt::Result {
    // Backends that nobody has used and no check watches tell nothing.
    let backends: Vec<_> = snapshot
        .routes
        .iter_after(None)
        .flat_map(|active| {
            let route = active.route.name.to_string();
            let watched = active.route.settings.health.is_some();
            active
                .backends
                .summaries()
                .into_iter()
                .map(move |backend| (route.clone(), watched, backend))
        })
        .filter(|(_, watched, backend)| *watched || backend.total > 0 || backend.failures > 0)
        .map(|(route, _, backend)| {
            ([("route", route), ("backend", backend.address.to_string())], backend)
        })
        .collect();
    out.family("backend_up", "Whether a backend is used: 1 or 0", MetricType::Gauge, |f| {
        backends.iter().try_for_each(|(labels, backend)| gauge(f, labels, backend.healthy.into()))
    })?;
    out.family("backend_open", "Open connections by backend", MetricType::Gauge, |f| {
        backends.iter().try_for_each(|(labels, backend)| gauge(f, labels, signed(backend.open)))
    })?;
    out.family("backend_connections", "Connections by backend", MetricType::Counter, |f| {
        backends.iter().try_for_each(|(labels, backend)| counter(f, labels, backend.total))
    })?;
    out.family(
        "backend_failures",
        "Failed attempts to connect by backend",
        MetricType::Counter,
        |f| backends.iter().try_for_each(|(labels, backend)| counter(f, labels, backend.failures)),
    )
}

/// Writes families of samples.
struct Families<'e> {
    encoder: DescriptorEncoder<'e>,
}

impl Families<'_> {
    fn family(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        samples: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
    ) -> fmt::Result {
        samples(&mut self.encoder.encode_descriptor(name, help, None, kind)?)
    }

    fn with_unit(
        &mut self,
        name: &str,
        help: &str,
        unit: &Unit,
        kind: MetricType,
        samples: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
    ) -> fmt::Result {
        samples(&mut self.encoder.encode_descriptor(name, help, Some(unit), kind)?)
    }

    fn counter(&mut self, name: &str, help: &str, unit: Option<&Unit>, n: u64) -> fmt::Result {
        self.encoder
            .encode_descriptor(name, help, unit, MetricType::Counter)?
            .encode_counter(&n, NO_EXEMPLAR)
    }

    fn gauge(&mut self, name: &str, help: &str, unit: Option<&Unit>, n: u64) -> fmt::Result {
        self.encoder
            .encode_descriptor(name, help, unit, MetricType::Gauge)?
            .encode_gauge(&signed(n))
    }
}

fn counter(f: &mut MetricEncoder<'_>, labels: &impl EncodeLabelSet, n: u64) -> fmt::Result {
    f.encode_family(labels)?.encode_counter(&n, NO_EXEMPLAR)
}

fn gauge(f: &mut MetricEncoder<'_>, labels: &impl EncodeLabelSet, n: i64) -> fmt::Result {
    f.encode_family(labels)?.encode_gauge(&n)
}

fn histogram(
    f: &mut MetricEncoder<'_>,
    labels: &impl EncodeLabelSet,
    histogram: &Histogram,
) -> fmt::Result {
    let (counts, sum_us) = histogram.totals();
    let bounds = LATENCY_BOUNDS_US.iter().map(|us| seconds(*us)).chain([f64::MAX]);
    let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
    f.encode_family(labels)?.encode_histogram::<NoLabelSet>(
        seconds(sum_us),
        counts.iter().sum(),
        &buckets,
        None,
    )
}

fn of_route(active: &ActiveRoute) -> [(&'static str, String); 1] {
    [("route", active.route.name.to_string())]
}

fn seconds(us: u64) -> f64 {
    std::time::Duration::from_micros(us).as_secs_f64()
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

const NO_EXEMPLAR: Option<&'static Exemplar<NoLabelSet, u64>> = None;
