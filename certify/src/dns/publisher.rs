//! TXT records by signed updates of the zone (RFC 2136): the chain of this module's links.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::rr::Name;

use super::key::DnsKey;
use super::update::{add_txt, delete_txt, update};
use super::{DnsError, alias, parse_name, propagation, zone};
use crate::challenge::{TxtError, TxtFuture, TxtPublisher};
use crate::http::Resolve;
use crate::keeper::Clock;

/// A DNS server that takes updates, and the zone's other servers.
#[derive(Clone, Debug)]
pub struct DnsServer {
    /// Where updates are sent: the primary of the zone.
    pub address: SocketAddr,
    /// What they are signed with.
    pub key: DnsKey,
    /// The port at which the servers that the zone names are asked: 53 everywhere but in tests.
    pub authoritative_port: u16,
    /// How long a record may take to be shown by all of them.
    pub patience: Duration,
}

/// Shows TXT records by updating their zone.
#[derive(Clone)]
pub struct DynamicUpdate {
    server: DnsServer,
    resolver: Arc<dyn Resolve>,
    clock: Clock,
}

impl std::fmt::Debug for DynamicUpdate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DynamicUpdate").field("server", &self.server).finish_non_exhaustive()
    }
}

/// Where a record is made.
struct Place {
    name: Name,
    zone: Name,
}

impl DynamicUpdate {
    /// A publisher that updates `server`, asks `resolver` for what that one does not know, and signs with the time of
    /// `clock`.
    pub fn new(server: DnsServer, resolver: Arc<dyn Resolve>, clock: Clock) -> Self {
        Self { server, resolver, clock }
    }

    /// Adds `value` to the TXT records of `name` or of what it is a CNAME for, and waits until every server of the zone
    /// shows it.
    ///
    /// # Errors
    /// [`DnsError`] says who is to blame. The record may have been made; [`Self::withdraw`] takes it away.
    pub async fn publish(&self, name: &str, value: &str) -> Result<(), DnsError> {
        let Place { name, zone } = self.place(name).await?;
        self.change(&zone, add_txt(&name, value)).await?;
        let DnsServer { address, authoritative_port, patience, .. } = self.server;
        let servers =
            zone::servers(address, &zone, authoritative_port, self.resolver.as_ref()).await?;
        propagation::wait(&zone, servers, &name, value, patience).await
    }

    /// Takes `value` away, and nothing else. What is not there is no error.
    ///
    /// # Errors
    /// [`DnsError`] says who is to blame; the record is there still.
    pub async fn withdraw(&self, name: &str, value: &str) -> Result<(), DnsError> {
        let Place { name, zone } = self.place(name).await?;
        self.change(&zone, delete_txt(&name, value)).await
    }

    async fn place(&self, name: &str) -> Result<Place, DnsError> {
        let server = self.server.address;
        let name = alias::follow(server, &parse_name(name)?, self.resolver.as_ref()).await?;
        let zone = zone::find(server, &name).await?;
        Ok(Place { name, zone })
    }

    async fn change(&self, zone: &Name, record: hickory_proto::rr::Record) -> Result<(), DnsError> {
        let now = (self.clock)();
        update(self.server.address, &self.server.key, zone, vec![record], now).await
    }
}

impl TxtPublisher for DynamicUpdate {
    fn patience(&self) -> Duration {
        self.server.patience
    }

    fn publish<'a>(&'a self, name: &'a str, value: &'a str) -> TxtFuture<'a> {
        Box::pin(async move { Ok(self.publish(name, value).await?) })
    }

    fn withdraw<'a>(&'a self, name: &'a str, value: &'a str) -> TxtFuture<'a> {
        Box::pin(async move { Ok(self.withdraw(name, value).await?) })
    }
}

impl From<DnsError> for TxtError {
    fn from(error: DnsError) -> Self {
        Self { message: error.to_string(), passing: error.is_passing() }
    }
}
