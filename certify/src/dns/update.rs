//! Changes of a zone (RFC 2136), signed (TSIG: RFC 8945). An answer that is not signed with the same key is not believed.

use std::net::SocketAddr;

use hickory_proto::op::{Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::TXT;
use hickory_proto::rr::rdata::tsig::{TSIG, TsigError};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::exchange::exchange;
use super::key::DnsKey;
use super::{DnsError, shown};

/// Seconds that others may remember a challenge's record.
const TXT_TTL: u32 = 60;

/// The record of a challenge, to be added beside others of the name (RFC 2136, section 2.5.1).
pub(super) fn add_txt(name: &Name, value: &str) -> Record {
    let txt = RData::TXT(TXT::new(vec![value.to_owned()]));
    Record::from_rdata(name.clone(), TXT_TTL, txt)
}

/// The same, to be taken away alone (RFC 2136, section 2.5.4).
pub(super) fn delete_txt(name: &Name, value: &str) -> Record {
    let mut record = add_txt(name, value);
    (record.dns_class, record.ttl) = (DNSClass::NONE, 0);
    record
}

/// Everything of one type at a name, to be taken away (RFC 2136, section 2.5.2).
pub(super) fn delete_all(name: &Name, kind: RecordType) -> Record {
    let mut record = Record::update0(name.clone(), 0, kind);
    record.dns_class = DNSClass::ANY;
    record
}

/// Asks `server` for all of `changes` in `zone`, or none of them. `now` is in seconds since 1970.
pub(super) async fn update(
    server: SocketAddr,
    key: &DnsKey,
    zone: &Name,
    changes: Vec<Record>,
    now: i64,
) -> Result<(), DnsError> {
    let changed = changes.first().map(|record| shown(&record.name)).unwrap_or_default();
    let mut request = Message::query();
    request.metadata.op_code = OpCode::Update;
    request.metadata.recursion_desired = false;
    request.add_query(Query::query(zone.clone(), RecordType::SOA));
    request.add_authorities(changes);
    let now = u64::try_from(now).unwrap_or(0);
    request.finalize(key.signer(), now).map_err(|error| DnsError::Message(error.to_string()))?;
    let mac = request.signature().map(|signature| signature.data.mac.clone());
    let (bytes, answer) = exchange(server, &request).await?;

    // BADKEY and BADSIG cannot be signed (RFC 8945, section 5.3.2); everything else must be.
    let tsig = answer.signature().map(|record| &record.data);
    match tsig.and_then(|tsig| tsig.error) {
        Some(TsigError::BadKey) => {
            return Err(DnsError::UnknownKey { server, key: key.name() });
        }
        Some(TsigError::BadSig) => {
            return Err(DnsError::WrongSecret { server, key: key.name() });
        }
        Some(TsigError::BadTime) => {
            return Err(DnsError::Clock { server, by: ahead_by(tsig, now) });
        }
        _ => {}
    }
    let code = answer.metadata.response_code;
    match verified(key, &bytes, tsig, mac.as_deref(), now) {
        Ok(()) => {}
        // Some servers refuse without a signature. Nothing is believed that is worse than that nothing was changed.
        Err(_) if tsig.is_none() && code != ResponseCode::NoError => {}
        Err(reason) => return Err(DnsError::Unsigned { server, key: key.name(), reason }),
    }
    match code {
        ResponseCode::NoError => Ok(()),
        ResponseCode::Refused => {
            Err(DnsError::Policy { server, name: changed, zone: shown(zone), key: key.name() })
        }
        code => Err(DnsError::Update { server, name: changed, zone: shown(zone), code }),
    }
}

/// `bytes` were read as a message before, so the counts in their header are those of records that are there.
fn verified(
    key: &DnsKey,
    bytes: &[u8],
    tsig: Option<&TSIG>,
    request_mac: Option<&[u8]>,
    now: u64,
) -> Result<(), String> {
    let tsig = tsig.ok_or("it has no signature")?;
    if tsig.time < u64::from(tsig.fudge) {
        return Err("its signature is of 1970".to_owned());
    }
    let (_, _, valid) = key
        .signer()
        .verify_message_byte(bytes, request_mac, true)
        .map_err(|error| error.to_string())?;
    match valid.contains(&now) {
        true => Ok(()),
        false => Err("its signature is of another time".to_owned()),
    }
}

/// With BADTIME the server says its own time in 48 bits (RFC 8945, section 5.2.3).
fn ahead_by(tsig: Option<&TSIG>, now: u64) -> Option<i64> {
    let other: &[u8; 6] = tsig?.other.first_chunk()?;
    let theirs = other.iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    Some(i64::try_from(now).ok()?.saturating_sub(i64::try_from(theirs).ok()?))
}
