//! What all connections share: the current snapshot, limits, counters and the list of live connections.
//!
//! A connection takes the [`Snapshot`] once and keeps it to its end, so that no change touches it.

use std::sync::Arc;

use arc_swap::ArcSwap;
use certify::Challenges;
use tokio::sync::watch;

use crate::backend::Resolver;
use crate::counters::Counters;
use crate::demand::Demand;
use crate::limits::Limits;
use crate::live::LiveConnections;
use crate::route::RoutingTable;
use crate::tls::Termination;
use crate::tls::certificates::CertificateTable;

/// One consistent state of routes and certificates. Cloning and changing one name costs the same with ten names and with
/// a million: both tables are persistent (structure-sharing) maps.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The generation of the configuration that this is.
    pub generation: u64,
    /// Which connection goes where.
    pub routes: RoutingTable,
    /// Which certificate is shown for which name.
    pub certificates: CertificateTable,
}

/// How far a stop has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Connections are accepted.
    #[default]
    Serving,
    /// No new connections are accepted; the open ones go on.
    Draining,
    /// The time for draining is over: connections end.
    Ended,
}

/// The shared heart of a running gateway.
#[derive(Debug)]
pub struct Gateway {
    /// The current routes and certificates. Only [`crate::config`] publishes here.
    pub snapshot: ArcSwap<Snapshot>,
    /// Limits given at start; routes may have narrower ones.
    pub limits: Limits,
    /// Counters of the whole gateway.
    pub counters: Counters,
    /// Every open connection.
    pub live: LiveConnections,
    /// ACME challenges: http-01 is answered by port 80 before it redirects, tls-alpn-01 by port 443.
    pub challenges: Challenges,
    /// Handshake policies with their ticket keys.
    pub tls: Termination,
    /// Names that clients have asked for, where certificates are ordered on demand.
    pub demand: Demand,
    /// How the work on certificates from an authority goes.
    pub certificates: certify::Reports,
    /// Resolves the DNS names of backends, for all routes and threads.
    pub resolver: Resolver,
    /// Serving, draining or ended; connections and listeners subscribe.
    pub phase: watch::Sender<Phase>,
    /// When the gateway started.
    pub started: std::time::Instant,
}

impl Gateway {
    /// A gateway that has no routes yet and asks the system's name servers.
    pub fn new(limits: Limits) -> Arc<Self> {
        Self::with_resolver(limits, Resolver::default())
    }

    /// A gateway that has no routes yet and resolves the names of backends with `resolver`.
    pub fn with_resolver(limits: Limits, resolver: Resolver) -> Arc<Self> {
        Arc::new(Self {
            snapshot: ArcSwap::default(),
            live: LiveConnections::new(&limits),
            limits,
            counters: Counters::default(),
            challenges: Challenges::default(),
            tls: Termination::default(),
            demand: Demand::default(),
            certificates: certify::Reports::default(),
            resolver,
            phase: watch::Sender::default(),
            started: std::time::Instant::now(),
        })
    }
}
