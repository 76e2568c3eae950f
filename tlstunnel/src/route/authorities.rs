//! Certificate authorities that a route trusts, from PEM text.

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate, X509Version};

/// The longest PEM text of authorities, in bytes. The bundle of all public authorities is about a quarter of it.
pub const MAX_AUTHORITIES_LEN: usize = 1024 * 1024;

/// Why a PEM text is no set of certificate authorities.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidAuthorities {
    /// Longer than [`MAX_AUTHORITIES_LEN`].
    #[error("the text is longer than 1 MiB")]
    TooLong,
    /// A private key is in the text.
    #[error(
        "the text holds a private key, which does not belong here: give only the authorities' certificates"
    )]
    PrivateKey,
    /// The text is no PEM.
    #[error("the text is not valid PEM: {0}")]
    NotPem(String),
    /// There is no certificate in the text.
    #[error("the text holds no certificate: expected -----BEGIN CERTIFICATE-----")]
    Empty,
    /// A certificate that does not parse; counted from 1.
    #[error("certificate {0} is damaged: {1}")]
    BadCertificate(usize, String),
    /// A certificate that may not issue others; counted from 1.
    #[error(
        "certificate {0} ({1}) is not a certificate authority: give the certificate of the authority that issued it; \
         a backend with a self-signed certificate is trusted by --backend-pin"
    )]
    NotAnAuthority(usize, String),
}

/// Parses every certificate of `pem`; all of them must be authorities.
pub(super) fn parse(pem: &str) -> Result<RootCertStore, InvalidAuthorities> {
    if pem.len() > MAX_AUTHORITIES_LEN {
        return Err(InvalidAuthorities::TooLong);
    }
    if pem.contains("PRIVATE KEY-----") {
        return Err(InvalidAuthorities::PrivateKey);
    }
    let mut roots = RootCertStore::empty();
    for (number, certificate) in (1..).zip(CertificateDer::pem_slice_iter(pem.as_bytes())) {
        let certificate =
            certificate.map_err(|error| InvalidAuthorities::NotPem(error.to_string()))?;
        let damaged = |error: String| InvalidAuthorities::BadCertificate(number, error);
        let (_, parsed) =
            X509Certificate::from_der(&certificate).map_err(|error| damaged(error.to_string()))?;
        // Version 1 certificates cannot say what they are for; very old roots are of that kind.
        if !parsed.is_ca() && parsed.version() != X509Version::V1 {
            let subject = parsed.subject().to_string();
            return Err(InvalidAuthorities::NotAnAuthority(number, subject));
        }
        roots.add(certificate).map_err(|error| damaged(error.to_string()))?;
    }
    match roots.is_empty() {
        true => Err(InvalidAuthorities::Empty),
        false => Ok(roots),
    }
}
