//! The pool of a route.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use config_proto::model::{Balance, HealthCheck, ProxyVersion, RouteSettings};
use tokio::runtime::Handle;

use super::{
    Backend, BackendConnection, BackendSummary, ClientInfo, ConnectError, Resolver, TlsConnector,
};
use crate::limits::Limits;

/// The backends of one route, and how one is chosen and connected to.
#[derive(Debug)]
pub struct Backends {
    members: Vec<Arc<Backend>>,
    balance: Balance,
    proxy: Option<ProxyVersion>,
    health: Option<HealthCheck>,
    tls: Option<TlsConnector>,
    next: AtomicUsize,
}

impl Backends {
    /// The pool that checked settings describe; members that `previous` has too keep their live state.
    pub(crate) fn new(
        settings: &RouteSettings,
        tls: Option<TlsConnector>,
        previous: Option<&Self>,
    ) -> Self {
        let _ = (settings, tls, previous);
        todo!()
    }

    /// Opens a connection for `client`: the best backend first, the next ones when it fails, all within
    /// [`Limits::connect`]. The PROXY header has been written and, in mode re-encrypt, TLS is established.
    ///
    /// # Errors
    /// [`ConnectError`] names every backend that was tried and why it failed.
    pub async fn connect(
        &self,
        resolver: &Resolver,
        client: &ClientInfo,
        limits: &Limits,
    ) -> Result<BackendConnection, ConnectError> {
        let _ = (resolver, client, limits);
        todo!()
    }

    /// The backends in the order in which a connection of `client` would try them now (for `why`). Choosing is not
    /// advanced by asking.
    pub fn preview(&self, client: std::net::IpAddr) -> Vec<Arc<Backend>> {
        let _ = client;
        todo!()
    }

    /// What `show` and `top` tell about each backend, in configured order.
    pub fn summaries(&self) -> Vec<BackendSummary> {
        self.members.iter().map(|backend| backend.summary()).collect()
    }

    /// Hands active checks over when a route is put in place of another: those of `old` end unless `new` has the
    /// same backend, those of `new` run on `runtime`. Either may be absent (a route added, a route removed).
    ///
    /// Checks also end by themselves when nobody holds their backend any more.
    pub fn switch_checks(
        old: Option<&Self>,
        new: Option<&Self>,
        resolver: &Resolver,
        runtime: &Handle,
    ) {
        let _ = (old, new, resolver, runtime);
        todo!()
    }
}

/// FNV-1a, 64 bits: a hash that stays the same over releases and machines.
pub(super) fn stable_hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
