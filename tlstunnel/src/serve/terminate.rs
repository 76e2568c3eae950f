//! The link in the middle where the TLS is the gateway's own: the handshake, by the route's policy, counted.

use std::io;
use std::sync::Arc;

use rustls::server::Accepted;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::StartHandshake;
use tokio_rustls::server::TlsStream;

use super::answer::{self, Alert};
use super::record::{End, Negotiated, Record};
use crate::client_hello::ServerName;
use crate::forward::Socket;
use crate::gateway::Gateway;
use crate::route::ActiveRoute;
use crate::tls::certificate::Certificate;
use crate::tls::failure::explain;
use crate::tls::server_config::{ClientCa, alpn_for_client, challenge_config, offered_alpn};

/// What a route says about handshakes.
pub(super) struct Policy<'a> {
    client_ca: Option<ClientCa<'a>>,
    alpn: Option<&'a [Vec<u8>]>,
}

impl<'a> Policy<'a> {
    /// For names without a route.
    pub(super) const UNKNOWN: Self = Self { client_ca: None, alpn: None };

    pub(super) fn of(route: &'a ActiveRoute) -> Self {
        Self {
            client_ca: match (&route.route.settings.client_ca, &route.client_ca) {
                (Some(pem), Some(roots)) => Some(ClientCa { pem, roots }),
                _ => None,
            },
            alpn: route.alpn.as_deref(),
        }
    }
}

/// Terminates TLS and counts how that went.
pub(super) async fn terminate(
    gateway: &Gateway,
    stream: TcpStream,
    accepted: Accepted,
    policy: &Policy<'_>,
    certificate: &Certificate,
    deadline: Instant,
    record: &mut Record,
) -> Result<TlsStream<Socket>, End> {
    let alpn = {
        let client_hello = accepted.client_hello();
        let name = ServerName::of(&client_hello);
        let offered = offered_alpn(policy.alpn, certificate, name.as_deref());
        match client_hello.alpn() {
            Some(client) => alpn_for_client(policy.alpn, offered, client),
            None => offered,
        }
    };
    let config = match gateway.tls.policies.server_config(policy.client_ca, certificate, alpn) {
        Ok(config) => config,
        Err(error) => {
            gateway.counters.handshake_failures.add_one();
            answer::alert(stream, Alert::InternalError).await;
            return Err(End::Failed("TLS setup failed", error.to_string()));
        }
    };
    match handshake(stream, accepted, config, deadline).await {
        Ok(stream) => {
            let negotiated = Negotiated::of(stream.get_ref().1);
            match negotiated.version {
                "TLSv1.2" => gateway.counters.handshakes_tls12.add_one(),
                _ => gateway.counters.handshakes_tls13.add_one(),
            }
            if negotiated.resumed {
                gateway.counters.handshakes_resumed.add_one();
            }
            record.tls = Some(negotiated);
            Ok(stream)
        }
        Err(failure) => {
            match &failure {
                HandshakeFailure::TooSlow => gateway.counters.handshake_timeouts.add_one(),
                HandshakeFailure::Failed(_) => gateway.counters.handshake_failures.add_one(),
            }
            Err(failure.end())
        }
    }
}

/// Why a handshake failed.
enum HandshakeFailure {
    TooSlow,
    Failed(io::Error),
}

impl HandshakeFailure {
    fn end(self) -> End {
        match self {
            Self::TooSlow => End::Refused("handshake too slow"),
            Self::Failed(error) => {
                let advice = "the client needs one that such an authority issued to it (CA:FALSE)";
                End::Failed("handshake failed", explain(&error, advice))
            }
        }
    }
}

async fn handshake(
    stream: TcpStream,
    accepted: Accepted,
    config: Arc<rustls::ServerConfig>,
    deadline: Instant,
) -> Result<TlsStream<Socket>, HandshakeFailure> {
    // rustls has its own copy of the hello; nothing is replayed to it.
    let socket = Socket::new(stream, Vec::new());
    let accept = StartHandshake::from_parts(accepted, socket).into_stream(config).into_fallible();
    match timeout_at(deadline, accept).await {
        Err(_) => Err(HandshakeFailure::TooSlow),
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err((error, socket))) => {
            // The alert has been written; it must also arrive.
            answer::last_words(socket, b"").await;
            Err(HandshakeFailure::Failed(error))
        }
    }
}

/// Answers a tls-alpn-01 challenge: the handshake is the answer (RFC 8737, section 3).
pub(super) async fn answer_challenge(
    stream: TcpStream,
    accepted: Accepted,
    key: Arc<rustls::sign::CertifiedKey>,
    deadline: Instant,
) -> End {
    let config = match challenge_config(key) {
        Ok(config) => config,
        Err(error) => return End::Failed("TLS setup failed", error.to_string()),
    };
    match handshake(stream, accepted, config, deadline).await {
        Ok(stream) => {
            answer::last_words(stream, b"").await;
            End::Refused("ACME challenge answered")
        }
        Err(failure) => failure.end(),
    }
}
