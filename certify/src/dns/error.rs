//! What goes wrong between us and name servers, and whose fault it is.

use std::io;
use std::net::SocketAddr;

use hickory_proto::op::ResponseCode;

/// Why a record could not be looked up, changed or seen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DnsError {
    /// A name that DNS cannot hold.
    #[error("{name:?} is no DNS name: {reason}")]
    Name {
        /// As it was given.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A message that cannot be made; a name or value is too long.
    #[error("no DNS message can be made: {0}")]
    Message(String),
    /// Nothing usable comes back.
    #[error("the DNS server {server} does not answer: {source}")]
    NoAnswer {
        /// The server.
        server: SocketAddr,
        /// What the system says, or that the time was over.
        source: io::Error,
    },
    /// The server answers what is not DNS.
    #[error("the DNS server {server} answers nonsense: {reason}")]
    Nonsense {
        /// The server.
        server: SocketAddr,
        /// What is wrong with it.
        reason: String,
    },
    /// The server says that it cannot.
    #[error("the DNS server {server} answers {code} to a question for {name}")]
    Answer {
        /// The server.
        server: SocketAddr,
        /// What was asked for.
        name: String,
        /// The response code.
        code: ResponseCode,
    },
    /// No zone of the server holds the name.
    #[error(
        "the DNS server {server} is not responsible for {name} nor for any name above it: is --dns-server the primary of the zone?"
    )]
    NotResponsible {
        /// The server.
        server: SocketAddr,
        /// The name.
        name: String,
    },
    /// The zone gives the name away to other servers.
    #[error(
        "{name} is delegated to {to}: the record must be made there, not on the DNS server {server}"
    )]
    Delegated {
        /// The server that was asked.
        server: SocketAddr,
        /// The name that is delegated.
        name: String,
        /// The first of the servers that it is delegated to.
        to: String,
    },
    /// CNAME records that lead nowhere.
    #[error("{0} leads through more than 8 CNAME records, or in a circle")]
    Aliases(String),
    /// TSIG: the server does not know the key (BADKEY).
    #[error(
        "the DNS server {server} does not know the key {key}: is its name right, does the server have it with the same algorithm, and may it change this zone?"
    )]
    UnknownKey {
        /// The server.
        server: SocketAddr,
        /// The key's name.
        key: String,
    },
    /// TSIG: the server computes another signature (BADSIG).
    #[error("the DNS server {server} has another secret for the key {key}")]
    WrongSecret {
        /// The server.
        server: SocketAddr,
        /// The key's name.
        key: String,
    },
    /// TSIG: the clocks are too far apart (BADTIME).
    #[error(
        "the clocks of this machine and of the DNS server {server} differ{}: which one is wrong?",
        by.map(|seconds| format!(" by {seconds} seconds")).unwrap_or_default()
    )]
    Clock {
        /// The server.
        server: SocketAddr,
        /// How far ahead we are in seconds, if the server says so.
        by: Option<i64>,
    },
    /// The answer is not signed with our key, so somebody else may have sent it.
    #[error(
        "the answer of the DNS server {server} is not signed with the key {key} and not believed: {reason}"
    )]
    Unsigned {
        /// The server.
        server: SocketAddr,
        /// The key's name.
        key: String,
        /// What does not hold.
        reason: String,
    },
    /// The server's policy says no.
    #[error(
        "the DNS server {server} refuses to change {name} in the zone {zone}: its policy must allow the key {key} to do so"
    )]
    Policy {
        /// The server.
        server: SocketAddr,
        /// What was to be changed.
        name: String,
        /// Where.
        zone: String,
        /// The key's name.
        key: String,
    },
    /// The update fails otherwise.
    #[error("the DNS server {server} answers {code} to the change of {name} in the zone {zone}{}", hint(*code))]
    Update {
        /// The server.
        server: SocketAddr,
        /// What was to be changed.
        name: String,
        /// Where.
        zone: String,
        /// The response code.
        code: ResponseCode,
    },
    /// Not every server of the zone shows the record.
    #[error(
        "{name} was changed, and after {seconds} seconds these servers of the zone do not show it: {missing}"
    )]
    Lagging {
        /// The record.
        name: String,
        /// How long was waited.
        seconds: u64,
        /// Which servers.
        missing: String,
    },
    /// The servers of the zone cannot be reached at all.
    #[error("no server of the zone {zone} can be asked whether it shows the record: {reason}")]
    NoServers {
        /// The zone.
        zone: String,
        /// What was tried.
        reason: String,
    },
    /// A name could not be resolved by the program.
    #[error("{0}")]
    Resolve(String),
}

impl DnsError {
    /// Whether nobody said no: the same may succeed in a moment.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::NoAnswer { .. } | Self::Lagging { .. } | Self::NoServers { .. } => true,
            Self::Answer { code, .. } | Self::Update { code, .. } => {
                *code == ResponseCode::ServFail
            }
            Self::Resolve(_) => true,
            _ => false,
        }
    }
}

fn hint(code: ResponseCode) -> &'static str {
    match code {
        ResponseCode::NotAuth => ": it is not the primary of that zone",
        ResponseCode::NotImp => ": it does not take updates (RFC 2136)",
        ResponseCode::ServFail => ": its log says why",
        _ => "",
    }
}
