//! What a running gateway tells of itself: its routes, their backends, what flows now.

use serde::{Deserialize, Serialize};

use super::{CertificateInfo, Pending};
use crate::model::{Route, RouteName};

/// A page of routes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RouteList {
    /// The current generation.
    pub generation: u64,
    /// Routes in order of their names.
    pub routes: Vec<Route>,
    /// Whether there are more after the last one.
    pub more: bool,
}

/// One route and the live state of its backends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RouteDetail {
    /// The route as configured.
    pub route: Route,
    /// Its backends, in the configured order.
    pub backends: Vec<BackendState>,
    /// The certificate that is served for it, when TLS is terminated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<CertificateInfo>,
    /// ALPN protocols that are offered, best first.
    #[serde(default)]
    pub alpn: Vec<String>,
    /// Open connections.
    pub open: u64,
    /// Connections since start.
    pub total: u64,
    /// Bytes from clients to backends since start.
    pub bytes_in: u64,
    /// Bytes from backends to clients since start.
    pub bytes_out: u64,
}

/// The live state of a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BackendState {
    /// As configured.
    pub address: String,
    /// Whether it is used.
    pub healthy: bool,
    /// Open connections.
    pub open: u64,
    /// Connections since start.
    pub total: u64,
    /// Failed connection attempts since start.
    pub failures: u64,
    /// The last failure in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// The gateway's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Status {
    /// The instance's name (`--name`).
    pub name: String,
    /// The program's version.
    pub version: String,
    /// The current generation.
    pub generation: u64,
    /// Number of routes.
    pub routes: u64,
    /// The domains that bare names go under, first first.
    pub domains: Vec<String>,
    /// Seconds since start.
    pub uptime_seconds: u64,
    /// Open connections.
    pub open: u64,
    /// Connections since start.
    pub total: u64,
    /// Backends that are down now.
    pub backends_down: u64,
    /// The first page of certificates, as of [`Request::CertList`](super::Request::CertList).
    pub certificates: Vec<CertificateInfo>,
    /// Whether there are more certificates after the last one.
    #[serde(default)]
    pub more_certificates: bool,
    /// Control requests refused since start: wrong keys, replays, malformed frames.
    pub control_refusals: u64,
    /// A change that waits for confirmation: its generation and the seconds left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<Pending>,
    /// Bytes used and capacity of the store.
    pub storage: StorageState,
    /// Memory that the routes take; older gateways do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route_memory: Option<RouteMemory>,
    /// What needs attention, in words; what is left out of very many is counted by the last.
    #[serde(default)]
    pub problems: Vec<String>,
}

/// How full the store is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct StorageState {
    /// Bytes in use.
    pub used: u64,
    /// Bytes in all.
    pub capacity: u64,
}

/// Memory that the routes take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RouteMemory {
    /// Bytes that they take, estimated.
    pub used: u64,
    /// Bytes that they may take (`--route-memory`).
    pub limit: u64,
}

/// Live connections and counters, for a screen that refreshes itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Top {
    /// Milliseconds since the gateway's start; rates are differences of counters over differences of this.
    pub uptime_ms: u64,
    /// Open connections.
    pub open: u64,
    /// Connections since start.
    pub total: u64,
    /// TLS handshakes that succeeded since start.
    pub handshakes: u64,
    /// TLS handshakes that failed since start.
    pub handshake_failures: u64,
    /// Bytes from clients to backends since start.
    pub bytes_in: u64,
    /// Bytes from backends to clients since start.
    pub bytes_out: u64,
    /// The busiest routes.
    pub routes: Vec<RouteActivity>,
    /// The oldest open connections.
    pub connections: Vec<ConnectionInfo>,
}

/// Counters of a route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RouteActivity {
    /// Which route.
    pub name: RouteName,
    /// Open connections.
    pub open: u64,
    /// Connections since start.
    pub total: u64,
    /// Bytes from clients to backends since start.
    pub bytes_in: u64,
    /// Bytes from backends to clients since start.
    pub bytes_out: u64,
}

/// A live connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ConnectionInfo {
    /// Its number since start.
    pub id: u64,
    /// The client.
    pub client: String,
    /// The server name asked for.
    pub server_name: Option<String>,
    /// The route's name.
    pub route: Option<RouteName>,
    /// The backend.
    pub backend: Option<String>,
    /// Milliseconds since it was accepted.
    pub age_ms: u64,
    /// Bytes from client to backend so far.
    pub bytes_in: u64,
    /// Bytes from backend to client so far.
    pub bytes_out: u64,
}
