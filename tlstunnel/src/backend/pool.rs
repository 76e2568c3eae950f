//! The pool of a route.

use std::cmp::Reverse;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use config_proto::model::{Balance, HealthCheck, ProxyVersion, RouteSettings};
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::opener::{Opener, share_of};
use super::{
    Attempt, Backend, BackendConnection, BackendSummary, ClientInfo, ConnectError, Resolver,
    TlsConnector, health,
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
        let kept = previous.map_or(&[][..], |pool| &pool.members);
        let members = settings.backends.iter().map(|address| {
            let same = kept.iter().find(|backend| backend.address == *address);
            same.map_or_else(|| Arc::new(Backend::new(address.clone())), Arc::clone)
        });
        Self {
            members: members.collect(),
            balance: settings.balance,
            proxy: settings.proxy,
            health: settings.health.clone(),
            tls,
            next: AtomicUsize::new(0),
        }
    }

    /// Opens a connection for `client`: the best backend first, the next ones when it fails, all within
    /// [`Limits::connect`], of which each attempt but the last gets half of what is left. The PROXY header has been
    /// written and, in mode re-encrypt, TLS is established.
    ///
    /// When every backend is down they are tried all the same: a wrong health check must not stop a service.
    ///
    /// # Errors
    /// [`ConnectError`] names every backend that was tried and why it failed.
    pub async fn connect(
        &self,
        resolver: &Resolver,
        client: &ClientInfo,
        limits: &Limits,
    ) -> Result<BackendConnection, ConnectError> {
        if self.members.is_empty() {
            return Err(ConnectError::NoBackends);
        }
        let deadline = Instant::now() + limits.connect;
        let opener = Opener { resolver, client, proxy: self.proxy, tls: self.tls.as_ref(), limits };
        let order = self.order(client.peer.ip(), self.next.fetch_add(1, Ordering::Relaxed));
        let mut attempts = Vec::new();
        for (at, backend) in order.iter().enumerate() {
            if at > 0 && Instant::now() >= deadline {
                break;
            }
            let attempt = backend.attempt(limits.connect);
            match opener.open(backend, share_of(deadline, order.len() - at)).await {
                Ok((stream, address)) => {
                    return Ok(BackendConnection { stream, address, open: attempt.succeeded() });
                }
                Err(error) => {
                    let error = error.to_string();
                    backend.failed(&error);
                    attempts.push(Attempt { backend: backend.address.to_string(), error });
                }
            }
        }
        Err(ConnectError::AllFailed { attempts })
    }

    /// The backends in the order in which a connection of `client` would try them now (for `why`). Asking does not
    /// advance the round.
    pub fn preview(&self, client: IpAddr) -> Vec<Arc<Backend>> {
        self.order(client, self.next.load(Ordering::Relaxed))
    }

    /// What `show` and `top` tell about each backend, in configured order.
    pub fn summaries(&self) -> Vec<BackendSummary> {
        self.members.iter().map(|backend| backend.summary()).collect()
    }

    /// Hands active checks over when a route is put in place of another: those of `old` end unless `new` has the
    /// same backend, those of `new` run on `runtime`. Either may be absent (a route added, a route removed). Call it
    /// for every name that a published change touches.
    ///
    /// Checks also end by themselves when nobody holds their backend any more, but live connections do hold it.
    pub fn switch_checks(
        old: Option<&Self>,
        new: Option<&Self>,
        resolver: &Resolver,
        runtime: &Handle,
    ) {
        let members = |pool: Option<&Self>| pool.map_or_else(Vec::new, |pool| pool.members.clone());
        let (before, after) = (members(old), members(new));
        for gone in before.iter().filter(|b| !after.iter().any(|a| Arc::ptr_eq(a, b))) {
            gone.replace_check(None);
        }
        let settings = new.and_then(|pool| pool.health.as_ref());
        let unchanged = settings == old.and_then(|pool| pool.health.as_ref());
        for backend in &after {
            let was_there = before.iter().any(|b| Arc::ptr_eq(b, backend));
            match settings {
                Some(_) if unchanged && was_there && backend.is_checked() => {}
                Some(settings) => {
                    let watch =
                        health::watch(Arc::downgrade(backend), settings.clone(), resolver.clone());
                    backend.replace_check(Some(runtime.spawn(watch).abort_handle()));
                }
                None => {
                    backend.replace_check(None);
                    // Without checks nobody would ever say that it is up again.
                    backend.set_down(false);
                }
            }
        }
    }

    /// Available backends in the order of the balance, then the others in the same order.
    fn order(&self, client: IpAddr, turn: usize) -> Vec<Arc<Backend>> {
        let (mut available, mut others): (Vec<_>, Vec<_>) =
            self.members.iter().cloned().partition(|backend| backend.is_available());
        self.arrange(&mut available, client, turn);
        self.arrange(&mut others, client, turn);
        available.append(&mut others);
        available
    }

    fn arrange(&self, backends: &mut [Arc<Backend>], client: IpAddr, turn: usize) {
        if backends.len() < 2 {
            return;
        }
        match self.balance {
            Balance::Hash => {
                let key = client_hash(client);
                backends.sort_by_cached_key(|backend| Reverse(mix(key ^ backend.seed)));
            }
            Balance::RoundRobin => backends.rotate_left(turn % backends.len()),
            Balance::Least => {
                // Among equals, in turn.
                backends.rotate_left(turn % backends.len());
                backends.sort_by_cached_key(|backend| backend.open());
            }
        }
    }
}

/// The same for an IPv4 address and its IPv6-mapped form.
fn client_hash(client: IpAddr) -> u64 {
    match client.to_canonical() {
        IpAddr::V4(ip) => stable_hash(&ip.octets()),
        IpAddr::V6(ip) => stable_hash(&ip.octets()),
    }
}

/// FNV-1a, 64 bits: a hash that stays the same over releases and machines, so that clients keep their backends when the
/// gateway is replaced.
pub(super) fn stable_hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The finalizer of SplitMix64: every bit of the input changes about half of the output's. With it, the highest score
/// per client (rendezvous hashing) spreads clients evenly, and a backend that is down moves only its own clients.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
