//! One certificate with its private key: loading from PEM, checking, and what people want to know about it.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use config_proto::message::CertificateInfo;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::provider;
use crate::schedule::Validity;

/// The largest PEM text of a chain or a key that is looked at. A long chain of RSA-4096 certificates has about 16 KiB.
pub const MAX_PEM_BYTES: usize = 256 * 1024;
/// The most certificates of a chain. Clients give up at about ten.
pub const MAX_CHAIN: usize = 16;

/// Where a certificate is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Files named at start.
    File,
    /// Made by the program for development.
    SelfSigned,
    /// Sent over the control protocol.
    Uploaded,
    /// Issued through ACME.
    Acme,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "file",
            Self::SelfSigned => "self-signed",
            Self::Uploaded => "uploaded",
            Self::Acme => "acme",
        })
    }
}

/// Why a certificate and its key are refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// The text is larger than [`MAX_PEM_BYTES`].
    #[error("the PEM text is larger than 256 KiB: give one certificate with its intermediates")]
    TooLarge,
    /// More than [`MAX_CHAIN`] certificates.
    #[error("the chain has more than 16 certificates: give one certificate with its intermediates")]
    TooMany,
    /// A section of the PEM text is damaged.
    #[error("the PEM text is damaged: {0}")]
    Pem(pem::Error),
    /// There is no certificate section.
    #[error("there is no certificate: expected a section BEGIN CERTIFICATE")]
    NoCertificate,
    /// There is no key section.
    #[error("there is no private key: expected a section BEGIN PRIVATE KEY")]
    NoKey,
    /// The key is protected by a passphrase.
    #[error(
        "the private key is encrypted: remove the passphrase first, for example with `openssl pkey`"
    )]
    EncryptedKey,
    /// The key is of a kind or size that is not supported.
    #[error("the private key cannot be used: {0}")]
    UnusableKey(rustls::Error),
    /// A certificate is not valid DER.
    #[error("certificate {position} of the chain is damaged: {reason}")]
    Damaged {
        /// Counted from 1.
        position: usize,
        /// What the parser says.
        reason: String,
    },
    /// The key belongs to no certificate of the chain.
    #[error("the private key does not belong to the certificate")]
    KeyMismatch,
    /// The key belongs to a later certificate of the chain.
    #[error(
        "the chain is in the wrong order: the private key belongs to certificate {0}, which must come first"
    )]
    LeafNotFirst(usize),
    /// A certificate is not followed by the one that issued it.
    #[error(
        "the chain is in the wrong order: certificate {position} was issued by {issuer:?}, but {next:?} follows"
    )]
    WrongOrder {
        /// Counted from 1.
        position: usize,
        /// Who issued it.
        issuer: String,
        /// Who follows it.
        next: String,
    },
    /// There is no subject alternative name that a client could ask for.
    #[error("the certificate has no DNS name or IP address as subject alternative name")]
    NoNames,
    /// It is not valid any more.
    #[error("the certificate expired at {0} (seconds since 1970)")]
    Expired(i64),
    /// It is not valid yet.
    #[error("the certificate is not valid before {0} (seconds since 1970): is the clock right?")]
    NotYetValid(i64),
}

/// A certificate that can be shown.
pub struct Certificate {
    key: Arc<CertifiedKey>,
    resolver: Arc<dyn ResolvesServerCert>,
    names: Vec<String>,
    issuer: String,
    not_before: i64,
    not_after: i64,
    sha256: String,
    source: Source,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("names", &self.names)
            .field("sha256", &self.sha256)
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

impl Certificate {
    /// Loads a certificate, its intermediates (in order, the certificate first; a root at the end is fine) and its key.
    ///
    /// Dates are not looked at, because an expired certificate that is being served goes on being served; whoever takes
    /// a new one from a person calls [`Certificate::check_dates`] too.
    ///
    /// # Errors
    /// Says what is wrong with the texts in terms of what the person who has them can do.
    pub fn from_pem(
        chain_pem: &str,
        key_pem: &str,
        source: Source,
    ) -> Result<Self, CertificateError> {
        if chain_pem.len() > MAX_PEM_BYTES || key_pem.len() > MAX_PEM_BYTES {
            return Err(CertificateError::TooLarge);
        }
        let chain: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(chain_pem.as_bytes())
                .take(MAX_CHAIN + 1)
                .collect::<Result<_, _>>()
                .map_err(CertificateError::Pem)?;
        let key = private_key(key_pem)?;
        Self::from_der(chain, key, source)
    }

    /// As [`Certificate::from_pem`], from DER.
    ///
    /// # Errors
    /// As [`Certificate::from_pem`].
    pub fn from_der(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        source: Source,
    ) -> Result<Self, CertificateError> {
        if chain.len() > MAX_CHAIN {
            return Err(CertificateError::TooMany);
        }
        let signing_key =
            provider().key_provider.load_private_key(key).map_err(CertificateError::UnusableKey)?;
        let parsed = chain
            .iter()
            .enumerate()
            .map(|(i, der)| match X509Certificate::from_der(der) {
                Ok((_, certificate)) => Ok(certificate),
                Err(e) => Err(CertificateError::Damaged { position: i + 1, reason: e.to_string() }),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let leaf = parsed.first().ok_or(CertificateError::NoCertificate)?;
        if let Some(public_key) = signing_key.public_key() {
            match parsed.iter().position(|c| c.public_key().raw == public_key.as_ref()) {
                Some(0) => {}
                Some(i) => return Err(CertificateError::LeafNotFirst(i + 1)),
                None => return Err(CertificateError::KeyMismatch),
            }
        }
        for (i, pair) in parsed.windows(2).enumerate() {
            if let [certificate, next] = pair
                && certificate.issuer().as_raw() != next.subject().as_raw()
            {
                return Err(CertificateError::WrongOrder {
                    position: i + 1,
                    issuer: certificate.issuer().to_string(),
                    next: next.subject().to_string(),
                });
            }
        }
        let names = names_of(leaf);
        if names.is_empty() {
            return Err(CertificateError::NoNames);
        }
        let issuer = leaf.issuer().to_string();
        let not_before = leaf.validity().not_before.timestamp();
        let not_after = leaf.validity().not_after.timestamp();
        let sha256 = chain.first().map(hex_sha256).unwrap_or_default();
        drop(parsed);
        let key = Arc::new(CertifiedKey::new(chain, signing_key));
        let resolver = Arc::new(Always(Arc::clone(&key)));
        Ok(Self { key, resolver, names, issuer, not_before, not_after, sha256, source })
    }

    /// Whether it is valid at `now`, seconds since 1970.
    ///
    /// # Errors
    /// [`CertificateError::Expired`] or [`CertificateError::NotYetValid`].
    pub fn check_dates(&self, now: i64) -> Result<(), CertificateError> {
        match now {
            _ if now > self.not_after => Err(CertificateError::Expired(self.not_after)),
            _ if now < self.not_before => Err(CertificateError::NotYetValid(self.not_before)),
            _ => Ok(()),
        }
    }

    /// Its names in compared form: DNS names (`*.example.org` for a wildcard) and IP addresses.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// SHA-256 of the certificate in hexadecimal digits.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Begin of validity, seconds since 1970.
    pub fn not_before(&self) -> i64 {
        self.not_before
    }

    /// End of validity, seconds since 1970.
    pub fn not_after(&self) -> i64 {
        self.not_after
    }

    /// From when to when it is valid.
    pub fn validity(&self) -> Validity {
        Validity { not_before: self.not_before, not_after: self.not_after }
    }

    /// Where it is from.
    pub fn source(&self) -> Source {
        self.source
    }

    /// Whether it is `host`'s alone. Only then no browser can take a connection that was opened for `host` for one to
    /// another name too (connection coalescing, RFC 9113, section 9.1.1).
    pub fn is_own(&self, host: &str) -> bool {
        matches!(self.names.as_slice(), [only] if only == host)
    }

    /// Chain and key for rustls.
    pub fn certified_key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }

    /// Shows this certificate to every client.
    pub fn resolver(&self) -> Arc<dyn ResolvesServerCert> {
        Arc::clone(&self.resolver)
    }

    /// The same for the control protocol.
    pub fn info(&self) -> CertificateInfo {
        CertificateInfo {
            names: self.names.clone(),
            issuer: self.issuer.clone(),
            not_before: self.not_before,
            not_after: self.not_after,
            sha256: self.sha256.clone(),
            source: self.source.to_string(),
        }
    }
}

/// Shows one certificate, for programs that choose it before the handshake: rustls has no choice left.
#[derive(Debug)]
pub struct Always(pub Arc<CertifiedKey>);

impl ResolvesServerCert for Always {
    fn resolve(&self, _client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

fn private_key(pem: &str) -> Result<PrivateKeyDer<'static>, CertificateError> {
    let encrypted = pem.contains("BEGIN ENCRYPTED PRIVATE KEY")
        || (pem.contains("Proc-Type:") && pem.contains("ENCRYPTED"));
    match PrivateKeyDer::from_pem_slice(pem.as_bytes()) {
        _ if encrypted => Err(CertificateError::EncryptedKey),
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) => Err(CertificateError::NoKey),
        Err(e) => Err(CertificateError::Pem(e)),
    }
}

fn hex_sha256(der: &CertificateDer<'_>) -> String {
    hex::encode(Sha256::digest(der))
}

/// The names a client can ask for, without doubles. What is no legal host name (an e-mail address, a URI, `f*.example`)
/// is left out: no ClientHello can name it.
fn names_of(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Vec::new() };
    let mut names = Vec::new();
    for name in &extension.value.general_names {
        let name = match name {
            GeneralName::DNSName(dns) => match dns.parse() {
                Ok(
                    name @ (config_proto::model::RouteName::Exact(_)
                    | config_proto::model::RouteName::Wildcard(_)),
                ) => name.to_string(),
                _ => continue,
            },
            GeneralName::IPAddress(bytes) => {
                let address = <[u8; 4]>::try_from(*bytes)
                    .map(IpAddr::from)
                    .or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
                match address {
                    Ok(address) => address.to_string(),
                    Err(_) => continue,
                }
            }
            _ => continue,
        };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::SystemTime;

    use super::*;
    use crate::self_signed::{PemPair, authority, leaf, wildcard};

    fn load(chain: &str, key: &str) -> Result<Certificate, CertificateError> {
        Certificate::from_pem(chain, key, Source::Uploaded)
    }

    fn pair() -> PemPair {
        let ca = authority("Test CA", SystemTime::now()).unwrap();
        wildcard(&ca, "example.org", SystemTime::now()).unwrap()
    }

    #[test]
    fn a_good_pair_tells_about_itself() {
        let pair = pair();
        let certificate = load(&pair.chain_pem, &pair.key_pem).unwrap();
        let info = certificate.info();
        assert_eq!(info.names, ["example.org", "*.example.org"]);
        assert_eq!((info.issuer.as_str(), info.source.as_str()), ("CN=Test CA", "uploaded"));
        assert_eq!(info.sha256.len(), 64);
        certificate.check_dates(info.not_before).unwrap();
        certificate.check_dates(info.not_after).unwrap();
        let expired = certificate.check_dates(info.not_after + 1);
        assert!(matches!(expired, Err(CertificateError::Expired(_))));
        let early = certificate.check_dates(info.not_before - 1);
        assert!(matches!(early, Err(CertificateError::NotYetValid(_))));
    }

    #[test]
    fn what_is_wrong_is_named() {
        use CertificateError as E;
        let good = pair();
        let other = pair();
        let (leaf_pem, ca_pem) =
            good.chain_pem.split_at(good.chain_pem.rfind("-----BEGIN").unwrap());
        let swapped = format!("{ca_pem}{leaf_pem}");
        let unrelated = format!("{leaf_pem}{}", other.chain_pem);
        let damaged = leaf_pem.replacen("MII", "MIJ", 1);

        assert!(matches!(load("", &good.key_pem), Err(E::NoCertificate)));
        assert!(matches!(load(&good.chain_pem, ""), Err(E::NoKey)));
        assert!(matches!(load(&good.chain_pem, &good.chain_pem), Err(E::NoKey)));
        assert!(matches!(load(&good.chain_pem, &other.key_pem), Err(E::KeyMismatch)));
        assert!(matches!(load(&swapped, &good.key_pem), Err(E::LeafNotFirst(2))));
        assert!(matches!(load(&unrelated, &good.key_pem), Err(E::WrongOrder { position: 1, .. })));
        assert!(matches!(
            load(&damaged, &good.key_pem),
            Err(E::Damaged { position: 1, .. } | E::Pem(_))
        ));
        let cut = &leaf_pem[..leaf_pem.len() - 30];
        assert!(matches!(load(cut, &good.key_pem), Err(E::Pem(_) | E::NoCertificate)));
        let encrypted = good.key_pem.replace("PRIVATE", "ENCRYPTED PRIVATE");
        assert!(matches!(load(&good.chain_pem, &encrypted), Err(E::EncryptedKey)));
        let many = leaf_pem.repeat(MAX_CHAIN + 1);
        assert!(matches!(load(&many, &good.key_pem), Err(E::TooMany)));
        let large = " ".repeat(MAX_PEM_BYTES + 1);
        assert!(matches!(load(&large, &good.key_pem), Err(E::TooLarge)));
        let nameless = authority("Test CA", SystemTime::now()).unwrap();
        assert!(matches!(load(&nameless.chain_pem, &nameless.key_pem), Err(E::NoNames)));
    }

    #[test]
    fn addresses_are_names_too() {
        let ca = authority("Test CA", SystemTime::now()).unwrap();
        let names = ["192.0.2.1".to_owned(), "2001:db8::1".to_owned()];
        let pair = leaf(&ca, &names, SystemTime::now()).unwrap();
        assert_eq!(load(&pair.chain_pem, &pair.key_pem).unwrap().names(), names);
    }
}
