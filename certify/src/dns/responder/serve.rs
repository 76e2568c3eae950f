//! Sockets of the name server: datagrams with a rate limit, connections with bounds on time, number and size.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::answer::{Transport, answer, truncated};
use super::limit::{Limiter, Verdict};
use super::zones::Zones;

/// The largest question that is read. A name has at most 255 bytes; the rest are options.
const MAX_QUESTION: usize = 4096;
/// Connections at the same time; more wait to be accepted.
const MAX_CONNECTIONS: usize = 64;
/// Questions over one connection.
const MAX_QUESTIONS: usize = 64;
/// For the next question of a connection to arrive, and its answer to be taken.
const QUESTION_TIME: Duration = Duration::from_secs(5);
/// When accepting or receiving fails, as it does when descriptors run out.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers questions in datagrams, for ever.
pub(super) async fn serve_udp(socket: UdpSocket, zones: Arc<Zones>) {
    let mut limiter = Limiter::new(Instant::now());
    let mut buffer = vec![0; MAX_QUESTION];
    loop {
        let (length, source) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // What an ICMP message says about an earlier answer comes here too.
            Err(error) => {
                tracing::debug!(%error, "no question could be received");
                sleep(PAUSE).await;
                continue;
            }
        };
        let packet = buffer.get(..length).unwrap_or_default();
        let reply = match limiter.take(source.ip(), Instant::now()) {
            Verdict::Answer => answer(&zones, packet, Transport::Udp),
            Verdict::Truncate => truncated(packet),
            Verdict::Drop => None,
        };
        if let Some(reply) = reply
            && let Err(error) = socket.send_to(&reply, source).await
        {
            tracing::debug!(%error, %source, "an answer could not be sent");
        }
    }
}

/// Answers questions over connections, for ever.
pub(super) async fn serve_tcp(listener: TcpListener, zones: Arc<Zones>) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // Never closed.
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, source)) => {
                let zones = Arc::clone(&zones);
                tokio::spawn(async move {
                    if let Err(error) = connection(stream, &zones).await {
                        tracing::debug!(%error, %source, "a connection to the name server broke");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "no connection to the name server can be accepted");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn connection(mut stream: TcpStream, zones: &Zones) -> io::Result<()> {
    for _ in 0..MAX_QUESTIONS {
        match timeout(QUESTION_TIME, exchange(&mut stream, zones)).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        }
    }
    Ok(())
}

/// One question and its answer (RFC 7766); whether another may come.
async fn exchange(stream: &mut TcpStream, zones: &Zones) -> io::Result<bool> {
    let length = match stream.read_u16().await {
        Ok(length) => usize::from(length),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        Err(error) => return Err(error),
    };
    if length > MAX_QUESTION {
        return Ok(false);
    }
    let mut packet = vec![0; length];
    stream.read_exact(&mut packet).await?;
    let Some(reply) = answer(zones, &packet, Transport::Tcp) else { return Ok(false) };
    let length = u16::try_from(reply.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], &reply].concat()).await?;
    Ok(true)
}
