//! Connections to git servers: one question and one answer at a time, framed as packet lines.
//!
//! The ways differ in how a request is sent and where bytes come from; [`Conversation`] hides that, and holds every wait
//! to [`Limits::idle_time`]. What the bytes mean is for `protocol` to know.

mod connect;
mod http;
mod ssh;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::pkt_line::{self, Packet};
use super::{FetchError, Limits, Remote, RemoteUrl};

/// How many bytes are read at once.
const READ_SIZE: usize = 64 << 10;

/// A connection on which the server's advertisement comes first, and an answer after each request.
pub(super) struct Conversation {
    link: Link,
    buffer: BytesMut,
    limits: Limits,
}

enum Link {
    Tcp(TcpStream),
    Http(Box<http::Link>),
    Ssh(Box<ssh::Link>),
}

impl Conversation {
    /// Connects to the remote and asks for `git-upload-pack`.
    pub(super) async fn open(remote: &Remote, limits: &Limits) -> Result<Self, FetchError> {
        let link = match &remote.url {
            RemoteUrl::Git { host, port, path } => {
                let mut stream = connect::tcp(remote, host, *port, limits).await?;
                let mut request = Vec::new();
                let text = format!("git-upload-pack {path}\0host={host}:{port}\0\0version=2\0");
                pkt_line::line(&mut request, text.as_bytes());
                stream.write_all(&request).await.map_err(broken)?;
                Link::Tcp(stream)
            }
            RemoteUrl::Http(uri) => {
                Link::Http(Box::new(http::Link::open(remote, uri, limits).await?))
            }
            RemoteUrl::Ssh { user, host, port, path } => {
                let stream = connect::tcp(remote, host, *port, limits).await?;
                let opened = ssh::Link::open(stream, remote, user, path);
                let opened = timeout(limits.idle_time, opened).await;
                Link::Ssh(Box::new(opened.map_err(|_| FetchError::Idle(limits.idle_time))??))
            }
        };
        Ok(Self { link, buffer: BytesMut::new(), limits: *limits })
    }

    /// Whether the server forgets everything between two requests.
    pub(super) fn is_stateless(&self) -> bool {
        matches!(self.link, Link::Http(_))
    }

    /// Sends a request. Its answer is what [`Self::packet`] reads next.
    pub(super) async fn send(&mut self, request: Vec<u8>) -> Result<(), FetchError> {
        let sent = async {
            match &mut self.link {
                Link::Tcp(stream) => stream.write_all(&request).await.map_err(broken),
                Link::Ssh(link) => link.send(request).await,
                Link::Http(link) => {
                    // An answer ends with its HTTP message.
                    self.buffer.clear();
                    link.post(request).await
                }
            }
        };
        let idle = self.limits.idle_time;
        timeout(idle, sent).await.map_err(|_| FetchError::Idle(idle))?
    }

    /// The next packet. `None`: the server has ended the connection or the answer.
    pub(super) async fn packet(&mut self) -> Result<Option<Packet>, FetchError> {
        loop {
            let packet = pkt_line::decode(&mut self.buffer)
                .map_err(|error| FetchError::Protocol(error.to_string()))?;
            if packet.is_some() {
                return Ok(packet);
            }
            if !self.fill().await? {
                return match self.buffer.is_empty() {
                    true => Ok(None),
                    false => Err(FetchError::Connection("it ended in the middle of a line".into())),
                };
            }
        }
    }

    /// The next packet, which must come.
    pub(super) async fn expect(&mut self) -> Result<Packet, FetchError> {
        match self.packet().await? {
            Some(packet) => Ok(packet),
            None => Err(self.ended()),
        }
    }

    /// The error of a connection that ended early: what the server said about it, when it did.
    pub(super) fn ended(&self) -> FetchError {
        let said = match &self.link {
            Link::Ssh(link) => link.complaint(),
            _ => None,
        };
        said.unwrap_or_else(|| FetchError::Connection("the remote closed it early".into()))
    }

    /// Ends the conversation politely, as far as that is possible.
    pub(super) async fn finish(mut self) {
        if !self.is_stateless() {
            // The result is here already; whether the server hears the farewell does not matter.
            let _ = self.send(pkt_line::FLUSH.to_vec()).await;
        }
    }

    async fn fill(&mut self) -> Result<bool, FetchError> {
        let buffer = &mut self.buffer;
        let filled = async {
            let chunk: Option<Bytes> = match &mut self.link {
                Link::Tcp(stream) => {
                    buffer.reserve(READ_SIZE);
                    return Ok(stream.read_buf(buffer).await.map_err(broken)? > 0);
                }
                Link::Http(link) => link.chunk().await?,
                Link::Ssh(link) => link.chunk().await,
            };
            Ok(chunk.map(|chunk| buffer.extend_from_slice(&chunk)).is_some())
        };
        let idle = self.limits.idle_time;
        timeout(idle, filled).await.map_err(|_| FetchError::Idle(idle))?
    }
}

fn broken(error: std::io::Error) -> FetchError {
    FetchError::Connection(error.to_string())
}
