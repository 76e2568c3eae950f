//! Certificates that answer ACME's tls-alpn-01 challenge (RFC 8737).
//!
//! The authority connects with the name under validation as server name and `acme-tls/1` as its only ALPN protocol. The
//! certificate work puts a certificate here before it tells the authority to look, and takes it away afterwards.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::sign::CertifiedKey;

/// Challenge certificates by server name.
#[derive(Debug, Default)]
pub struct ChallengeCertificates {
    by_name: RwLock<HashMap<String, Arc<CertifiedKey>>>,
}

impl ChallengeCertificates {
    /// Shows `key` to clients that ask for `name` with `acme-tls/1`; replaces an earlier one.
    pub fn insert(&self, name: String, key: Arc<CertifiedKey>) {
        self.by_name.write().unwrap_or_else(PoisonError::into_inner).insert(name, key);
    }

    /// Ends the challenge for `name`.
    pub fn remove(&self, name: &str) {
        self.by_name.write().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// The certificate for `name`, if a challenge is under way.
    pub fn get(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        self.by_name.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }
}
