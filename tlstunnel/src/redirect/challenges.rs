//! Answers to ACME http-01 challenges (RFC 8555, section 8.3).

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

/// Answers by token. The certificate work puts an answer here before it tells the authority to look, and takes it away
/// afterwards.
#[derive(Debug, Default)]
pub struct Challenges {
    by_token: RwLock<HashMap<String, String>>,
}

impl Challenges {
    /// Answers `/.well-known/acme-challenge/<token>` with `key_authorization` from now on.
    pub fn insert(&self, token: String, key_authorization: String) {
        self.by_token
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(token, key_authorization);
    }

    /// Ends the challenge.
    pub fn remove(&self, token: &str) {
        self.by_token.write().unwrap_or_else(PoisonError::into_inner).remove(token);
    }

    /// The answer for `token`, if there is one.
    pub fn get(&self, token: &str) -> Option<String> {
        self.by_token.read().unwrap_or_else(PoisonError::into_inner).get(token).cloned()
    }
}
