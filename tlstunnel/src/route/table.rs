//! Finds the route for a server name.

use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use config_proto::model::RouteName;
use rpds::RedBlackTreeMapSync;

use super::{ActiveRoute, cost};

/// Finds the route for a server name. Persistent: a changed copy shares all that did not change, so a change costs the
/// same for every reader and `O(log n)` for the writer.
#[derive(Clone, Debug, Default)]
pub struct RoutingTable {
    routes: RedBlackTreeMapSync<RouteName, Arc<ActiveRoute>>,
    /// The sum of their [`cost`].
    memory: u64,
}

/// What [`RoutingTable::lookup`] found, and why.
#[derive(Clone, Debug)]
pub struct Match {
    /// The route, if there is one.
    pub route: Option<Arc<ActiveRoute>>,
    /// Why this one, or why none.
    pub reason: Reason,
}

/// Why a route was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A route has exactly this name.
    Exact,
    /// The longest wildcard above this name.
    Wildcard,
    /// No route has this name: the route `default`.
    UnknownName,
    /// No server name was sent: the route `no-sni`.
    NoSni,
    /// No server name was sent and there is no route `no-sni`: the route `default`.
    NoSniDefault,
    /// No route has this name and there is no route `default`.
    NoRouteForName,
    /// No server name was sent, and there is neither a route `no-sni` nor a route `default`.
    NoRouteWithoutName,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exact => "a route has exactly this name",
            Self::Wildcard => "the longest wildcard that covers this name",
            Self::UnknownName => "no other route has this name, so the route default takes it",
            Self::NoSni => "no server name was sent, so the route no-sni takes it",
            Self::NoSniDefault => {
                "no server name was sent and there is no route no-sni, so the route default takes it"
            }
            Self::NoRouteForName => "no route has this name, and there is no route default",
            Self::NoRouteWithoutName => {
                "no server name was sent, and there is neither a route no-sni nor a route default"
            }
        })
    }
}

impl RoutingTable {
    /// A copy with `route` in place of the one of the same name.
    #[must_use]
    pub fn with(&self, route: Arc<ActiveRoute>) -> Self {
        let memory = self.memory_without(&route.route.name).saturating_add(cost(&route.route));
        Self { routes: self.routes.insert(route.route.name.clone(), route), memory }
    }

    /// A copy without the route `name`.
    #[must_use]
    pub fn without(&self, name: &RouteName) -> Self {
        Self { routes: self.routes.remove(name), memory: self.memory_without(name) }
    }

    fn memory_without(&self, name: &RouteName) -> u64 {
        let cost = self.routes.get(name).map_or(0, |active| cost(&active.route));
        self.memory.saturating_sub(cost)
    }

    /// The route for a connection with this server name, which must be lower case without final dot
    /// ([`config_proto::model::normalize_host`]).
    pub fn lookup(&self, server_name: Option<&str>) -> Match {
        let find = |name: &RouteName| self.routes.get(name).cloned();
        let found = |route, reason| Match { route: Some(route), reason };
        let Some(server_name) = server_name else {
            return find(&RouteName::NoSni)
                .map(|route| found(route, Reason::NoSni))
                .or_else(|| Some(found(find(&RouteName::Default)?, Reason::NoSniDefault)))
                .unwrap_or(Match { route: None, reason: Reason::NoRouteWithoutName });
        };
        if let Some(route) = find(&RouteName::Exact(server_name.to_owned())) {
            return found(route, Reason::Exact);
        }
        // The parents of a name, longest first: at most as many as it has dots.
        for (dot, _) in server_name.match_indices('.') {
            if let Some(route) = find(&RouteName::Wildcard(server_name[dot + 1..].to_owned())) {
                return found(route, Reason::Wildcard);
            }
        }
        match find(&RouteName::Default) {
            Some(route) => found(route, Reason::UnknownName),
            None => Match { route: None, reason: Reason::NoRouteForName },
        }
    }

    /// The route configured under exactly this name.
    pub fn get(&self, name: &RouteName) -> Option<&Arc<ActiveRoute>> {
        self.routes.get(name)
    }

    /// Routes in the order of their names, from the first after `name`, or from the very first.
    pub fn iter_after(&self, name: Option<&RouteName>) -> impl Iterator<Item = &Arc<ActiveRoute>> {
        let start = name.map_or(Bound::Unbounded, Bound::Excluded);
        self.routes.range::<RouteName, _>((start, Bound::Unbounded)).map(|(_, route)| route)
    }

    /// How many routes there are.
    pub fn len(&self) -> usize {
        self.routes.size()
    }

    /// The bytes of memory that the routes take, estimated by [`cost`].
    pub fn memory(&self) -> u64 {
        self.memory
    }

    /// Whether there is no route.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }
}
