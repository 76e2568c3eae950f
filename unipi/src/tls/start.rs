//! From options to TLS: certificates from files and for development, and the work with an authority.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use certify::certificate::CertificateError;
use certify::dns::responder::Sockets;
use certify::files::{FileError, Files};
use certify::options::{AcmeOptions, AcmeOptionsError, Issuance};
use certify::self_signed::{self, SelfSignedError};
use certify::{Certificate, CertificateTable, Reports, Source, TlsaKeeper};

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

impl TlsOptions {
    /// Whether these options can be followed. `many` says that names come from elsewhere than `--hostname` too. Opens
    /// nothing.
    ///
    /// # Errors
    /// When they contradict each other, or no name wants a certificate.
    pub fn check(&self, many: bool) -> Result<(), TlsError> {
        let acme = self.acme();
        acme.consistent().map_err(AcmeOptionsError::from)?;
        let obtains = acme.acme.is_some() || acme.through_dns();
        let is_nobodys = self.hostname.is_empty() && acme.dns.acme_domain.is_empty() && !many;
        if obtains && is_nobodys { Err(TlsError::NoName) } else { Ok(()) }
    }
}

impl TlsError {
    /// Whether only other options can help: wrong usage, for an exit code.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::NoName => true,
            Self::Acme(error) => error.is_usage(),
            _ => false,
        }
    }
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

/// How certificates are obtained.
enum Work {
    /// From an authority; where delegated zones are answered for meanwhile.
    Authority(Box<Issuance<Arc<Authority>>>, Vec<Sockets>),
    /// Through DNS, as the original of the gateway does it.
    ThroughDns(Box<TlsaKeeper<Arc<Authority>>>),
}

impl Work {
    /// None when no certificates are to be obtained.
    fn new(
        options: &AcmeOptions,
        name_servers: &[SocketAddr],
        authority: Arc<Authority>,
        reports: Reports,
    ) -> Result<Option<Self>, TlsError> {
        let bind = |address: &SocketAddr| {
            Sockets::bind(*address, false)
                .map_err(|error| TlsError::Dns { address: *address, error })
        };
        let resolver = Addresses(name_servers.to_vec());
        if let Some(issuance) =
            options.issuance(Arc::clone(&authority), resolver, reports.clone())?
        {
            let sockets = options.dns.acme_dns_listen.iter().map(bind);
            return Ok(Some(Self::Authority(
                Box::new(issuance),
                sockets.collect::<Result<_, _>>()?,
            )));
        }
        let keeper = options.issuance_through_dns(authority, reports);
        Ok(keeper.map(|keeper| Self::ThroughDns(Box::new(keeper.for_single_names()))))
    }

    /// Where delegated zones are answered for.
    fn dns_addresses(&self) -> std::io::Result<Vec<SocketAddr>> {
        match self {
            Self::Authority(_, sockets) => sockets.iter().map(Sockets::local_addr).collect(),
            Self::ThroughDns(_) => Ok(Vec::new()),
        }
    }

    async fn run(self) {
        match self {
            Self::Authority(issuance, sockets) => issuance.run(sockets).await,
            Self::ThroughDns(keeper) => keeper.run().await,
        }
    }
}

/// Certificate files, how often they are looked at, and from how many seconds before its end on a certificate is spoken of.
struct Watched {
    files: Files,
    every: Duration,
    alert: i64,
}

impl Start {
    /// Sets TLS up as the options say; `None` when there is none. Names in DNS are asked of `name_servers`, or of the system's. Blocks: for the start.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn new(
        options: &TlsOptions,
        storage: Option<&Storage>,
        name_servers: &[SocketAddr],
    ) -> Result<Option<Self>, TlsError> {
        let acme = options.acme();
        if !options.enabled() {
            return Ok(None);
        }
        let tls = Arc::new(Tls::new()?);
        let names = Names::new(options.hostname.iter().cloned());
        let now = certify::system_clock()();
        let files = options.files.load(now)?;
        files.certificates().into_iter().for_each(|certificate| tls.show(certificate));
        options.files.given(now)?.into_iter().for_each(|certificate| tls.show(certificate));
        if options.self_signed {
            tls.show(for_development(options)?);
        }
        let reports = Reports::default();
        let mut work = None;
        if acme.acme.is_some() || acme.through_dns() {
            let domains = acme.dns.acme_domain.clone();
            let (shown, names, storage) = (Arc::clone(&tls), names.clone(), storage.cloned());
            let authority = Arc::new(Authority::new(shown, names, domains, storage));
            authority.restore()?;
            work = Work::new(&acme, name_servers, authority, reports.clone())?;
        }
        let (every, alert) = (options.files.poll(), options.files.alert());
        let watched = Some(Watched { files, every, alert });
        Ok(Some(Self { tls, names, reports, watched, work }))
    }

    /// Where delegated zones are answered for (`--acme-dns-listen`).
    ///
    /// # Errors
    /// When the system does not say.
    pub fn dns_addresses(&self) -> std::io::Result<Vec<SocketAddr>> {
        self.work.as_ref().map_or(Ok(Vec::new()), Work::dns_addresses)
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
