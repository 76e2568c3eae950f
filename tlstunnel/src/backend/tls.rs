//! TLS towards a backend (mode re-encrypt).

/// Why the settings of TLS towards a backend are not valid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidBackendTls {
    /// The pin is not a SHA-256 in hexadecimal.
    #[error("the pin is not 64 hexadecimal digits")]
    BadPin,
}

/// Opens TLS connections to the backends of one route.
#[derive(Debug)]
pub(crate) struct TlsConnector {}
