//! One message to one server and the answer to it: UDP first, TCP where that does not do; everything bounded in time and
//! size.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout, timeout_at};

use super::{DnsError, shown};

/// A question over UDP is repeated this often.
const UDP_ATTEMPTS: usize = 2;
/// For one answer over UDP.
const UDP_TIME: Duration = Duration::from_millis(1500);
/// For connecting, asking and the answer over TCP.
const TCP_TIME: Duration = Duration::from_secs(5);
/// The largest request that is sent over UDP (RFC 1035, section 2.3.4: any server takes as much).
const UDP_REQUEST: usize = 512;
/// The largest answer over UDP that we say we take (RFC 9715, section 3).
const UDP_ANSWER: u16 = 1232;
/// Packets that are no answer to the question and are looked past, for one question.
const STRAY_PACKETS: usize = 64;

/// Asks for records and does not want the server to ask others.
pub(super) async fn ask(
    server: SocketAddr,
    name: &Name,
    kind: RecordType,
) -> Result<Message, DnsError> {
    let (_, answer) = exchange(server, &question(name, kind)).await?;
    answered(server, name, answer)
}

/// The same where the answer is known to be too large for UDP.
pub(super) async fn ask_over_tcp(
    server: SocketAddr,
    name: &Name,
    kind: RecordType,
) -> Result<Message, DnsError> {
    let request = question(name, kind);
    let bytes = request.to_vec().map_err(|error| DnsError::Message(error.to_string()))?;
    let (_, answer) = exchange_over_tcp(server, &request, &bytes).await?;
    answered(server, name, answer)
}

fn question(name: &Name, kind: RecordType) -> Message {
    let mut request = Message::query();
    request.metadata.recursion_desired = false;
    request.add_query(Query::query(name.clone(), kind));
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_ANSWER);
    request.set_edns(edns);
    request
}

fn answered(server: SocketAddr, name: &Name, answer: Message) -> Result<Message, DnsError> {
    match answer.metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => Ok(answer),
        code => Err(DnsError::Answer { server, name: shown(name), code }),
    }
}

/// Sends a message, and gives the answer to it as bytes and read. The response code is not looked at.
pub(super) async fn exchange(
    server: SocketAddr,
    request: &Message,
) -> Result<(Vec<u8>, Message), DnsError> {
    let bytes = request.to_vec().map_err(|error| DnsError::Message(error.to_string()))?;
    if bytes.len() <= UDP_REQUEST {
        match over_udp(server, request, &bytes).await {
            Ok(Some((_, answer))) if answer.metadata.truncation => {}
            Ok(Some(answered)) => return Ok(answered),
            // Nobody answers, or the way is closed: perhaps the way for TCP is not.
            Ok(None) | Err(_) => {}
        }
    }
    exchange_over_tcp(server, request, &bytes).await
}

async fn exchange_over_tcp(
    server: SocketAddr,
    request: &Message,
    bytes: &[u8],
) -> Result<(Vec<u8>, Message), DnsError> {
    let no_answer = |source| DnsError::NoAnswer { server, source };
    let answer = timeout(TCP_TIME, over_tcp(server, bytes))
        .await
        .map_err(|_| no_answer(io::ErrorKind::TimedOut.into()))?
        .map_err(no_answer)?;
    let message = Message::from_vec(&answer)
        .map_err(|error| DnsError::Nonsense { server, reason: error.to_string() })?;
    match answers(request, &message) {
        true => Ok((answer, message)),
        false => {
            let reason = "its answer is to another question".to_owned();
            Err(DnsError::Nonsense { server, reason })
        }
    }
}

async fn over_udp(
    server: SocketAddr,
    request: &Message,
    bytes: &[u8],
) -> io::Result<Option<(Vec<u8>, Message)>> {
    let own = match server {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(own).await?;
    // Only packets from the server arrive then.
    socket.connect(server).await?;
    let mut buffer = vec![0; usize::from(UDP_ANSWER)];
    let mut stray = 0;
    for _ in 0..UDP_ATTEMPTS {
        socket.send(bytes).await?;
        let end = Instant::now() + UDP_TIME;
        while let Ok(received) = timeout_at(end, socket.recv(&mut buffer)).await {
            let answer = buffer.get(..received?).unwrap_or_default();
            match Message::from_vec(answer) {
                Ok(message) if answers(request, &message) => {
                    return Ok(Some((answer.to_vec(), message)));
                }
                _ if stray == STRAY_PACKETS => return Ok(None),
                _ => stray += 1,
            }
        }
    }
    Ok(None)
}

async fn over_tcp(server: SocketAddr, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    let mut stream = TcpStream::connect(server).await?;
    // Length and message in one piece (RFC 7766, section 8).
    stream.write_all(&[&length.to_be_bytes(), bytes].concat()).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

/// Whether `answer` is one to `request`: id, kind and question are the same (RFC 5452, section 9.1). An error may leave
/// the question out.
fn answers(request: &Message, answer: &Message) -> bool {
    let (asked, said) = (&request.metadata, &answer.metadata);
    let same_question = request.queries == answer.queries;
    let without = answer.queries.is_empty() && said.response_code != ResponseCode::NoError
        || said.op_code == OpCode::Update && answer.queries.is_empty();
    said.message_type == MessageType::Response
        && said.id == asked.id
        && said.op_code == asked.op_code
        && (same_question || without)
}

/// The values of TXT records of `name`, in an answer.
pub(super) fn txt_values<'m>(
    answer: &'m Message,
    name: &'m Name,
) -> impl Iterator<Item = Vec<u8>> + 'm {
    answer.answers.iter().filter(move |record| record.name == *name).filter_map(|record| {
        match &record.data {
            RData::TXT(txt) => Some(txt.txt_data.concat()),
            _ => None,
        }
    })
}
