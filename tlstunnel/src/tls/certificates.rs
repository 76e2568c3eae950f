//! Certificates by server name.

/// Which certificate is shown for which name.
#[derive(Clone, Debug, Default)]
pub struct CertificateTable {}
