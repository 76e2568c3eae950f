//! What is stored between the steps, as JSON.
//!
//! | key | record |
//! |---|---|
//! | `account:` and the directory's address | [`AccountRecord`] |
//! | `name:` and the name | [`NameRecord`] |
//! | `txt:` and the value | [`TxtRecord`] |

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::failure::Failure;

const ACCOUNT: &str = "account:";
const NAME: &str = "name:";
const TXT: &str = "txt:";

/// An account with one authority. The key is stored before the authority hears of it, so that no crash leaves an account
/// behind that nobody has the key of.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct AccountRecord {
    /// PKCS#8 in base64.
    pub(crate) key: String,
    /// The account's address, once the authority has answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<String>,
    /// The key that the account is to have, PKCS#8 in base64, while the authority is being told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) next_key: Option<String>,
    /// The contacts that the authority knows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) contacts: Vec<String>,
}

/// How far the certificate of one name has come.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct NameRecord {
    /// Attempts that failed in a row.
    #[serde(default)]
    pub(crate) failures: u32,
    /// No attempt before this, seconds since 1970.
    #[serde(default)]
    pub(crate) not_before: i64,
    /// The authority has asked to be left alone until then, seconds since 1970: nobody may be impatient before.
    #[serde(default)]
    pub(crate) held_until: i64,
    /// A person wants a new certificate, whatever the age of the one in use.
    #[serde(default)]
    pub(crate) renew: bool,
    /// Why the last attempt failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_error: Option<String>,
    /// The directory of the authority that issued what is in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) issued_by: Option<String>,
    /// An order that was begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) order: Option<OrderRecord>,
}

/// An order that was begun, and the key of the certificate it is for. It is stored first without its address: a store that
/// takes nothing any more is noticed before the authority is asked.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct OrderRecord {
    pub(crate) directory: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) url: Option<String>,
    pub(crate) key_pem: String,
}

/// A TXT record that we have shown, or were about to: it is to be taken away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TxtRecord {
    /// The name whose certificate it is for.
    pub(crate) certificate: String,
    /// Where it is, such as `_acme-challenge.example.org`.
    pub(crate) name: String,
    /// What it says: a digest, so no other record has the same.
    pub(crate) value: String,
}

pub(crate) fn account_key(directory: &str) -> String {
    format!("{ACCOUNT}{directory}")
}

pub(crate) fn name_key(name: &str) -> String {
    format!("{NAME}{name}")
}

pub(crate) fn txt_key(value: &str) -> String {
    format!("{TXT}{value}")
}

/// Whether it is a key of [`txt_key`].
pub(crate) fn is_txt_key(key: &str) -> bool {
    key.starts_with(TXT)
}

/// The name that a record is about, from the record's key; none for what is about no name.
pub fn name_of(key: &str) -> Option<&str> {
    key.strip_prefix(NAME)
}

pub(crate) fn encode<T: Serialize>(record: &T) -> Result<Zeroizing<Vec<u8>>, Failure> {
    serde_json::to_vec(record)
        .map(Zeroizing::new)
        .map_err(|error| Failure::local(format!("a record cannot be written: {error}")))
}

/// A record that cannot be read is said aloud and taken for none: what it held is made anew.
pub(crate) fn decode<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Option<T> {
    serde_json::from_slice(bytes)
        .inspect_err(|error| tracing::error!(key, %error, "a record of the store cannot be read"))
        .ok()
}
