//! The client's side of v2: bytes of one server in, replies out.
//!
//! ```text
//! (our hello) → ExpectHello → (our proof) → ExpectProof → Ready ⟲
//! ```
//!
//! Requests are possible from [`Event::Ready`] on: by then the server has proved that it holds the key, so that nothing
//! is ever asked of a server that does not.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::body::{self, Place};
use super::frame::{self, Frame, Kind};
use super::hello::{BadHello, ClientHello, ServerHello};
use super::schedule::ConnectionKeys;
use super::{FRAME_OVERHEAD, MAX_FRAME_BYTES, NONCE_LEN, UNAUTHENTICATED};
use crate::buffer::Buffer;
use crate::key::Key;
use crate::message::{Reply, Request};

/// How long a client may wait for the handshake, and then for each reply, before it gives up: a suggestion to callers,
/// who hold the clock.
pub const REPLY_TIME: Duration = Duration::from_secs(30);

/// What the caller has to do next.
#[derive(Debug)]
pub enum Event {
    /// Write these bytes.
    Send(Vec<u8>),
    /// The server has proved the key; [`Client::request`] is possible.
    Ready,
    /// The reply to a request.
    Reply(ReceivedReply),
}

/// A reply whose sender holds the key.
#[derive(Clone, PartialEq, Eq)]
pub struct ReceivedReply {
    /// The number that [`Client::request`] gave to the request.
    pub seq: u64,
    body: Value,
}

/// Why a connection failed. The client closes; nothing more comes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The server refused our proof, or its own does not hold. That answer itself is not authenticated: someone on the
    /// way can forge it, so it says only that no authenticated connection came about.
    #[error("not authenticated: the gateway has no such key id, or another secret for it")]
    NotAuthenticated,
    /// The peer's first bytes are not those of this protocol.
    #[error("the peer does not speak the gateway's control protocol: check address and port")]
    BadMagic,
    /// The server speaks another version.
    #[error("the gateway speaks version {0} of the control protocol, and this program version 2")]
    BadVersion(u8),
    /// A tag does not hold: bytes were changed on the way, or come from elsewhere.
    #[error("a frame from the gateway was changed on the way")]
    BadTag,
    /// A genuine frame that answers nothing, or out of its turn.
    #[error("a frame from the gateway is repeated or out of order")]
    BadSequence,
    /// A frame is announced with more bytes than allowed.
    #[error("the gateway announced a frame of {0} bytes, which is more than allowed")]
    TooLong(u64),
    /// A frame that cannot be: too short, of a wrong type, or without JSON.
    #[error("the gateway broke the protocol's form: {0}")]
    Malformed(String),
    /// The stream ended before the handshake was over, inside a frame, or with a reply outstanding.
    #[error("the gateway closed the connection before it answered")]
    Truncated,
}

/// Why a request was not written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// Before [`Event::Ready`], or after an error.
    #[error("the connection is not ready for requests")]
    NotReady,
    /// The frame would be longer than allowed.
    #[error("the request needs a frame of {bytes} bytes, and {max} are allowed")]
    TooLong {
        /// The bytes it needs.
        bytes: usize,
        /// The bytes that are allowed.
        max: usize,
    },
    /// The message has no JSON form.
    #[error("the request cannot be written: {0}")]
    Encode(String),
}

/// The client's side of one connection.
#[derive(Debug)]
pub struct Client {
    state: State,
    buffer: Buffer,
    max_frame: usize,
}

impl Client {
    /// A connection that begins, and the bytes to write first. The nonce must come from the system's generator and be
    /// used only here.
    pub fn new(key: &Key, nonce: [u8; NONCE_LEN]) -> (Self, Vec<u8>) {
        Self::with_max_frame(key, nonce, MAX_FRAME_BYTES)
    }

    /// As [`Client::new`], with another bound than [`MAX_FRAME_BYTES`] for frames in both directions.
    pub fn with_max_frame(key: &Key, nonce: [u8; NONCE_LEN], max_frame: usize) -> (Self, Vec<u8>) {
        let hello = ClientHello::new(key.id().clone(), &nonce);
        let bytes = hello.as_bytes().to_vec();
        let state = State::Hello(ExpectHello { key: key.clone(), hello });
        (Self { state, buffer: Buffer::default(), max_frame }, bytes)
    }

    /// Takes bytes from the server, any number of them. The events are to be acted upon in their order.
    ///
    /// # Errors
    /// The connection is over: close it. Events of the same call that came before the error are lost with it.
    pub fn feed(&mut self, mut input: &[u8]) -> Result<Vec<Event>, ClientError> {
        let mut events = Vec::new();
        loop {
            // The state is put back only by a step that succeeds, so that every error closes for good.
            let state = std::mem::replace(&mut self.state, State::Closed);
            let Some(wanted) = state.wanted(self.buffer.as_slice(), self.max_frame)? else {
                return Ok(events);
            };
            if self.buffer.as_slice().len() >= wanted {
                self.state = state.handle(self.buffer.take(), &mut events)?;
                continue;
            }
            self.state = state;
            if input.is_empty() {
                return Ok(events);
            }
            self.buffer.fill(&mut input, wanted);
        }
    }

    /// Writes a request; its reply will carry the same number. Several may be under way.
    ///
    /// # Errors
    /// See [`RequestError`]; the connection goes on.
    pub fn request(&mut self, request: &Request) -> Result<(u64, Vec<u8>), RequestError> {
        self.request_json(request)
    }

    /// Writes a request that is given as JSON, for operations that this program does not know.
    ///
    /// # Errors
    /// See [`RequestError`]; the connection goes on.
    pub fn request_json<T: serde::Serialize>(
        &mut self,
        request: &T,
    ) -> Result<(u64, Vec<u8>), RequestError> {
        let max = self.max_frame;
        let State::Ready(state) = &mut self.state else {
            return Err(RequestError::NotReady);
        };
        let seq = state.next_request;
        let keys = &state.keys.client;
        let place = Place { key: &keys.seal, sequence: seq, kind: Kind::Request };
        let body = body::encode(request, place).map_err(|e| RequestError::Encode(e.to_string()))?;
        let bytes = frame::emit(&*keys.mac, seq, Kind::Request, &body, max)
            .map_err(|bytes| RequestError::TooLong { bytes, max })?;
        state.next_request += 1;
        Ok((seq, bytes))
    }

    /// Whether the server has proved the key and the connection stands.
    pub const fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready(_))
    }

    /// The server has ended its stream.
    ///
    /// # Errors
    /// [`ClientError::Truncated`] when something was still owed.
    pub fn end(&mut self) -> Result<(), ClientError> {
        let owed = match std::mem::replace(&mut self.state, State::Closed) {
            State::Ready(state) => {
                !self.buffer.is_empty() || state.next_reply != state.next_request
            }
            State::Hello(_) | State::Proof(_) => true,
            State::Closed => false,
        };
        if owed { Err(ClientError::Truncated) } else { Ok(()) }
    }

    /// Bytes of memory that this connection's unfinished input holds.
    pub fn buffered(&self) -> usize {
        self.buffer.capacity()
    }
}

impl ReceivedReply {
    /// The reply as the result of the operation that was asked for.
    ///
    /// # Errors
    /// When the JSON has another form: client and gateway are of different versions.
    pub fn into_reply<T: DeserializeOwned>(self) -> Result<Reply<T>, serde_json::Error> {
        serde_json::from_value(self.body)
    }

    /// The reply as JSON, with its sealed values open.
    pub fn into_json(self) -> Value {
        self.body
    }
}

impl std::fmt::Debug for ReceivedReply {
    // The body can hold a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReceivedReply").field("seq", &self.seq).finish_non_exhaustive()
    }
}

impl From<BadHello> for ClientError {
    fn from(bad: BadHello) -> Self {
        match bad {
            BadHello::Version(version) => Self::BadVersion(version),
            BadHello::Magic | BadHello::KeyId => Self::BadMagic,
        }
    }
}

// === the states ===

#[derive(Debug)]
enum State {
    Hello(ExpectHello),
    Proof(ExpectProof),
    Ready(Ready),
    Closed,
}

#[derive(Debug)]
struct ExpectHello {
    key: Key,
    hello: ClientHello,
}

#[derive(Debug)]
struct ExpectProof {
    keys: ConnectionKeys,
}

#[derive(Debug)]
struct Ready {
    keys: ConnectionKeys,
    next_request: u64,
    next_reply: u64,
}

impl State {
    /// How many bytes the unit that starts with `start` has, as far as `start` tells.
    fn wanted(&self, start: &[u8], max_frame: usize) -> Result<Option<usize>, ClientError> {
        let frame = |max| {
            Frame::wanted(start, max).map(Some).map_err(|length| match length {
                short if short < FRAME_OVERHEAD as u64 => too_short(),
                long => ClientError::TooLong(long),
            })
        };
        match self {
            Self::Hello(_) => Ok(Some(ServerHello::wanted(start)?)),
            Self::Proof(_) => frame(FRAME_OVERHEAD),
            Self::Ready(_) => frame(max_frame),
            Self::Closed => Ok(None),
        }
    }

    fn handle(self, unit: Vec<u8>, events: &mut Vec<Event>) -> Result<Self, ClientError> {
        match self {
            Self::Hello(state) => state.handle(&unit, events).map(Self::Proof),
            Self::Proof(state) => state.handle(&Frame::new(unit), events).map(Self::Ready),
            Self::Ready(state) => state.handle(&Frame::new(unit), events).map(Self::Ready),
            Self::Closed => Ok(Self::Closed),
        }
    }
}

impl ExpectHello {
    fn handle(self, unit: &[u8], events: &mut Vec<Event>) -> Result<ExpectProof, ClientError> {
        let server = ServerHello::parse(unit)?;
        let keys = ConnectionKeys::derive(self.key.secret(), &self.hello, &server);
        events.push(Event::Send(frame::proof(&*keys.client.mac, Kind::ClientProof)));
        Ok(ExpectProof { keys })
    }
}

impl ExpectProof {
    fn handle(self, frame: &Frame, events: &mut Vec<Event>) -> Result<Ready, ClientError> {
        if frame.as_bytes() == UNAUTHENTICATED || !frame.verify(&*self.keys.server.mac) {
            return Err(ClientError::NotAuthenticated);
        }
        if frame.sequence() != 0 {
            return Err(ClientError::BadSequence);
        }
        if !frame.is(Kind::ServerProof) {
            return Err(wrong_type());
        }
        events.push(Event::Ready);
        Ok(Ready { keys: self.keys, next_request: 1, next_reply: 1 })
    }
}

impl Ready {
    fn handle(mut self, frame: &Frame, events: &mut Vec<Event>) -> Result<Self, ClientError> {
        let keys = &self.keys.server;
        if !frame.verify(&*keys.mac) {
            return Err(ClientError::BadTag);
        }
        let seq = frame.sequence();
        if seq != self.next_reply || seq >= self.next_request {
            return Err(ClientError::BadSequence);
        }
        if !frame.is(Kind::Reply) {
            return Err(wrong_type());
        }
        let place = Place { key: &keys.seal, sequence: seq, kind: Kind::Reply };
        let body = body::decode(frame.body(), place)
            .map_err(|bad| ClientError::Malformed(bad.to_string()))?;
        events.push(Event::Reply(ReceivedReply { seq, body }));
        self.next_reply += 1;
        Ok(self)
    }
}

fn too_short() -> ClientError {
    ClientError::Malformed("a frame is too short".to_owned())
}

fn wrong_type() -> ClientError {
    ClientError::Malformed("a frame has a type that is not possible here".to_owned())
}
