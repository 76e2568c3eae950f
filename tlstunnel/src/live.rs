//! The list of live connections: caps, what each connection is doing, and who is still there when the gateway stops.
//!
//! A connection enters in two steps, because behind a load balancer the client's address is known only after the PROXY
//! header: [`LiveConnections::enter`] counts it against the total cap, [`Slot::admit`] against its client's cap and puts
//! it on the list. Both give guards; dropping the guard takes the connection off again, on every way out.
//!
//! Tables are sharded, so that cores rarely meet at a lock, and no lock is taken while data flows: the byte counters of a
//! [`LiveConnection`] are plain atomics.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use config_proto::message::ConnectionInfo;
use config_proto::model::RouteName;
use control_port::ClientKey;

use crate::counters::Counter;
use crate::limits::Limits;

/// A power of two that is well above the number of cores this is meant for.
const SHARDS: usize = 64;

/// Every open connection. A clone is another handle on the same list.
#[derive(Clone, Debug)]
pub struct LiveConnections {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    total_cap: usize,
    client_cap: usize,
    open: AtomicUsize,
    next_id: AtomicU64,
    hasher: RandomState,
    by_id: [Mutex<HashMap<u64, Arc<LiveConnection>>>; SHARDS],
    by_client: [Mutex<HashMap<ClientKey, usize>>; SHARDS],
}

/// Which cap refused a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OverCap {
    /// `Limits::connections` are open.
    #[error("the gateway has as many connections as it may")]
    Total,
    /// `Limits::connections_per_client` of this client are open.
    #[error("the client has as many connections as it may")]
    Client,
}

impl LiveConnections {
    /// An empty list with the caps of `limits`.
    pub fn new(limits: &Limits) -> Self {
        Self {
            shared: Arc::new(Shared {
                total_cap: limits.connections,
                client_cap: limits.connections_per_client,
                open: AtomicUsize::new(0),
                next_id: AtomicU64::new(1),
                hasher: RandomState::new(),
                by_id: std::array::from_fn(|_| Mutex::default()),
                by_client: std::array::from_fn(|_| Mutex::default()),
            }),
        }
    }

    /// Counts one more connection against the total cap.
    ///
    /// # Errors
    /// [`OverCap::Total`] when the cap is reached.
    pub fn enter(&self) -> Result<Slot, OverCap> {
        let cap = self.shared.total_cap;
        self.shared
            .open
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |open| {
                (open < cap).then_some(open + 1)
            })
            .map_err(|_| OverCap::Total)?;
        Ok(Slot { shared: Arc::clone(&self.shared) })
    }

    /// How many connections are open now.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::Acquire)
    }

    /// How many connections of this client count against its cap now.
    pub fn open_of_client(&self, client: IpAddr) -> usize {
        let key = ClientKey::from(client);
        self.shared.client_shard(key).get(&key).copied().unwrap_or(0)
    }

    /// How many open connections have been given to the route of this name.
    pub fn open_of_route(&self, name: &RouteName) -> usize {
        self.fold(0, |count, connection| count + usize::from(connection.route() == Some(name)))
    }

    /// The `limit` oldest connections, oldest first.
    pub fn oldest(&self, limit: usize) -> Vec<ConnectionInfo> {
        let mut all = self.fold(Vec::new(), |mut all, connection| {
            all.push(Arc::clone(connection));
            all
        });
        all.sort_unstable_by_key(|connection| connection.id);
        all.truncate(limit);
        all.iter().map(|connection| connection.info()).collect()
    }

    fn fold<T>(&self, start: T, mut f: impl FnMut(T, &Arc<LiveConnection>) -> T) -> T {
        let mut value = start;
        for shard in &self.shared.by_id {
            for connection in lock(shard).values() {
                value = f(value, connection);
            }
        }
        value
    }
}

impl Shared {
    fn client_shard(&self, key: ClientKey) -> MutexGuard<'_, HashMap<ClientKey, usize>> {
        let shards = u64::try_from(SHARDS).unwrap_or(1);
        let index = usize::try_from(self.hasher.hash_one(key) % shards).unwrap_or(0);
        lock(&self.by_client[index])
    }

    fn id_shard(&self, id: u64) -> MutexGuard<'_, HashMap<u64, Arc<LiveConnection>>> {
        let shards = u64::try_from(SHARDS).unwrap_or(1);
        lock(&self.by_id[usize::try_from(id % shards).unwrap_or(0)])
    }
}

/// A lock whose data stays valid when a holder panics: every change under these locks is a single map operation.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A place under the total cap. Dropping it gives the place back.
#[derive(Debug)]
pub struct Slot {
    shared: Arc<Shared>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.shared.open.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Slot {
    /// Counts the connection against its client's cap and puts it on the list.
    ///
    /// # Errors
    /// [`OverCap::Client`] when the client's cap is reached; the place under the total cap is given back.
    pub fn admit(self, client: SocketAddr) -> Result<Admitted, OverCap> {
        let key = ClientKey::from(client.ip());
        {
            let mut clients = self.shared.client_shard(key);
            let open = clients.entry(key).or_insert(0);
            if self.shared.client_cap != 0 && *open >= self.shared.client_cap {
                return Err(OverCap::Client);
            }
            *open += 1;
        }
        let connection = Arc::new(LiveConnection {
            id: self.shared.next_id.fetch_add(1, Ordering::Relaxed),
            client,
            started: Instant::now(),
            asked: OnceLock::new(),
            backend: OnceLock::new(),
            bytes_in: Counter::default(),
            bytes_out: Counter::default(),
        });
        self.shared.id_shard(connection.id).insert(connection.id, Arc::clone(&connection));
        Ok(Admitted { slot: self, key, connection })
    }
}

/// An open connection that counts and is listed. Dropping it takes it off the list.
#[derive(Debug)]
pub struct Admitted {
    slot: Slot,
    key: ClientKey,
    connection: Arc<LiveConnection>,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.slot.shared.id_shard(self.connection.id).remove(&self.connection.id);
        let mut clients = self.slot.shared.client_shard(self.key);
        match clients.get_mut(&self.key) {
            Some(open) if *open > 1 => *open -= 1,
            _ => {
                clients.remove(&self.key);
            }
        }
    }
}

impl std::ops::Deref for Admitted {
    type Target = Arc<LiveConnection>;

    fn deref(&self) -> &Arc<LiveConnection> {
        &self.connection
    }
}

/// What is known about an open connection.
#[derive(Debug)]
pub struct LiveConnection {
    id: u64,
    client: SocketAddr,
    started: Instant,
    asked: OnceLock<(Option<Box<str>>, Option<RouteName>)>,
    backend: OnceLock<Box<str>>,
    /// Bytes from client to backend so far.
    pub bytes_in: Counter,
    /// Bytes from backend to client so far.
    pub bytes_out: Counter,
}

impl LiveConnection {
    /// Its number since start; never used twice.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The client: the peer of the TCP connection, or what a trusted PROXY header says.
    pub fn client(&self) -> SocketAddr {
        self.client
    }

    /// When it was admitted.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// The server name that was asked for, once the ClientHello was read.
    pub fn server_name(&self) -> Option<&str> {
        self.asked.get().and_then(|(name, _)| name.as_deref())
    }

    /// The route that was found, once the ClientHello was read.
    pub fn route(&self) -> Option<&RouteName> {
        self.asked.get().and_then(|(_, route)| route.as_ref())
    }

    /// The backend, once one has accepted.
    pub fn backend(&self) -> Option<&str> {
        self.backend.get().map(|backend| &**backend)
    }

    /// Notes what the ClientHello asked for and the route that was found; only the first call counts.
    pub fn set_route(&self, server_name: Option<&str>, route: Option<&RouteName>) {
        self.asked.get_or_init(|| (server_name.map(Box::from), route.cloned()));
    }

    /// Notes the backend; only the first call counts.
    pub fn set_backend(&self, backend: &str) {
        self.backend.get_or_init(|| Box::from(backend));
    }

    /// The same for the control protocol.
    pub fn info(&self) -> ConnectionInfo {
        ConnectionInfo {
            id: self.id,
            client: self.client.to_string(),
            server_name: self.server_name().map(str::to_owned),
            route: self.route().cloned(),
            backend: self.backend().map(str::to_owned),
            age_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            bytes_in: self.bytes_in.value(),
            bytes_out: self.bytes_out.value(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(total: usize, per_client: usize) -> LiveConnections {
        LiveConnections::new(&Limits {
            connections: total,
            connections_per_client: per_client,
            ..Limits::default()
        })
    }

    #[test]
    fn caps_hold_and_guards_give_back() {
        let live = list(3, 2);
        let a: SocketAddr = "192.0.2.1:1000".parse().unwrap();
        let mapped: SocketAddr = "[::ffff:192.0.2.1]:1001".parse().unwrap();
        let first = live.enter().unwrap().admit(a).unwrap();
        let second = live.enter().unwrap().admit(mapped).unwrap();
        assert_eq!(live.enter().unwrap().admit(a).unwrap_err(), OverCap::Client);
        assert_eq!((live.open(), live.open_of_client(a.ip())), (2, 2));
        let slot = live.enter().unwrap();
        assert_eq!(live.enter().unwrap_err(), OverCap::Total);
        drop(slot);
        drop(first);
        let third = live.enter().unwrap().admit(a).unwrap();
        drop((second, third));
        assert_eq!((live.open(), live.open_of_client(a.ip())), (0, 0));
        assert!(live.oldest(10).is_empty());
        assert!(live.shared.by_client.iter().all(|shard| lock(shard).is_empty()));
    }

    #[test]
    fn an_ipv6_client_is_its_64() {
        let live = list(10, 1);
        let _held = live.enter().unwrap().admit("[2001:db8::1]:1".parse().unwrap()).unwrap();
        let neighbour = live.enter().unwrap().admit("[2001:db8::ffff:2]:1".parse().unwrap());
        assert_eq!(neighbour.unwrap_err(), OverCap::Client);
        live.enter().unwrap().admit("[2001:db8:0:1::1]:1".parse().unwrap()).unwrap();
    }

    #[test]
    fn the_list_shows_what_is_known_oldest_first() {
        let live = list(10, 0);
        let held: Vec<_> = (1..=5)
            .map(|port| live.enter().unwrap().admit(([127, 0, 0, 1], port).into()).unwrap())
            .collect();
        let route: RouteName = "*.example.org".parse().unwrap();
        held[1].set_route(Some("a.example.org"), Some(&route));
        held[1].set_backend("10.0.0.7:80");
        held[1].bytes_in.add(7);
        assert_eq!(live.open_of_route(&route), 1);
        let oldest = live.oldest(2);
        assert_eq!(
            oldest.iter().map(|c| c.client.as_str()).collect::<Vec<_>>(),
            ["127.0.0.1:1", "127.0.0.1:2"]
        );
        assert_eq!(oldest[1].server_name.as_deref(), Some("a.example.org"));
        assert_eq!(oldest[1].backend.as_deref(), Some("10.0.0.7:80"));
        assert_eq!(oldest[1].bytes_in, 7);
    }

    #[test]
    fn caps_hold_under_threads() {
        let live = list(50, 0);
        std::thread::scope(|scope| {
            for thread in 0..4u8 {
                let live = &live;
                scope.spawn(move || {
                    for round in 0..500u16 {
                        let Ok(slot) = live.enter() else { continue };
                        let held = slot.admit(([10, 0, 0, thread], round).into()).unwrap();
                        assert!(live.open() <= 50);
                        drop(held);
                    }
                });
            }
        });
        assert_eq!(live.open(), 0);
    }
}
