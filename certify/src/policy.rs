//! What kind of certificate a name gets: the key's type, and values that differ from domain to domain.

use std::fmt;
use std::str::FromStr;

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256, RsaKeySize};

use crate::failure::Failure;
use crate::settings::SettingsError;

/// The type of a certificate's key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyType {
    /// ECDSA on P-256: every client knows it, and handshakes are cheapest.
    #[default]
    P256,
    /// ECDSA on P-384.
    P384,
    /// RSA with 2048 bits, for clients that know nothing else.
    Rsa2048,
    /// RSA with 3072 bits.
    Rsa3072,
    /// RSA with 4096 bits. Making one takes seconds, and so does every fiftieth handshake.
    Rsa4096,
}

impl KeyType {
    /// Makes a key. RSA keys take up to seconds of computing.
    pub(crate) fn generate(self) -> Result<KeyPair, Failure> {
        let rsa = |size| KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, size);
        match self {
            Self::P256 => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256),
            Self::P384 => KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384),
            Self::Rsa2048 => rsa(RsaKeySize::_2048),
            Self::Rsa3072 => rsa(RsaKeySize::_3072),
            Self::Rsa4096 => rsa(RsaKeySize::_4096),
        }
        .map_err(|error| Failure::local(format!("no key can be made: {error}")))
    }
}

impl FromStr for KeyType {
    type Err = SettingsError;

    fn from_str(text: &str) -> Result<Self, SettingsError> {
        match text {
            "p256" => Ok(Self::P256),
            "p384" => Ok(Self::P384),
            "rsa2048" => Ok(Self::Rsa2048),
            "rsa3072" => Ok(Self::Rsa3072),
            "rsa4096" => Ok(Self::Rsa4096),
            _ => Err(SettingsError::KeyType(text.to_owned())),
        }
    }
}

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::P256 => "p256",
            Self::P384 => "p384",
            Self::Rsa2048 => "rsa2048",
            Self::Rsa3072 => "rsa3072",
            Self::Rsa4096 => "rsa4096",
        })
    }
}

/// A value for one domain and all names under it, or for every name. Text form: `DOMAIN=VALUE`, or `VALUE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForDomain<T> {
    /// In lower case, without a final dot; none for every name.
    pub domain: Option<String>,
    /// The value.
    pub value: T,
}

impl<T: FromStr> FromStr for ForDomain<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, T::Err> {
        let (domain, value) = match text.split_once('=') {
            Some((domain, value)) => (Some(normal(domain)), value),
            None => (None, text),
        };
        Ok(Self { domain, value: value.parse()? })
    }
}

fn normal(domain: &str) -> String {
    domain.trim_start_matches("*.").trim_end_matches('.').to_ascii_lowercase()
}

/// Values by domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PerDomain<T>(Vec<ForDomain<T>>);

impl<T> Default for PerDomain<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> PerDomain<T> {
    /// The value for a name: that of the longest domain that it is or lies under, else the one for every name. Of several
    /// for the same domain the last one counts.
    pub fn of(&self, name: &str) -> Option<&T> {
        let name = name.strip_prefix("*.").unwrap_or(name);
        let covers = |domain: &str| {
            let rest = name.strip_suffix(domain);
            rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        self.0
            .iter()
            .filter(|entry| entry.domain.as_deref().is_none_or(covers))
            .max_by_key(|entry| entry.domain.as_ref().map_or(0, String::len))
            .map(|entry| &entry.value)
    }
}

impl<T> FromIterator<ForDomain<T>> for PerDomain<T> {
    fn from_iter<I: IntoIterator<Item = ForDomain<T>>>(entries: I) -> Self {
        Self(entries.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_longest_domain_counts() {
        let values: PerDomain<KeyType> =
            ["p384", "Example.ORG.=rsa2048", "*.a.example.org=rsa3072", "x.test=p384", "p256"]
                .iter()
                .map(|text| text.parse().unwrap())
                .collect();
        for (name, expected) in [
            ("example.com", KeyType::P256),
            ("example.org", KeyType::Rsa2048),
            ("*.example.org", KeyType::Rsa2048),
            ("b.example.org", KeyType::Rsa2048),
            ("a.example.org", KeyType::Rsa3072),
            ("b.a.example.org", KeyType::Rsa3072),
            ("badexample.org", KeyType::P256),
            ("x.test", KeyType::P384),
        ] {
            assert_eq!(values.of(name), Some(&expected), "{name}");
        }
        assert_eq!(PerDomain::<KeyType>::default().of("a.example"), None);
        assert!("example.org=dsa".parse::<ForDomain<KeyType>>().is_err());
    }

    #[test]
    fn every_type_makes_a_key_that_can_be_stored() {
        for text in ["p256", "p384", "rsa2048", "rsa3072"] {
            let kind: KeyType = text.parse().unwrap();
            assert_eq!(kind.to_string(), text);
            let pem = kind.generate().unwrap().serialize_pem();
            assert_eq!(KeyPair::from_pem(&pem).unwrap().serialize_pem(), pem, "{text}");
        }
    }
}
