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

use super::certificate::{Always, Certificate, Source};
use super::{ALPN_ACME_TLS, ALPN_H2, ALPN_HTTP_1_1, provider};

/// Most policies about client certificates that are kept. Past this, all are forgotten and made anew when needed; their
/// clients then do a full handshake once.
const MAX_POLICIES: usize = 4096;

/// Why there is no configuration for a connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// The client authorities cannot be used, although they were accepted with the route.
    #[error("the client CA bundle cannot be used: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// No randomness, or a provider without TLS 1.2 and 1.3.
    #[error("TLS cannot be set up on this machine: {0}")]
    Tls(#[from] rustls::Error),
}

/// The authorities of which a client must show a certificate.
#[derive(Clone, Copy, Debug)]
pub struct ClientCa<'a> {
    /// As configured; two routes with the same text have the same policy.
    pub pem: &'a str,
    /// The same, parsed.
    pub roots: &'a Arc<RootCertStore>,
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
    /// When `client_ca` has no authority, or this machine has no randomness.
    pub fn server_config(
        &self,
        client_ca: Option<ClientCa<'_>>,
        certificate: &Certificate,
        alpn: Vec<Vec<u8>>,
    ) -> Result<Arc<ServerConfig>, PolicyError> {
        let mut config = ServerConfig::clone(&*self.policy(client_ca)?);
        config.cert_resolver = certificate.resolver();
        config.alpn_protocols = alpn;
        Ok(Arc::new(config))
    }

    fn policy(&self, client_ca: Option<ClientCa<'_>>) -> Result<Arc<ServerConfig>, PolicyError> {
        let key = client_ca.map_or("", |ca| ca.pem);
        if let Some(policy) =
            self.by_client_ca.read().unwrap_or_else(PoisonError::into_inner).get(key)
        {
            return Ok(Arc::clone(policy));
        }
        let fresh = Arc::new(new_policy(client_ca)?);
        let mut policies = self.by_client_ca.write().unwrap_or_else(PoisonError::into_inner);
        if policies.len() >= MAX_POLICIES {
            policies.clear();
        }
        Ok(Arc::clone(policies.entry(key.to_owned()).or_insert(fresh)))
    }
}

/// The ALPN protocols that are offered, best first.
///
/// `configured` is the route's own list. Without one, `h2` is offered only under a certificate that is the name's alone:
/// under a shared certificate a browser may send requests for other names on the same HTTP/2 connection, and since the
/// gateway forwards bytes, the wrong backend would get them (RFC 9113, section 9.1.1). A certificate that the gateway
/// obtained by itself changes nothing either way: nobody has said that the backend speaks `h2`, and a name that worked
/// under the wildcard must go on working when its own certificate arrives.
pub fn offered_alpn(
    configured: Option<&[Vec<u8>]>,
    certificate: &Certificate,
    server_name: Option<&str>,
) -> Vec<Vec<u8>> {
    match configured {
        Some(protocols) => protocols.to_vec(),
        None if certificate.source() != Source::Acme
            && server_name.is_some_and(|name| certificate.is_own(name)) =>
        {
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
    configured: Option<&[Vec<u8>]>,
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

fn new_policy(client_ca: Option<ClientCa<'_>>) -> Result<ServerConfig, PolicyError> {
    let builder = builder()?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(ca) => builder.with_client_cert_verifier(
            WebPkiClientVerifier::builder_with_provider(
                Arc::clone(ca.roots),
                Arc::clone(provider()),
            )
            .build()?,
        ),
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

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use rustls::{
        ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion, ServerConnection,
        SupportedProtocolVersion, version,
    };
    use rustls_pki_types::pem::PemObject;
    use rustls_pki_types::{CertificateDer, PrivateKeyDer};

    use super::super::certificate::Source;
    use super::super::self_signed::{PemPair, authority, leaf};
    use super::*;

    struct World {
        ca: PemPair,
        certificate: Certificate,
        policies: Policies,
    }

    impl World {
        fn new(names: &[&str]) -> Self {
            let ca = authority("Test CA", SystemTime::now()).unwrap();
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            let pair = leaf(&ca, &names, SystemTime::now()).unwrap();
            let certificate =
                Certificate::from_pem(&pair.chain_pem, &pair.key_pem, Source::File).unwrap();
            Self { ca, certificate, policies: Policies::default() }
        }

        fn roots(&self) -> Arc<RootCertStore> {
            let mut roots = RootCertStore::empty();
            roots
                .add(CertificateDer::from_pem_slice(self.ca.chain_pem.as_bytes()).unwrap())
                .unwrap();
            Arc::new(roots)
        }

        /// A client that keeps tickets, and shows a certificate when asked.
        fn client(
            &self,
            version: &'static SupportedProtocolVersion,
            alpn: &[&[u8]],
        ) -> ClientConfig {
            let ca_key = rcgen::KeyPair::from_pem(&self.ca.key_pem).unwrap();
            let issuer = rcgen::Issuer::from_ca_cert_pem(&self.ca.chain_pem, ca_key).unwrap();
            let key = rcgen::KeyPair::generate().unwrap();
            let mut params = rcgen::CertificateParams::new(vec!["client.example".into()]).unwrap();
            params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
            let chain = vec![params.signed_by(&key, &issuer).unwrap().der().clone()];
            let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
            let mut client = ClientConfig::builder_with_provider(Arc::clone(provider()))
                .with_protocol_versions(&[version])
                .unwrap()
                .with_root_certificates(self.roots())
                .with_client_auth_cert(chain, key)
                .unwrap();
            client.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
            // Two names of one session cache entry: resumption across names is then the server's decision alone.
            client.resumption = rustls::client::Resumption::store(Arc::new(OneDrawer::default()));
            client
        }

        fn server(&self, client_ca: Option<&str>, alpn: Vec<Vec<u8>>) -> Arc<ServerConfig> {
            let roots = self.roots();
            let client_ca = client_ca.map(|pem| ClientCa { pem, roots: &roots });
            self.policies.server_config(client_ca, &self.certificate, alpn).unwrap()
        }
    }

    /// A session store that ignores the name, as a hostile client's would.
    #[derive(Debug, Default)]
    struct OneDrawer {
        tls13: std::sync::Mutex<Vec<rustls::client::Tls13ClientSessionValue>>,
        tls12: std::sync::Mutex<Option<rustls::client::Tls12ClientSessionValue>>,
    }

    impl rustls::client::ClientSessionStore for OneDrawer {
        fn set_kx_hint(&self, _: rustls_pki_types::ServerName<'static>, _: rustls::NamedGroup) {}
        fn kx_hint(&self, _: &rustls_pki_types::ServerName<'_>) -> Option<rustls::NamedGroup> {
            None
        }
        fn set_tls12_session(
            &self,
            _: rustls_pki_types::ServerName<'static>,
            value: rustls::client::Tls12ClientSessionValue,
        ) {
            *self.tls12.lock().unwrap() = Some(value);
        }
        fn tls12_session(
            &self,
            _: &rustls_pki_types::ServerName<'_>,
        ) -> Option<rustls::client::Tls12ClientSessionValue> {
            self.tls12.lock().unwrap().clone()
        }
        fn remove_tls12_session(&self, _: &rustls_pki_types::ServerName<'static>) {
            *self.tls12.lock().unwrap() = None;
        }
        fn insert_tls13_ticket(
            &self,
            _: rustls_pki_types::ServerName<'static>,
            value: rustls::client::Tls13ClientSessionValue,
        ) {
            self.tls13.lock().unwrap().push(value);
        }
        fn take_tls13_ticket(
            &self,
            _: &rustls_pki_types::ServerName<'static>,
        ) -> Option<rustls::client::Tls13ClientSessionValue> {
            self.tls13.lock().unwrap().pop()
        }
    }

    /// Runs a handshake and everything behind it until both sides are quiet.
    fn shake(
        client: &Arc<ClientConfig>,
        name: &str,
        server: Arc<ServerConfig>,
    ) -> Result<ServerConnection, rustls::Error> {
        let name = rustls_pki_types::ServerName::try_from(name.to_owned()).unwrap();
        let mut client = ClientConnection::new(Arc::clone(client), name).unwrap();
        let mut server = ServerConnection::new(server).unwrap();
        loop {
            let mut wire = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut wire).unwrap();
            }
            let to_server = wire.len();
            server.read_tls(&mut wire.as_slice()).unwrap();
            server.process_new_packets()?;
            wire.clear();
            while server.wants_write() {
                server.write_tls(&mut wire).unwrap();
            }
            let mut rest = wire.as_slice();
            while !rest.is_empty() {
                client.read_tls(&mut rest).unwrap();
                client.process_new_packets()?;
            }
            if to_server == 0 && wire.is_empty() {
                assert!(!client.is_handshaking() && !server.is_handshaking());
                return Ok(server);
            }
        }
    }

    const VERSIONS: [&SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];

    #[test]
    fn sessions_resume_under_their_own_name_only() {
        for version in VERSIONS {
            let world = World::new(&["*.example.org"]);
            let client = Arc::new(world.client(version, &[]));
            let kind = |name: &str| {
                shake(&client, name, world.server(None, vec![])).unwrap().handshake_kind().unwrap()
            };
            assert_ne!(kind("a.example.org"), HandshakeKind::Resumed);
            assert_eq!(kind("a.example.org"), HandshakeKind::Resumed, "{version:?}");
            assert_ne!(kind("b.example.org"), HandshakeKind::Resumed, "{version:?}");
        }
    }

    #[test]
    fn a_route_that_gains_client_certificates_resumes_no_older_session() {
        for version in VERSIONS {
            let world = World::new(&["a.example.org"]);
            let client = Arc::new(world.client(version, &[]));
            let with = |ca: Option<&str>| {
                shake(&client, "a.example.org", world.server(ca, vec![])).unwrap()
            };
            assert!(with(None).peer_certificates().is_none());
            assert_eq!(with(None).handshake_kind(), Some(HandshakeKind::Resumed));

            let first = with(Some("authority one"));
            assert_ne!(first.handshake_kind(), Some(HandshakeKind::Resumed), "{version:?}");
            assert!(first.peer_certificates().is_some());
            let second = with(Some("authority one"));
            assert_eq!(second.handshake_kind(), Some(HandshakeKind::Resumed), "{version:?}");
            assert!(second.peer_certificates().is_some(), "resumed with its identity");

            let other = with(Some("authority two"));
            assert_ne!(other.handshake_kind(), Some(HandshakeKind::Resumed), "{version:?}");
        }
    }

    #[test]
    fn clients_without_a_certificate_are_refused_where_one_is_asked_for() {
        let world = World::new(&["a.example.org"]);
        let client = Arc::new(
            ClientConfig::builder_with_provider(Arc::clone(provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(world.roots())
                .with_no_client_auth(),
        );
        assert!(shake(&client, "a.example.org", world.server(None, vec![])).is_ok());
        let refused = shake(&client, "a.example.org", world.server(Some("authority"), vec![]));
        assert_eq!(refused.unwrap_err(), rustls::Error::NoCertificatesPresented);
    }

    #[test]
    fn hybrid_key_exchange_comes_first() {
        let world = World::new(&["a.example.org"]);
        let client = Arc::new(world.client(&version::TLS13, &[]));
        let server = shake(&client, "a.example.org", world.server(None, vec![])).unwrap();
        assert_eq!(server.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        let group = server.negotiated_key_exchange_group().unwrap().name();
        assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
    }

    #[test]
    fn h2_is_offered_only_where_no_other_name_shares_the_certificate() {
        let shared = World::new(&["a.example.org", "b.example.org"]);
        let wild = World::new(&["*.example.org"]);
        let own = World::new(&["a.example.org"]);
        let offered = |world: &World, name| offered_alpn(None, &world.certificate, name);
        let only_1_1 = vec![ALPN_HTTP_1_1.to_vec()];
        assert_eq!(offered(&shared, Some("a.example.org")), only_1_1);
        assert_eq!(offered(&wild, Some("a.example.org")), only_1_1);
        assert_eq!(offered(&own, None), only_1_1);
        assert_eq!(offered(&own, Some("a.example.org")), [ALPN_H2, ALPN_HTTP_1_1]);
        let configured = [b"imap".to_vec()];
        assert_eq!(offered_alpn(Some(&configured), &wild.certificate, None), configured);
    }

    #[test]
    fn a_client_that_insists_on_h2_under_a_shared_certificate_gets_the_alert() {
        let world = World::new(&["*.example.org"]);
        let result = |configured: Option<&[Vec<u8>]>, client: &[&[u8]]| {
            let offered = offered_alpn(configured, &world.certificate, Some("a.example.org"));
            let alpn = alpn_for_client(configured, offered, client.iter().copied());
            let client = Arc::new(world.client(&version::TLS13, client));
            shake(&client, "a.example.org", world.server(None, alpn))
                .map(|server| server.alpn_protocol().map(<[u8]>::to_vec))
        };
        assert_eq!(result(None, &[b"h2"]), Err(rustls::Error::NoApplicationProtocol));
        assert_eq!(result(None, &[b"h2", b"imap"]), Err(rustls::Error::NoApplicationProtocol));
        assert_eq!(result(None, &[b"acme-tls/1"]), Err(rustls::Error::NoApplicationProtocol));
        assert_eq!(result(None, &[b"h2", b"http/1.1"]), Ok(Some(ALPN_HTTP_1_1.to_vec())));
        assert_eq!(result(None, &[b"imap"]), Ok(None));
        let imap = [b"imap".to_vec()];
        assert_eq!(result(Some(&imap), &[b"imap"]), Ok(Some(b"imap".to_vec())));
        assert_eq!(result(Some(&imap), &[b"smtp"]), Err(rustls::Error::NoApplicationProtocol));
    }
}
