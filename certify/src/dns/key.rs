//! The key that updates are signed with (TSIG: RFC 8945).

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hickory_proto::rr::rdata::tsig::TsigAlgorithm;
use hickory_proto::rr::{Name, TSigner};
use zeroize::Zeroizing;

use super::{DnsError, parse_name, shown};

/// The difference of clocks in seconds that is allowed (RFC 8945, section 10 recommends 300).
pub(super) const FUDGE: u16 = 300;
/// The shortest secret in bytes: half of the shortest MAC (RFC 8945, section 10 asks for as long as the MAC).
const MIN_SECRET: usize = 16;

/// Name, algorithm and secret that are shared with a DNS server. Written `NAME:SHA256:BASE64`, as the original writes it.
#[derive(Clone)]
pub struct DnsKey {
    name: Name,
    signer: TSigner,
}

/// Why a text is no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DnsKeyError {
    /// Not three parts.
    #[error("a DNS key is written NAME:SHA256:BASE64")]
    Form,
    /// The name.
    #[error("the name of the DNS key: {0}")]
    Name(String),
    /// The algorithm.
    #[error("{0:?} is no algorithm of DNS keys that is good enough: SHA256, SHA384 or SHA512")]
    Algorithm(String),
    /// The secret.
    #[error("the secret of the DNS key is not base64")]
    Base64,
    /// The secret is too short.
    #[error("the secret of the DNS key has {0} bytes; it must have at least 16")]
    Short(usize),
}

impl DnsKey {
    /// The key's name without the final dot.
    pub fn name(&self) -> String {
        shown(&self.name)
    }

    /// The zone that the original takes from a key's name: what follows the first two labels, as in
    /// `tlstunnel._update.example.org`. None when there are not so many.
    pub fn zone(&self) -> Option<String> {
        (self.name.num_labels() > 2).then(|| shown(&self.name.base_name().base_name()))
    }

    pub(super) fn signer(&self) -> &TSigner {
        &self.signer
    }
}

impl FromStr for DnsKey {
    type Err = DnsKeyError;

    fn from_str(text: &str) -> Result<Self, DnsKeyError> {
        let mut parts = text.splitn(3, ':');
        let (Some(name), Some(algorithm), Some(secret)) =
            (parts.next(), parts.next(), parts.next())
        else {
            return Err(DnsKeyError::Form);
        };
        let name = match parse_name(name) {
            Ok(name) if !name.is_root() => name,
            Ok(_) => return Err(DnsKeyError::Name("it is empty".to_owned())),
            Err(DnsError::Name { reason, .. }) => return Err(DnsKeyError::Name(reason)),
            Err(error) => return Err(DnsKeyError::Name(error.to_string())),
        };
        let plain = algorithm.to_ascii_lowercase().replace('-', "");
        let algorithm = match plain.strip_prefix("hmac").unwrap_or(&plain) {
            "sha256" => TsigAlgorithm::HmacSha256,
            "sha384" => TsigAlgorithm::HmacSha384,
            "sha512" => TsigAlgorithm::HmacSha512,
            _ => return Err(DnsKeyError::Algorithm(algorithm.to_owned())),
        };
        let secret = Zeroizing::new(STANDARD.decode(secret).map_err(|_| DnsKeyError::Base64)?);
        if secret.len() < MIN_SECRET {
            return Err(DnsKeyError::Short(secret.len()));
        }
        let unusable = |_| DnsKeyError::Algorithm(plain.clone());
        let signer = TSigner::new(secret.to_vec(), algorithm, name.clone(), FUDGE);
        Ok(Self { name, signer: signer.map_err(unusable)? })
    }
}

impl fmt::Debug for DnsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DnsKey").field("name", &self.name()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const SECRET: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    #[test]
    fn keys_as_the_original_writes_them() {
        let key: DnsKey = format!("tlstunnel._update.Example.ORG:SHA256:{SECRET}").parse().unwrap();
        assert_eq!(key.name(), "tlstunnel._update.example.org");
        assert_eq!(key.zone().as_deref(), Some("example.org"));
        assert_eq!(*key.signer().algorithm(), TsigAlgorithm::HmacSha256);
        assert!(!format!("{key:?}").contains("AAEC"));
        let key: DnsKey = format!("acme.:hmac-sha512:{SECRET}").parse().unwrap();
        assert_eq!((key.name().as_str(), key.zone()), ("acme", None));
        assert_eq!(*key.signer().algorithm(), TsigAlgorithm::HmacSha512);
    }

    #[test]
    fn what_is_no_key_says_why() {
        let error = |text: &str| text.parse::<DnsKey>().unwrap_err();
        assert_eq!(error("acme"), DnsKeyError::Form);
        assert_eq!(error("acme:SHA256"), DnsKeyError::Form);
        assert_eq!(error("acme:SHA256:???"), DnsKeyError::Base64);
        assert_eq!(error("acme:SHA256:AAEC"), DnsKeyError::Short(3));
        assert_eq!(error(&format!("acme:MD5:{SECRET}")), DnsKeyError::Algorithm("MD5".into()));
        assert!(matches!(error(&format!(":SHA256:{SECRET}")), DnsKeyError::Name(_)));
        let long = "a".repeat(64);
        assert!(matches!(error(&format!("{long}:SHA256:{SECRET}")), DnsKeyError::Name(_)));
    }
}
