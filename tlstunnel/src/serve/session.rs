//! The last link: both sides of a connection stand, and bytes go both ways.

use std::sync::Arc;

use tokio_rustls::server::TlsStream;

use crate::backend::BackendConnection;
use crate::forward::{Ended, Meters, Socket, forward};
use crate::gateway::Gateway;
use crate::live::Admitted;
use crate::route::ActiveRoute;

/// A connection whose two sides stand.
pub(super) struct Session {
    pub(super) client: Client,
    pub(super) backend: BackendConnection,
    pub(super) route: Arc<ActiveRoute>,
    pub(super) open: OpenOnRoute,
}

/// The client's side.
pub(super) enum Client {
    /// TLS that the gateway terminates.
    Terminated(Box<TlsStream<Socket>>),
    /// TLS that passes through; the socket replays the ClientHello.
    Untouched(Socket),
}

impl Session {
    /// Copies both ways until the end.
    pub(super) async fn forward(self, gateway: &Gateway, live: &Admitted) -> Ended {
        let Self { client, backend, route, open: _open } = self;
        let meters = Meters {
            bytes_in: &[&live.bytes_in, &route.counters.bytes_in, &gateway.counters.bytes_in],
            bytes_out: &[&live.bytes_out, &route.counters.bytes_out, &gateway.counters.bytes_out],
        };
        let phase = gateway.phase.subscribe();
        let outcome = match client {
            Client::Terminated(stream) => {
                forward(*stream, backend, &route.limits, meters, phase).await
            }
            Client::Untouched(socket) => {
                forward(socket, backend, &route.limits, meters, phase).await
            }
        };
        outcome.ended
    }
}

/// Counts a connection in its route's open ones; dropping it takes it off.
pub(super) struct OpenOnRoute(Arc<ActiveRoute>);

impl OpenOnRoute {
    /// `None` when the route has as many as it may.
    pub(super) fn enter(route: &Arc<ActiveRoute>) -> Option<Self> {
        route.counters.open.enter();
        let open = Self(Arc::clone(route));
        match route.max_connections {
            Some(cap) if route.counters.open.value() > cap => None,
            _ => Some(open),
        }
    }
}

impl Drop for OpenOnRoute {
    fn drop(&mut self) {
        self.0.counters.open.leave();
    }
}
