//! Secrets encrypted where they are stored: AES-256-GCM under a key that is given at start and lies elsewhere.
//!
//! A sealed value says nothing but its length. It is bound to its place (table and key of the record), so that nobody who
//! can write to the device can put one record in the place of another. It does not keep them from putting an older one
//! back.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use zeroize::Zeroizing;

/// The shortest secret in bytes. It is not stretched, so it must be random, not thought of.
pub const MIN_SECRET: usize = 32;

/// What a sealed value begins with. No JSON text begins so.
const MAGIC: &[u8] = b"\0sealed1";
const PURPOSE: &[&[u8]] = &[b"records at rest, version 1"];

/// Why a value cannot be sealed or opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VaultError {
    /// The secret is too short.
    #[error(
        "the storage key has {0} bytes: at least {MIN_SECRET} are needed, as `openssl rand -base64 32` makes them"
    )]
    Short(usize),
    /// It was sealed with another key, for another place, or is damaged.
    #[error("it was encrypted with another key, or is damaged")]
    Closed,
    /// The system gives no randomness, or the value is too long.
    #[error("it cannot be encrypted")]
    Seal,
}

/// Seals and opens values.
pub struct Vault(LessSafeKey);

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Vault(..)")
    }
}

impl Vault {
    /// A vault whose key is derived from `secret` (HKDF-SHA256, RFC 5869).
    ///
    /// # Errors
    /// When the secret is shorter than [`MIN_SECRET`].
    pub fn new(secret: &[u8]) -> Result<Self, VaultError> {
        if secret.len() < MIN_SECRET {
            return Err(VaultError::Short(secret.len()));
        }
        let derived = Salt::new(HKDF_SHA256, &[]).extract(secret);
        let key = derived.expand(PURPOSE, &AES_256_GCM).map_err(|_| VaultError::Seal)?;
        Ok(Self(LessSafeKey::new(UnboundKey::from(key))))
    }

    /// A vault of the text in a key file; white space around it does not count.
    ///
    /// # Errors
    /// As [`Vault::new`].
    pub fn from_text(text: &str) -> Result<Self, VaultError> {
        Self::new(text.trim().as_bytes())
    }

    /// Encrypts `plain` for the place `table`, `key`.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn seal(&self, table: &str, key: &[u8], plain: &[u8]) -> Result<Vec<u8>, VaultError> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(|_| VaultError::Seal)?;
        let mut hidden = Zeroizing::new(plain.to_vec());
        let tag = self
            .0
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                place(table, key),
                &mut hidden,
            )
            .map_err(|_| VaultError::Seal)?;
        Ok([MAGIC, &nonce, &hidden, tag.as_ref()].concat())
    }

    /// Decrypts what [`Vault::seal`] made for the same place.
    ///
    /// # Errors
    /// [`VaultError::Closed`].
    pub fn open(
        &self,
        table: &str,
        key: &[u8],
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let (nonce, hidden) = sealed
            .strip_prefix(MAGIC)
            .and_then(|rest| rest.split_first_chunk::<NONCE_LEN>())
            .ok_or(VaultError::Closed)?;
        let mut hidden = Zeroizing::new(hidden.to_vec());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = self
            .0
            .open_in_place(nonce, place(table, key), &mut hidden)
            .map_err(|_| VaultError::Closed)?
            .len();
        hidden.truncate(length);
        Ok(hidden)
    }

    /// Whether a value was made by [`Vault::seal`].
    pub fn is_sealed(value: &[u8]) -> bool {
        value.starts_with(MAGIC)
    }
}

fn place(table: &str, key: &[u8]) -> Aad<Vec<u8>> {
    Aad::from([table.as_bytes(), &[0], key].concat())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const SECRET: &str = "an example of a secret, which has more than 32 bytes";

    #[test]
    fn only_the_same_key_opens_and_only_at_the_same_place() {
        let vault = Vault::from_text(&format!("{SECRET}\n")).unwrap();
        let sealed = vault.seal("certificates", b"a", b"{\"key\":1}").unwrap();
        assert!(Vault::is_sealed(&sealed) && !Vault::is_sealed(b"{\"key\":1}"));
        assert!(!sealed.windows(3).any(|three| three == b"key"));
        let same = Vault::from_text(SECRET).unwrap();
        assert_eq!(*same.open("certificates", b"a", &sealed).unwrap(), b"{\"key\":1}");
        assert_ne!(vault.seal("certificates", b"a", b"{\"key\":1}").unwrap(), sealed);

        let other = Vault::new(&[7; MIN_SECRET]).unwrap();
        assert_eq!(other.open("certificates", b"a", &sealed), Err(VaultError::Closed));
        assert_eq!(vault.open("certificates", b"b", &sealed), Err(VaultError::Closed));
        assert_eq!(vault.open("certificate", b"sa", &sealed), Err(VaultError::Closed));
        for length in 0..sealed.len() {
            assert!(vault.open("certificates", b"a", &sealed[..length]).is_err());
        }
        let mut flipped = sealed;
        *flipped.last_mut().unwrap() ^= 1;
        assert!(vault.open("certificates", b"a", &flipped).is_err());
        assert_eq!(Vault::new(&[7; 31]).unwrap_err(), VaultError::Short(31));
    }
}
