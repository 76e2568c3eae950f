//! One connection of the original's protocol: one request, one reply.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use config_proto::message::Refusal;
use config_proto::v1::message::{DONE, FAILED};
use config_proto::v1::server::{Decoder, Refused, reply};
use config_proto::v1::{MAX_REPLY_BYTES, Reply, Request, Sni};
use control_port::Port;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Control;

/// The author of changes that came in this way: v1 has no key ids.
const AUTHOR: &str = "v1";

/// Serves the connection to its end.
///
/// The request must have come within the frame time after `began`, when the connection was accepted.
pub(super) async fn connection(
    port: &Port<Control>,
    mut stream: TcpStream,
    peer: SocketAddr,
    key: &[u8],
    began: Instant,
) {
    let control = port.desk();
    let deadline = began + control.settings.frame_time;
    let served = tokio::time::timeout_at(deadline.into(), receive(&mut stream, key)).await;
    let answer = match served {
        Err(_) => return port.too_slow(peer),
        Ok(Err(error)) => {
            tracing::debug!(%peer, %error, "a control connection broke");
            return;
        }
        Ok(Ok(Ok(None))) => return,
        Ok(Ok(Ok(Some(request)))) => {
            port.succeeded(peer);
            control.gateway.counters.control_requests.add_one();
            Some(control.serve_v1(request).await)
        }
        Ok(Ok(Err(refused))) => {
            if refused != Refused::Truncated {
                port.failed(peer);
            }
            port.refuse(peer, refused.as_str());
            refused.reply()
        }
    };
    if let Some(answer) = answer {
        let write = async {
            stream.write_all(&reply(&answer)).await?;
            stream.shutdown().await
        };
        match tokio::time::timeout(control.settings.frame_time, write).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%peer, %error, "a control connection broke"),
            Err(_) => port.too_slow(peer),
        }
    }
}

async fn receive(
    stream: &mut TcpStream,
    key: &[u8],
) -> std::io::Result<Result<Option<Request>, Refused>> {
    let mut decoder = Decoder::new();
    let mut buffer = [0; 1024];
    loop {
        let n = stream.read(&mut buffer).await?;
        if n == 0 {
            return Ok(decoder.end().map(|()| None));
        }
        match decoder.feed(&buffer[..n], key) {
            Ok(None) => {}
            done => return Ok(done),
        }
    }
}

/// A name as v1 means it: never completed with a domain, which the final dot says.
fn in_full(name: &str) -> String {
    match name {
        "default" => name.to_owned(),
        name if name.ends_with('.') => name.to_owned(),
        name => format!("{name}."),
    }
}

fn failed(refusal: Refusal) -> Reply {
    Reply::Result { exit: FAILED, message: refusal.message }
}

impl Control {
    /// Carries out what the original's client asks, and answers in the original's words.
    async fn serve_v1(self: &Arc<Self>, request: Request) -> Reply {
        let result = match request {
            Request::List => {
                return self.walking(Self::list_v1).await.unwrap_or_else(failed);
            }
            Request::Add(sni) => match sni.to_route() {
                // The original replaces what is there.
                Ok(route) => self
                    .configuration
                    .add(AUTHOR, &in_full(&sni.name), route.settings, true)
                    .await
                    .map(|_| format!("{} was successfully added", sni.name)),
                Err(error) => {
                    return Reply::Result { exit: FAILED, message: error.to_string() };
                }
            },
            Request::Remove(name) => self
                .configuration
                .remove(AUTHOR, &in_full(&name))
                .await
                .map(|_| format!("{name} was successfully removed")),
        };
        match result {
            Ok(message) => Reply::Result { exit: DONE, message },
            Err(refusal) => failed(refusal),
        }
    }

    /// The routes as far as v1 can say them.
    fn list_v1(&self) -> Reply {
        let snapshot = self.gateway.snapshot.load_full();
        let snis = snapshot
            .routes
            .iter_after(None)
            .filter_map(|active| Sni::from_route(&active.route))
            .collect();
        let listed = Reply::Snis(snis);
        if listed.encode().len() > MAX_REPLY_BYTES {
            return Reply::Result {
                exit: FAILED,
                message: "there are more names than this protocol can list: use tlstunnel-ctl"
                    .to_owned(),
            };
        }
        listed
    }
}
