//! Control keys: an id that travels in the open and a secret that never does, and the line of text that holds both.
//!
//! The line is `ID:SECRET` with the secret in base64 (RFC 4648, section 4; padding may be missing), or the secret alone,
//! which then has the id `admin`. This module does not open files: whoever does should refuse, or warn about, a key file
//! that others than its owner can read (mode 0600), and should write new ones with that mode from the start.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::message::Role;

/// The longest key id in bytes.
pub const MAX_KEY_ID_LEN: usize = 64;
/// The shortest secret in bytes. Anyone on the path of a connection can try guesses of the secret at leisure, so it must
/// be random and not a word; 16 random bytes cannot be guessed.
pub const MIN_SECRET_LEN: usize = 16;
/// The longest secret in bytes.
pub const MAX_SECRET_LEN: usize = 256;
/// The length of a generated secret in bytes.
pub const GENERATED_SECRET_LEN: usize = 32;
/// The id of a key that was given without one.
pub const DEFAULT_KEY_ID: &str = "admin";

const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The name of a control key: 1 to [`MAX_KEY_ID_LEN`] ASCII letters, digits, `-`, `_` and `.`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(String);

/// A control key. The secret is wiped from memory when the last copy goes, and never shows in `Debug`.
#[derive(Clone)]
pub struct Key {
    id: KeyId,
    secret: Zeroizing<Vec<u8>>,
}

/// A key together with what its holder may do.
#[derive(Clone, Debug)]
pub struct KnownKey {
    /// The key.
    pub key: Key,
    /// What its holder may do.
    pub role: Role,
}

/// Where a server finds its keys.
pub trait KeyLookup {
    /// The key of this id, if there is one. It is asked once per connection. A lookup that takes about as long for an
    /// unknown id as for a known one keeps ids from being found out by timing.
    fn lookup(&self, id: &KeyId) -> Option<KnownKey>;
}

/// Why a text or a secret is not a control key. Messages never contain the secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The id is empty, too long, or has other characters.
    #[error("a key id is 1 to 64 letters, digits, '-', '_' or '.'")]
    BadId,
    /// The secret is not base64.
    #[error(
        "the secret is not base64: a key is ID:SECRET or SECRET, as `head -c 32 /dev/urandom | base64` makes it"
    )]
    NotBase64,
    /// The secret is shorter than [`MIN_SECRET_LEN`].
    #[error(
        "the secret has {0} bytes, and at least 16 are needed: make one with `head -c 32 /dev/urandom | base64`"
    )]
    TooShort(usize),
    /// The secret is longer than [`MAX_SECRET_LEN`].
    #[error("the secret is longer than 256 bytes")]
    TooLong,
    /// A key file has no line, or more than one.
    #[error("a key file holds exactly one line, ID:SECRET")]
    NotOneLine,
}

impl KeyId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Key {
    /// A key of this id and secret.
    ///
    /// # Errors
    /// When the secret is shorter than [`MIN_SECRET_LEN`] or longer than [`MAX_SECRET_LEN`].
    pub fn new(id: KeyId, secret: &[u8]) -> Result<Self, KeyError> {
        match secret.len() {
            len if len < MIN_SECRET_LEN => Err(KeyError::TooShort(len)),
            len if len > MAX_SECRET_LEN => Err(KeyError::TooLong),
            _ => Ok(Self { id, secret: Zeroizing::new(secret.to_vec()) }),
        }
    }

    /// A new key; `random` must come from the system's generator and be used for nothing else.
    pub fn generate(id: KeyId, random: &[u8; GENERATED_SECRET_LEN]) -> Self {
        Self { id, secret: Zeroizing::new(random.to_vec()) }
    }

    /// Reads the whole text of a key file: one line, with or without its line end. Lines that are empty or start with
    /// `#` are skipped.
    ///
    /// # Errors
    /// When there is not exactly one line, or it is no key.
    pub fn from_file_text(text: &str) -> Result<Self, KeyError> {
        let mut lines =
            text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let line = lines.next().ok_or(KeyError::NotOneLine)?;
        match lines.next() {
            Some(_) => Err(KeyError::NotOneLine),
            None => line.parse(),
        }
    }

    /// The text of a key file: `ID:SECRET` and a line end.
    pub fn to_file_text(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{}:{}\n", self.id, *self.secret_base64()))
    }

    /// The id.
    pub const fn id(&self) -> &KeyId {
        &self.id
    }

    /// The secret's bytes.
    pub fn secret(&self) -> &[u8] {
        &self.secret
    }

    /// The secret in padded base64. Its ASCII bytes are also what the original's programs use as HMAC key when they are
    /// given this text as `--key` (protocol v1 does not decode it).
    pub fn secret_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(self.secret.as_slice()))
    }
}

impl KnownKey {
    /// Whether `other` is this very key: id, secret and role. A key that was removed and made again is another one, even
    /// under the same id. Takes the same time wherever two secrets of the same length differ.
    pub fn is_same(&self, other: &Self) -> bool {
        let secret = self.key.secret().ct_eq(other.key.secret());
        self.key.id() == other.key.id() && self.role == other.role && secret.into()
    }
}

// === impl KeyId ===

/// [`DEFAULT_KEY_ID`].
impl Default for KeyId {
    fn default() -> Self {
        Self(DEFAULT_KEY_ID.to_owned())
    }
}

impl FromStr for KeyId {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let legal = (1..=MAX_KEY_ID_LEN).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if legal { Ok(Self(text.to_owned())) } else { Err(KeyError::BadId) }
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

// === impl Key ===

impl FromStr for Key {
    type Err = KeyError;

    fn from_str(line: &str) -> Result<Self, KeyError> {
        let (id, secret) = line.split_once(':').unwrap_or((DEFAULT_KEY_ID, line));
        let id = id.parse()?;
        let secret =
            LENIENT.decode(secret.trim()).map(Zeroizing::new).map_err(|_| KeyError::NotBase64)?;
        Self::new(id, &secret)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("id", &self.id).finish_non_exhaustive()
    }
}

impl<F: Fn(&KeyId) -> Option<KnownKey>> KeyLookup for F {
    fn lookup(&self, id: &KeyId) -> Option<KnownKey> {
        self(id)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SECRET: &str = "AAECAwQFBgcICQoLDA0ODw==";

    #[test]
    fn a_line_with_and_without_id() {
        let key: Key = format!("ops.2:{SECRET}").parse().unwrap();
        assert_eq!(key.id().as_str(), "ops.2");
        assert_eq!(key.secret(), (0..16).collect::<Vec<u8>>());
        let key: Key = SECRET.parse().unwrap();
        assert_eq!(key.id().as_str(), DEFAULT_KEY_ID);
        let unpadded: Key = SECRET.trim_end_matches('=').parse().unwrap();
        assert_eq!(unpadded.secret(), key.secret());
        assert_eq!(*unpadded.secret_base64(), SECRET);
    }

    #[test]
    fn a_file_holds_one_line() {
        let key = Key::generate("a".parse().unwrap(), &[7; 32]);
        let text = key.to_file_text();
        let again = Key::from_file_text(&text).unwrap();
        assert_eq!((again.id(), again.secret()), (key.id(), key.secret()));
        let commented = format!("# made for tests\r\n\r\n{}\r\n", text.trim_end());
        assert_eq!(Key::from_file_text(&commented).unwrap().secret(), key.secret());
        assert_eq!(Key::from_file_text("").unwrap_err(), KeyError::NotOneLine);
        assert_eq!(
            Key::from_file_text(&format!("{}{}", *text, *text)).unwrap_err(),
            KeyError::NotOneLine
        );
    }

    #[test]
    fn what_is_no_key_is_refused() {
        assert_eq!("AAAA".parse::<Key>().unwrap_err(), KeyError::TooShort(3));
        assert_eq!("not base64!".parse::<Key>().unwrap_err(), KeyError::NotBase64);
        assert_eq!(format!(":{SECRET}").parse::<Key>().unwrap_err(), KeyError::BadId);
        assert_eq!(format!("a b:{SECRET}").parse::<Key>().unwrap_err(), KeyError::BadId);
        assert_eq!(
            Key::new("a".parse().unwrap(), &[0; MAX_SECRET_LEN + 1]).unwrap_err(),
            KeyError::TooLong
        );
        assert_eq!("x".repeat(MAX_KEY_ID_LEN).parse::<KeyId>().unwrap().as_str().len(), 64);
        assert_eq!("x".repeat(MAX_KEY_ID_LEN + 1).parse::<KeyId>(), Err(KeyError::BadId));
    }

    #[test]
    fn a_key_that_was_made_again_is_another() {
        let known = |id: &str, secret: u8, role: &str| KnownKey {
            key: Key::new(id.parse().unwrap(), &[secret; MIN_SECRET_LEN]).unwrap(),
            role: role.parse().unwrap(),
        };
        let first = known("a", 1, "admin");
        assert!(first.is_same(&first.clone()));
        assert!(!first.is_same(&known("a", 2, "admin")));
        assert!(!first.is_same(&known("a", 1, "viewer")));
        assert!(!first.is_same(&known("b", 1, "admin")));
    }

    #[test]
    fn debug_output_has_no_secret() {
        let key: Key = SECRET.parse().unwrap();
        let known = KnownKey { key, role: Role::Admin };
        assert!(!format!("{known:?}").contains("AAEC"));
        assert!(!format!("{known:?}").contains("1, 2, 3"));
    }
}
