//! Certificates: at start from files, from the store and for development made by the gateway itself; then set while it
//! runs.

use std::sync::Arc;
use std::time::SystemTime;

use certify::files::Replacement;
use config_proto::message::{Changed, Refusal, RefusalCode};

use super::records::{CertificateRecord, PemRecord};
use super::storage::{Loaded, StorageError};
use super::{
    AUTHOR_START, Configuration, Core, MAX_CERTIFICATES, OpenError, Proposal, invalid, refuse,
    unix_now,
};
use crate::gateway::Snapshot;
use crate::tls::certificates::{Certificate, CertificateTable, Source};
use crate::tls::self_signed::{self, PemPair};

/// A development certificate is made anew when it ends within this time.
const RENEW_BEFORE: i64 = 30 * 86_400;

/// The table at start. Uploaded certificates are newer than files and take their names; what a person gave goes before
/// what an authority was asked for; development certificates get only what nobody else has.
pub(super) fn table(
    files: Vec<Arc<Certificate>>,
    loaded: &Loaded,
    with_self_signed: bool,
) -> CertificateTable {
    let of = |source: Source| {
        loaded
            .certificates
            .iter()
            .filter(move |record| record.source == source.to_string())
            .filter_map(move |record| {
                match Certificate::from_pem(&record.pem.chain, &record.pem.key, source) {
                    Ok(certificate) => Some(Arc::new(certificate)),
                    Err(error) => {
                        tracing::error!(%error, "a certificate of the store cannot be used");
                        None
                    }
                }
            })
    };
    let given: Vec<Arc<Certificate>> = files.into_iter().chain(of(Source::Uploaded)).collect();
    // Given ones once more at the end: they come first in the order, whose first is the default, and keep their names.
    let again = given.clone();
    let real: Vec<Arc<Certificate>> =
        given.into_iter().chain(of(Source::Acme)).chain(again).collect();
    let mut table = CertificateTable::default();
    let insert_real = |table: &mut CertificateTable| {
        real.iter().for_each(|certificate| table.insert(Arc::clone(certificate)));
    };
    insert_real(&mut table);
    if with_self_signed {
        for certificate in of(Source::SelfSigned) {
            if certificate.names().iter().any(|name| table.find(Some(name)).is_none()) {
                table.insert(certificate);
            }
        }
        insert_real(&mut table);
    }
    table
}

impl Configuration {
    /// Shows a certificate that was read again from its files. No generation: the store does not hold it. Names that an
    /// uploaded certificate is shown for stay with that one.
    ///
    /// # Errors
    /// When the gateway is ending.
    pub async fn replace_from_file(&self, replacement: Replacement) -> Result<(), Refusal> {
        self.changing(AUTHOR_START, move |core, _| {
            let before = core.gateway.snapshot.load_full();
            let mut certificates = before.certificates.clone();
            let uploaded = |shown: &Certificate| shown.source() == Source::Uploaded;
            certificates.replace(replacement.old.sha256(), replacement.new, uploaded);
            core.gateway.snapshot.store(Arc::new(Snapshot {
                generation: before.generation,
                routes: before.routes.clone(),
                certificates,
            }));
            Ok(())
        })
        .await
    }
}

impl Core {
    /// Makes the development authority and a wildcard certificate for each domain, as far as they are missing. Returns
    /// the authority's certificate as PEM.
    pub(super) fn make_self_signed(
        &self,
        authority: Option<PemRecord>,
        name: &str,
    ) -> Result<String, OpenError> {
        let now = SystemTime::now();
        let authority = match authority {
            Some(PemRecord { chain, key }) => PemPair { chain_pem: chain, key_pem: key },
            None => {
                let made = self_signed::authority(&format!("{name} development CA"), now)?;
                let record = PemRecord { chain: made.chain_pem.clone(), key: made.key_pem.clone() };
                self.storage()?.set_authority(&record)?;
                made
            }
        };
        for domain in &self.settings.domains {
            let snapshot = self.gateway.snapshot.load_full();
            let wildcard = format!("*.{domain}");
            let is_missing = |name: &str| {
                snapshot.certificates.find(Some(name)).is_none_or(|certificate| {
                    certificate.source() == Source::SelfSigned
                        && certificate.not_after() - unix_now() < RENEW_BEFORE
                })
            };
            if !is_missing(domain) && !is_missing(&wildcard) {
                continue;
            }
            let PemPair { chain_pem, key_pem } = self_signed::wildcard(&authority, domain, now)?;
            let certificate = Certificate::from_pem(&chain_pem, &key_pem, Source::SelfSigned)
                .map_err(OpenError::Certificate)?;
            let summary = format!("development certificate for {wildcard} made");
            let pem = PemRecord { chain: chain_pem, key: key_pem };
            self.commit_certificate(AUTHOR_START.to_owned(), summary, certificate, pem)?;
        }
        Ok(authority.chain_pem)
    }

    pub(super) fn set_certificate(
        &self,
        author: String,
        chain: String,
        key: String,
        source: Source,
    ) -> Result<Changed, Refusal> {
        let certificate = Certificate::from_pem(&chain, &key, source).map_err(invalid)?;
        certificate.check_dates(unix_now()).map_err(invalid)?;
        if self.gateway.snapshot.load().certificates.len() >= MAX_CERTIFICATES {
            return Err(refuse(
                RefusalCode::Full,
                format!("there are {MAX_CERTIFICATES} certificates already"),
                "use wildcard certificates",
            ));
        }
        let summary = format!("certificate for {} set", certificate.names().join(", "));
        let pem = PemRecord { chain, key };
        let generation = self.commit_certificate(author, summary.clone(), certificate, pem)?;
        Ok(Changed { generation, message: summary, name: None, warnings: Vec::new() })
    }

    fn commit_certificate(
        &self,
        author: String,
        summary: String,
        certificate: Certificate,
        pem: PemRecord,
    ) -> Result<u64, Refusal> {
        let record = CertificateRecord {
            pem,
            source: certificate.source().to_string(),
            generation: self.generation() + 1,
        };
        let pending = self.waiting();
        self.commit(Proposal {
            author,
            summary,
            certificate: Some((Arc::new(certificate), record)),
            pending,
            ..Proposal::default()
        })
    }
}

impl From<StorageError> for OpenError {
    fn from(error: StorageError) -> Self {
        Self::Storage(error)
    }
}
