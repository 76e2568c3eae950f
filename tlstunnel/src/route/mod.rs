//! Routes: which connection goes where.
//!
//! A [`Route`] is what people configured; an [`ActiveRoute`] is the same, checked and made ready for connections. The
//! [`RoutingTable`] finds the active route for a server name.

use std::sync::Arc;

use config_proto::model::{Route, RouteName};
use rpds::RedBlackTreeMapSync;

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
    /// Where connections go.
    pub backends: Arc<Backends>,
    /// The name's counters.
    pub counters: Arc<RouteCounters>,
}

/// Finds the route for a server name. Persistent: a changed copy shares all that did not change.
#[derive(Clone, Debug, Default)]
pub struct RoutingTable {
    routes: RedBlackTreeMapSync<RouteName, Arc<ActiveRoute>>,
}
