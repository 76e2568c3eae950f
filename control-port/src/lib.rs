//! The control port of a program: protocol v2 on a listening socket, for whoever carries requests out.
//!
//! # How data passes through
//!
//! accept, within a cap and unless the client failed too often lately ([`back_off`]) → [`config_proto::v2::Server`]
//! authenticates within a time limit, by the keys of a [`KeyRing`] → the role permits
//! ([`config_proto::access::permits`]) → the [`Desk`] does what is asked → the reply, authenticated. Every refusal is
//! counted by its reason ([`Refusals`]).
//!
//! # What it must not know
//!
//! What the requests mean, where keys are stored, and when the program ends: [`Port::serve`] runs until it is dropped.
#![forbid(unsafe_code)]

pub mod administrator;
pub mod back_off;
mod client;
mod connection;
pub mod keys;
pub mod refusals;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use config_proto::message::{Refusal, Request};
use config_proto::v2::server::Refused;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use back_off::BackOff;
pub use client::ClientKey;
pub use keys::KeyRing;
pub use refusals::Refusals;

/// Who carries requests out.
pub trait Desk: Send + Sync + 'static {
    /// Does what the holder of the key `author` asks for. That the key's role permits it has been decided already.
    fn answer(
        self: &Arc<Self>,
        author: &str,
        request: Request,
    ) -> impl Future<Output = Result<Value, Refusal>> + Send;

    /// The domain that names without dots go under, if there is one.
    fn domain(&self) -> Option<&str> {
        None
    }
}

/// What a control port is told.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Connections at the same time.
    pub connections: u16,
    /// For the whole handshake, and then for each frame, to arrive.
    pub frame_time: Duration,
    /// Bytes of the longest frame.
    pub max_frame: usize,
}

/// A control port.
#[derive(Debug)]
pub struct Port<D> {
    desk: Arc<D>,
    keys: Arc<KeyRing>,
    settings: Settings,
    refusals: Arc<Refusals>,
    back_off: BackOff,
    places: Arc<Semaphore>,
}

/// The pause after a failed accept, which is commonly a lack of file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

impl<D: Desk> Port<D> {
    /// A port in front of `desk`, for the holders of `keys`.
    pub fn new(
        desk: Arc<D>,
        keys: Arc<KeyRing>,
        refusals: Arc<Refusals>,
        settings: Settings,
    ) -> Arc<Self> {
        let places = Arc::new(Semaphore::new(settings.connections.into()));
        Arc::new(Self { desk, keys, settings, refusals, back_off: BackOff::default(), places })
    }

    /// Who carries requests out.
    pub fn desk(&self) -> &Arc<D> {
        &self.desk
    }

    /// Refusals by reason, for metrics.
    pub fn refusals(&self) -> &Arc<Refusals> {
        &self.refusals
    }

    /// Serves a listener on which nothing but protocol v2 is spoken.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
        self.serve_with(listener, |port, stream, peer, began| async move {
            port.connection(stream, peer, began).await;
        })
        .await;
    }

    /// Serves a listener whose connections, each accepted at the given time, are for `connection`, which may look at
    /// what they begin with and hands those of protocol v2 to [`Port::connection`]. They go on in tasks of their own.
    pub async fn serve_with<F>(
        self: Arc<Self>,
        listener: TcpListener,
        connection: impl Fn(Arc<Self>, TcpStream, SocketAddr, Instant) -> F,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        loop {
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a control connection could not be accepted");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            let began = Instant::now();
            if !self.back_off.allows(peer.ip(), began) {
                self.refuse(peer, refusals::BACK_OFF);
                continue;
            }
            let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
                self.refuse(peer, refusals::OVER_CAP);
                continue;
            };
            // Requests and replies are small and wait for each other; without the option they are only slower.
            let _ = stream.set_nodelay(true);
            let serving = connection(Arc::clone(&self), stream, peer, began);
            tokio::spawn(async move {
                let _place = place;
                serving.await;
            });
        }
    }

    /// Serves one connection of protocol v2 to its end. The handshake must end within the frame time after it `began`.
    pub async fn connection(&self, stream: TcpStream, peer: SocketAddr, began: Instant) {
        connection::serve(self, stream, peer, began).await;
    }

    /// A client proved that it holds a key.
    pub fn succeeded(&self, peer: SocketAddr) {
        self.back_off.succeeded(peer.ip());
    }

    /// A client did not prove that it holds a key: counts it for the wait before its next attempt.
    pub fn failed(&self, peer: SocketAddr) {
        self.back_off.failed(peer.ip(), Instant::now());
    }

    /// A client let the time for a frame go by.
    pub fn too_slow(&self, peer: SocketAddr) {
        self.failed(peer);
        self.refuse(peer, Refused::TooSlow.as_str());
    }

    /// Counts a refusal and says it in the log.
    pub fn refuse(&self, peer: SocketAddr, reason: &'static str) {
        self.refusals.count(reason);
        tracing::warn!(%peer, reason, "refused at the control port");
    }
}
