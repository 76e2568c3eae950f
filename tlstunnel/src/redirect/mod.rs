//! Port 80: a permanent redirect to https, and answers to ACME http-01 challenges before it.
//!
//! `request` turns the bytes of one request head into an answer and knows no sockets; `location` makes the address
//! that a redirect names; `certify` publishes the challenges. This module moves the bytes, within limits of size and time.

mod location;
mod request;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use certify::Challenges;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::gateway::{Gateway, Phase};
use crate::live::{Admitted, Slot};
use crate::serve::last_words;

use request::{Answer, Kind, Rules, Step, judge, too_large};

/// Requests on one connection; the answer to the last one closes it.
const MAX_REQUESTS: usize = 1000;

/// What the first request in `bytes` is answered with, and the length of its head; `None` while it is incomplete.
pub(crate) fn answer_to(bytes: &[u8], https_port: u16) -> Option<(Vec<u8>, usize)> {
    match judge(bytes, Rules { https_port, challenges: &Challenges::default() }) {
        Step::Incomplete => None,
        Step::Answer(answer) => Some((answer.to_bytes(), answer.head)),
    }
}

/// Serves one connection on port 80 to its end.
pub async fn connection(
    gateway: Arc<Gateway>,
    stream: TcpStream,
    peer: SocketAddr,
    slot: Slot,
    https_port: u16,
) {
    let live = match slot.admit(peer) {
        Ok(live) => live,
        Err(over) => {
            gateway.counters.refused_over_cap.add_one();
            tracing::debug!(client = %peer, %over, "HTTP connection refused");
            return;
        }
    };
    if let Err(error) = serve(&gateway, stream, &live, https_port).await {
        tracing::debug!(client = %peer, %error, "HTTP connection ended");
    }
}

async fn serve(
    gateway: &Gateway,
    mut stream: TcpStream,
    live: &Admitted,
    https_port: u16,
) -> io::Result<()> {
    let rules = Rules { https_port, challenges: &gateway.challenges };
    let mut phase = gateway.phase.subscribe();
    let mut buffer = Vec::new();
    // Who is connected gets an answer even if the gateway is stopping; who is idle after one is let go.
    let mut waits_until = Phase::Ended;
    for remaining in (0..MAX_REQUESTS).rev() {
        let deadline = Instant::now() + gateway.limits.http_head;
        let head = read_head(&mut stream, &mut buffer, gateway.limits.http_head_bytes, rules);
        let mut answer = tokio::select! {
            head = timeout_at(deadline, head) => match head {
                Ok(answer) => match answer? {
                    Some(answer) => answer,
                    None => return Ok(()),
                },
                Err(_) => return Ok(()),
            },
            _ = phase.wait_for(|phase| *phase >= waits_until) => return Ok(()),
        };
        match answer.kind {
            Kind::Redirect => gateway.counters.redirects.add_one(),
            Kind::Refused => gateway.counters.http_refused.add_one(),
            Kind::Challenge => {}
        }
        answer.close |= remaining == 0 || *phase.borrow() != Phase::Serving;
        waits_until = Phase::Draining;
        let bytes = answer.to_bytes();
        live.bytes_out.add(u64::try_from(bytes.len()).unwrap_or(0));
        if answer.close {
            last_words(stream, &bytes).await;
            return Ok(());
        }
        let deadline = Instant::now() + gateway.limits.http_head;
        timeout_at(deadline, stream.write_all(&bytes)).await??;
        buffer.drain(..answer.head);
        timeout_at(deadline, skip(&mut stream, &mut buffer, answer.body)).await??;
    }
    Ok(())
}

/// Reads until the head of one request is complete or cannot become one. `None` when the client has closed.
async fn read_head(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
    limit: usize,
    rules: Rules<'_>,
) -> io::Result<Option<Answer>> {
    let mut searched = 0;
    // Parsing again after every piece would let single bytes cost the square of the head. It is parsed when a blank line
    // has come, and otherwise when there is twice as much as the last time, which finds out early what is no HTTP.
    let mut parse_at = 4;
    loop {
        if has_blank_line(buffer, searched) || buffer.len() >= parse_at {
            match judge(buffer, rules) {
                Step::Answer(answer) => return Ok(Some(answer)),
                Step::Incomplete if buffer.len() >= limit => return Ok(Some(too_large())),
                Step::Incomplete => parse_at = buffer.len() * 2,
            }
        }
        if buffer.len() >= limit {
            return Ok(Some(too_large()));
        }
        searched = buffer.len();
        let room = u64::try_from(limit - buffer.len()).unwrap_or(u64::MAX);
        buffer.reserve(1024);
        if (&mut *stream).take(room).read_buf(buffer).await? == 0 {
            return Ok(match judge(buffer, rules) {
                // Half a request and then silence: say so, in case the client only closed its sending side.
                Step::Answer(answer) => Some(answer),
                Step::Incomplete => None,
            });
        }
    }
}

/// Whether a head may end in `buffer`, whose first `searched` bytes had no end.
fn has_blank_line(buffer: &[u8], searched: usize) -> bool {
    let tail = &buffer[searched.saturating_sub(3)..];
    tail.windows(2).any(|pair| pair == b"\n\n") || tail.windows(3).any(|three| three == b"\n\r\n")
}

/// Throws `body` bytes away, first from what was read ahead.
async fn skip(stream: &mut TcpStream, buffer: &mut Vec<u8>, body: usize) -> io::Result<()> {
    let ahead = body.min(buffer.len());
    buffer.drain(..ahead);
    let rest = u64::try_from(body - ahead).unwrap_or(u64::MAX);
    let skipped = tokio::io::copy(&mut stream.take(rest), &mut tokio::io::sink()).await?;
    match skipped == rest {
        true => Ok(()),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
