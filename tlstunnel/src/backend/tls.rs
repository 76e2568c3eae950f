//! TLS towards a backend (mode re-encrypt).

use std::sync::{Arc, OnceLock};

use config_proto::model::BackendHost;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use sha2::{Digest, Sha256};
use tokio_rustls::client::TlsStream;

use super::ClientInfo;
use crate::forward::Socket;
use crate::tls::failure::explain;
use crate::tls::provider;

/// Server names of one route for which a session is kept for resumption.
const RESUMABLE_NAMES: usize = 32;

/// What to do about a backend whose own certificate is an authority's.
const PIN_INSTEAD: &str = "trust its key with --backend-pin SHA256 in place of --backend-ca, or give it a certificate \
                           that the authority issued";

/// Whom a route trusts to be its backend.
#[derive(Clone, Debug)]
pub(crate) enum Trust {
    /// The public certificate authorities.
    Public,
    /// These authorities.
    Authorities(Arc<RootCertStore>),
    /// Whoever holds the key with this SHA-256 of its SubjectPublicKeyInfo.
    Pin([u8; 32]),
}

/// Opens TLS connections to the backends of one route. Sessions are resumed.
#[derive(Debug)]
pub(crate) struct TlsConnector {
    config: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
}

impl TlsConnector {
    /// A connector that verifies backends by `trust`, under `server_name` if there is one.
    pub(crate) fn new(
        trust: Trust,
        server_name: Option<ServerName<'static>>,
    ) -> Result<Self, Error> {
        let verifier: Arc<dyn ServerCertVerifier> = match trust {
            Trust::Pin(pin) => Arc::new(PinVerifier { pin }),
            Trust::Public => authority_verifier(public_roots())?,
            Trust::Authorities(roots) => authority_verifier(roots)?,
        };
        let mut config = ClientConfig::builder_with_provider(Arc::clone(provider()))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.resumption = Resumption::in_memory_sessions(RESUMABLE_NAMES);
        Ok(Self { config: Arc::new(config), server_name })
    }

    /// Shakes hands with the backend `host`, under the configured name, or the client's, or the backend's own. The
    /// ALPN protocol is the one that was negotiated with the client, since its bytes are passed on as they are.
    pub(super) async fn connect(
        &self,
        socket: Socket,
        client: &ClientInfo,
        host: &BackendHost,
    ) -> Result<TlsStream<Socket>, String> {
        let alpn = client.tls.as_ref().and_then(|tls| tls.alpn.as_ref());
        let stream = tokio_rustls::TlsConnector::from(Arc::clone(&self.config))
            .with_alpn(alpn.cloned().into_iter().collect())
            .connect(self.name_for(client, host)?, socket)
            .await
            .map_err(|error| {
                format!("TLS handshake with the backend failed: {}", explain(&error, PIN_INSTEAD))
            })?;
        let agreed = stream.get_ref().1.alpn_protocol();
        match alpn {
            // A server that knows no ALPN speaks HTTP/1.1, if it speaks HTTP (RFC 7301, section 3.1; RFC 9113).
            Some(alpn) if agreed != Some(alpn) && (alpn != b"http/1.1" || agreed.is_some()) => {
                Err(format!(
                    "the backend did not agree to the client's ALPN protocol {}",
                    alpn.escape_ascii()
                ))
            }
            _ => Ok(stream),
        }
    }

    fn name_for(
        &self,
        client: &ClientInfo,
        host: &BackendHost,
    ) -> Result<ServerName<'static>, String> {
        if let Some(name) = &self.server_name {
            return Ok(name.clone());
        }
        let name = match (client.server_name.as_deref(), host) {
            (Some(name), _) => name.to_owned(),
            (None, BackendHost::Dns(name)) => name.clone(),
            (None, BackendHost::Ip(ip)) => return Ok(ServerName::from(*ip)),
        };
        ServerName::try_from(name)
            .map_err(|_| "the client's server name cannot be a backend's name".to_owned())
    }
}

fn public_roots() -> Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    Arc::clone(
        ROOTS.get_or_init(|| Arc::new(webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect())),
    )
}

fn authority_verifier(roots: Arc<RootCertStore>) -> Result<Arc<dyn ServerCertVerifier>, Error> {
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider()))
        .build()
        .map_err(|error| Error::General(error.to_string()))?;
    Ok(verifier)
}

/// Accepts a certificate by its public key alone. That the peer holds the private key is verified as always.
#[derive(Debug)]
struct PinVerifier {
    pin: [u8; 32],
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let key = ParsedCertificate::try_from(end_entity)?.subject_public_key_info();
        let digest = Sha256::digest(key.as_ref());
        match digest.as_slice() == self.pin {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
