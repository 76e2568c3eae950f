//! The configuration that the protocol carries: routes and their parts.
//!
//! These types are what `tlstunnel-ctl` sends, what the gateway stores in its generations, and what `export` and
//! `apply -f` read and write. They hold text as people write it; whoever uses a value parses it into a type of its own
//! (an address, a certificate) and refuses what does not parse. Unknown fields are refused, so that a misspelt option
//! in a file is an error and not silence.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::text::text_in_json;

/// The longest host name that DNS can carry in text form (RFC 1035, section 2.3.4, without the final dot).
pub const MAX_NAME_LEN: usize = 253;
/// The longest label of a host name (RFC 1035, section 2.3.4).
pub const MAX_LABEL_LEN: usize = 63;
/// The most backends that one route may have.
pub const MAX_BACKENDS: usize = 64;

/// Which connections a route is for.
///
/// Text form: `blog.example.org` (exactly this server name), `*.example.org` (every name below, at any depth; the
/// longest match wins), `default` (a server name that no other route matches, and also no server name at all as long as
/// there is no `no-sni` route; the original's meaning of `default`), `no-sni` (a ClientHello without a server name).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum RouteName {
    /// Exactly this server name; lower case, no final dot.
    Exact(String),
    /// Every name below this one; the value has no leading `*.`.
    Wildcard(String),
    /// Server names without a route of their own.
    Default,
    /// Connections without a server name.
    NoSni,
}

/// Why a text is not a route name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Nothing was given.
    #[error("the name is empty: write a host name such as blog.example.org")]
    Empty,
    /// Longer than [`MAX_NAME_LEN`].
    #[error("the name is longer than 253 characters")]
    TooLong,
    /// A label is empty, too long, or has a hyphen at its edge.
    #[error(
        "the label {0:?} is not valid: 1 to 63 letters, digits, hyphens or underscores, no hyphen at its edges"
    )]
    BadLabel(String),
    /// An IP address, which a client never sends as server name (RFC 6066, section 3).
    #[error(
        "{0} is an IP address; TLS clients send no server name for an address: use the route name no-sni"
    )]
    IpAddress(String),
    /// Several labels of which the last is a number: a mistyped IPv4 address, never a name (RFC 1123, section 2.1).
    #[error("{0} ends in a number as only IPv4 addresses do, and is not a valid one")]
    EndsInNumber(String),
    /// A `*` that is not a whole first label.
    #[error("a wildcard is the whole first label, as in *.example.org")]
    BadWildcard,
    /// Characters outside ASCII.
    #[error(
        "{0:?} has characters outside ASCII: write it in its xn-- form, as TLS clients send it"
    )]
    NotAscii(String),
}

/// Brings a host name into the form in which names are compared: lower case, without the final dot.
///
/// # Errors
/// Refuses what cannot be a server name of a ClientHello (RFC 6066, section 3).
pub fn normalize_host(text: &str) -> Result<String, NameError> {
    if !text.is_ascii() {
        return Err(NameError::NotAscii(text.to_owned()));
    }
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > MAX_NAME_LEN {
        return Err(NameError::TooLong);
    }
    if name.parse::<std::net::IpAddr>().is_ok() {
        return Err(NameError::IpAddress(name));
    }
    for label in name.split('.') {
        let legal = !label.is_empty()
            && label.len() <= MAX_LABEL_LEN
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if !legal {
            return Err(match label.contains('*') {
                true => NameError::BadWildcard,
                false => NameError::BadLabel(label.to_owned()),
            });
        }
    }
    match name.rsplit_once('.') {
        Some((_, last)) if last.bytes().all(|b| b.is_ascii_digit()) => {
            Err(NameError::EndsInNumber(name))
        }
        _ => Ok(name),
    }
}

impl RouteName {
    /// Parses `text`, putting a name without dots under `domain` when there is one (`blog` → `blog.example.org`).
    ///
    /// # Errors
    /// As [`RouteName::from_str`].
    pub fn parse_under(text: &str, domain: Option<&str>) -> Result<Self, NameError> {
        let name: Self = text.parse()?;
        Ok(match (name, domain) {
            (Self::Exact(host), Some(domain)) if !host.contains('.') && !text.ends_with('.') => {
                Self::Exact(normalize_host(&format!("{host}.{domain}"))?)
            }
            (name, _) => name,
        })
    }
}

impl FromStr for RouteName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Ok(match text {
            "default" => Self::Default,
            "no-sni" => Self::NoSni,
            _ => match text.strip_prefix("*.") {
                Some(parent) => Self::Wildcard(normalize_host(parent)?),
                None => Self::Exact(normalize_host(text)?),
            },
        })
    }
}

impl fmt::Display for RouteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => f.write_str(host),
            Self::Wildcard(parent) => write!(f, "*.{parent}"),
            Self::Default => f.write_str("default"),
            Self::NoSni => f.write_str("no-sni"),
        }
    }
}

text_in_json!(RouteName);

/// What the gateway does with the TLS of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Terminates TLS and forwards the plain stream.
    #[default]
    Terminate,
    /// Forwards the TLS bytes untouched; the backend has certificate and key.
    Passthrough,
    /// Terminates TLS and opens a TLS connection of its own to the backend, whose certificate is verified.
    Reencrypt,
    /// Refuses the connection with the TLS alert `unrecognized_name`.
    Reject,
}

/// How a backend is chosen among several that are healthy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Balance {
    /// One after the other.
    #[default]
    RoundRobin,
    /// The one with the fewest open connections.
    Least,
    /// By a hash of the client's address: the same client gets the same backend while it is healthy.
    Hash,
}

/// Which PROXY protocol header goes to the backend before the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProxyVersion {
    /// The text form.
    V1,
    /// The binary form, with SNI, ALPN and TLS version as TLVs.
    V2,
}

/// What a client sees when no backend can be reached or the name is unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureAnswer {
    /// An HTTP answer (404, 502) to a client that negotiated HTTP by ALPN, or whose first bytes are an HTTP request;
    /// a close to everybody else.
    #[default]
    Auto,
    /// Always an HTTP answer.
    Http,
    /// Always a close.
    Close,
}

/// How the gateway verifies a backend in mode [`Mode::Reencrypt`]. With neither `ca` nor `pin_sha256` the public
/// certificate authorities (webpki-roots) are trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct BackendTls {
    /// PEM: the certificate authorities to trust.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// SHA-256 of the backend's SubjectPublicKeyInfo, 64 hexadecimal digits; name and dates are then not checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pin_sha256: Option<String>,
    /// The name that the backend's certificate must have; without it, the name that the client asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
}

/// Active TCP health checks of a route's backends.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct HealthCheck {
    /// Seconds between two checks of one backend, 1 to 3600.
    pub interval_seconds: u32,
    /// Seconds until a check that gets no answer counts as failed, 1 to 60.
    pub timeout_seconds: u32,
    /// Checks that must succeed in a row before a backend that was down is used again, 1 to 10.
    pub rise: u32,
    /// Checks that must fail in a row before a backend counts as down, 1 to 10.
    pub fall: u32,
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self { interval_seconds: 5, timeout_seconds: 2, rise: 2, fall: 3 }
    }
}

/// The time limits and caps of one route; what is absent is taken from the gateway's own options.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct RouteLimits {
    /// Seconds for a TCP connection to a backend to open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_seconds: Option<u32>,
    /// Seconds without a byte in either direction; 0 means without limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_seconds: Option<u32>,
    /// Seconds without a byte after one direction has ended; 0 means without limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub half_closed_seconds: Option<u32>,
    /// Connections of this route at the same time; 0 means without limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
}

/// One route: which connections, and what becomes of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Route {
    /// Which connections it is for.
    pub name: RouteName,
    /// To which backends, and how.
    pub settings: RouteSettings,
}

impl Route {
    /// A route with these backends and defaults for everything else.
    pub fn new(name: RouteName, backends: Vec<BackendAddress>) -> Self {
        Self { name, settings: RouteSettings { backends, ..RouteSettings::default() } }
    }
}

/// To which backends the connections of a route go, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct RouteSettings {
    /// `HOST:PORT`, `ADDRESS:PORT` or `[V6]:PORT`, at most [`MAX_BACKENDS`]; empty only in mode [`Mode::Reject`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<BackendAddress>,
    /// What is done with the TLS.
    #[serde(skip_serializing_if = "is_default")]
    pub mode: Mode,
    /// How one of several backends is chosen.
    #[serde(skip_serializing_if = "is_default")]
    pub balance: Balance,
    /// The PROXY protocol header that backends get.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<ProxyVersion>,
    /// ALPN protocols offered to clients, best first. Absent: the gateway chooses by the coalescing rule (`http/1.1`
    /// under a shared certificate; also `h2` for a name with a certificate of its own).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpn: Option<Vec<String>>,
    /// PEM: clients must show a certificate that one of these authorities issued.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<String>,
    /// What a client sees when the route cannot serve it.
    #[serde(skip_serializing_if = "is_default")]
    pub failure: FailureAnswer,
    /// Free text for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// How the backend is verified in mode [`Mode::Reencrypt`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend_tls: Option<BackendTls>,
    /// Active health checks; absent means none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthCheck>,
    /// Limits that differ from the gateway's.
    #[serde(skip_serializing_if = "is_default")]
    pub limits: RouteLimits,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Where a backend is: an IP address or a DNS name, and a TCP port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BackendAddress {
    /// An IP address or a DNS name.
    pub host: BackendHost,
    /// The TCP port, not 0.
    pub port: u16,
}

/// The host part of a [`BackendAddress`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BackendHost {
    /// An address; nothing is resolved.
    Ip(std::net::IpAddr),
    /// A DNS name, resolved when connecting and again when its records expire.
    Dns(String),
}

/// Why a text is not a backend address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BackendAddressError {
    /// A web address.
    #[error("{0:?} is a web address: write HOST:PORT alone, for example 10.0.0.7:80")]
    Url(String),
    /// There is no `:PORT`.
    #[error("{0:?} has no port: write HOST:PORT, for example 10.0.0.7:80 or [2001:db8::7]:80")]
    MissingPort(String),
    /// The port is no number from 1 to 65535.
    #[error("{0:?} is not a port: a number from 1 to 65535")]
    BadPort(String),
    /// An IPv6 address without its brackets.
    #[error("an IPv6 address stands in brackets: [{0}]:PORT")]
    NeedsBrackets(String),
    /// The text in brackets is no IPv6 address.
    #[error("{0:?} is not an IPv6 address")]
    BadV6(String),
    /// The host is neither an address nor a name.
    #[error("the host {0:?} is neither an IP address nor a DNS name: {1}")]
    BadHost(String, NameError),
}

impl FromStr for BackendAddress {
    type Err = BackendAddressError;

    fn from_str(text: &str) -> Result<Self, BackendAddressError> {
        if text.contains('/') {
            return Err(BackendAddressError::Url(text.to_owned()));
        }
        let (host, port) = text
            .rsplit_once(':')
            .ok_or_else(|| BackendAddressError::MissingPort(text.to_owned()))?;
        if text.parse::<std::net::Ipv6Addr>().is_ok() {
            return Err(BackendAddressError::NeedsBrackets(text.to_owned()));
        }
        let port = match port.parse::<u16>() {
            // `parse` alone would also take +80 and 0080.
            Ok(number) if number != 0 && number.to_string() == port => number,
            _ if host.starts_with('[') && !host.ends_with(']') => {
                return Err(BackendAddressError::MissingPort(text.to_owned()));
            }
            _ => return Err(BackendAddressError::BadPort(port.to_owned())),
        };
        let host = if let Some(inner) = host.strip_prefix('[') {
            let bad = || BackendAddressError::BadV6(inner.to_owned());
            let address: std::net::Ipv6Addr =
                inner.strip_suffix(']').ok_or_else(bad)?.parse().map_err(|_| bad())?;
            BackendHost::Ip(address.into())
        } else if let Ok(address) = host.parse::<std::net::Ipv4Addr>() {
            BackendHost::Ip(address.into())
        } else if host.contains(':') {
            return Err(BackendAddressError::NeedsBrackets(host.to_owned()));
        } else {
            BackendHost::Dns(
                normalize_host(host)
                    .map_err(|e| BackendAddressError::BadHost(host.to_owned(), e))?,
            )
        };
        Ok(Self { host, port })
    }
}

impl fmt::Display for BackendAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            BackendHost::Ip(std::net::IpAddr::V6(address)) => {
                write!(f, "[{address}]:{}", self.port)
            }
            BackendHost::Ip(address) => write!(f, "{address}:{}", self.port),
            BackendHost::Dns(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

text_in_json!(BackendAddress);

impl From<std::net::SocketAddr> for BackendAddress {
    fn from(address: std::net::SocketAddr) -> Self {
        Self { host: BackendHost::Ip(address.ip()), port: address.port() }
    }
}

/// A whole configuration, as `export` writes it and `apply -f` reads it (TOML or JSON).
///
/// ```toml
/// [routes."blog.example.org"]
/// backends = ["10.0.0.7:80"]
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Document {
    /// Every route by its name.
    #[serde(default)]
    pub routes: BTreeMap<RouteName, RouteSettings>,
}
