//! The zone that a name belongs to, and the servers that answer for it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};

use super::exchange::ask;
use super::{DnsError, shown};
use crate::http::Resolve;

/// The most servers of a zone, and the most addresses of each, that are asked.
const MAX_SERVERS: usize = 16;
const MAX_ADDRESSES: usize = 8;

/// The zone of `name` on `server`, found by asking for SOA records upwards (RFC 2136, section 2.3 wants it exact).
pub(super) async fn find(server: SocketAddr, name: &Name) -> Result<Name, DnsError> {
    let mut at = name.clone();
    loop {
        match ask(server, &at, RecordType::SOA).await {
            Ok(answer) if answer.metadata.authoritative => {
                if let Some(zone) = authority_of(&answer, &at) {
                    return Ok(zone);
                }
            }
            Ok(answer) => {
                if let Some(to) = referral(&answer, &at) {
                    let name = shown(name);
                    return Err(DnsError::Delegated { server, name, to });
                }
            }
            Err(DnsError::Answer {
                code: ResponseCode::Refused | ResponseCode::NotAuth, ..
            }) => {}
            Err(error) => return Err(error),
        }
        if at.is_root() {
            return Err(DnsError::NotResponsible { server, name: shown(name) });
        }
        at = at.base_name();
    }
}

/// The owner of the SOA record in the answer, or in the authority section of a negative one.
fn authority_of(answer: &Message, name: &Name) -> Option<Name> {
    let sections = answer.answers.iter().chain(&answer.authorities);
    sections
        .filter(|record| record.record_type() == RecordType::SOA && record.name.zone_of(name))
        .map(|record| record.name.to_lowercase())
        .next()
}

/// A server of a zone below that of the server that was asked.
fn referral(answer: &Message, name: &Name) -> Option<String> {
    let mut delegations = answer.authorities.iter().filter(|record| {
        !record.name.is_root() && record.name.zone_of(name) && answer.answers.is_empty()
    });
    delegations.find_map(|record| match &record.data {
        RData::NS(server) => Some(shown(&server.0)),
        _ => None,
    })
}

/// The servers of a zone by name, each with its addresses. Where an address comes neither with the answer nor from the
/// resolver, the reason is there instead.
pub(super) async fn servers(
    server: SocketAddr,
    zone: &Name,
    port: u16,
    resolver: &dyn Resolve,
) -> Result<BTreeMap<String, Result<Vec<SocketAddr>, String>>, DnsError> {
    let answer = ask(server, zone, RecordType::NS).await?;
    let names: Vec<Name> = answer
        .answers
        .iter()
        .filter(|record| record.name == *zone)
        .filter_map(|record| match &record.data {
            RData::NS(name) => Some(name.0.to_lowercase()),
            _ => None,
        })
        .take(MAX_SERVERS)
        .collect();
    let mut servers = BTreeMap::new();
    for name in names {
        let addresses = match addresses_in(&answer, &name) {
            found if !found.is_empty() => Ok(found),
            _ => addresses_of(server, &name, resolver).await,
        };
        let addresses = addresses.map(|all| {
            let all = all.into_iter().take(MAX_ADDRESSES);
            all.map(|ip| SocketAddr::new(ip, port)).collect()
        });
        servers.insert(shown(&name), addresses);
    }
    Ok(servers)
}

/// Our own server may know the address before anybody else does.
async fn addresses_of(
    server: SocketAddr,
    name: &Name,
    resolver: &dyn Resolve,
) -> Result<Vec<IpAddr>, String> {
    let mut known = Vec::new();
    for kind in [RecordType::A, RecordType::AAAA] {
        if let Ok(answer) = ask(server, name, kind).await {
            known.extend(addresses_in(&answer, name));
        }
    }
    match known.is_empty() {
        true => resolver.resolve(&shown(name)).await,
        false => Ok(known),
    }
}

fn addresses_in(answer: &Message, name: &Name) -> Vec<IpAddr> {
    let records = answer.answers.iter().chain(&answer.additionals);
    records
        .filter(|record| record.name == *name)
        .filter_map(|record| match &record.data {
            RData::A(address) => Some(IpAddr::V4(address.0)),
            RData::AAAA(address) => Some(IpAddr::V6(address.0)),
            _ => None,
        })
        .collect()
}
