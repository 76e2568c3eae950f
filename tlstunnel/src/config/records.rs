//! What lies in the store: the tables, and the records in them as JSON.
//!
//! | table | key | record |
//! |---|---|---|
//! | `meta` | `schema`, `head`, `authority` | the version of this schema; [`HeadRecord`]; [`PemRecord`] of the development CA |
//! | `meta` | `vault` | a proof, in a store whose secrets are encrypted: it tells whether a key is the right one |
//! | `meta` | `overwrite` | nothing: free space is to be overwritten still, see `encryption` |
//! | `routes` | the route's name | its settings |
//! | `generations` | number, 8 bytes big-endian | [`GenerationRecord`] |
//! | `changes` | number, 8 bytes big-endian, then the route's name | [`ChangeRecord`]: the undo log |
//! | `keys` | the key's id | [`KeyRecord`] |
//! | `certificates` | SHA-256 in hexadecimal digits | [`CertificateRecord`] |
//! | `acme` | as [`certify`] names it | what certify keeps: accounts, orders, times of next attempts |
//! | `filler` | a number | zeros, which overwrite free space once; removed afterwards |
//! | `v1-backup` | `data`, `counter`, `timestamp` | the original's data as it was before migration; the store writes it |
//!
//! Without a storage key secrets lie here in the clear, as they do in key files: whoever can read the device has them. With
//! one, the records of `keys`, `certificates`, `acme` and the development CA are encrypted ([`certify::vault`]), each for
//! its place. A gateway refuses a schema newer than its own.

use config_proto::message::Role;
use config_proto::model::{RouteName, RouteSettings};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The newest version of this schema: an encrypted store. One in the clear has version 1, which older gateways know too.
pub(super) const SCHEMA_VERSION: u32 = 2;
/// The version of a store in the clear.
pub(super) const SCHEMA_IN_CLEAR: u32 = 1;

pub(super) const META: &str = "meta";
pub(super) const ROUTES: &str = "routes";
pub(super) const GENERATIONS: &str = "generations";
pub(super) const CHANGES: &str = "changes";
pub(super) const KEYS: &str = "keys";
pub(super) const CERTIFICATES: &str = "certificates";
pub(super) const ACME: &str = "acme";
pub(super) const FILLER: &str = "filler";

pub(super) const SCHEMA: &[u8] = b"schema";
pub(super) const HEAD: &[u8] = b"head";
pub(super) const AUTHORITY: &[u8] = b"authority";
pub(super) const VAULT: &[u8] = b"vault";
pub(super) const OVERWRITE: &[u8] = b"overwrite";

/// Whether the records of a table, or one record, are secret.
pub(super) fn is_secret(table: &str, key: &[u8]) -> bool {
    matches!(table, KEYS | CERTIFICATES | ACME) || (table == META && key == AUTHORITY)
}

/// Which schema the rest follows.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SchemaRecord {
    pub(super) version: u32,
}

/// Where the history stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HeadRecord {
    /// The current generation.
    pub(super) generation: u64,
    /// The oldest generation that has a record.
    pub(super) oldest: u64,
    /// A change that is undone unless it is confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) pending: Option<PendingRecord>,
}

/// A change that waits for confirmation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PendingRecord {
    /// The generation that waits.
    pub(super) generation: u64,
    /// The generation that comes back.
    pub(super) base: u64,
    /// How long it may wait, in seconds.
    pub(super) seconds: u32,
    /// When it is undone, seconds since 1970. Counts only after a restart; a running gateway has a clock of its own.
    pub(super) deadline: i64,
}

/// One generation without its changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct GenerationRecord {
    pub(super) time: i64,
    pub(super) author: String,
    pub(super) summary: String,
}

/// What a generation did to one route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ChangeRecord {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) before: Option<RouteSettings>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) after: Option<RouteSettings>,
}

/// A control key.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct KeyRecord {
    pub(super) role: Role,
    /// Base64.
    pub(super) secret: String,
    pub(super) created: i64,
}

impl std::fmt::Debug for KeyRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyRecord").field("role", &self.role).finish_non_exhaustive()
    }
}

/// A certificate with its private key.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct CertificateRecord {
    pub(super) pem: PemRecord,
    /// As in [`config_proto::message::CertificateInfo::source`].
    pub(super) source: String,
    /// The generation that brought it: of two certificates with the same name the later one is shown.
    pub(super) generation: u64,
}

impl std::fmt::Debug for CertificateRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CertificateRecord").field("source", &self.source).finish_non_exhaustive()
    }
}

/// A certificate chain and its private key.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct PemRecord {
    pub(super) chain: String,
    pub(super) key: String,
}

/// The key of a generation; big-endian, so that the order of keys is the order of numbers.
pub(super) fn generation_key(number: u64) -> [u8; 8] {
    number.to_be_bytes()
}

/// The number in a key of `generations` or `changes`.
pub(super) fn generation_of(key: &[u8]) -> Option<u64> {
    key.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}

/// The key of what generation `number` did to route `name`.
pub(super) fn change_key(number: u64, name: &RouteName) -> Vec<u8> {
    [&generation_key(number), name.to_string().as_bytes()].concat()
}

/// The route's name in a key of `routes`, or behind the number in a key of `changes`.
pub(super) fn name_of(key: &[u8]) -> Option<RouteName> {
    std::str::from_utf8(key).ok()?.parse().ok()
}

pub(super) fn encode<T: Serialize>(record: &T) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(record)
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(bytes)
}

impl std::fmt::Debug for PemRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PemRecord").field("chain", &self.chain).finish_non_exhaustive()
    }
}
