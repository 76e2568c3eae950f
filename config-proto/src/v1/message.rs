//! What v1 says, and its DER.
//!
//! ```text
//! Command ::= CHOICE { add [0] Sni, remove [1] UTF8String, list [2] NULL,
//!                      snis [3] SEQUENCE OF Sni, result [4] SEQUENCE { exit INTEGER, message UTF8String } }
//! Sni     ::= SEQUENCE { sni UTF8String, host Ip, port INTEGER }
//! Ip      ::= CHOICE { v4 [0] INTEGER, v6 [1] SEQUENCE { INTEGER, INTEGER, INTEGER, INTEGER } }
//! ```
//!
//! The first three are requests, the others replies; here they are two types, so that neither side can take one for the
//! other. The integers of an address are signed, of 32 bits.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::der::{self, DerError, Reader, SEQUENCE, context};
use crate::model::{BackendHost, NameError, Route, RouteName};

/// One name and its backend.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sni {
    /// The name as it is on the wire; `default` is the route for everything else.
    pub name: String,
    /// The backend's address.
    pub host: IpAddr,
    /// The backend's port.
    pub port: u16,
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Adds a name, or replaces its backend.
    Add(Sni),
    /// Removes a name.
    Remove(String),
    /// All names.
    List,
}

/// What a server answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// To `list`: all names.
    Snis(Vec<Sni>),
    /// To everything else.
    Result {
        /// [`DONE`], [`FAILED`], [`UNDECODABLE`], [`NOT_AUTHENTICATED`], or another number that the server knows.
        exit: i32,
        /// One sentence.
        message: String,
    },
}

/// The request was carried out.
pub const DONE: i32 = 0;
/// The request failed.
pub const FAILED: i32 = 1;
/// The request was not understood.
pub const UNDECODABLE: i32 = 2;
/// The request's tag does not hold.
pub const NOT_AUTHENTICATED: i32 = 3;

impl Request {
    /// Reads the DER of a request.
    ///
    /// # Errors
    /// When it is anything else than exactly one request.
    pub fn decode(bytes: &[u8]) -> Result<Self, DerError> {
        Reader::new(bytes).whole(|reader| match reader.any()? {
            (tag, content) if tag == context(0) => content.whole(Sni::read).map(Self::Add),
            (tag, content) if tag == context(1) => content.whole(Reader::text).map(Self::Remove),
            (tag, content) if tag == context(2) => content.whole(Reader::null).map(|()| Self::List),
            (tag, _) => Err(DerError::UnexpectedTag(tag)),
        })
    }

    /// Writes the DER.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Add(sni) => der::value(context(0), &[&sni.encode()]),
            Self::Remove(name) => der::value(context(1), &[&der::text(name)]),
            Self::List => der::value(context(2), &[&der::null()]),
        }
    }
}

impl Reply {
    /// Reads the DER of a reply.
    ///
    /// # Errors
    /// When it is anything else than exactly one reply.
    pub fn decode(bytes: &[u8]) -> Result<Self, DerError> {
        Reader::new(bytes).whole(|reader| match reader.any()? {
            (tag, content) if tag == context(3) => content.whole(Sni::read_all).map(Self::Snis),
            (tag, content) if tag == context(4) => {
                content.whole(|reader| reader.expect(SEQUENCE))?.whole(|reader| {
                    Ok(Self::Result { exit: reader.integer()?, message: reader.text()? })
                })
            }
            (tag, _) => Err(DerError::UnexpectedTag(tag)),
        })
    }

    /// Writes the DER.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Snis(snis) => der::value(context(3), &[&Sni::encode_all(snis)]),
            Self::Result { exit, message } => {
                let parts = [der::integer((*exit).into()), der::text(message)];
                der::value(context(4), &[&der::value(SEQUENCE, &[&parts[0], &parts[1]])])
            }
        }
    }
}

impl Sni {
    /// A route of the same meaning.
    ///
    /// # Errors
    /// When the name is none that a route can have.
    pub fn to_route(&self) -> Result<Route, NameError> {
        let backend = std::net::SocketAddr::new(self.host, self.port).into();
        Ok(Route::new(self.name.parse()?, vec![backend]))
    }

    /// The name and first backend of a route, as far as v1 can say them: `None` for wildcards, for `no-sni`, for
    /// backends with a DNS name, and for routes without a backend.
    pub fn from_route(route: &Route) -> Option<Self> {
        let backend = route.settings.backends.first()?;
        match (&route.name, &backend.host) {
            (RouteName::Exact(_) | RouteName::Default, BackendHost::Ip(host)) => {
                Some(Self { name: route.name.to_string(), host: *host, port: backend.port })
            }
            _ => None,
        }
    }

    pub(super) fn encode_all(snis: &[Self]) -> Vec<u8> {
        let content: Vec<u8> = snis.iter().flat_map(Self::encode).collect();
        der::value(SEQUENCE, &[&content])
    }

    pub(super) fn read_all(reader: &mut Reader<'_>) -> Result<Vec<Self>, DerError> {
        let mut content = reader.expect(SEQUENCE)?;
        let mut snis = Vec::new();
        while !content.is_empty() {
            snis.push(Self::read(&mut content)?);
        }
        Ok(snis)
    }

    fn encode(&self) -> Vec<u8> {
        let host = encode_host(self.host);
        let port = der::integer(self.port.into());
        der::value(SEQUENCE, &[&der::text(&self.name), &host, &port])
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DerError> {
        reader.expect(SEQUENCE)?.whole(|reader| {
            Ok(Self { name: reader.text()?, host: read_host(reader)?, port: reader.integer()? })
        })
    }
}

fn encode_host(host: IpAddr) -> Vec<u8> {
    let word = |bytes: [u8; 4]| der::integer(i32::from_be_bytes(bytes).into());
    match host {
        IpAddr::V4(v4) => der::value(context(0), &[&word(v4.octets())]),
        IpAddr::V6(v6) => {
            let octets = v6.octets();
            let words: Vec<u8> = octets
                .chunks_exact(4)
                .filter_map(|bytes| bytes.try_into().ok())
                .flat_map(word)
                .collect();
            der::value(context(1), &[&der::value(SEQUENCE, &[&words])])
        }
    }
}

fn read_host(reader: &mut Reader<'_>) -> Result<IpAddr, DerError> {
    let word = |reader: &mut Reader<'_>| reader.integer::<i32>().map(i32::to_be_bytes);
    match reader.any()? {
        (tag, content) if tag == context(0) => {
            content.whole(word).map(|octets| Ipv4Addr::from(octets).into())
        }
        (tag, content) if tag == context(1) => {
            content.whole(|reader| reader.expect(SEQUENCE))?.whole(|reader| {
                let mut octets = [0; 16];
                for part in octets.chunks_exact_mut(4) {
                    part.copy_from_slice(&word(reader)?);
                }
                Ok(Ipv6Addr::from(octets).into())
            })
        }
        (tag, _) => Err(DerError::UnexpectedTag(tag)),
    }
}
