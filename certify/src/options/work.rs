//! From options to the work that they ask for: a keeper with everything that it takes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{AcmeOptions, Contradiction, DnsOptionsError};
use crate::dns::responder::{self, Sockets, Zones};
use crate::host::Host;
use crate::http::{Client, Resolve};
use crate::keeper::{Keeper, system_clock};
use crate::report::Reports;
use crate::requests::Requests;
use crate::roots::{RootsError, public_roots, roots_from_pem};
use crate::settings::ChallengeKind;
use crate::tlsa_keeper::TlsaKeeper;

/// Why no work on certificates can begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AcmeOptionsError {
    /// Options that do not go together.
    #[error(transparent)]
    Contradiction(#[from] Contradiction),
    /// A file that was named.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// The authorities that the directory's own certificate may come from.
    #[error("{}{error}", path.as_deref().map_or(String::new(), named))]
    Roots {
        /// The file of `--acme-ca`, if there is one.
        path: Option<PathBuf>,
        /// Why they cannot be used.
        error: RootsError,
    },
    /// The way of dns-01.
    #[error(transparent)]
    Dns(#[from] DnsOptionsError),
}

impl AcmeOptionsError {
    /// Whether only other options can help: wrong usage, for an exit code.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Contradiction(_))
    }
}

fn named(path: &Path) -> String {
    format!("{}: ", path.display())
}

/// The work with an authority, ready to begin.
#[derive(Debug)]
pub struct Issuance<H: Host> {
    keeper: Keeper<H>,
    zones: Option<Arc<Zones>>,
}

impl<H: Host> Issuance<H> {
    /// For asking the keeper while it works.
    pub fn requests(&self) -> Requests {
        self.keeper.requests()
    }

    /// Works for ever, and answers for delegated zones at `sockets` (`--acme-dns-listen`) meanwhile. Drop the future to
    /// stop.
    pub async fn run(self, sockets: Vec<Sockets>) {
        let answering = async {
            if let Some(zones) = self.zones {
                responder::serve(zones, sockets).await;
            }
        };
        tokio::join!(self.keeper.run(), answering);
    }
}

impl AcmeOptions {
    /// The work with an authority; none without `--acme`. `resolver` finds the authority, and aliases in DNS.
    ///
    /// # Errors
    /// When the options contradict each other, or something that they name cannot be used.
    pub fn issuance<H: Host + Clone>(
        &self,
        host: H,
        resolver: impl Resolve,
        reports: Reports,
    ) -> Result<Option<Issuance<H>>, AcmeOptionsError> {
        self.consistent()?;
        let Some(settings) = self.settings() else { return Ok(None) };
        let client = self.client(resolver)?;
        let clock = system_clock();
        let txt = match settings.challenge {
            ChallengeKind::Dns01 => self.dns.txt(&client, Arc::clone(&clock), host.clone())?,
            _ => None,
        };
        let keeper = Keeper::new(host, settings, client, clock, reports);
        Ok(Some(match txt {
            Some(txt) => Issuance { keeper: keeper.with_txt(txt.publisher), zones: txt.zones },
            None => Issuance { keeper, zones: None },
        }))
    }

    /// The work of the original's way, if certificates come through DNS without an authority's directory.
    pub fn issuance_through_dns<H: Host>(
        &self,
        host: H,
        reports: Reports,
    ) -> Option<TlsaKeeper<H>> {
        let clock = system_clock();
        let server = self.through_dns().then(|| self.dns.tlsa(Arc::clone(&clock))).flatten()?;
        Some(TlsaKeeper::new(host, server, clock, reports))
    }

    /// The client towards the authority. Reads the file of `--acme-ca`.
    fn client(&self, resolver: impl Resolve) -> Result<Client, AcmeOptionsError> {
        let path = self.acme_ca.as_deref();
        let roots = |error| AcmeOptionsError::Roots { path: path.map(Path::to_owned), error };
        let trusted = match (path, &self.acme_ca_pem) {
            (None, None) => public_roots(),
            (None, Some(pem)) => roots_from_pem(pem).map_err(roots)?,
            (Some(path), _) => {
                let pem = std::fs::read_to_string(path)
                    .map_err(|error| AcmeOptionsError::Read { path: path.to_owned(), error })?;
                roots_from_pem(&pem).map_err(roots)?
            }
        };
        Client::new(trusted, resolver).map_err(roots)
    }
}
