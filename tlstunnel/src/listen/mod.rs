//! Listening sockets: where they come from, and the loop that accepts.
//!
//! [`socket`] binds listeners or takes over inherited ones; [`accept`] is the loop; this module says what becomes of an
//! accepted connection: [`run_https`] gives it to [`crate::serve`], [`run_http`] to [`crate::redirect`].
//!
//! Each worker (one single-threaded runtime per core) runs these loops on a clone of the same socket.

pub mod accept;
pub mod socket;

use std::sync::Arc;

use ipnet::IpNet;

use crate::gateway::Gateway;

pub use socket::{BindError, Inherited, bind, clone_for_worker};

/// What an https listener does besides accepting.
#[derive(Clone, Debug, Default)]
pub struct HttpsSettings {
    /// Load balancers whose connections begin with a PROXY header. From everybody else a connection begins with TLS.
    pub proxy_from: Arc<[IpNet]>,
}

/// What an http listener does besides accepting.
#[derive(Clone, Debug)]
pub struct HttpSettings {
    /// The port that redirects name; 443 is left out of the address.
    pub https_port: u16,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self { https_port: 443 }
    }
}

/// Accepts TLS connections until the gateway stops serving and the socket's queue is empty. Open connections live on as
/// tasks of their own.
pub async fn run_https(
    gateway: Arc<Gateway>,
    listener: std::net::TcpListener,
    settings: HttpsSettings,
) -> std::io::Result<()> {
    accept::run(Arc::clone(&gateway), listener, move |stream, peer, slot| {
        crate::serve::connection(
            Arc::clone(&gateway),
            stream,
            peer,
            slot,
            Arc::clone(&settings.proxy_from),
        )
    })
    .await
}

/// Accepts HTTP connections on port 80 in the same way.
pub async fn run_http(
    gateway: Arc<Gateway>,
    listener: std::net::TcpListener,
    settings: HttpSettings,
) -> std::io::Result<()> {
    accept::run(Arc::clone(&gateway), listener, move |stream, peer, slot| {
        crate::redirect::connection(Arc::clone(&gateway), stream, peer, slot, settings.https_port)
    })
    .await
}
