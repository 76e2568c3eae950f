//! TLS: which certificate is shown to whom, and how it gets here.
//!
//! [`Tls`] holds the certificates in use and the challenges under way, and makes handshakes of connections. `authority`
//! has [`certify`] obtain certificates for the [`Names`] that are served, and keeps them for the next start; [`Start`] puts
//! all of it together as the options say.
//!
//! A change publishes a new table; a connection keeps the certificate that it was shown. This room must not know sites
//! or HTTP: names come in, a decrypted connection goes out.

mod authority;
mod names;
mod start;

use std::sync::Arc;

use arc_swap::ArcSwap;
use certify::challenges::ALPN_ACME_TLS;
use certify::files::Replacement;
use certify::{Certificate, CertificateTable, Challenges, provider};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

pub use authority::Authority;
pub use names::Names;
pub use start::{Start, TlsError};

/// The ALPN protocol of HTTP/2 (RFC 9113, section 3.2).
pub const ALPN_H2: &[u8] = b"h2";
/// The ALPN protocol of HTTP/1.1 (RFC 7301, section 6).
pub const ALPN_HTTP_1_1: &[u8] = b"http/1.1";

/// The TLS side of the server.
#[derive(Debug)]
pub struct Tls {
    shown: Arc<Shown>,
    config: Arc<ServerConfig>,
}

/// What a handshake may show.
#[derive(Debug, Default)]
struct Shown {
    table: ArcSwap<CertificateTable>,
    challenges: Challenges,
}

/// Who a connection turned out to be.
#[derive(Debug)]
pub enum Accepted<S> {
    /// A client that speaks HTTP; it negotiated HTTP/2 if the flag says so.
    Http {
        /// The decrypted connection.
        stream: Box<TlsStream<S>>,
        /// Whether the client wants HTTP/2; without ALPN it is found out from its first bytes.
        h2: Option<bool>,
    },
    /// An authority that has seen the answer to its challenge: the handshake was the answer (RFC 8737, section 3).
    Challenge,
}

impl Tls {
    /// No certificates yet.
    ///
    /// # Errors
    /// When the machine has no randomness, or the provider does no TLS.
    pub fn new() -> Result<Self, rustls::Error> {
        let shown = Arc::new(Shown::default());
        let mut config = ServerConfig::builder_with_provider(Arc::clone(provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&shown) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols =
            [ALPN_H2, ALPN_HTTP_1_1, ALPN_ACME_TLS].into_iter().map(<[u8]>::to_vec).collect();
        // Tickets hold their session themselves: a client that comes back costs no memory meanwhile.
        config.ticketer = Ticketer::new()?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 1;
        Ok(Self { shown, config: Arc::new(config) })
    }

    /// Shows `certificate` for all its names from now on.
    pub fn show(&self, certificate: impl Into<Arc<Certificate>>) {
        let certificate = certificate.into();
        self.shown.table.rcu(|table| {
            let mut table = CertificateTable::clone(table);
            table.insert(Arc::clone(&certificate));
            table
        });
    }

    /// Shows a certificate that was read again from its files, in the place of the one before it.
    pub fn replace(&self, replacement: &Replacement) {
        self.shown.table.rcu(|table| {
            let mut table = CertificateTable::clone(table);
            table.replace(replacement.old.sha256(), Arc::clone(&replacement.new), |_| false);
            table
        });
    }

    /// Stops showing a certificate, by its SHA-256 in hexadecimal digits.
    pub fn hide(&self, sha256: &str) {
        self.shown.table.rcu(|table| {
            let mut table = CertificateTable::clone(table);
            table.remove(sha256);
            table
        });
    }

    /// The certificates in use.
    pub fn certificates(&self) -> Arc<CertificateTable> {
        self.shown.table.load_full()
    }

    /// Whether a client that asks for `host` would be shown a certificate for it.
    pub fn covers(&self, host: &str) -> bool {
        self.shown.table.load().find(Some(host)).is_some()
    }

    /// The challenges under way.
    pub fn challenges(&self) -> &Challenges {
        &self.shown.challenges
    }

    /// Does the handshake. Limits of time are the caller's.
    ///
    /// # Errors
    /// When it fails, as for a name without a certificate.
    pub async fn accept<S>(&self, stream: S) -> std::io::Result<Accepted<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let stream = TlsAcceptor::from(Arc::clone(&self.config)).accept(stream).await?;
        let h2 = match stream.get_ref().1.alpn_protocol() {
            Some(ALPN_ACME_TLS) => return Ok(Accepted::Challenge),
            Some(protocol) => Some(protocol == ALPN_H2),
            None => None,
        };
        Ok(Accepted::Http { stream: Box::new(stream), h2 })
    }
}

impl ResolvesServerCert for Shown {
    /// A name that is not served gets none: the alert says so, where a certificate for another name would only puzzle.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(|name| name.trim_end_matches('.').to_ascii_lowercase());
        let name = name.as_deref();
        if hello.alpn().is_some_and(|mut offered| offered.any(|one| one == ALPN_ACME_TLS)) {
            return self.challenges.certificate(name?);
        }
        self.table.load().find(name).map(|certificate| Arc::clone(certificate.certified_key()))
    }
}
