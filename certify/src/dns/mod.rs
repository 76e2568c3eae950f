//! TXT records where an authority looks for them (dns-01: RFC 8555, section 8.4), and the DNS that this takes.
//!
//! # The way of a record
//!
//! `alias` follows `_acme-challenge` to where it leads → `zone` finds the zone of that name and the servers that answer
//! for it → `update` adds the value, signed with a [`DnsKey`] → `propagation` waits until every server shows it. The
//! links of this chain stand in [`DynamicUpdate`]. Every message passes through `exchange`. Where the name is delegated to
//! this program, [`responder`] answers the authority itself, and nobody is updated. What has neither is asked through a
//! [`hook`].
//!
//! [`tlsa`] is the original's way, where the certificate itself comes through DNS.
//!
//! This module must not know orders, accounts or storage; only [`hook::AcmeDns`] has the program keep what it needs. Addresses of servers that the zone names come from the
//! program's [`crate::http::Resolve`].

mod alias;
mod error;
mod exchange;
pub mod hook;
mod key;
mod propagation;
mod publisher;
pub mod responder;
pub mod tlsa;
mod update;
mod zone;

pub use alias::alias;
pub use error::DnsError;
pub use key::{DnsKey, DnsKeyError};
pub use publisher::{DnsServer, DynamicUpdate};

use hickory_proto::rr::Name;

/// The longest chain of CNAME records that is followed.
const MAX_ALIASES: usize = 8;

/// A name as people write it, with or without the final dot.
fn parse_name(text: &str) -> Result<Name, DnsError> {
    let mut name = Name::from_ascii(text)
        .map_err(|error| DnsError::Name { name: text.to_owned(), reason: error.to_string() })?;
    name.set_fqdn(true);
    Ok(name.to_lowercase())
}

/// A name as people read it, without the final dot.
fn shown(name: &Name) -> String {
    let text = name.to_ascii();
    match text.strip_suffix('.') {
        Some(rest) if !rest.is_empty() => rest.to_owned(),
        _ => text,
    }
}
