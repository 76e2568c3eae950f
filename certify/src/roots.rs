//! Whom a client of ours trusts: the public authorities, or those in a PEM text.

use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::pem::unfolded;

/// Why roots cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RootsError {
    /// The text is damaged.
    #[error("the PEM text is damaged: {0}")]
    Pem(#[from] rustls_pki_types::pem::Error),
    /// A certificate cannot be a root.
    #[error("a certificate cannot be trusted as an authority: {0}")]
    Root(rustls::Error),
    /// There is none.
    #[error("there is no certificate: expected a section BEGIN CERTIFICATE")]
    None,
    /// The cryptographic provider.
    #[error("TLS cannot be set up: {0}")]
    Tls(rustls::Error),
}

/// The public authorities (Mozilla's list).
pub fn public_roots() -> RootCertStore {
    RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() }
}

/// The authorities in a PEM text. Its line breaks may be spaces, as they are where it was given as an argument.
///
/// # Errors
/// When it has none, or one that cannot be used.
pub fn roots_from_pem(pem: &str) -> Result<RootCertStore, RootsError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(unfolded(pem).as_bytes()) {
        roots.add(certificate?).map_err(RootsError::Root)?;
    }
    match roots.is_empty() {
        true => Err(RootsError::None),
        false => Ok(roots),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_is_no_authority_is_refused() {
        assert!(public_roots().len() > 50);
        assert!(matches!(roots_from_pem(""), Err(RootsError::None)));
        assert!(matches!(roots_from_pem("ca.pem"), Err(RootsError::None)));
        let nonsense = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----";
        assert!(matches!(roots_from_pem(nonsense), Err(RootsError::Root(_))));
    }
}
