//! The control port: who may say what to a running gateway, and what it answers.
//!
//! # The way of a request
//!
//! accept, within a cap and unless the client failed too often lately → the first byte tells the protocol's version →
//! [`v2`] or [`v1`] authenticates within a time limit → the role permits ([`config_proto::access`]) → [`dispatch`] does
//! it, with [`crate::config`] for changes and [`answer`] for questions → the reply, authenticated in v2.
//!
//! Every refusal is counted by its reason. This room must not know how the configuration is stored.

mod answer;
mod certificates;
mod check;
mod dispatch;
mod page;
mod refusals;
mod v1;
mod v2;
mod why;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use config_proto::sniff::{Sniffed, sniff};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use crate::config::Configuration;
use crate::gateway::{Gateway, Phase};
use refusals::BackOff;

pub use refusals::{
    FIRST_WAIT, FORGET_AFTER, FREE_FAILURES, LONGEST_WAIT, MAX_REMEMBERED, Refusals,
};

/// What the control port is told at start.
#[derive(Clone)]
pub struct Settings {
    /// The instance's name.
    pub name: String,
    /// Control connections at the same time.
    pub connections: u16,
    /// For the whole handshake, and then for each frame, to arrive.
    pub frame_time: Duration,
    /// The key of protocol v1; absent when it is off.
    pub v1_key: Option<Zeroizing<Vec<u8>>>,
    /// Where the work on certificates takes requests; absent without `--acme`.
    pub keeper: Option<certify::Requests>,
    /// Seconds before its end from which on a certificate is a problem.
    pub certificate_alert: i64,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("name", &self.name)
            .field("connections", &self.connections)
            .field("frame_time", &self.frame_time)
            .field("v1", &self.v1_key.is_some())
            .field("keeper", &self.keeper.is_some())
            .field("certificate_alert", &self.certificate_alert)
            .finish()
    }
}

/// The control port of one gateway.
#[derive(Debug)]
pub struct Control {
    gateway: Arc<Gateway>,
    configuration: Configuration,
    settings: Settings,
    refusals: Arc<Refusals>,
    back_off: BackOff,
    places: Arc<Semaphore>,
}

impl Control {
    /// A control port that changes `configuration` and tells about `gateway`.
    pub fn new(
        gateway: Arc<Gateway>,
        configuration: Configuration,
        settings: Settings,
    ) -> Arc<Self> {
        let places = Arc::new(Semaphore::new(settings.connections.into()));
        Arc::new(Self {
            gateway,
            configuration,
            settings,
            refusals: Arc::default(),
            back_off: BackOff::default(),
            places,
        })
    }

    /// Refusals by reason, for metrics.
    pub fn refusals(&self) -> &Arc<Refusals> {
        &self.refusals
    }

    /// Serves a listener until the gateway has ended. The port stays open while connections drain, so that one can still
    /// look and change one's mind about what the next start finds.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
        let mut phase = self.gateway.phase.subscribe();
        loop {
            let accepted = tokio::select! {
                _ = phase.wait_for(|phase| *phase == Phase::Ended) => return,
                accepted = listener.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a control connection could not be accepted");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            if !self.back_off.allows(peer.ip(), Instant::now()) {
                self.refuse(peer, refusals::BACK_OFF);
                continue;
            }
            let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
                self.refuse(peer, refusals::OVER_CAP);
                continue;
            };
            let control = Arc::clone(&self);
            tokio::spawn(async move {
                let _place = place;
                let mut phase = control.gateway.phase.subscribe();
                tokio::select! {
                    () = control.connection(stream, peer) => {}
                    _ = phase.wait_for(|phase| *phase == Phase::Ended) => {}
                }
            });
        }
    }

    async fn connection(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        // Requests and replies are small and wait for each other.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%peer, %error, "a control connection keeps its delay");
        }
        let began = Instant::now();
        let deadline = began + self.settings.frame_time;
        let mut first = [0];
        match tokio::time::timeout_at(deadline.into(), stream.peek(&mut first)).await {
            Err(_) => self.refuse_slow(peer),
            Ok(Ok(0)) => {}
            Ok(Err(error)) => tracing::debug!(%peer, %error, "a control connection broke"),
            Ok(Ok(_)) => match (sniff(first[0]), &self.settings.v1_key) {
                (Sniffed::V2, _) => v2::connection(self, stream, peer, began).await,
                (Sniffed::V1, Some(key)) => {
                    v1::connection(self, stream, peer, key, began).await;
                }
                (Sniffed::V1, None) => {
                    self.back_off.failed(peer.ip(), Instant::now());
                    self.refuse(peer, refusals::V1_OFF);
                }
                (Sniffed::Unknown, _) => {
                    let reason = config_proto::v2::server::Refused::BadMagic;
                    self.back_off.failed(peer.ip(), Instant::now());
                    self.refuse(peer, reason.as_str());
                }
            },
        }
    }

    fn refuse(&self, peer: SocketAddr, reason: &'static str) {
        self.gateway.counters.control_refused.add_one();
        self.refusals.count(reason);
        tracing::warn!(%peer, reason, "refused at the control port");
    }

    fn refuse_slow(&self, peer: SocketAddr) {
        self.back_off.failed(peer.ip(), Instant::now());
        self.refuse(peer, config_proto::v2::server::Refused::TooSlow.as_str());
    }
}

/// The pause after a failed accept, which is commonly a lack of file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
