//! The rustls configuration of a connection: TLS 1.3 and 1.2, hybrid post-quantum key exchange first, stateless tickets.
//!
//! # Resumption
//!
//! A resumed session skips the checks of its first handshake, so it must not reach further than they did. Every policy
//! about client certificates has ticket keys of its own: a ticket from a route without client certificates, or with
//! another authority, is not even readable for a route that asks for them. Within a policy, rustls resumes only under
//! the same server name (RFC 6066, section 3). Ticket keys are random, in memory only, and change every six hours.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::server::{NoServerSessionStorage, ServerConfig, WebPkiClientVerifier};
use rustls::{RootCertStore, crypto};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{self, PemObject};

use super::certificate::{Always, Certificate, MAX_PEM_BYTES};
use super::{ALPN_ACME_TLS, ALPN_H2, ALPN_HTTP_1_1, provider};

/// Most policies about client certificates that are kept. Past this, all are forgotten and made anew when needed; their
/// clients then do a full handshake once.
const MAX_POLICIES: usize = 4096;

/// Why a policy cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// Larger than [`MAX_PEM_BYTES`].
    #[error("the client CA bundle is larger than 256 KiB")]
    TooLarge,
    /// A section of the PEM text is damaged.
    #[error("the client CA bundle is damaged: {0}")]
    Pem(pem::Error),
    /// There is no certificate in it.
    #[error("the client CA bundle has no certificate: expected a section BEGIN CERTIFICATE")]
    Empty,
    /// A certificate cannot be an authority.
    #[error("a certificate of the client CA bundle cannot be used as an authority: {0}")]
    Authority(rustls::Error),
    /// rustls refuses the whole.
    #[error("the client CA bundle cannot be used: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// No randomness, or a provider without TLS 1.2 and 1.3.
    #[error("TLS cannot be set up on this machine: {0}")]
    Tls(#[from] rustls::Error),
}

/// Policies about client certificates, each with its ticket keys. They outlive routes and snapshots: two routes with the
/// same authorities share one, and a route that is replaced keeps its own.
#[derive(Debug, Default)]
pub struct Policies {
    /// By the PEM text of the client CA bundle; the empty text means that no client certificate is asked for.
    by_client_ca: RwLock<HashMap<String, Arc<ServerConfig>>>,
}

impl Policies {
    /// The configuration for one connection.
    ///
    /// # Errors
    /// When `client_ca` is unusable; [`check_client_ca`] finds that out before a route is accepted.
    pub fn server_config(
        &self,
        client_ca: Option<&str>,
        certificate: &Certificate,
        alpn: Vec<Vec<u8>>,
    ) -> Result<Arc<ServerConfig>, PolicyError> {
        let mut config = ServerConfig::clone(&*self.policy(client_ca.unwrap_or_default())?);
        config.cert_resolver = certificate.resolver();
        config.alpn_protocols = alpn;
        Ok(Arc::new(config))
    }

    fn policy(&self, client_ca: &str) -> Result<Arc<ServerConfig>, PolicyError> {
        if let Some(policy) =
            self.by_client_ca.read().unwrap_or_else(PoisonError::into_inner).get(client_ca)
        {
            return Ok(Arc::clone(policy));
        }
        let fresh = Arc::new(new_policy(client_ca)?);
        let mut policies = self.by_client_ca.write().unwrap_or_else(PoisonError::into_inner);
        if policies.len() >= MAX_POLICIES {
            policies.clear();
        }
        Ok(Arc::clone(policies.entry(client_ca.to_owned()).or_insert(fresh)))
    }
}

/// Whether a client CA bundle can be used.
///
/// # Errors
/// Says what is wrong with it.
pub fn check_client_ca(pem: &str) -> Result<(), PolicyError> {
    client_verifier(pem).map(|_| ())
}

/// The ALPN protocols that are offered, best first.
///
/// `configured` is the route's own list. Without one, `h2` is offered only under a certificate that is the name's alone:
/// under a shared certificate a browser may send requests for other names on the same HTTP/2 connection, and since the
/// gateway forwards bytes, the wrong backend would get them (RFC 9113, section 9.1.1).
pub fn offered_alpn(
    configured: Option<&[String]>,
    certificate: &Certificate,
    server_name: Option<&str>,
) -> Vec<Vec<u8>> {
    match configured {
        Some(protocols) => protocols.iter().map(|p| p.as_bytes().to_vec()).collect(),
        None if server_name.is_some_and(|name| certificate.is_own(name)) => {
            vec![ALPN_H2.to_vec(), ALPN_HTTP_1_1.to_vec()]
        }
        None => vec![ALPN_HTTP_1_1.to_vec()],
    }
}

/// What is offered to this client. A client that names only protocols which the gateway does not know, at a route that
/// names none, gets a handshake without ALPN, as from a server that has never heard of it. Everything about HTTP stays
/// strict: a client that insists on `h2` where it is not offered gets the alert `no_application_protocol` (RFC 7301,
/// section 3.2) and never reaches the backend.
pub fn alpn_for_client<'a>(
    configured: Option<&[String]>,
    offered: Vec<Vec<u8>>,
    mut client: impl Iterator<Item = &'a [u8]>,
) -> Vec<Vec<u8>> {
    let strict = configured.is_some()
        || client.any(|p| p == ALPN_ACME_TLS || p.starts_with(b"http/") || p.starts_with(b"h2"));
    if strict { offered } else { Vec::new() }
}

/// The configuration that answers a tls-alpn-01 challenge (RFC 8737, section 3).
///
/// # Errors
/// When TLS cannot be set up on this machine.
pub fn challenge_config(
    key: Arc<rustls::sign::CertifiedKey>,
) -> Result<Arc<ServerConfig>, PolicyError> {
    let mut config = builder()?.with_no_client_auth().with_cert_resolver(Arc::new(Always(key)));
    config.alpn_protocols = vec![ALPN_ACME_TLS.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn new_policy(client_ca: &str) -> Result<ServerConfig, PolicyError> {
    let builder = builder()?;
    let builder = if client_ca.is_empty() {
        builder.with_no_client_auth()
    } else {
        builder.with_client_cert_verifier(client_verifier(client_ca)?)
    };
    let mut config = builder.with_cert_resolver(Arc::new(NoCertificate));
    config.ticketer = crypto::aws_lc_rs::Ticketer::new()?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 2;
    Ok(config)
}

fn builder() -> Result<rustls::ConfigBuilder<ServerConfig, rustls::WantsVerifier>, rustls::Error> {
    ServerConfig::builder_with_provider(Arc::clone(provider()))
        .with_safe_default_protocol_versions()
}

fn client_verifier(
    pem: &str,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, PolicyError> {
    if pem.len() > MAX_PEM_BYTES {
        return Err(PolicyError::TooLarge);
    }
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(certificate.map_err(PolicyError::Pem)?).map_err(PolicyError::Authority)?;
    }
    if roots.is_empty() {
        return Err(PolicyError::Empty);
    }
    Ok(WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider()))
        .build()?)
}

/// Stands in a policy until [`Policies::server_config`] puts the connection's certificate there.
#[derive(Debug)]
struct NoCertificate;

impl rustls::server::ResolvesServerCert for NoCertificate {
    fn resolve(
        &self,
        _client_hello: rustls::server::ClientHello<'_>,
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }
}
