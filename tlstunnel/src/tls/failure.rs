//! What a failed handshake is called where people read it.

use std::io;

use rustls::{CertificateError, Error};

/// The failure in words. `advice` follows where the peer showed the certificate of an authority as its own, which
/// commonly is a self-signed one: many tools mark those as authorities, and a verifier must then refuse them
/// (RFC 5280, section 4.2.1.9).
pub(crate) fn explain(error: &io::Error, advice: &str) -> String {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match tls {
        Some(Error::InvalidCertificate(CertificateError::Other(other)))
            // The error of webpki, whose type rustls does not pass on; a test holds its name.
            if format!("{:?}", other.0) == "CaUsedAsEndEntity" =>
        {
            format!("the peer's certificate is that of an authority (CA:TRUE), commonly a self-signed one: {advice}")
        }
        _ => error.to_string(),
    }
}
