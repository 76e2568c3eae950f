//! What is told about a connection when it has ended: one event of the tracing target `access`.

use std::net::SocketAddr;
use std::time::Duration;

use daemon::log::ACCESS_TARGET;
use rustls::{HandshakeKind, ProtocolVersion, ServerConnection};

use crate::forward::Ended;
use crate::live::LiveConnection;

/// What a handshake agreed on.
#[derive(Clone, Debug)]
pub(super) struct Negotiated {
    /// `TLSv1.3` or `TLSv1.2`.
    pub(super) version: &'static str,
    /// The cipher suite.
    pub(super) cipher: &'static str,
    /// The key-exchange group.
    pub(super) group: Option<&'static str>,
    /// The ALPN protocol.
    pub(super) alpn: Option<Box<[u8]>>,
    /// Whether a session was resumed.
    pub(super) resumed: bool,
    /// Whether the client showed a certificate.
    pub(super) client_certificate: bool,
}

impl Negotiated {
    /// What `connection` agreed on; its handshake is over.
    pub(super) fn of(connection: &ServerConnection) -> Self {
        Self {
            version: match connection.protocol_version() {
                Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
                _ => "TLSv1.3",
            },
            cipher: connection
                .negotiated_cipher_suite()
                .and_then(|suite| suite.suite().as_str())
                .unwrap_or("unknown"),
            group: connection
                .negotiated_key_exchange_group()
                .and_then(|group| group.name().as_str()),
            alpn: connection.alpn_protocol().map(Box::from),
            resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
            client_certificate: connection.peer_certificates().is_some(),
        }
    }
}

/// How a connection ended.
#[derive(Debug)]
pub(super) enum End {
    /// It was forwarded.
    Forwarded(Ended),
    /// It was not, for this reason.
    Refused(&'static str),
    /// It was not, for this reason and with these details.
    Failed(&'static str, String),
}

impl End {
    fn outcome(&self) -> &'static str {
        match self {
            Self::Forwarded(Ended::ClosedByClient) => "closed by client",
            Self::Forwarded(Ended::ClosedByBackend) => "closed by backend",
            Self::Forwarded(Ended::IdleLimit) => "idle limit",
            Self::Forwarded(Ended::HalfClosedLimit) => "half-closed limit",
            Self::Forwarded(Ended::ClientError(_)) => "client error",
            Self::Forwarded(Ended::BackendError(_)) => "backend error",
            Self::Forwarded(Ended::Drained) => "drained",
            Self::Refused(outcome) | Self::Failed(outcome, _) => outcome,
        }
    }

    fn details(&self) -> Option<String> {
        match self {
            Self::Forwarded(Ended::ClientError(kind) | Ended::BackendError(kind)) => {
                Some(kind.to_string())
            }
            Self::Failed(_, details) => Some(details.clone()),
            _ => None,
        }
    }
}

/// What is gathered on the way of a connection.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// What the handshake agreed on, where there was one.
    pub(super) tls: Option<Negotiated>,
    /// From accept until the backend was connected.
    pub(super) setup: Option<Duration>,
}

impl Record {
    /// Tells it. Durations are in milliseconds; fields that do not apply are absent.
    pub(super) fn log(&self, live: &LiveConnection, end: &End) {
        let tls = self.tls.as_ref();
        let alpn =
            tls.and_then(|tls| tls.alpn.as_deref()).map(|alpn| alpn.escape_ascii().to_string());
        tracing::info!(
            target: ACCESS_TARGET,
            id = live.id(),
            client = %live.client(),
            sni = live.server_name(),
            route = live.route().map(tracing::field::display),
            backend = live.backend(),
            tls = tls.map(|tls| tls.version),
            cipher = tls.map(|tls| tls.cipher),
            group = tls.and_then(|tls| tls.group),
            alpn,
            resumed = tls.map(|tls| tls.resumed),
            client_certificate = tls.map(|tls| tls.client_certificate),
            bytes_in = live.bytes_in.value(),
            bytes_out = live.bytes_out.value(),
            duration_ms = milliseconds(live.started().elapsed()),
            setup_ms = self.setup.map(milliseconds),
            outcome = end.outcome(),
            details = end.details(),
        );
    }
}

/// Tells about a connection that was refused before it was admitted.
pub(super) fn log_refused(peer: SocketAddr, outcome: &'static str, details: Option<&str>) {
    tracing::info!(target: ACCESS_TARGET, client = %peer, outcome, details);
}

fn milliseconds(duration: Duration) -> f64 {
    // Microseconds are kept; more digits would be noise.
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
