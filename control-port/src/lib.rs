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
mod connection;
pub mod keys;
pub mod refusals;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use config_proto::message::{Refusal, Request};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use back_off::BackOff;
pub use keys::KeyRing;
pub use refusals::Refusals;

/// Who carries requests out.
pub trait Desk: Send + Sync + 'static {
    /// Does what the holder of the key `author` asks for. That the key's role permits it has been decided already.
    fn answer(
        &self,
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
    desk: D,
    keys: Arc<KeyRing>,
    settings: Settings,
    refusals: Refusals,
    back_off: BackOff,
    places: Arc<Semaphore>,
}

/// The pause after a failed accept, which is commonly a lack of file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

impl<D: Desk> Port<D> {
    /// A port in front of `desk`, for the holders of `keys`.
    pub fn new(desk: D, keys: Arc<KeyRing>, settings: Settings) -> Arc<Self> {
        let places = Arc::new(Semaphore::new(settings.connections.into()));
        let (refusals, back_off) = (Refusals::default(), BackOff::default());
        Arc::new(Self { desk, keys, settings, refusals, back_off, places })
    }

    /// Refusals by reason, for metrics.
    pub fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// Serves a listener. Connections go on in tasks of their own.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
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
            let port = Arc::clone(&self);
            tokio::spawn(async move {
                let _place = place;
                // Requests and replies are small and wait for each other; without the option they are only slower.
                let _ = stream.set_nodelay(true);
                connection::serve(&port, stream, peer, began).await;
            });
        }
    }

    fn refuse(&self, peer: SocketAddr, reason: &'static str) {
        self.refusals.count(reason);
        tracing::warn!(%peer, reason, "refused at the control port");
    }
}
