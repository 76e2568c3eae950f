//! The control keys of a running program, as the control port looks them up.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use config_proto::key::{Key, KeyId, KeyLookup, KnownKey};
use config_proto::message::{KeyInfo, Role};
use tokio::sync::watch;

/// The most control keys. Every one of them is in memory.
pub const MAX_KEYS: usize = 1000;

/// Every control key, found by id without a lock.
#[derive(Debug)]
pub struct KeyRing {
    keys: ArcSwap<BTreeMap<KeyId, Entry>>,
    changed: watch::Sender<()>,
}

#[derive(Clone, Debug)]
struct Entry {
    known: KnownKey,
    /// Seconds since 1970; none for the key that was given at start.
    created: Option<i64>,
}

impl KeyRing {
    /// A ring with the administrator's key that was given at start, if there is one.
    pub fn new(administrator: Option<Key>) -> Self {
        let keys = administrator.map(|key| {
            let known = KnownKey { key, role: Role::Admin };
            (known.key.id().clone(), Entry { known, created: None })
        });
        Self {
            keys: ArcSwap::from_pointee(keys.into_iter().collect()),
            changed: watch::Sender::default(),
        }
    }

    /// Whether there is a key of this id.
    pub fn contains(&self, id: &KeyId) -> bool {
        self.keys.load().contains_key(id)
    }

    /// Whether the key of this id was given at start, and so cannot be removed from afar.
    pub fn is_from_start(&self, id: &KeyId) -> bool {
        self.keys.load().get(id).is_some_and(|entry| entry.created.is_none())
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.keys.load().len()
    }

    /// Whether there is no key at all.
    pub fn is_empty(&self) -> bool {
        self.keys.load().is_empty()
    }

    /// The keys without their secrets, in order of their ids.
    pub fn list(&self) -> Vec<KeyInfo> {
        let keys = self.keys.load();
        let infos = keys.iter().map(|(id, entry)| KeyInfo {
            id: id.to_string(),
            role: entry.known.role.clone(),
            created: entry.created.unwrap_or_default(),
        });
        infos.collect()
    }

    /// Tells of every change, so that the connections of a removed key end.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Adds a key that is durable already, made `created` seconds after 1970. One that was given at start under the same
    /// id stays in its place.
    pub fn insert(&self, key: Key, role: Role, created: i64) {
        let id = key.id().clone();
        let entry = Entry { known: KnownKey { key, role }, created: Some(created) };
        self.edit(|keys| {
            if keys.get(&id).is_none_or(|before| before.created.is_some()) {
                keys.insert(id.clone(), entry.clone());
            }
        });
    }

    /// Takes a key away.
    pub fn remove(&self, id: &KeyId) {
        self.edit(|keys| {
            keys.remove(id);
        });
    }

    fn edit(&self, change: impl Fn(&mut BTreeMap<KeyId, Entry>)) {
        self.keys.rcu(|keys| {
            let mut keys = BTreeMap::clone(keys);
            change(&mut keys);
            Arc::new(keys)
        });
        self.changed.send_replace(());
    }
}

impl KeyLookup for KeyRing {
    fn lookup(&self, id: &KeyId) -> Option<KnownKey> {
        self.keys.load().get(id).map(|entry| entry.known.clone())
    }
}
