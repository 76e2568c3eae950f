//! One connection of protocol v2: any number of requests under one key.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use config_proto::access::permits;
use config_proto::key::{KeyLookup, KnownKey};
use config_proto::message::{Refusal, RefusalCode, Reply};
use config_proto::v2::server::{Event, Limits, ReceivedRequest, Refused, ReplyError};
use config_proto::v2::{GATEWAY_FRAME_BYTES, NONCE_LEN, Server};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Control, refusals};
use crate::config::refuse;

/// Bytes that are read at once.
const READ: usize = 16 * 1024;

/// Serves the connection to its end.
///
/// The handshake must end within the frame time after `began`, when the connection was accepted.
pub(super) async fn connection(
    control: &Arc<Control>,
    mut stream: TcpStream,
    peer: SocketAddr,
    began: Instant,
) {
    let mut nonce = [0; NONCE_LEN];
    if let Err(error) = getrandom::fill(&mut nonce) {
        tracing::error!(%error, "no randomness for a control connection");
        return;
    }
    let time = control.settings.frame_time;
    let limits = Limits {
        max_frame: GATEWAY_FRAME_BYTES,
        handshake: time,
        frame: time,
        ..Limits::default()
    };
    let mut server = Server::new(nonce, began, limits);
    let mut keys_changed = control.configuration.keys().changes();
    let mut buffer = vec![0; READ];
    while let Some(deadline) = server.deadline() {
        let read = tokio::select! {
            read = stream.read(&mut buffer) => read,
            () = tokio::time::sleep_until(deadline.into()) => {
                match server.expire(Instant::now()) {
                    Some(Refused::Idle) => return,
                    Some(_) => return control.refuse_slow(peer),
                    None => continue,
                }
            }
            Ok(()) = keys_changed.changed() => {
                match server.peer() {
                    Some(key) if !holds(control, key) => {
                        return control.refuse(peer, refusals::KEY_REMOVED);
                    }
                    _ => continue,
                }
            }
        };
        let bytes = match read {
            Ok(0) => {
                if let Err(reason) = server.end() {
                    control.refuse(peer, reason.as_str());
                }
                return;
            }
            Ok(n) => &buffer[..n],
            Err(error) => {
                tracing::debug!(%peer, %error, "a control connection broke");
                return;
            }
        };
        let was_known = server.peer().is_some();
        let events = server.feed(bytes, Instant::now(), control.configuration.keys());
        if !was_known && server.peer().is_some() {
            control.back_off.succeeded(peer.ip());
        }
        for event in events {
            let (answer, last) = match event {
                Event::Send(bytes) => (Some(bytes), false),
                Event::Request(request) => {
                    match serve(control, &mut server, *request, peer).await {
                        Some(bytes) => (Some(bytes), false),
                        None => return,
                    }
                }
                Event::Malformed { seq, refusal } => {
                    control.refuse(peer, refusals::MALFORMED_REQUEST);
                    (reply(&mut server, seq, Err(refusal)), false)
                }
                Event::Refused { reason, answer } => {
                    if reason != Refused::Idle && reason != Refused::Truncated {
                        control.back_off.failed(peer.ip(), Instant::now());
                    }
                    control.refuse(peer, reason.as_str());
                    (answer, true)
                }
            };
            let Some(bytes) = answer else { return };
            match tokio::time::timeout(time, stream.write_all(&bytes)).await {
                Ok(Ok(())) if !last => {}
                Ok(_) => return,
                Err(_) => return control.refuse_slow(peer),
            }
        }
    }
}

/// Carries one request out; none when the connection must end.
async fn serve(
    control: &Arc<Control>,
    server: &mut Server,
    received: ReceivedRequest,
    peer: SocketAddr,
) -> Option<Vec<u8>> {
    let ReceivedRequest { seq, key_id, role, request } = received;
    if !server.peer().is_some_and(|key| holds(control, key)) {
        control.refuse(peer, refusals::KEY_REMOVED);
        return None;
    }
    let domain = control.configuration.domains().first().map(String::as_str);
    let answer = match permits(&role, &request, domain) {
        Ok(()) => control.dispatch(key_id.as_str(), request).await,
        Err(refusal) => {
            control.refuse(peer, refusals::FORBIDDEN);
            Err(refusal)
        }
    };
    control.gateway.counters.control_requests.add_one();
    reply(server, seq, answer)
}

/// Whether the key that a connection began with is still what it was. One that was made again under the same id, perhaps
/// with another role, is for new connections.
fn holds(control: &Control, key: &KnownKey) -> bool {
    control.configuration.keys().lookup(key.key.id()).is_some_and(|now| now.is_same(key))
}

/// Writes an answer; one that is too long for a frame becomes a refusal that says so.
fn reply(server: &mut Server, seq: u64, answer: Result<Value, Refusal>) -> Option<Vec<u8>> {
    let answer = answer.map_or_else(Reply::Error, Reply::Ok);
    let written = match server.reply(seq, &answer) {
        Err(error @ ReplyError::TooLong { .. }) => {
            let refusal =
                refuse(RefusalCode::Invalid, error.to_string(), "ask for fewer entries at once");
            server.reply::<Value>(seq, &Reply::Error(refusal))
        }
        other => other,
    };
    written
        .inspect_err(|error| tracing::error!(%error, "a control reply could not be written"))
        .ok()
}
