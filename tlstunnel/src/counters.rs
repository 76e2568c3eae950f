//! Counters that connections write and metrics, `status` and `top` read. Plain relaxed atomics: no lock on the way of a
//! connection.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn add_one(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The number now.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down; every `enter` is paired with the drop of its guard.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// One more, until `leave`.
    pub fn enter(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One less.
    pub fn leave(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// The number now.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counters of the whole gateway.
#[derive(Debug, Default)]
pub struct Counters {
    /// TLS connections accepted.
    pub accepted: Counter,
    /// Connections refused because a cap was reached (total, per client, per route).
    pub refused_over_cap: Counter,
    /// TLS 1.3 handshakes that succeeded.
    pub handshakes_tls13: Counter,
    /// TLS 1.2 handshakes that succeeded.
    pub handshakes_tls12: Counter,
    /// Handshakes that resumed a session; also counted by version.
    pub handshakes_resumed: Counter,
    /// Connections whose first bytes were no ClientHello, or a damaged one.
    pub hello_malformed: Counter,
    /// Connections that did not finish ClientHello and handshake in time.
    pub handshake_timeouts: Counter,
    /// Handshakes that failed otherwise: no common version, refused client certificate, an alert from the client.
    pub handshake_failures: Counter,
    /// Server names that no route matches.
    pub unknown_names: Counter,
    /// Connections for which no backend could be reached.
    pub backend_unreachable: Counter,
    /// Bytes from clients to backends.
    pub bytes_in: Counter,
    /// Bytes from backends to clients.
    pub bytes_out: Counter,
    /// Requests on port 80 that were answered with a redirect.
    pub redirects: Counter,
    /// Requests on port 80 that were refused.
    pub http_refused: Counter,
    /// Control requests carried out.
    pub control_requests: Counter,
}

/// Counters of one route. They belong to the route's name: replacing a route keeps them.
#[derive(Debug, Default)]
pub struct RouteCounters {
    /// Open connections.
    pub open: Gauge,
    /// Connections since start.
    pub total: Counter,
    /// Connections that no backend could serve.
    pub failed: Counter,
    /// Bytes from clients to backends.
    pub bytes_in: Counter,
    /// Bytes from backends to clients.
    pub bytes_out: Counter,
    /// Time from accept to the first byte sent to the backend.
    pub setup_latency: Histogram,
}

/// Upper bounds of the latency buckets in microseconds; the last bucket has none.
pub const LATENCY_BOUNDS_US: [u64; 12] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    5_000_000,
];

/// A histogram of durations with fixed buckets.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Counter; LATENCY_BOUNDS_US.len() + 1],
    sum_us: Counter,
}

impl Histogram {
    /// Counts one duration.
    pub fn observe(&self, duration: std::time::Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = LATENCY_BOUNDS_US.partition_point(|&bound| bound < us);
        self.buckets[bucket].add_one();
        self.sum_us.add(us);
    }

    /// How many durations fell into each bucket, and the sum of all in microseconds.
    pub fn totals(&self) -> ([u64; LATENCY_BOUNDS_US.len() + 1], u64) {
        (std::array::from_fn(|i| self.buckets[i].value()), self.sum_us.value())
    }
}
