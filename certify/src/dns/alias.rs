//! Where a name leads: CNAME records, of our own server or of somebody else's.

use std::net::SocketAddr;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use hickory_resolver::TokioResolver;

use super::exchange::ask;
use super::{DnsError, MAX_ALIASES, parse_name, shown};
use crate::http::Resolve;

/// The name that `name` is a CNAME for, as `resolver` is told: for [`Resolve::alias`] of programs that have one.
///
/// # Errors
/// When nobody answers, in words.
pub async fn alias(resolver: &TokioResolver, name: &str) -> Result<Option<String>, String> {
    let absolute = format!("{}.", name.trim_end_matches('.'));
    match resolver.lookup(absolute.as_str(), RecordType::CNAME).await {
        Ok(found) => Ok(found.answers().iter().find_map(|record| match &record.data {
            RData::CNAME(target) => Some(target.0.to_ascii()),
            _ => None,
        })),
        Err(error) if error.is_no_records_found() => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

/// The name that `name` stands for; itself when it has no CNAME record. `server` is asked first, as it knows its own
/// zones without delay, then the program's resolver.
pub(super) async fn follow(
    server: SocketAddr,
    name: &Name,
    resolver: &dyn Resolve,
) -> Result<Name, DnsError> {
    let mut at = name.clone();
    for _ in 0..=MAX_ALIASES {
        let next = match ask(server, &at, RecordType::CNAME).await {
            Ok(answer) if answer.metadata.authoritative => target(&answer, &at),
            // Not this server's: a referral, or a refusal.
            Ok(_)
            | Err(DnsError::Answer {
                code: ResponseCode::Refused | ResponseCode::NotAuth, ..
            }) => {
                let found = resolver.alias(&shown(&at)).await.map_err(DnsError::Resolve)?;
                found.map(|found| parse_name(&found)).transpose()?
            }
            Err(error) => return Err(error),
        };
        match next {
            Some(next) => at = next.to_lowercase(),
            None => return Ok(at),
        }
    }
    Err(DnsError::Aliases(shown(name)))
}

fn target(answer: &Message, name: &Name) -> Option<Name> {
    answer.answers.iter().filter(|record| record.name == *name).find_map(|record| {
        match &record.data {
            RData::CNAME(target) => Some(target.0.clone()),
            _ => None,
        }
    })
}
