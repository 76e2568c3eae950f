//! Certificates for development: a certificate authority of one's own, and certificates from it.
//!
//! Everything is PEM text; keeping it is the caller's business. The keys are ECDSA P-256.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use std::time::{Duration, SystemTime};

/// How long a development authority is valid.
const CA_VALIDITY: Duration = Duration::from_secs(10 * 365 * 86_400);
/// How long a development certificate is valid: browsers refuse more than 398 days.
const LEAF_VALIDITY: Duration = Duration::from_secs(397 * 86_400);
/// Certificates begin this long before now, for clients whose clocks are slow.
const BACKDATED: Duration = Duration::from_secs(3_600);

/// Why a certificate could not be made.
#[derive(Debug, thiserror::Error)]
#[error("a development certificate cannot be made: {0}")]
pub struct SelfSignedError(#[from] rcgen::Error);

/// A certificate and its key, as PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct PemPair {
    /// The certificate; for a leaf followed by the authority's.
    pub chain_pem: String,
    /// The private key (PKCS#8).
    pub key_pem: String,
}

impl std::fmt::Debug for PemPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PemPair").field("chain_pem", &self.chain_pem).finish_non_exhaustive()
    }
}

/// Makes an authority. `name` becomes its common name; people see it in the list of authorities they trust.
///
/// # Errors
/// When there is no randomness, or `name` cannot stand in a certificate.
pub fn authority(name: &str, now: SystemTime) -> Result<PemPair, SelfSignedError> {
    let key = KeyPair::generate()?;
    let mut params = dated(CertificateParams::default(), now, CA_VALIDITY);
    params.distinguished_name.push(DnType::CommonName, name);
    // No authority below this one: a development key that leaks must not become somebody's intermediate.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key)?;
    Ok(PemPair { chain_pem: certificate.pem(), key_pem: key.serialize_pem() })
}

/// Makes a certificate for a domain and every name directly below it (`example.org` and `*.example.org`).
///
/// # Errors
/// As [`leaf`].
pub fn wildcard(
    authority: &PemPair,
    domain: &str,
    now: SystemTime,
) -> Result<PemPair, SelfSignedError> {
    leaf(authority, &[domain.to_owned(), format!("*.{domain}")], now)
}

/// Makes a certificate for these names (DNS names, wildcards, IP addresses).
///
/// # Errors
/// When there is no randomness, a name cannot stand in a certificate, or `authority` is not one of [`authority`]'s.
pub fn leaf(
    authority: &PemPair,
    names: &[String],
    now: SystemTime,
) -> Result<PemPair, SelfSignedError> {
    let issuer =
        Issuer::from_ca_cert_pem(&authority.chain_pem, KeyPair::from_pem(&authority.key_pem)?)?;
    let key = KeyPair::generate()?;
    let mut params = dated(CertificateParams::new(names.to_vec())?, now, LEAF_VALIDITY);
    if let Some(first) = names.first().filter(|name| name.len() <= 64) {
        params.distinguished_name.push(DnType::CommonName, first.as_str());
    }
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = params.signed_by(&key, &issuer)?;
    Ok(PemPair {
        chain_pem: format!("{}{}", certificate.pem(), authority.chain_pem),
        key_pem: key.serialize_pem(),
    })
}

fn dated(mut params: CertificateParams, now: SystemTime, validity: Duration) -> CertificateParams {
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + validity - BACKDATED).into();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
}
