//! DNS names of backends, resolved once for all routes.
//!
//! Answers live as long as their TTL. When nobody answers any more, the last answer stays in use: a gateway must not
//! fail because a name server does. One question per name is on its way at a time, whoever waits for it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig,
    ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{Hosts, TokioResolver};
use tokio::time::{Instant, timeout};

/// The most addresses of one name that are used.
pub const MAX_ADDRESSES: usize = 16;
/// An answer is used at least this long, whatever its TTL says.
const SHORTEST_TTL: Duration = Duration::from_secs(1);
/// An answer is used at most this long, whatever its TTL says.
const LONGEST_TTL: Duration = Duration::from_secs(3600);
/// How long a connection waits for a new answer while an old one is known.
const PATIENCE_WITH_OLD_ANSWER: Duration = Duration::from_secs(1);
/// How long a name server that was named by option has for an answer; /etc/resolv.conf has an option of its own.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(2);
/// How often such a question is repeated.
const QUESTION_REPEATS: usize = 1;
/// How long an old answer is used again after nobody answered.
const OLD_ANSWER_TTL: Duration = Duration::from_secs(5);
/// How long a failure without an old answer is remembered.
const FAILURE_TTL: Duration = Duration::from_secs(1);
/// Names that nobody asked for during this time are forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(2 * 3600);
/// Below this many names nothing is forgotten.
const KEPT_NAMES: usize = 1024;

/// Where a [`Resolver`] asks.
#[derive(Clone, Debug, Default)]
pub struct ResolverOptions {
    /// Name servers to ask. Empty: those of /etc/resolv.conf, where there is one.
    pub name_servers: Vec<SocketAddr>,
}

/// Why a name could not be resolved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// Nobody can be asked.
    #[error("no name server to ask for {0}: {1}; name one by option")]
    NoNameServer(String, String),
    /// The name server said no, or nobody answered.
    #[error("{0} could not be resolved: {1}")]
    Failed(String, String),
    /// The answer has no address that can be connected to.
    #[error("{0} has no usable address")]
    NoAddress(String),
}

/// Resolves the DNS names of backends: one cache for all routes and threads. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Resolver {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    options: ResolverOptions,
    /// Made at the first use, so that a gateway without DNS backends reads no system files.
    client: OnceLock<Client>,
    cache: Mutex<Cache>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("options", &self.options).finish_non_exhaustive()
    }
}

/// Where names are looked up.
struct Client {
    /// /etc/hosts, which is asked first and needs nobody to answer.
    hosts: Hosts,
    /// The name servers, or why there are none.
    dns: Result<TokioResolver, String>,
}

#[derive(Default)]
struct Cache {
    names: HashMap<String, Arc<Entry>>,
    prune_at: usize,
}

/// What is known about one name.
struct Entry {
    /// Held by the one who asks.
    asking: tokio::sync::Mutex<()>,
    answer: Mutex<Answer>,
}

struct Answer {
    known: Result<Vec<IpAddr>, ResolveError>,
    fresh_until: Instant,
    used: Instant,
}

impl Resolver {
    /// A resolver that asks where `options` say.
    pub fn new(options: ResolverOptions) -> Self {
        Self { shared: Arc::new(Shared { options, ..Shared::default() }) }
    }

    /// The addresses of `name`, 1 to [`MAX_ADDRESSES`], in the order of the answer. `localhost` and what is below it
    /// are the loopback (RFC 6761, section 6.3); names in /etc/hosts are found there.
    ///
    /// # Errors
    /// When the name does not exist or nobody answers, and no earlier answer is known.
    pub async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        if name == "localhost" || name.ends_with(".localhost") {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        let entry = self.entry(name);
        if let Some(known) = entry.fresh() {
            return known;
        }
        let _asking = entry.asking.lock().await;
        // Whoever held the lock may have the answer.
        if let Some(known) = entry.fresh() {
            return known;
        }
        let old = entry.answer().known.is_ok();
        let asked = match old {
            false => self.ask(name).await,
            true => timeout(PATIENCE_WITH_OLD_ANSWER, self.ask(name))
                .await
                .unwrap_or_else(|_| Err(ResolveError::Failed(name.into(), "no answer".into()))),
        };
        let mut answer = entry.answer();
        let now = Instant::now();
        match asked {
            Ok((addresses, ttl)) => {
                answer.fresh_until = now + ttl;
                answer.known = Ok(addresses);
            }
            Err(error) if old => {
                tracing::warn!(%error, "the last answer stays in use");
                answer.fresh_until = now + OLD_ANSWER_TTL;
            }
            Err(error) => {
                answer.fresh_until = now + FAILURE_TTL;
                answer.known = Err(error);
            }
        }
        answer.known.clone()
    }

    /// The name that `name` is a CNAME for; none when it has no such record. Nothing is remembered.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn alias(&self, name: &str) -> Result<Option<String>, ResolveError> {
        let client = self.shared.client.get_or_init(|| Client::new(&self.shared.options));
        let dns = client
            .dns
            .as_ref()
            .map_err(|reason| ResolveError::NoNameServer(name.into(), reason.clone()))?;
        let alias = certify::dns::alias(dns, name).await;
        alias.map_err(|reason| ResolveError::Failed(name.into(), reason))
    }

    fn entry(&self, name: &str) -> Arc<Entry> {
        let now = Instant::now();
        let mut cache = self.shared.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = cache.names.get(name) {
            entry.answer().used = now;
            return Arc::clone(entry);
        }
        if cache.names.len() >= cache.prune_at.max(KEPT_NAMES) {
            cache.names.retain(|_, entry| now - entry.answer().used < FORGET_AFTER);
            cache.prune_at = cache.names.len() * 2;
        }
        let entry = Arc::new(Entry {
            asking: tokio::sync::Mutex::new(()),
            answer: Mutex::new(Answer {
                known: Err(ResolveError::NoAddress(name.to_owned())),
                fresh_until: now,
                used: now,
            }),
        });
        cache.names.insert(name.to_owned(), Arc::clone(&entry));
        entry
    }

    async fn ask(&self, name: &str) -> Result<(Vec<IpAddr>, Duration), ResolveError> {
        let client = self.shared.client.get_or_init(|| Client::new(&self.shared.options));
        let mut listed = client.in_hosts_file(name).peekable();
        if listed.peek().is_some() {
            return match usable(listed) {
                addresses if addresses.is_empty() => Err(ResolveError::NoAddress(name.into())),
                addresses => Ok((addresses, LONGEST_TTL)),
            };
        }
        let dns = client
            .dns
            .as_ref()
            .map_err(|reason| ResolveError::NoNameServer(name.into(), reason.clone()))?;
        let found = dns
            .lookup_ip(name)
            .await
            .map_err(|error| ResolveError::Failed(name.into(), error.to_string()))?;
        let ttl = found.valid_until().saturating_duration_since(std::time::Instant::now());
        let addresses = usable(found.iter());
        match addresses.is_empty() {
            true => Err(ResolveError::NoAddress(name.into())),
            false => Ok((addresses, ttl.clamp(SHORTEST_TTL, LONGEST_TTL))),
        }
    }
}

impl Client {
    fn new(options: &ResolverOptions) -> Self {
        let hosts = Hosts::from_system().unwrap_or_else(|error| {
            // There is none in a virtual machine of our own.
            tracing::debug!(%error, "no hosts file");
            Hosts::default()
        });
        Self { hosts, dns: dns(options) }
    }

    fn in_hosts_file(&self, name: &str) -> impl Iterator<Item = IpAddr> {
        let name = Name::from_ascii(name).ok();
        let found = [RecordType::A, RecordType::AAAA].map(|kind| {
            self.hosts.lookup_static_host(&Query::query(name.clone()?.to_lowercase(), kind))
        });
        let records = found.into_iter().flatten().flat_map(|lookup| lookup.answers().to_vec());
        records.filter_map(|record| record.data.ip_addr())
    }
}

/// The addresses that can be connected to, each once, 0 to [`MAX_ADDRESSES`].
fn usable(found: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in found.map(|address| address.to_canonical()) {
        let usable = !address.is_unspecified() && !addresses.contains(&address);
        if usable && addresses.len() < MAX_ADDRESSES {
            addresses.push(address);
        }
    }
    addresses
}

impl Entry {
    fn fresh(&self) -> Option<Result<Vec<IpAddr>, ResolveError>> {
        let answer = self.answer();
        (Instant::now() < answer.fresh_until).then(|| answer.known.clone())
    }

    fn answer(&self) -> MutexGuard<'_, Answer> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn dns(options: &ResolverOptions) -> Result<TokioResolver, String> {
    let (config, mut settings) = match options.name_servers.as_slice() {
        [] => hickory_resolver::system_conf::read_system_conf()
            .map_err(|error| format!("/etc/resolv.conf: {error}"))?,
        servers => {
            let servers = servers.iter().map(name_server).collect();
            let mut settings = ResolverOpts::default();
            (settings.timeout, settings.attempts) = (QUESTION_TIMEOUT, QUESTION_REPEATS);
            (ResolverConfig::from_name_servers(servers), settings)
        }
    };
    settings.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    // This resolver is the cache, and it has asked the hosts file.
    settings.cache_size = 0;
    settings.use_hosts_file = ResolveHosts::Never;
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    *builder.options_mut() = settings;
    builder.build().map_err(|error| error.to_string())
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
    for connection in &mut connections {
        connection.port = address.port();
    }
    NameServerConfig::new(address.ip(), true, connections)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A resolver with this hosts file and no name server.
    fn with_hosts(text: &str) -> Resolver {
        let resolver = Resolver::default();
        let mut hosts = Hosts::default();
        hosts.read_hosts_conf(text.as_bytes()).unwrap();
        let client = Client { hosts, dns: Err("there is none".to_owned()) };
        assert!(resolver.shared.client.set(client).is_ok());
        resolver
    }

    #[tokio::test]
    async fn the_hosts_file_needs_no_name_server() {
        let resolver = with_hosts(
            "# mine\n127.0.0.7 blog Blog.Example.org\n::1 blog\n127.0.0.8 blog\n0.0.0.0 blocked\n",
        );
        let blog = resolver.resolve("blog").await.unwrap();
        let expected: [IpAddr; 3] =
            ["127.0.0.7".parse().unwrap(), "127.0.0.8".parse().unwrap(), "::1".parse().unwrap()];
        assert_eq!(blog, expected);
        assert_eq!(resolver.resolve("blog.example.org").await.unwrap(), expected[..1]);
        let blocked = resolver.resolve("blocked").await.unwrap_err();
        assert_eq!(blocked, ResolveError::NoAddress("blocked".to_owned()));
        let error = resolver.resolve("other.example.org").await.unwrap_err();
        assert!(matches!(error, ResolveError::NoNameServer(..)), "{error}");
    }
}
