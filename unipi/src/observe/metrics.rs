//! Metrics in the OpenMetrics text format, which Prometheus reads: collected from the server's counters when asked.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use control_port::Refusals;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType::{self, Counter, Gauge};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use crate::serve::connection::{Answer, Failed};
use crate::serve::{Chunks, Client, Server, finish};
use crate::sites::Hosted;

const KIND: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Everything that is measured, and the answers to who asks.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// Measures a server, and the refusals of its control port where it has one.
    pub(crate) fn new(server: Arc<Server>, refusals: Option<Arc<Refusals>>) -> Self {
        let mut registry = Registry::with_prefix("unipi");
        registry.register_collector(Box::new(Source { server, refusals }));
        Self { registry }
    }

    fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl Answer for Metrics {
    async fn answer(self: Arc<Self>, _: Client, request: Request<Incoming>) -> Response<Chunks> {
        let mut response = Response::new(Chunks::default());
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, plain);
        if request.uri().path() != "/metrics" {
            *response.status_mut() = StatusCode::NOT_FOUND;
            *response.body_mut() = "there is /metrics\n".into();
        } else if ![Method::GET, Method::HEAD].contains(request.method()) {
            *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        } else if let Ok(text) = self.text() {
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(KIND));
            *response.body_mut() = text.into();
        } else {
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        }
        let mut response = finish(response);
        if request.method() == Method::HEAD {
            *response.body_mut() = Chunks::default();
        }
        response
    }

    fn opened(&self, _: bool) {}

    fn failed(&self, _: Failed) {}
}

#[derive(Debug)]
struct Source {
    server: Arc<Server>,
    refusals: Option<Arc<Refusals>>,
}

impl Collector for Source {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let server = &self.server;
        let counters = &server.counters;
        let mut out = Families(encoder);
        let classes = ["1xx", "2xx", "3xx", "4xx", "5xx"].into_iter().zip(&counters.answers);
        let answers: Vec<_> = classes.map(|(class, count)| (class, count.load(Relaxed))).collect();
        out.counters("answers", "Answers by class of status", "class", &answers)?;
        let hooks = [
            ("taken", counters.hooks_taken.load(Relaxed)),
            ("ignored", counters.hooks_ignored.load(Relaxed)),
            ("refused", counters.hooks_refused.load(Relaxed)),
        ];
        out.counters("webhooks", "Webhooks by what was done about them", "result", &hooks)?;
        out.counter("connections", "Connections since the start", None, &counters.connections)?;
        let failed = [
            ("handshake", counters.handshakes_failed.load(Relaxed)),
            ("proxy_header", counters.proxy_headers_failed.load(Relaxed)),
        ];
        out.counters(
            "connections_failed",
            "Connections that ended before a request",
            "why",
            &failed,
        )?;
        out.counter("redirects", "Requests that were sent to https", None, &counters.redirects)?;
        if let Some(refusals) = &self.refusals {
            let refused: Vec<_> = refusals.totals().collect();
            let help = "Refusals at the control port by reason";
            out.counters("control_refusals", help, "reason", &refused)?;
        }
        out.counter("body", "Bodies of answers", Some(&Unit::Bytes), &counters.body_bytes)?;
        let open = counters.open.load(Relaxed);
        out.gauge("connections_open", "Open connections", None, open)?;
        let sites = server.sites.all();
        out.gauge("sites", "Sites", None, count(sites.len()))?;
        out.sites(&sites, "remote_looks", "Looks at the remote", None, Counter, |site| {
            site.requests.looks.load(Relaxed)
        })?;
        out.sites(&sites, "remote_failures", "Looks or fetches that failed", None, Counter, |s| {
            s.requests.failures.load(Relaxed)
        })?;
        let current = |site: &Hosted| site.generations.current();
        out.sites(&sites, "generation", "The live generation; 0 without one", None, Gauge, |s| {
            current(s).map_or(0, |current| current.number)
        })?;
        let bytes = Some(&Unit::Bytes);
        out.sites(&sites, "site_size", "The site without variants", bytes, Gauge, |s| {
            current(s).map_or(0, |current| current.site.size())
        })?;
        out.sites(&sites, "site_files", "Files of the site", None, Gauge, |s| {
            current(s).map_or(0, |current| count(current.site.len()))
        })?;
        out.sites(&sites, "site_problems", "Problems of the site", None, Gauge, |s| {
            current(s).map_or(0, |current| count(current.site.problems().len()))
        })?;
        out.sites(
            &sites,
            "site_failing",
            "1 while the last attempt has failed",
            None,
            Gauge,
            |s| s.failure().is_some().into(),
        )?;
        out.sites(&sites, "site_pinned", "1 while new generations wait", None, Gauge, |s| {
            s.generations.is_pinned().into()
        })?;
        let seconds = Some(&Unit::Seconds);
        out.sites(&sites, "commit_time", "The commit, since 1970", seconds, Gauge, |s| {
            current(s).map_or(0, |current| current.site.commit().time)
        })
    }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// Writes metric families.
struct Families<'e>(DescriptorEncoder<'e>);

impl Families<'_> {
    fn counter(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        value: &AtomicU64,
    ) -> fmt::Result {
        let family = self.0.encode_descriptor(name, help, unit, MetricType::Counter)?;
        ConstCounter::new(value.load(Relaxed)).encode(family)
    }

    fn gauge(&mut self, name: &str, help: &str, unit: Option<&Unit>, value: u64) -> fmt::Result {
        let family = self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(family)
    }

    /// A family with one value for each site.
    fn sites(
        &mut self,
        sites: &[Arc<Hosted>],
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        kind: MetricType,
        value: impl Fn(&Hosted) -> u64,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, unit, kind)?;
        for site in sites {
            let labels = [("site", site.name.as_str())];
            let mut sample = family.encode_family(&labels)?;
            match kind {
                Counter => sample.encode_counter::<NoLabelSet, _, u64>(&value(site), None)?,
                _ => sample.encode_gauge(&i64::try_from(value(site)).unwrap_or(i64::MAX))?,
            }
        }
        Ok(())
    }

    fn counters(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: &[(&str, u64)],
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (value, count) in values {
            let labels = [(label, *value)];
            let mut sample = family.encode_family(&labels)?;
            sample.encode_counter::<NoLabelSet, _, u64>(count, None)?;
        }
        Ok(())
    }
}
