//! What a person decides: which authority, which account, which challenge.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

use crate::policy::{KeyType, PerDomain};

/// The directory of Let's Encrypt.
pub const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";
/// The directory of Let's Encrypt's staging environment, whose certificates no browser trusts.
pub const LETS_ENCRYPT_STAGING: &str = "https://acme-staging-v02.api.letsencrypt.org/directory";

/// Shortest key of an external account in bytes; authorities give 32 or more.
const MIN_EXTERNAL_KEY: usize = 16;

/// How certificates are obtained.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The address of the authority's directory (RFC 8555, section 7.1.1); see [`directory_url`].
    pub directory: String,
    /// Mail addresses that the authority may write to.
    pub contacts: Vec<String>,
    /// How it is proved that a name is ours.
    pub challenge: ChallengeKind,
    /// An account elsewhere that the ACME account is bound to (RFC 8555, section 7.3.4).
    pub external_account: Option<ExternalAccount>,
    /// The profile of certificates that is asked for, such as `shortlived`.
    pub profile: PerDomain<String>,
    /// The type of new keys; without one for a name it is [`KeyType::P256`].
    pub key_type: PerDomain<KeyType>,
    /// Of several chains of a certificate, the one whose topmost certificate was issued by this common name.
    pub preferred_chain: Option<String>,
}

/// How it is proved that a name is ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChallengeKind {
    /// By an answer on port 80 (RFC 8555, section 8.3).
    #[default]
    Http01,
    /// By a handshake on port 443 (RFC 8737).
    TlsAlpn01,
    /// By a TXT record under `_acme-challenge` (RFC 8555, section 8.4); the only one for wildcards.
    Dns01,
}

/// Key id and key of an account elsewhere.
#[derive(Clone)]
pub struct ExternalAccount {
    /// The id.
    pub key_id: String,
    /// The HMAC key, decoded.
    pub key: Zeroizing<Vec<u8>>,
}

/// Why a setting cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// Neither a known name nor an https address.
    #[error(
        "{0:?} is no ACME directory: give its https:// address, or letsencrypt, or letsencrypt-staging"
    )]
    Directory(String),
    /// Not `KID:KEY`.
    #[error(
        "the external account is written KID:KEY, the key in base64url as the authority gave it"
    )]
    ExternalAccount,
    /// The external account's key is too short to be one.
    #[error("the key of the external account has {0} bytes, which is too short")]
    ExternalKeyLength(usize),
    /// No such type of key.
    #[error("{0:?} is no type of key: p256, p384, rsa2048, rsa3072 or rsa4096")]
    KeyType(String),
    /// No such challenge.
    #[error("{0:?} is no challenge that can be answered: http-01, tls-alpn-01 or dns-01")]
    Challenge(String),
}

/// The address of a directory: `letsencrypt`, `letsencrypt-staging`, or the address itself.
///
/// # Errors
/// What is not https is refused, as RFC 8555, section 6.1 asks.
pub fn directory_url(text: &str) -> Result<String, SettingsError> {
    match text {
        "letsencrypt" => Ok(LETS_ENCRYPT.to_owned()),
        "letsencrypt-staging" => Ok(LETS_ENCRYPT_STAGING.to_owned()),
        _ => {
            let uri = text.parse::<::http::Uri>().ok();
            let usable = uri.is_some_and(|uri| {
                uri.scheme_str() == Some("https") && uri.host().is_some_and(|host| !host.is_empty())
            });
            match usable {
                true => Ok(text.to_owned()),
                false => Err(SettingsError::Directory(text.to_owned())),
            }
        }
    }
}

impl FromStr for ChallengeKind {
    type Err = SettingsError;

    fn from_str(text: &str) -> Result<Self, SettingsError> {
        match text {
            "http-01" => Ok(Self::Http01),
            "tls-alpn-01" => Ok(Self::TlsAlpn01),
            "dns-01" => Ok(Self::Dns01),
            _ => Err(SettingsError::Challenge(text.to_owned())),
        }
    }
}

impl fmt::Display for ChallengeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http01 => "http-01",
            Self::TlsAlpn01 => "tls-alpn-01",
            Self::Dns01 => "dns-01",
        })
    }
}

impl FromStr for ExternalAccount {
    type Err = SettingsError;

    fn from_str(text: &str) -> Result<Self, SettingsError> {
        let (key_id, key) = text.rsplit_once(':').ok_or(SettingsError::ExternalAccount)?;
        let decoded = URL_SAFE_NO_PAD
            .decode(key)
            .or_else(|_| URL_SAFE.decode(key))
            .map_err(|_| SettingsError::ExternalAccount)?;
        let key = Zeroizing::new(decoded);
        match (key_id.is_empty(), key.len()) {
            (true, _) => Err(SettingsError::ExternalAccount),
            (_, length) if length < MIN_EXTERNAL_KEY => {
                Err(SettingsError::ExternalKeyLength(length))
            }
            _ => Ok(Self { key_id: key_id.to_owned(), key }),
        }
    }
}

impl fmt::Debug for ExternalAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExternalAccount").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn directories() {
        assert_eq!(directory_url("letsencrypt").unwrap(), LETS_ENCRYPT);
        assert_eq!(directory_url("letsencrypt-staging").unwrap(), LETS_ENCRYPT_STAGING);
        let own = "https://ca.example.org:9000/acme/acme/directory";
        assert_eq!(directory_url(own).unwrap(), own);
        for bad in ["", "letsencript", "http://ca.example.org/dir", "https://", "ca.example.org"] {
            assert!(directory_url(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn external_accounts() {
        let account: ExternalAccount = "kid:1:AAECAwQFBgcICQoLDA0ODw".parse().unwrap();
        assert_eq!((account.key_id.as_str(), account.key.len()), ("kid:1", 16));
        let padded: ExternalAccount = "kid:AAECAwQFBgcICQoLDA0ODw==".parse().unwrap();
        assert_eq!(padded.key, account.key);
        assert!(!format!("{account:?}").contains("AAEC"));
        for bad in ["", "kid", ":AAECAwQFBgcICQoLDA0ODw", "kid:***"] {
            assert_eq!(bad.parse::<ExternalAccount>().unwrap_err(), SettingsError::ExternalAccount);
        }
        let short = "kid:AAEC".parse::<ExternalAccount>().unwrap_err();
        assert_eq!(short, SettingsError::ExternalKeyLength(3));
    }
}
