//! Certificates at start: from files, from the store, and for development made by the gateway itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::records::{CertificateRecord, PemRecord};
use super::storage::{Loaded, StorageError};
use super::{AUTHOR_START, Core, OpenError, Proposal, unix_now};
use crate::options::CertificateOptions;
use crate::tls::certificates::{Certificate, CertificateError, CertificateTable, Source};
use crate::tls::self_signed::{self, PemPair};

/// A development certificate is made anew when it ends within this time.
const RENEW_BEFORE: i64 = 30 * 86_400;

/// Why the certificates that were named at start cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateFileError {
    /// Certificates and keys are not pairs.
    #[error(
        "there are {certs} --cert and {keys} --cert-key: each certificate needs its key, in the same order"
    )]
    Unpaired {
        /// Certificates given.
        certs: usize,
        /// Keys given.
        keys: usize,
    },
    /// A file cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// A certificate cannot be used.
    #[error("{}: {error}", path.display())]
    Unusable {
        /// The file of the certificate.
        path: PathBuf,
        /// Why.
        error: CertificateError,
    },
}

/// Loads the certificates that `--cert` and `--cert-key` name. One that has expired is served, with a warning: nobody
/// is helped by a gateway that does not start.
///
/// # Errors
/// When a file cannot be read, or what is in it cannot be used.
pub fn from_files(
    options: &CertificateOptions,
) -> Result<Vec<Arc<Certificate>>, CertificateFileError> {
    let (certs, keys) = (options.certs.len(), options.cert_keys.len());
    if certs != keys {
        return Err(CertificateFileError::Unpaired { certs, keys });
    }
    options
        .certs
        .iter()
        .zip(&options.cert_keys)
        .map(|(path, key_path)| {
            let (chain, key) = (read(path)?, zeroize::Zeroizing::new(read(key_path)?));
            let certificate = Certificate::from_pem(&chain, &key, Source::File)
                .map_err(|error| CertificateFileError::Unusable { path: path.clone(), error })?;
            if let Err(error) = certificate.check_dates(unix_now()) {
                tracing::warn!(file = %path.display(), %error, "clients will refuse the certificate");
            }
            Ok(Arc::new(certificate))
        })
        .collect()
}

fn read(path: &Path) -> Result<String, CertificateFileError> {
    std::fs::read_to_string(path)
        .map_err(|error| CertificateFileError::Read { path: path.to_owned(), error })
}

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
            let record = CertificateRecord {
                pem: PemRecord { chain: chain_pem, key: key_pem },
                source: Source::SelfSigned.to_string(),
                generation: self.generation() + 1,
            };
            let pending = self.waiting();
            self.commit(Proposal {
                author: AUTHOR_START.to_owned(),
                summary: format!("development certificate for {wildcard} made"),
                certificate: Some((Arc::new(certificate), record)),
                pending,
                ..Proposal::default()
            })?;
        }
        Ok(authority.chain_pem)
    }
}

impl From<StorageError> for OpenError {
    fn from(error: StorageError) -> Self {
        Self::Storage(error)
    }
}
