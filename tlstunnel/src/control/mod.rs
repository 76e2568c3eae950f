//! The control port: who may say what to a running gateway, and what it answers.
//!
//! # The way of a request
//!
//! [`control_port`] accepts, within a cap and unless the client failed too often lately → the first byte tells the
//! protocol's version → [`control_port`] itself or [`v1`] authenticates within a time limit → the role permits
//! ([`config_proto::access`]) → [`dispatch`] does it, with [`crate::config`] for changes and [`answer`] for questions →
//! the reply, authenticated in v2.
//!
//! Every refusal is counted by its reason. This room must not know how the configuration is stored.

mod answer;
mod certificates;
mod check;
mod dispatch;
mod page;
mod v1;
mod why;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use config_proto::message::{Refusal, Request};
use config_proto::sniff::{Sniffed, sniff};
use control_port::{Desk, Port, Refusals};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use zeroize::Zeroizing;

use crate::config::Configuration;
use crate::gateway::{Gateway, Phase};

/// What the control port is told at start.
#[derive(Clone)]
pub struct Settings {
    /// The instance's name.
    pub name: String,
    /// Control connections at the same time.
    pub connections: u16,
    /// For the whole handshake, and then for each frame, to arrive.
    pub frame_time: Duration,
    /// Bytes of the longest frame.
    pub max_frame: usize,
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
            .field("max_frame", &self.max_frame)
            .field("v1", &self.v1_key.is_some())
            .field("keeper", &self.keeper.is_some())
            .field("certificate_alert", &self.certificate_alert)
            .finish()
    }
}

/// What a running gateway does and answers when it is asked.
#[derive(Debug)]
pub struct Control {
    gateway: Arc<Gateway>,
    configuration: Configuration,
    settings: Settings,
    refusals: Arc<Refusals>,
}

impl Control {
    /// What answers for `gateway`, and changes `configuration`.
    pub fn new(
        gateway: Arc<Gateway>,
        configuration: Configuration,
        settings: Settings,
    ) -> Arc<Self> {
        let refusals = Arc::new(Refusals::new(&[V1_OFF, UNDECODABLE]));
        Arc::new(Self { gateway, configuration, settings, refusals })
    }

    /// Refusals by reason, for metrics.
    pub fn refusals(&self) -> &Arc<Refusals> {
        &self.refusals
    }

    /// The port that takes the requests.
    pub fn port(self: &Arc<Self>) -> Arc<Port<Self>> {
        let keys = Arc::clone(self.configuration.keys());
        let settings = control_port::Settings {
            connections: self.settings.connections,
            frame_time: self.settings.frame_time,
            max_frame: self.settings.max_frame,
        };
        Port::new(Arc::clone(self), keys, Arc::clone(&self.refusals), settings)
    }
}

impl Desk for Control {
    async fn answer(self: &Arc<Self>, author: &str, request: Request) -> Result<Value, Refusal> {
        self.gateway.counters.control_requests.add_one();
        self.dispatch(author, request).await
    }

    fn domain(&self) -> Option<&str> {
        self.configuration.domains().first().map(String::as_str)
    }
}

/// Serves a listener until the gateway has ended. The port stays open while connections drain, so that one can still look
/// and change one's mind about what the next start finds.
pub async fn serve(port: Arc<Port<Control>>, listener: TcpListener) {
    let gateway = Arc::clone(&port.desk().gateway);
    ended_or(&gateway, port.serve_with(listener, connection)).await;
}

async fn connection(port: Arc<Port<Control>>, stream: TcpStream, peer: SocketAddr, began: Instant) {
    let gateway = Arc::clone(&port.desk().gateway);
    ended_or(&gateway, by_version(&port, stream, peer, began)).await;
}

async fn by_version(port: &Port<Control>, stream: TcpStream, peer: SocketAddr, began: Instant) {
    let settings = &port.desk().settings;
    let deadline = began + settings.frame_time;
    let mut first = [0];
    match tokio::time::timeout_at(deadline.into(), stream.peek(&mut first)).await {
        Err(_) => port.too_slow(peer),
        Ok(Ok(0)) => {}
        Ok(Err(error)) => tracing::debug!(%peer, %error, "a control connection broke"),
        Ok(Ok(_)) => match (sniff(first[0]), &settings.v1_key) {
            (Sniffed::V2, _) => port.connection(stream, peer, began).await,
            (Sniffed::V1, Some(key)) => v1::connection(port, stream, peer, key, began).await,
            (Sniffed::V1, None) => {
                port.failed(peer);
                port.refuse(peer, V1_OFF);
            }
            (Sniffed::Unknown, _) => {
                port.failed(peer);
                port.refuse(peer, config_proto::v2::server::Refused::BadMagic.as_str());
            }
        },
    }
}

async fn ended_or(gateway: &Gateway, serving: impl Future<Output = ()>) {
    let mut phase = gateway.phase.subscribe();
    tokio::select! {
        () = serving => {}
        _ = phase.wait_for(|phase| *phase == Phase::Ended) => {}
    }
}

/// The client speaks v1, which is off.
const V1_OFF: &str = "v1_off";
/// A v1 request whose DER is not understood.
const UNDECODABLE: &str = "undecodable";
