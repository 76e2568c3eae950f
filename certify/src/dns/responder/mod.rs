//! A name server for delegated `_acme-challenge` names and nothing else: the program answers the authority's question
//! itself, so that a wildcard certificate needs no key to anybody's DNS.
//!
//! A person delegates once: `_acme-challenge.example.org. NS gateway.example.org.` in the zone `example.org`, or a CNAME
//! from there into a zone that is delegated. Then [`Zones`] holds what is published, `answer` turns a packet into its
//! answer without any I/O, `limit` says how often, and [`Sockets`] carry both.
//!
//! It answers with authority or not at all, never asks others, and never sends more than a few bytes beyond what it got,
//! so it is of no use for flooding somebody else.

mod answer;
mod limit;
mod serve;
mod sockets;
mod zones;

pub use answer::{MAX_UDP_ANSWER, Transport, answer};
pub use limit::{Limiter, Verdict};
pub use sockets::{Sockets, serve};
pub use zones::{DelegatedZones, MAX_VALUES, Zones, ZonesError};
