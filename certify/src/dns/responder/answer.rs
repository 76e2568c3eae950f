//! From a packet to its answer, without I/O.
//!
//! | question | answer |
//! |---|---|
//! | TXT of a published name | its values, with authority |
//! | SOA, NS of the zone | what the delegation says |
//! | another type of a name that is there (also CAA) | nothing, with the SOA record (RFC 2308, section 2.2) |
//! | a name of the zone that is not there | NXDOMAIN with the SOA record |
//! | ANY of a name that is there | one HINFO record (RFC 8482, section 4.2) |
//! | outside the zones, another class, a transfer | REFUSED |
//! | what is no question | FORMERR or NOTIMP; an answer, or less than a header, gets nothing |

use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{HINFO, NS, SOA, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::zones::{At, Zones};

/// The largest answer over UDP, whatever the client would take: nothing published needs more, and whoever forges a
/// source address gains nothing.
pub const MAX_UDP_ANSWER: usize = 512;
/// What we say we take over UDP (RFC 9715, section 3).
const MAX_UDP_QUESTION: u16 = 1232;
/// The length of a DNS header (RFC 1035, section 4.1.1).
const HEADER: usize = 12;
/// Seconds that others may remember an answer. Short: a challenge lives for less than a minute, and an authority that
/// asked too early must not remember that there was nothing.
const TTL: u32 = 5;
/// Times in the SOA record for secondaries, which there are not (RFC 1912, section 2.2).
const REFRESH: (i32, i32, i32) = (3600, 600, 86_400);

/// How a packet came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// In a datagram: the answer is short, and its receiver may be somebody else.
    Udp,
    /// Over a connection.
    Tcp,
}

/// The answer to a packet, if it deserves one.
pub fn answer(zones: &Zones, packet: &[u8], transport: Transport) -> Option<Vec<u8>> {
    let (id, flags) = (packet.get(..2)?, *packet.get(2)?);
    // Too short to be a message, or an answer: answering answers would never end.
    if packet.len() < HEADER || flags & 0x80 != 0 {
        return None;
    }
    let id = u16::from_be_bytes(id.try_into().ok()?);
    let answer = match Message::from_vec(packet) {
        Ok(request) => respond(zones, &request),
        Err(_) => Message::error_msg(id, OpCode::from_u8(flags >> 3 & 0x0f), ResponseCode::FormErr),
    };
    let bytes = answer.to_vec().ok()?;
    match transport == Transport::Udp && bytes.len() > MAX_UDP_ANSWER {
        true => answer.truncate().to_vec().ok(),
        false => Some(bytes),
    }
}

/// The shortest answer to a question: come again over TCP (RFC 5966). None where there is no question.
pub(super) fn truncated(packet: &[u8]) -> Option<Vec<u8>> {
    if packet.len() < HEADER || *packet.get(2)? & 0x80 != 0 {
        return None;
    }
    let request = Message::from_vec(packet).ok()?;
    let mut answer = begin(&request);
    answer.metadata.truncation = true;
    answer.to_vec().ok()
}

/// The same id, flags and question. The question's name is repeated letter for letter: clients check that its case is the
/// one that they chose at random.
fn begin(request: &Message) -> Message {
    let asked = &request.metadata;
    let mut answer = Message::new(asked.id, MessageType::Response, asked.op_code);
    answer.metadata.recursion_desired = asked.recursion_desired;
    if let [question] = request.queries.as_slice() {
        answer.add_query(question.clone());
    }
    if let Some(edns) = &request.edns {
        let mut ours = Edns::new();
        ours.set_max_payload(MAX_UDP_QUESTION).set_version(0);
        ours.set_dnssec_ok(edns.flags().dnssec_ok);
        answer.set_edns(ours);
    }
    answer
}

fn respond(zones: &Zones, request: &Message) -> Message {
    let mut answer = begin(request);
    let refuse = |mut answer: Message, code| {
        answer.metadata.response_code = code;
        answer
    };
    if request.metadata.op_code != OpCode::Query {
        return refuse(answer, ResponseCode::NotImp);
    }
    let [question] = request.queries.as_slice() else {
        return refuse(answer, ResponseCode::FormErr);
    };
    if request.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return refuse(answer, ResponseCode::BADVERS);
    }
    let (name, kind) = (question.name(), question.query_type());
    let zone = match zones.zone_of(name) {
        Some(zone)
            if question.query_class() == DNSClass::IN
                && !matches!(kind, RecordType::AXFR | RecordType::IXFR) =>
        {
            zone
        }
        _ => return refuse(answer, ResponseCode::Refused),
    };
    answer.metadata.authoritative = true;
    match zones.at(zone, name) {
        At::Nothing => {
            answer.metadata.response_code = ResponseCode::NXDomain;
            answer.add_authority(soa(zones, zone, zone));
        }
        At::Values(values) => {
            let found = found(zones, zone, name, kind, values);
            match found.is_empty() {
                true => answer.add_authority(soa(zones, zone, zone)),
                false => answer.add_answers(found),
            };
        }
    }
    answer
}

fn found(
    zones: &Zones,
    zone: &Name,
    name: &Name,
    kind: RecordType,
    values: Vec<String>,
) -> Vec<Record> {
    let record = |data| Record::from_rdata(name.clone(), TTL, data);
    match kind {
        RecordType::TXT => {
            values.into_iter().map(|value| record(RData::TXT(TXT::new(vec![value])))).collect()
        }
        RecordType::SOA if name == zone => vec![soa(zones, zone, name)],
        RecordType::NS if name == zone => vec![record(RData::NS(NS(zones.server().clone())))],
        RecordType::ANY => {
            vec![record(RData::HINFO(HINFO::new("RFC8482".to_owned(), String::new())))]
        }
        _ => Vec::new(),
    }
}

fn soa(zones: &Zones, zone: &Name, owner: &Name) -> Record {
    let (refresh, retry, expire) = REFRESH;
    // The mailbox hostmaster@ZONE (RFC 2142, section 7), if a name can hold it.
    let mailbox = zone.prepend_label("hostmaster").unwrap_or_else(|_| zone.clone());
    let server = zones.server().clone();
    let data = SOA::new(server, mailbox, zones.serial(), refresh, retry, expire, TTL);
    Record::from_rdata(owner.clone(), TTL, RData::SOA(data))
}
