//! What a route takes of memory while it is served: an estimate from its settings alone, so that what would not fit is
//! refused before anything is made of it.

use std::mem::size_of;
use std::sync::atomic::AtomicUsize;

use config_proto::model::{BackendAddress, BackendHost, Mode, Route, RouteName, RouteSettings};

use super::ActiveRoute;
use crate::backend::{Backend, Backends};
use crate::counters::RouteCounters;

/// What an allocation takes besides its content, with what it is rounded up by.
const ALLOCATION: usize = 24;
/// The two counts of an `Arc`.
const COUNTS: usize = 2 * size_of::<AtomicUsize>();
/// Key, value and node of the routing table's tree.
const TREE: usize = 64 + size_of::<RouteName>() + size_of::<usize>() + 2 * (COUNTS + ALLOCATION);
/// A backend that failed keeps the reason.
const LAST_ERROR: usize = 64;
/// A running check: its task and what it holds.
const CHECK: usize = 2048;
/// TLS to backends: a configuration with room for its sessions.
const CONNECTOR: usize = 8 * 1024;

/// The bytes of memory that `route` takes while it is served, estimated. The same for equal settings, and within a factor
/// of two of what is measured (`tests/route_memory.rs`).
pub fn cost(route: &Route) -> u64 {
    let RouteSettings { backends, mode, alpn, client_ca, description, backend_tls, health, .. } =
        &route.settings;
    let shared = |content: usize| content + COUNTS + ALLOCATION;
    let text = |length: usize| length + ALLOCATION;
    let fixed = shared(size_of::<ActiveRoute>())
        + shared(size_of::<RouteCounters>())
        + shared(size_of::<Backends>())
        + TREE;
    // In the table, in the route, and in what the route is found by.
    let name = 2 * text(route.name.to_string().len());
    let each = |backend: &BackendAddress| {
        let host = match &backend.host {
            BackendHost::Ip(_) => 0,
            BackendHost::Dns(name) => 2 * text(name.len()),
        };
        shared(size_of::<Backend>())
            + size_of::<BackendAddress>()
            + size_of::<usize>()
            + LAST_ERROR
            + host
            + health.as_ref().map_or(0, |_| CHECK)
    };
    // As text, and as what was parsed from it.
    let long = |pem: &Option<String>| pem.as_ref().map_or(0, |pem| 2 * text(pem.len()));
    let protocols = alpn.iter().flatten().map(|protocol| 2 * (text(protocol.len()) + 24));
    let tls = match mode {
        Mode::Reencrypt => CONNECTOR,
        Mode::Terminate | Mode::Passthrough | Mode::Reject => 0,
    };
    let all = fixed
        + name
        + backends.iter().map(each).sum::<usize>()
        + protocols.sum::<usize>()
        + long(client_ca)
        + backend_tls.as_ref().map_or(0, |tls| long(&tls.ca))
        + description.as_ref().map_or(0, |description| text(description.len()))
        + tls;
    u64::try_from(all).unwrap_or(u64::MAX)
}
