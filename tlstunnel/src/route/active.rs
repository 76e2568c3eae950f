//! A route that has been checked and made ready.

use std::sync::Arc;

use config_proto::model::Route;
use rustls::RootCertStore;

use crate::backend::Backends;
use crate::counters::RouteCounters;
use crate::limits::Limits;

/// A route that is ready for connections.
#[derive(Debug)]
pub struct ActiveRoute {
    /// As configured.
    pub route: Route,
    /// The gateway's limits, narrowed by the route's own.
    pub limits: Limits,
    /// Connections of this route at the same time; absent means without limit.
    pub max_connections: Option<u64>,
    /// Where connections go.
    pub backends: Arc<Backends>,
    /// The name's counters.
    pub counters: Arc<RouteCounters>,
    /// Clients must show a certificate that one of these issued.
    pub client_ca: Option<Arc<RootCertStore>>,
    /// The ALPN protocols to offer, best first; absent: the gateway chooses by the coalescing rule.
    pub alpn: Option<Vec<Vec<u8>>>,
}

/// Why a route is refused, and what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidRoute {
    /// No backend in a mode that needs one.
    #[error("the route has no backend: give at least one, for example 10.0.0.7:80, or use mode reject")]
    NoBackends,
}

impl ActiveRoute {
    /// Checks `route` and makes it ready. Backends that `previous` (the route of the same name) has too keep their
    /// health and open connections.
    ///
    /// # Errors
    /// [`InvalidRoute`] says what to change.
    pub fn new(
        route: &Route,
        gateway_limits: &Limits,
        counters: Arc<RouteCounters>,
        previous: Option<&Self>,
    ) -> Result<Self, InvalidRoute> {
        let _ = (route, gateway_limits, counters, previous);
        todo!()
    }
}
