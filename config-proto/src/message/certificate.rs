//! Certificates as they are shown, and why one is revoked.

use serde::{Deserialize, Serialize};

/// A certificate that the gateway serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CertificateInfo {
    /// Its subject alternative names.
    pub names: Vec<String>,
    /// Who issued it.
    pub issuer: String,
    /// Start of validity, seconds since 1970.
    pub not_before: i64,
    /// End of validity, seconds since 1970.
    pub not_after: i64,
    /// SHA-256 of the certificate in hexadecimal digits.
    pub sha256: String,
    /// Where it is from: `file`, `self-signed`, `uploaded`, `acme`.
    pub source: String,
}

impl CertificateInfo {
    /// Its place in lists.
    pub fn cursor(&self) -> CertificateCursor {
        let name = self.names.first().cloned().unwrap_or_default();
        CertificateCursor { name, sha256: self.sha256.clone() }
    }
}

/// The place of a certificate in lists, which it has whether it is still there or not: by its first name, and among
/// those of the same name by its SHA-256.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct CertificateCursor {
    /// The first of its names; empty where it has none.
    pub name: String,
    /// SHA-256 of the certificate in hexadecimal digits.
    pub sha256: String,
}

/// A page of certificates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CertificateList {
    /// In the order of their [`CertificateCursor`].
    pub certificates: Vec<CertificateInfo>,
    /// Whether there are more after the last one.
    #[serde(default)]
    pub more: bool,
}

/// What clients of a name are shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CertificateChain {
    /// PEM: the certificate, then its intermediates; for one of `--self-signed` the development authority comes last.
    pub chain_pem: String,
}

/// Why a certificate is revoked (RFC 5280, section 5.3.1), as far as its holder can know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum RevocationReason {
    /// None is given.
    #[default]
    Unspecified,
    /// Somebody else may have the key.
    KeyCompromise,
    /// The holder's name or organisation changed.
    AffiliationChanged,
    /// Another certificate took its place.
    Superseded,
    /// The name is served no more.
    CessationOfOperation,
}
