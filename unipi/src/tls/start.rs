//! From options to TLS: certificates from files and for development, and the work with an authority.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use certify::certificate::CertificateError;
use certify::dns::responder::{Sockets, Zones};
use certify::files::{FileError, Files};
use certify::options::{AcmeOptions, AcmeOptionsError};
use certify::self_signed::{self, SelfSignedError};
use certify::{Certificate, CertificateTable, Keeper, Reports, Settings, Source};

use super::authority::{Addresses, Authority};
use super::{Names, Tls};
use crate::options::TlsOptions;
use crate::storage::{Storage, StorageError};

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The machine has no randomness, or the provider does no TLS.
    #[error("TLS cannot be set up on this machine: {0}")]
    Machine(#[from] rustls::Error),
    /// A file that was to be written.
    #[error("cannot write {}: {error}", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// A certificate for development.
    #[error("{}: {error}", path.display())]
    Certificate {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        error: CertificateError,
    },
    /// Certificates from files.
    #[error(transparent)]
    Files(#[from] FileError),
    /// Nothing wants a certificate.
    #[error(
        "--tls needs a --hostname, for which a certificate is obtained; or --cert, or --self-signed"
    )]
    NoName,
    /// A certificate for development.
    #[error(transparent)]
    SelfSigned(#[from] SelfSignedError),
    /// The authority.
    #[error(transparent)]
    Acme(#[from] AcmeOptionsError),
    /// Where delegated zones are to be answered for.
    #[error("cannot answer DNS at {address}: {error}")]
    Dns {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        error: std::io::Error,
    },
    /// The storage.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// TLS that is ready to serve, and the work that goes on beside it.
pub struct Start {
    /// What handshakes are made with.
    pub tls: Arc<Tls>,
    /// The names that want certificates.
    pub names: Names,
    /// How the work with the authority goes.
    pub reports: Reports,
    watched: Option<Watched>,
    work: Option<Work>,
}

/// The work with an authority.
struct Work {
    keeper: Keeper<Arc<Authority>>,
    /// Zones to answer for meanwhile, and where.
    zones: Option<(Arc<Zones>, Vec<Sockets>)>,
}

impl Work {
    fn new(
        options: &AcmeOptions,
        settings: Settings,
        authority: Authority,
        reports: Reports,
    ) -> Result<Self, TlsError> {
        let client = options.client(Addresses(Vec::new()))?;
        let (authority, clock) = (Arc::new(authority), certify::system_clock());
        let txt = options.txt(&client, Arc::clone(&clock), Arc::clone(&authority))?;
        let mut keeper = Keeper::new(authority, settings, client, clock, reports);
        let mut zones = None;
        if let Some(txt) = txt {
            keeper = keeper.with_txt(txt.publisher);
            zones = txt.zones;
        }
        let bind = |address: &SocketAddr| {
            Sockets::bind(*address, false)
                .map_err(|error| TlsError::Dns { address: *address, error })
        };
        let zones = match zones {
            Some(zones) => {
                let sockets = options.dns.acme_dns_listen.iter().map(bind);
                Some((zones, sockets.collect::<Result<_, _>>()?))
            }
            None => None,
        };
        Ok(Self { keeper, zones })
    }

    async fn run(self) {
        let answer = async {
            if let Some((zones, sockets)) = self.zones {
                certify::dns::responder::serve(zones, sockets).await;
            }
        };
        tokio::join!(self.keeper.run(), answer);
    }
}

/// Certificate files, how often they are looked at, and from how many seconds before its end on a certificate is spoken of.
struct Watched {
    files: Files,
    every: Duration,
    alert: i64,
}

impl Start {
    /// Sets TLS up as the options say; `None` when there is none. `many` says that names come from elsewhere than
    /// `--hostname` too. Blocks: for the start.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn new(
        options: &TlsOptions,
        storage: Option<&Storage>,
        many: bool,
    ) -> Result<Option<Self>, TlsError> {
        if !options.enabled() {
            return Ok(None);
        }
        let tls = Arc::new(Tls::new()?);
        let names = Names::new(options.hostname.iter().cloned());
        let files = options.files.load(certify::system_clock()())?;
        files.certificates().into_iter().for_each(|certificate| tls.show(certificate));
        if options.self_signed {
            tls.show(for_development(options)?);
        }
        let reports = Reports::default();
        let work = match options.settings() {
            Some(settings) => {
                if options.hostname.is_empty() && !many {
                    return Err(TlsError::NoName);
                }
                let domains = options.acme.dns.acme_domain.clone();
                let storage = storage.cloned();
                let authority = Authority::new(Arc::clone(&tls), names.clone(), domains, storage);
                authority.restore()?;
                Some(Work::new(&options.acme, settings, authority, reports.clone())?)
            }
            None => None,
        };
        let (every, alert) = (options.files.poll(), options.files.alert());
        let watched = Some(Watched { files, every, alert });
        Ok(Some(Self { tls, names, reports, watched, work }))
    }

    /// The work with the authority and the watch over certificate files; none when this was called before. It goes on until
    /// it is dropped.
    pub fn work(&mut self) -> Option<impl Future<Output = ()> + Send + use<>> {
        let Watched { files, every, alert } = self.watched.take()?;
        let (work, reports, tls) = (self.work.take(), self.reports.clone(), Arc::clone(&self.tls));
        let watch =
            files.watch(every, certify::system_clock(), reports.clone(), move |replacement| {
                tls.replace(&replacement);
                std::future::ready(Ok(()))
            });
        let tls = Arc::clone(&self.tls);
        let shown = move || CertificateTable::clone(&tls.certificates());
        let announce = certify::endings::announce(alert, certify::system_clock(), shown);
        Some(async move {
            let obtain = async {
                if let Some(work) = work {
                    work.run().await;
                }
            };
            tokio::join!(obtain, watch, announce);
        })
    }
}

fn for_development(options: &TlsOptions) -> Result<Certificate, TlsError> {
    let now = SystemTime::now();
    let names = match options.hostname.as_slice() {
        [] => vec!["localhost".to_owned()],
        names => names.to_vec(),
    };
    let authority = self_signed::authority("unipi development", now)?;
    let pair = self_signed::leaf(&authority, &names, now)?;
    if let Some(path) = &options.self_signed_ca {
        std::fs::write(path, &authority.chain_pem)
            .map_err(|error| TlsError::Write { path: path.clone(), error })?;
    }
    Certificate::from_pem(&pair.chain_pem, &pair.key_pem, Source::SelfSigned)
        .map_err(|error| TlsError::Certificate { path: PathBuf::from("--self-signed"), error })
}
