//! What makes a route unusable, and what to change.

use config_proto::model::{BackendAddress, MAX_BACKENDS, Mode};

use super::InvalidAuthorities;

/// The most ALPN protocols that a route may offer.
pub const MAX_ALPN_PROTOCOLS: usize = 16;
/// The longest description of a route, in bytes.
pub const MAX_DESCRIPTION_LEN: usize = 1024;

/// Why a route is refused, and what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidRoute {
    /// No backend in a mode that needs one.
    #[error(
        "the route has no backend: give at least one, for example 10.0.0.7:80, or use mode reject"
    )]
    NoBackends,
    /// More than [`MAX_BACKENDS`].
    #[error("the route has {0} backends, at most {max} are possible", max = MAX_BACKENDS)]
    TooManyBackends(usize),
    /// The same backend twice.
    #[error("the backend {0} is given twice: give it once")]
    DuplicateBackend(BackendAddress),
    /// An address that nobody can listen on.
    #[error("the backend {0} cannot be connected to: 0.0.0.0 and [::] are no addresses of a host")]
    UnspecifiedBackend(BackendAddress),
    /// A setting that has no effect in this mode.
    #[error("{setting} has no effect in mode {}: remove it, or use {instead}", mode_name(*mode))]
    NotInMode {
        /// The setting.
        setting: &'static str,
        /// The route's mode.
        mode: Mode,
        /// A mode in which it has.
        instead: &'static str,
    },
    /// An ALPN name that is empty or too long (RFC 7301, section 3.1).
    #[error("an ALPN protocol has 1 to 255 bytes, {0:?} has not")]
    BadAlpn(String),
    /// The same ALPN name twice.
    #[error("the ALPN protocol {0:?} is given twice: give it once")]
    DuplicateAlpn(String),
    /// More than [`MAX_ALPN_PROTOCOLS`].
    #[error("the route has {0} ALPN protocols, at most {max} are possible", max = MAX_ALPN_PROTOCOLS)]
    TooManyAlpn(usize),
    /// The text of `client-ca`.
    #[error("client-ca: {0}")]
    ClientCa(InvalidAuthorities),
    /// The text of `backend-tls.ca`.
    #[error("backend-tls.ca: {0}")]
    BackendCa(InvalidAuthorities),
    /// The text of `backend-tls.pin-sha256`.
    #[error(
        "backend-tls.pin-sha256 is not 64 hexadecimal digits: give the SHA-256 of the backend's public key, \
         as from openssl x509 -pubkey -noout | openssl pkey -pubin -outform DER | sha256sum"
    )]
    BadPin,
    /// An authority and a pin at once.
    #[error("backend-tls has both ca and pin-sha256: a pin alone decides, so give one of the two")]
    CaAndPin,
    /// The text of `backend-tls.server-name`.
    #[error("backend-tls.server-name {0:?} is neither a host name nor an IP address")]
    BadServerName(String),
    /// TLS to the backend could not be set up.
    #[error("TLS to the backend cannot be set up: {0}")]
    BackendTls(String),
    /// A number out of its range.
    #[error("{setting} is {value}, possible are {min} to {max}")]
    OutOfRange {
        /// The setting.
        setting: &'static str,
        /// As given.
        value: u32,
        /// The least.
        min: u32,
        /// The most.
        max: u32,
    },
    /// Longer than [`MAX_DESCRIPTION_LEN`].
    #[error("the description is longer than {max} bytes", max = MAX_DESCRIPTION_LEN)]
    DescriptionTooLong,
}

fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Terminate => "terminate",
        Mode::Passthrough => "passthrough",
        Mode::Reencrypt => "reencrypt",
        Mode::Reject => "reject",
    }
}
