//! Control keys beside the administrator's: kept in the storage, and in the ring that the control port asks.

use std::sync::Arc;

use config_proto::key::{GENERATED_SECRET_LEN, Key, KeyId};
use config_proto::message::{KeyAdded, KeyInfo, Refusal, RefusalCode, Role, Sealed};
use control_port::KeyRing;
use control_port::keys::MAX_KEYS;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::refuse;
use crate::serve::unix_now;
use crate::storage::{CONTROL_KEYS, Storage, StorageError};

/// The keys.
#[derive(Debug)]
pub struct Keys {
    ring: Arc<KeyRing>,
    storage: Storage,
    changing: tokio::sync::Mutex<()>,
}

/// Why the keys cannot be had, or are not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeysError {
    /// No id.
    #[error(transparent)]
    Id(#[from] config_proto::key::KeyError),
    /// There is one of that id.
    #[error("there is a key {0} already")]
    Exists(String),
    /// There is none.
    #[error("there is no key {0}")]
    Unknown(String),
    /// The one of the key file.
    #[error("the key {0} was given at start, and goes with its file")]
    FromStart(String),
    /// Too many.
    #[error("there are {MAX_KEYS} keys, which is the most")]
    TooMany,
    /// A stored key cannot be read.
    #[error("the stored key {0} cannot be read: {1}")]
    Record(String, String),
    /// No randomness.
    #[error("a key cannot be made: {0}")]
    Random(getrandom::Error),
    /// The storage.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

#[derive(Serialize, Deserialize)]
struct Record {
    /// The line of a key file.
    key: Zeroizing<String>,
    role: Role,
    created: i64,
}

impl Keys {
    /// Puts the stored keys into the ring.
    pub(super) fn open(ring: Arc<KeyRing>, storage: Storage) -> Result<Self, KeysError> {
        for (id, value) in storage.records(CONTROL_KEYS)? {
            let wrong = |error: String| KeysError::Record(id.clone(), error);
            let record: Record =
                serde_json::from_slice(&value).map_err(|error| wrong(error.to_string()))?;
            let key = Key::from_file_text(&record.key).map_err(|error| wrong(error.to_string()))?;
            ring.insert(key, record.role, record.created);
        }
        Ok(Self { ring, storage, changing: tokio::sync::Mutex::default() })
    }

    pub(super) fn list(&self) -> Vec<KeyInfo> {
        self.ring.list()
    }

    pub(super) async fn add(&self, id: &str, role: Role) -> Result<KeyAdded, KeysError> {
        let _changing = self.changing.lock().await;
        let id: KeyId = id.parse()?;
        if self.ring.contains(&id) {
            return Err(KeysError::Exists(id.to_string()));
        }
        if self.ring.len() >= MAX_KEYS {
            return Err(KeysError::TooMany);
        }
        let mut secret = Zeroizing::new([0; GENERATED_SECRET_LEN]);
        getrandom::fill(secret.as_mut_slice()).map_err(KeysError::Random)?;
        let key = Key::generate(id.clone(), &secret);
        let created = i64::try_from(unix_now()).unwrap_or(i64::MAX);
        let record = Record { key: key.to_file_text(), role: role.clone(), created };
        let value = serde_json::to_vec(&record)
            .map_err(|error| KeysError::Record(id.to_string(), error.to_string()))?;
        self.storage.put(CONTROL_KEYS, id.as_str(), value).await?;
        let secret = Sealed(key.secret_base64().to_string());
        self.ring.insert(key, role, created);
        tracing::info!(%id, "a control key was made");
        Ok(KeyAdded { generation: 0, id: id.to_string(), secret })
    }

    pub(super) async fn remove(&self, id: &str) -> Result<(), KeysError> {
        let _changing = self.changing.lock().await;
        let id: KeyId = id.parse()?;
        if self.ring.is_from_start(&id) {
            return Err(KeysError::FromStart(id.to_string()));
        }
        if !self.ring.contains(&id) {
            return Err(KeysError::Unknown(id.to_string()));
        }
        self.storage.delete(CONTROL_KEYS, id.as_str()).await?;
        self.ring.remove(&id);
        tracing::info!(%id, "a control key was removed");
        Ok(())
    }
}

impl From<KeysError> for Refusal {
    fn from(error: KeysError) -> Self {
        let code = match &error {
            KeysError::Id(_) | KeysError::FromStart(_) => RefusalCode::Invalid,
            KeysError::Exists(_) => RefusalCode::Exists,
            KeysError::Unknown(_) => RefusalCode::NotFound,
            KeysError::TooMany => RefusalCode::Full,
            KeysError::Record(..) | KeysError::Random(_) | KeysError::Storage(_) => {
                RefusalCode::Internal
            }
        };
        refuse(code, error.to_string(), "tlstunnel-ctl key list shows the keys")
    }
}
