//! Certificates by server name.
//!
//! A value, like the routing table: changing a copy shares everything that did not change, so that one certificate among
//! a million is replaced in the time of a few tree steps while connections keep the table they started with.

use std::sync::Arc;

use rpds::RedBlackTreeMapSync;

pub use crate::certificate::{Certificate, CertificateError, Source};

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

    /// Shows `new` in the place of the certificate with the SHA-256 `old`, which is shown for nothing any more. Names for
    /// which another one that is `stronger` is shown meanwhile stay with that.
    pub fn replace(
        &mut self,
        old: &str,
        new: Arc<Certificate>,
        stronger: impl Fn(&Certificate) -> bool,
    ) {
        let place = self.places.get(old).copied();
        self.remove(old);
        let mut stay: Vec<Arc<Certificate>> = Vec::new();
        for name in new.names() {
            let (names, key) = self.names_of(name);
            if let Some(shown) = names.get(key).filter(|shown| stronger(shown)) {
                stay.push(Arc::clone(shown));
            }
        }
        let sha256 = new.sha256().to_owned();
        self.insert(new);
        if let Some(place) = place
            && let Some(certificate) = self.get(&sha256).map(Arc::clone)
            && let Some(own) = self.take_place(&sha256)
        {
            let place = place.min(own);
            self.places.insert_mut(sha256, place);
            self.by_place.insert_mut(place, certificate);
        }
        stay.into_iter().for_each(|certificate| self.insert(certificate));
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::SystemTime;

    use super::*;
    use crate::self_signed::{self, PemPair};

    fn certificate(authority: &PemPair, names: &[&str]) -> Arc<Certificate> {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let pair = self_signed::leaf(authority, &names, SystemTime::now()).unwrap();
        Arc::new(Certificate::from_pem(&pair.chain_pem, &pair.key_pem, Source::SelfSigned).unwrap())
    }

    fn authority() -> PemPair {
        self_signed::authority("Test CA", SystemTime::now()).unwrap()
    }

    fn shown<'t>(table: &'t CertificateTable, name: &str) -> Option<&'t str> {
        table.find(Some(name)).map(|certificate| certificate.sha256())
    }

    #[test]
    fn exact_names_win_over_wildcards_which_cover_one_label() {
        let ca = authority();
        let wide = certificate(&ca, &["example.org", "*.example.org"]);
        let deep = certificate(&ca, &["*.b.example.org"]);
        let own = certificate(&ca, &["a.example.org"]);
        let mut table = CertificateTable::default();
        for certificate in [&wide, &deep, &own] {
            table.insert(Arc::clone(certificate));
        }
        assert_eq!(shown(&table, "example.org"), Some(wide.sha256()));
        assert_eq!(shown(&table, "x.example.org"), Some(wide.sha256()));
        assert_eq!(shown(&table, "a.example.org"), Some(own.sha256()));
        assert_eq!(shown(&table, "b.example.org"), Some(wide.sha256()));
        assert_eq!(shown(&table, "x.b.example.org"), Some(deep.sha256()));
        assert_eq!(shown(&table, "x.a.example.org"), None);
        assert_eq!(shown(&table, "org"), None);
        assert_eq!(table.find(None).unwrap().sha256(), wide.sha256());
        assert!(own.is_own("a.example.org") && !wide.is_own("example.org"));
    }

    #[test]
    fn a_renewal_takes_over_names_and_place_and_old_copies_keep_theirs() {
        let ca = authority();
        let first = certificate(&ca, &["a.example", "b.example"]);
        let other = certificate(&ca, &["c.example"]);
        let mut table = CertificateTable::default();
        table.insert(Arc::clone(&first));
        table.insert(Arc::clone(&other));
        let before = table.clone();

        let half = certificate(&ca, &["b.example"]);
        table.insert(Arc::clone(&half));
        assert_eq!(table.len(), 3);
        let renewed = certificate(&ca, &["a.example", "b.example"]);
        table.insert(Arc::clone(&renewed));
        table.insert(Arc::clone(&renewed));
        assert_eq!(table.len(), 2, "both older ones have no name left");
        assert_eq!(shown(&table, "b.example"), Some(renewed.sha256()));
        assert_eq!(table.default_certificate().unwrap().sha256(), renewed.sha256());
        assert!(table.get(first.sha256()).is_none());

        assert_eq!(shown(&before, "b.example"), Some(first.sha256()));
        assert_eq!(before.default_certificate().unwrap().sha256(), first.sha256());
    }

    #[test]
    fn a_certificate_read_again_takes_the_place_of_the_old_one_and_not_of_a_stronger() {
        let ca = authority();
        let old = certificate(&ca, &["a.example", "b.example"]);
        let other = certificate(&ca, &["c.example"]);
        let stronger = certificate(&ca, &["b.example"]);
        let mut table = CertificateTable::default();
        for certificate in [&old, &other, &stronger] {
            table.insert(Arc::clone(certificate));
        }
        let new = certificate(&ca, &["b.example", "c.example", "d.example"]);
        let is_stronger = |shown: &Certificate| shown.sha256() == stronger.sha256();
        table.replace(old.sha256(), Arc::clone(&new), is_stronger);
        assert_eq!(shown(&table, "a.example"), None, "it is not among the names any more");
        assert_eq!(shown(&table, "b.example"), Some(stronger.sha256()));
        assert_eq!(shown(&table, "c.example"), Some(new.sha256()));
        assert_eq!(shown(&table, "d.example"), Some(new.sha256()));
        assert_eq!(table.default_certificate().unwrap().sha256(), new.sha256());
        assert_eq!(table.len(), 2);
        // What is replaced by itself stays, as when only its intermediates have changed.
        table.replace(new.sha256(), Arc::clone(&new), is_stronger);
        assert_eq!((table.len(), shown(&table, "d.example")), (2, Some(new.sha256())));
    }

    #[test]
    fn removal_takes_names_away() {
        let ca = authority();
        let (a, b) = (certificate(&ca, &["a.example"]), certificate(&ca, &["b.example"]));
        let mut table = CertificateTable::default();
        table.insert(Arc::clone(&a));
        table.insert(Arc::clone(&b));
        assert!(table.remove(a.sha256()));
        assert!(!table.remove(a.sha256()));
        assert_eq!(shown(&table, "a.example"), None);
        assert_eq!(table.default_certificate().unwrap().sha256(), b.sha256());
        assert!(table.remove(b.sha256()) && table.is_empty());
        assert!(table.find(None).is_none());
    }
}
