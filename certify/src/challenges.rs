//! Challenges under way, as whoever serves ports 80 and 443 looks them up.
//!
//! The work publishes a challenge before it tells the authority to look, and withdraws it afterwards. Port 80 asks by
//! token (http-01, RFC 8555, section 8.3), port 443 by server name, when a client's only ALPN protocol is `acme-tls/1`
//! (tls-alpn-01, RFC 8737).

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use rustls::sign::CertifiedKey;

use crate::challenge::Challenge;

/// The ALPN protocol of tls-alpn-01 (RFC 8737, section 4).
pub const ALPN_ACME_TLS: &[u8] = b"acme-tls/1";

/// The challenges that are answered now.
#[derive(Debug, Default)]
pub struct Challenges {
    answers: RwLock<Answers>,
}

#[derive(Debug, Default)]
struct Answers {
    by_token: HashMap<String, String>,
    by_name: HashMap<String, Arc<CertifiedKey>>,
}

impl Challenges {
    /// Answers `challenge` from now on; replaces an earlier one of the same token or name.
    pub fn publish(&self, challenge: &Challenge) {
        let mut answers = self.write();
        match challenge {
            Challenge::Http01 { token, key_authorization } => {
                answers.by_token.insert(token.clone(), key_authorization.clone());
            }
            Challenge::TlsAlpn01 { name, certificate } => {
                answers.by_name.insert(name.clone(), Arc::clone(certificate));
            }
        }
    }

    /// Ends `challenge`.
    pub fn withdraw(&self, challenge: &Challenge) {
        let mut answers = self.write();
        match challenge {
            Challenge::Http01 { token, .. } => {
                answers.by_token.remove(token);
            }
            Challenge::TlsAlpn01 { name, .. } => {
                answers.by_name.remove(name);
            }
        }
    }

    /// The body of the answer to `/.well-known/acme-challenge/<token>`, if a challenge is under way.
    pub fn key_authorization(&self, token: &str) -> Option<String> {
        self.read().by_token.get(token).cloned()
    }

    /// The certificate to show to who asks for `name` with [`ALPN_ACME_TLS`], if a challenge is under way.
    pub fn certificate(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        self.read().by_name.get(name).cloned()
    }

    fn read(&self) -> RwLockReadGuard<'_, Answers> {
        self.answers.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Answers> {
        self.answers.write().unwrap_or_else(PoisonError::into_inner)
    }
}
