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

/// What lies in a store beside its secrets, encrypted as they are: it tells whether a key is the right one.
const PROOF: &[u8] = b"the key of this store";

/// The keys of a store.
#[derive(Debug)]
pub struct StoreKeys {
    /// Secrets are encrypted with this one from now on.
    pub current: Vault,
    /// They may be encrypted with this one still, if the key is being changed.
    pub previous: Option<Vault>,
}

/// How the secrets of a store lie there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sealing {
    /// Not encrypted.
    Clear,
    /// Encrypted with the key that is used from now on.
    Current,
    /// Encrypted with the one before it.
    Previous,
}

impl StoreKeys {
    /// How the secrets of a store lie there, by the proof that it holds at the place `table`, `key`.
    ///
    /// # Errors
    /// [`VaultError::Closed`] when none of the keys is the right one.
    pub fn sealing(
        &self,
        table: &str,
        key: &[u8],
        proof: Option<&[u8]>,
    ) -> Result<Sealing, VaultError> {
        let Some(proof) = proof else { return Ok(Sealing::Clear) };
        let opens = |vault: &Vault| vault.open(table, key, proof).is_ok();
        match &self.previous {
            _ if opens(&self.current) => Ok(Sealing::Current),
            Some(previous) if opens(previous) => Ok(Sealing::Previous),
            _ => Err(VaultError::Closed),
        }
    }

    /// What [`StoreKeys::sealing`] is to find at the place `table`, `key` from now on.
    ///
    /// # Errors
    /// As [`Vault::seal`].
    pub fn proof(&self, table: &str, key: &[u8]) -> Result<Vec<u8>, VaultError> {
        self.current.seal(table, key, PROOF)
    }

    /// A secret as it is to lie in the store from now on, which lies there as `sealing` says.
    ///
    /// # Errors
    /// When it cannot be opened or sealed.
    pub fn sealed_anew(
        &self,
        sealing: Sealing,
        table: &str,
        key: &[u8],
        stored: Vec<u8>,
    ) -> Result<Vec<u8>, VaultError> {
        let stored = Zeroizing::new(stored);
        match (sealing, &self.previous) {
            (Sealing::Previous, Some(previous)) => {
                self.current.seal(table, key, &previous.open(table, key, &stored)?)
            }
            (Sealing::Previous, None) => Err(VaultError::Closed),
            (Sealing::Clear, _) => self.current.seal(table, key, &stored),
            (Sealing::Current, _) => Ok(stored.to_vec()),
        }
    }
}

impl From<Vault> for StoreKeys {
    fn from(current: Vault) -> Self {
        Self { current, previous: None }
    }
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
    fn the_key_of_a_store_can_be_changed() {
        let (old, new) = ([1; MIN_SECRET], [2; MIN_SECRET]);
        let place = ("meta", b"vault".as_slice());
        let before = StoreKeys::from(Vault::new(&old).unwrap());
        assert_eq!(before.sealing(place.0, place.1, None), Ok(Sealing::Clear));
        let proof = before.proof(place.0, place.1).unwrap();
        let secret = before.sealed_anew(Sealing::Clear, "acme", b"a", b"{}".to_vec()).unwrap();
        assert_eq!(before.sealing(place.0, place.1, Some(&proof)), Ok(Sealing::Current));
        let unknowing = StoreKeys::from(Vault::new(&new).unwrap());
        assert_eq!(unknowing.sealing(place.0, place.1, Some(&proof)), Err(VaultError::Closed));

        let changing = StoreKeys {
            current: Vault::new(&new).unwrap(),
            previous: Some(Vault::new(&old).unwrap()),
        };
        assert_eq!(changing.sealing(place.0, place.1, Some(&proof)), Ok(Sealing::Previous));
        let anew = changing.sealed_anew(Sealing::Previous, "acme", b"a", secret).unwrap();
        assert_eq!(*unknowing.current.open("acme", b"a", &anew).unwrap(), b"{}");
        // What lies in the clear where everything is encrypted was put there by somebody else.
        let planted = changing.sealed_anew(Sealing::Previous, "acme", b"b", b"{}".to_vec());
        assert_eq!(planted, Err(VaultError::Closed));
        let proof = changing.proof(place.0, place.1).unwrap();
        assert_eq!(changing.sealing(place.0, place.1, Some(&proof)), Ok(Sealing::Current));
        assert_eq!(unknowing.sealing(place.0, place.1, Some(&proof)), Ok(Sealing::Current));
        assert_eq!(before.sealing(place.0, place.1, Some(&proof)), Err(VaultError::Closed));
    }

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
