//! Certificates that are asked for and delivered through DNS, as the original does it: somebody elsewhere watches the
//! zone, has the request signed by an authority, and puts what comes into the zone.
//!
//! Everything is a TLSA record (RFC 6698) at `_letsencrypt._tcp.HOST`, with DER inside:
//!
//! | usage | selector | matching | data |
//! |---|---|---|---|
//! | 3 | 255 | 0 | our request (PKCS #10) |
//! | 3 | 0 | 0 | a certificate for it |
//! | 0 | 0 | 0 | a certificate of its chain |

use std::net::SocketAddr;

use hickory_proto::op::Message;
use hickory_proto::rr::rdata::TLSA;
use hickory_proto::rr::rdata::tlsa::{CertUsage, Matching, Selector};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::exchange::ask_over_tcp;
use super::key::DnsKey;
use super::update::{delete_all, update};
use super::{DnsError, parse_name, shown, zone};
use crate::keeper::Clock;

/// Seconds that others may remember the request.
const TTL: u32 = 3600;
/// The most records of one kind that are looked at.
const MAX_RECORDS: usize = 32;

/// The server whose zones hold requests and certificates.
#[derive(Clone)]
pub struct TlsaServer {
    address: SocketAddr,
    key: DnsKey,
    clock: Clock,
}

impl std::fmt::Debug for TlsaServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { address, key, .. } = self;
        f.debug_struct("TlsaServer").field("address", address).field("key", key).finish()
    }
}

/// What stands at a host's name, each as DER.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Posted {
    /// Requests.
    pub requests: Vec<Vec<u8>>,
    /// Certificates of servers.
    pub certificates: Vec<Vec<u8>>,
    /// Certificates of authorities.
    pub authorities: Vec<Vec<u8>>,
}

impl TlsaServer {
    /// The server at `address`, which takes updates that are signed with `key` at the time of `clock`.
    pub fn new(address: SocketAddr, key: DnsKey, clock: Clock) -> Self {
        Self { address, key, clock }
    }

    /// What stands at the name of `host` now.
    ///
    /// # Errors
    /// [`DnsError`] says who is to blame.
    pub async fn look(&self, host: &str) -> Result<Posted, DnsError> {
        let name = place(host)?;
        let answer = ask_over_tcp(self.address, &name, RecordType::TLSA).await?;
        Ok(read(&answer, &name))
    }

    /// Puts `request` there, in the place of everything else.
    ///
    /// # Errors
    /// [`DnsError`] says who is to blame; nothing has changed.
    pub async fn post(&self, host: &str, request: Vec<u8>) -> Result<(), DnsError> {
        let name = place(host)?;
        let zone = self.zone(&name).await?;
        let data = TLSA::new(CertUsage::DaneEe, Selector::Private, Matching::Raw, request);
        let changes = vec![
            delete_all(&name, RecordType::TLSA),
            Record::from_rdata(name, TTL, RData::TLSA(data)),
        ];
        update(self.address, &self.key, &zone, changes, (self.clock)()).await
    }

    /// As the server says; the original takes it from the key's name.
    async fn zone(&self, name: &Name) -> Result<Name, DnsError> {
        match (zone::find(self.address, name).await, self.key.zone()) {
            (Err(DnsError::NotResponsible { .. }), Some(zone)) => {
                let zone = parse_name(&zone)?;
                match zone.zone_of(name) {
                    true => Ok(zone),
                    false => {
                        Err(DnsError::NotResponsible { server: self.address, name: shown(name) })
                    }
                }
            }
            (found, _) => found,
        }
    }
}

/// The name at which a host's records stand.
pub(crate) fn place(host: &str) -> Result<Name, DnsError> {
    parse_name(&format!("_letsencrypt._tcp.{host}"))
}

fn read(answer: &Message, name: &Name) -> Posted {
    let mut posted = Posted::default();
    for record in answer.answers.iter().filter(|record| record.name == *name) {
        let RData::TLSA(TLSA { cert_usage, selector, matching: Matching::Raw, cert_data, .. }) =
            &record.data
        else {
            continue;
        };
        let place = match (cert_usage, selector) {
            (CertUsage::DaneEe, Selector::Private) => &mut posted.requests,
            (CertUsage::DaneEe, Selector::Full) => &mut posted.certificates,
            (CertUsage::PkixTa, Selector::Full) => &mut posted.authorities,
            _ => continue,
        };
        if place.len() < MAX_RECORDS {
            place.push(cert_data.clone());
        }
    }
    // A server gives them in any order.
    for kind in [&mut posted.requests, &mut posted.certificates, &mut posted.authorities] {
        kind.sort_unstable();
    }
    posted
}
