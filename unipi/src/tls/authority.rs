//! Has [`certify`] look after the certificates of the names that are served.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use certify::http::Resolve;
use certify::schedule::Validity;
use certify::{
    Certificate, CertificateTable, Challenge, Current, Host, HostError, Record, Source, Wanted,
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Names, Tls};
use crate::resolve;
use crate::storage::{ACME, CERTIFICATES, Storage, StorageError};

/// A certificate that was obtained, as it is kept.
#[derive(Serialize, Deserialize)]
struct Obtained {
    chain_pem: String,
    key_pem: String,
}

/// The program as [`certify`] sees it.
#[derive(Debug)]
pub struct Authority {
    tls: Arc<Tls>,
    names: Names,
    /// Names and wildcards that are wanted whether they are a site's or not.
    domains: Vec<String>,
    storage: Option<Storage>,
    /// Records, where there is no storage.
    memory: Mutex<BTreeMap<String, Vec<u8>>>,
}

impl Authority {
    /// Looks after the certificates of `names` and `domains`, which `tls` shows. Without storage, every start asks the authority for
    /// all certificates again, which its limits will not bear for long.
    pub fn new(
        tls: Arc<Tls>,
        names: Names,
        domains: Vec<String>,
        storage: Option<Storage>,
    ) -> Self {
        Self { tls, names, domains, storage, memory: Mutex::default() }
    }

    /// Shows the certificates that were kept. What cannot be read is said aloud, and obtained again. Blocks: for the
    /// start.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn restore(&self) -> Result<(), StorageError> {
        let Some(storage) = &self.storage else {
            tracing::warn!("without --storage, certificates are obtained anew at each start");
            return Ok(());
        };
        for (name, bytes) in storage.records(CERTIFICATES)? {
            let bytes = Zeroizing::new(bytes);
            let certificate = serde_json::from_slice::<Obtained>(&bytes)
                .map_err(|error| error.to_string())
                .and_then(|kept| load(&kept.chain_pem, &Zeroizing::new(kept.key_pem)));
            match certificate {
                Ok(certificate) => self.tls.show(certificate),
                Err(error) => {
                    tracing::error!(name, error, "a kept certificate cannot be used");
                }
            }
        }
        Ok(())
    }

    /// What is shown for `name`, if that is for the authority to replace.
    fn wanted_as(&self, name: String, table: &CertificateTable) -> Option<Wanted> {
        let shown = table.find(Some(&name));
        let current = match shown.map(|shown| (shown.source(), shown)) {
            None | Some((Source::SelfSigned, _)) => None,
            Some((Source::Acme, shown)) if shown.is_own(&name) => {
                let leaf = shown.certified_key().cert.first()?.clone();
                let validity =
                    Validity { not_before: shown.not_before(), not_after: shown.not_after() };
                Some(Current { leaf, validity })
            }
            // A wildcard's that is wanted no more, or is wanted besides.
            Some((Source::Acme, _)) if !self.has_wildcard(&name) => None,
            // A person gave it, and it stays; or the wildcard serves it. One server answers for all sites, so that it does
            // no harm when browsers use one connection for several.
            Some(_) => return None,
        };
        // A certificate of its own from before is renewed, since it is the one that is shown.
        if current.is_none() && self.has_wildcard(&name) {
            return None;
        }
        Some(Wanted { name, current })
    }

    /// Whether the wildcard above `name` is wanted.
    fn has_wildcard(&self, name: &str) -> bool {
        let parent = name.split_once('.').map(|(_, parent)| parent);
        !name.starts_with("*.")
            && self.domains.iter().any(|domain| domain.strip_prefix("*.") == parent)
    }
}

impl Host for Authority {
    fn wanted(&self) -> (u64, Vec<Wanted>) {
        let (version, names) = self.names.all();
        let names: BTreeSet<String> =
            names.into_iter().chain(self.domains.iter().cloned()).collect();
        let table = self.tls.certificates();
        let wanted = names.into_iter().filter_map(|name| self.wanted_as(name, &table));
        (version, wanted.collect())
    }

    async fn changed(&self, since: u64) {
        self.names.changed(since).await;
    }

    async fn records(&self) -> Result<Vec<Record>, HostError> {
        let list = match &self.storage {
            Some(storage) => {
                let storage = storage.clone();
                let read = tokio::task::spawn_blocking(move || storage.records(ACME));
                read.await.map_err(|_| StorageError::Thread).flatten().map_err(failed)?
            }
            None => self.memory().iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
        };
        Ok(list.into_iter().map(|(key, value)| (key, Zeroizing::new(value))).collect())
    }

    async fn save(&self, key: String, record: Option<Zeroizing<Vec<u8>>>) -> Result<(), HostError> {
        match (&self.storage, record) {
            (Some(storage), Some(record)) => {
                storage.put(ACME, &key, record.to_vec()).await.map_err(failed)
            }
            (Some(storage), None) => storage.delete(ACME, &key).await.map_err(failed),
            (None, Some(record)) => {
                self.memory().insert(key, record.to_vec());
                Ok(())
            }
            (None, None) => {
                self.memory().remove(&key);
                Ok(())
            }
        }
    }

    async fn install(
        &self,
        name: String,
        chain_pem: String,
        key_pem: Zeroizing<String>,
    ) -> Result<(), HostError> {
        let certificate = load(&chain_pem, &key_pem).map_err(HostError)?;
        if let Some(storage) = &self.storage {
            let kept = Obtained { chain_pem, key_pem: key_pem.to_string() };
            let bytes = serde_json::to_vec(&kept).map_err(|error| HostError(error.to_string()))?;
            storage.put(CERTIFICATES, &name, bytes).await.map_err(failed)?;
        }
        self.tls.show(certificate);
        Ok(())
    }

    fn publish(&self, challenge: &Challenge) {
        self.tls.challenges().publish(challenge);
    }

    fn withdraw(&self, challenge: &Challenge) {
        self.tls.challenges().withdraw(challenge);
    }
}

impl Authority {
    fn memory(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn load(chain_pem: &str, key_pem: &str) -> Result<Certificate, String> {
    Certificate::from_pem(chain_pem, key_pem, Source::Acme).map_err(|error| error.to_string())
}

fn failed(error: StorageError) -> HostError {
    HostError(error.to_string())
}

/// Resolves the names of the authority as those of git servers are.
#[derive(Debug)]
pub(super) struct Addresses(pub(super) Vec<std::net::SocketAddr>);

impl Resolve for Addresses {
    fn resolve<'a>(
        &'a self,
        host: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<IpAddr>, String>> + Send + 'a>> {
        Box::pin(async move {
            resolve::addresses(&self.0, host).await.map_err(|error| error.to_string())
        })
    }

    fn alias<'a>(
        &'a self,
        name: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Option<String>, String>> + Send + 'a>> {
        Box::pin(
            async move { resolve::alias(&self.0, name).await.map_err(|error| error.to_string()) },
        )
    }
}
