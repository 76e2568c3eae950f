//! Certificates by server name.
//!
//! A value, like the routing table: changing a copy shares everything that did not change, so that one certificate among
//! a million is replaced in the time of a few tree steps while connections keep the table they started with.

use std::sync::Arc;

use rpds::RedBlackTreeMapSync;

pub use super::certificate::{Certificate, CertificateError, Source};

/// Which certificate is shown for which name.
///
/// A name is looked up exactly first, then as the wildcard of its parent: `*.example.org` covers `a.example.org` and
/// neither `example.org` nor `a.b.example.org` (RFC 9525, section 6.3). Of two certificates with the same name the one
/// inserted later is shown.
#[derive(Clone, Debug, Default)]
pub struct CertificateTable {
    by_exact: RedBlackTreeMapSync<String, Arc<Certificate>>,
    by_parent: RedBlackTreeMapSync<String, Arc<Certificate>>,
    /// The place in `by_place` of every certificate that is shown for at least one name, by its SHA-256.
    places: RedBlackTreeMapSync<String, u64>,
    /// Every certificate in order of insertion; the first is the default.
    by_place: RedBlackTreeMapSync<u64, Arc<Certificate>>,
    next_place: u64,
}

impl CertificateTable {
    /// Shows `certificate` for all its names from now on. A certificate that loses its last name this way is removed,
    /// and `certificate` takes its place in the order, so that a renewal does not change which one is the default.
    pub fn insert(&mut self, certificate: Arc<Certificate>) {
        let mut losers = Vec::new();
        for name in certificate.names() {
            let (names, key) = self.names_of(name);
            if let Some(loser) = names.get(key) {
                losers.push(Arc::clone(loser));
            }
            names.insert_mut(key.to_owned(), Arc::clone(&certificate));
        }
        let mut place = self.take_place(certificate.sha256()).unwrap_or(self.next_place);
        self.next_place += 1;
        for loser in losers {
            if !self.is_shown(&loser)
                && let Some(freed) = self.take_place(loser.sha256())
            {
                place = place.min(freed);
            }
        }
        self.places.insert_mut(certificate.sha256().to_owned(), place);
        self.by_place.insert_mut(place, certificate);
    }

    /// Removes a certificate by its SHA-256 in hexadecimal digits. Names that it was shown for are then shown by nobody.
    /// Returns whether there was one.
    pub fn remove(&mut self, sha256: &str) -> bool {
        let Some(certificate) = self.get(sha256).map(Arc::clone) else { return false };
        for name in certificate.names() {
            let (names, key) = self.names_of(name);
            if names.get(key).is_some_and(|shown| shown.sha256() == sha256) {
                names.remove_mut(key);
            }
        }
        self.take_place(sha256).is_some()
    }

    /// The certificate for a server name in compared form (lower case, no final dot), or for none: the default.
    pub fn find(&self, server_name: Option<&str>) -> Option<&Arc<Certificate>> {
        let Some(name) = server_name else { return self.default_certificate() };
        self.by_exact
            .get(name)
            .or_else(|| name.split_once('.').and_then(|(_, parent)| self.by_parent.get(parent)))
    }

    /// The certificate for clients that send no server name: the first that was inserted.
    pub fn default_certificate(&self) -> Option<&Arc<Certificate>> {
        self.by_place.values().next()
    }

    /// A certificate by its SHA-256 in hexadecimal digits.
    pub fn get(&self, sha256: &str) -> Option<&Arc<Certificate>> {
        self.by_place.get(self.places.get(sha256)?)
    }

    /// Every certificate, the default first.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Certificate>> {
        self.by_place.values()
    }

    /// How many certificates there are.
    pub fn len(&self) -> usize {
        self.by_place.size()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_place.is_empty()
    }

    fn take_place(&mut self, sha256: &str) -> Option<u64> {
        let place = *self.places.get(sha256)?;
        self.places.remove_mut(sha256);
        self.by_place.remove_mut(&place);
        Some(place)
    }

    fn names_of<'n>(
        &mut self,
        name: &'n str,
    ) -> (&mut RedBlackTreeMapSync<String, Arc<Certificate>>, &'n str) {
        match name.strip_prefix("*.") {
            Some(parent) => (&mut self.by_parent, parent),
            None => (&mut self.by_exact, name),
        }
    }

    fn is_shown(&self, certificate: &Certificate) -> bool {
        certificate.names().iter().any(|name| {
            let shown = match name.strip_prefix("*.") {
                Some(parent) => self.by_parent.get(parent),
                None => self.by_exact.get(name),
            };
            shown.is_some_and(|shown| shown.sha256() == certificate.sha256())
        })
    }
}
