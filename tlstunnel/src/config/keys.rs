//! Control keys: made and taken away.

use config_proto::key::{GENERATED_SECRET_LEN, Key, KeyId};
use config_proto::message::{Changed, KeyAdded, Refusal, RefusalCode, Role, Sealed};
use control_port::keys::MAX_KEYS;
use zeroize::Zeroizing;

use super::records::KeyRecord;
use super::state::{Core, Proposal};
use super::{internal, refuse, unix_now};

impl Core {
    pub(super) fn add_key(
        &self,
        author: String,
        id: KeyId,
        role: Role,
    ) -> Result<KeyAdded, Refusal> {
        if self.keys.contains(&id) {
            return Err(refuse(
                RefusalCode::Exists,
                format!("there is a key {id} already"),
                "choose another id, or remove that key first",
            ));
        }
        if self.keys.len() >= MAX_KEYS {
            return Err(refuse(
                RefusalCode::Full,
                format!("there are {MAX_KEYS} keys already"),
                "remove keys that nobody uses",
            ));
        }
        let mut secret = Zeroizing::new([0; GENERATED_SECRET_LEN]);
        getrandom::fill(secret.as_mut_slice()).map_err(internal)?;
        let key = Key::generate(id.clone(), &secret);
        let record = KeyRecord {
            role: role.clone(),
            secret: key.secret_base64().to_string(),
            created: unix_now(),
        };
        let created = record.created;
        let secret = Sealed(record.secret.clone());
        // Before the commit, not inside it: the borrow would last to its end, where the head is replaced.
        let pending = self.waiting();
        let generation = self.commit(Proposal {
            author,
            summary: format!("key {id} added with role {role}"),
            keys: vec![(id.clone(), Some(record))],
            pending,
            ..Proposal::default()
        })?;
        self.keys.insert(key, role, created);
        Ok(KeyAdded { generation, id: id.to_string(), secret })
    }

    pub(super) fn remove_key(&self, author: String, id: KeyId) -> Result<Changed, Refusal> {
        if !self.keys.contains(&id) {
            return Err(refuse(
                RefusalCode::NotFound,
                format!("there is no key {id}"),
                "tlstunnel-ctl key list shows what there is",
            ));
        }
        if self.keys.is_from_start(&id) {
            return Err(refuse(
                RefusalCode::Invalid,
                format!("the key {id} was given at start and cannot be removed from afar"),
                "change --key-file or --key and start the gateway again",
            ));
        }
        let summary = format!("key {id} removed");
        let pending = self.waiting();
        let generation = self.commit(Proposal {
            author,
            summary: summary.clone(),
            keys: vec![(id.clone(), None)],
            pending,
            ..Proposal::default()
        })?;
        self.keys.remove(&id);
        Ok(Changed {
            generation,
            message: summary,
            name: Some(id.to_string()),
            warnings: Vec::new(),
        })
    }
}
