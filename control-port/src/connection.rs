//! One connection: any number of requests under one key.

use std::net::SocketAddr;
use std::time::Instant;

use config_proto::access::permits;
use config_proto::key::{KeyLookup, KnownKey};
use config_proto::message::{Refusal, RefusalCode, Reply};
use config_proto::v2::server::{Event, Limits, ReceivedRequest, Refused, ReplyError};
use config_proto::v2::{NONCE_LEN, Server};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::{Desk, Port, refusals};

/// Bytes that are read at once.
const READ: usize = 16 * 1024;

/// Serves the connection, which was accepted when it `began`, to its end.
pub(crate) async fn serve<D: Desk>(
    port: &Port<D>,
    mut stream: TcpStream,
    peer: SocketAddr,
    began: Instant,
) {
    let mut nonce = [0; NONCE_LEN];
    if let Err(error) = getrandom::fill(&mut nonce) {
        tracing::error!(%error, "no randomness for a control connection");
        return;
    }
    let time = port.settings.frame_time;
    let max_frame = port.settings.max_frame;
    let limits = Limits { max_frame, handshake: time, frame: time, ..Limits::default() };
    let mut server = Server::new(nonce, began, limits);
    let mut keys_changed = port.keys.changes();
    let mut buffer = vec![0; READ];
    while let Some(deadline) = server.deadline() {
        let read = tokio::select! {
            read = stream.read(&mut buffer) => read,
            () = tokio::time::sleep_until(deadline.into()) => {
                match server.expire(Instant::now()) {
                    Some(Refused::Idle) => return,
                    Some(_) => return port.too_slow(peer),
                    None => continue,
                }
            }
            Ok(()) = keys_changed.changed() => {
                match server.peer() {
                    Some(key) if !holds(port, key) => {
                        return port.refuse(peer, refusals::KEY_REMOVED);
                    }
                    _ => continue,
                }
            }
        };
        let bytes = match read {
            Ok(0) => {
                if let Err(reason) = server.end() {
                    port.refuse(peer, reason.as_str());
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
        let events = server.feed(bytes, Instant::now(), &*port.keys);
        if !was_known && server.peer().is_some() {
            port.succeeded(peer);
        }
        for event in events {
            let (answer, last) = match event {
                Event::Send(bytes) => (Some(bytes), false),
                Event::Request(request) => match answer(port, &mut server, *request, peer).await {
                    Some(bytes) => (Some(bytes), false),
                    None => return,
                },
                Event::Malformed { seq, refusal } => {
                    port.refuse(peer, refusals::MALFORMED_REQUEST);
                    (reply(&mut server, seq, Err(refusal)), false)
                }
                Event::Refused { reason, answer } => {
                    if reason != Refused::Idle && reason != Refused::Truncated {
                        port.failed(peer);
                    }
                    port.refuse(peer, reason.as_str());
                    (answer, true)
                }
            };
            let Some(bytes) = answer else { return };
            match tokio::time::timeout(time, stream.write_all(&bytes)).await {
                Ok(Ok(())) if !last => {}
                Ok(_) => return,
                Err(_) => return port.too_slow(peer),
            }
        }
    }
}

/// Carries one request out; none when the connection must end.
async fn answer<D: Desk>(
    port: &Port<D>,
    server: &mut Server,
    received: ReceivedRequest,
    peer: SocketAddr,
) -> Option<Vec<u8>> {
    let ReceivedRequest { seq, key_id, role, request } = received;
    if !server.peer().is_some_and(|key| holds(port, key)) {
        port.refuse(peer, refusals::KEY_REMOVED);
        return None;
    }
    let answer = match permits(&role, &request, port.desk.domain()) {
        Ok(()) => port.desk.answer(key_id.as_str(), request).await,
        Err(refusal) => {
            port.refuse(peer, refusals::FORBIDDEN);
            Err(refusal)
        }
    };
    reply(server, seq, answer)
}

/// Whether the key that a connection began with is still what it was. One that was made again under the same id, perhaps
/// with another role, is for new connections.
fn holds<D: Desk>(port: &Port<D>, key: &KnownKey) -> bool {
    port.keys.lookup(key.key.id()).is_some_and(|now| now.is_same(key))
}

/// Writes an answer; one that is too long for a frame becomes a refusal that says so.
fn reply(server: &mut Server, seq: u64, answer: Result<Value, Refusal>) -> Option<Vec<u8>> {
    let answer = answer.map_or_else(Reply::Error, Reply::Ok);
    let written = match server.reply(seq, &answer) {
        Err(error @ ReplyError::TooLong { .. }) => {
            let refusal = Refusal {
                code: RefusalCode::Invalid,
                message: error.to_string(),
                hint: Some("ask for fewer entries at once".to_owned()),
            };
            server.reply::<Value>(seq, &Reply::Error(refusal))
        }
        other => other,
    };
    written
        .inspect_err(|error| tracing::error!(%error, "a control reply could not be written"))
        .ok()
}
