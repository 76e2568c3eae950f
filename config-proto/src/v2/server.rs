//! The server's side of v2: bytes of one client in, requests and answers out.
//!
//! ```text
//! ExpectHello → (our hello) → ExpectProof → (our proof) → ExpectRequest ⟲
//! ```
//!
//! A refusal ends the connection in every state. The caller reads, calls [`Server::feed`], acts on each event in order,
//! and closes after [`Event::Refused`]; while it waits for bytes it watches [`Server::deadline`].

use std::time::{Duration, Instant};

use super::body::{self, BadBody, CannotEncode, Place};
use super::frame::{self, Frame, Kind};
use super::hello::{BadHello, ClientHello, ServerHello};
use super::schedule::ConnectionKeys;
use super::{
    FRAME_OVERHEAD, FRAME_TIME, HANDSHAKE_TIME, IDLE_TIME, MAX_FRAME_BYTES, NONCE_LEN,
    UNAUTHENTICATED,
};
use crate::buffer::Buffer;
use crate::key::{KeyId, KeyLookup, KnownKey, MIN_SECRET_LEN};
use crate::message::{Refusal, RefusalCode, Reply, Request, Role};

/// The secret in whose name an unknown id is answered. It opens nothing: a proof under it is refused as well.
const DECOY_SECRET: [u8; MIN_SECRET_LEN] = [0; MIN_SECRET_LEN];

/// What a client may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest frame in bytes, in both directions, with its overhead ([`MAX_FRAME_BYTES`]). With 16 KiB or more,
    /// every refusal fits.
    pub max_frame: usize,
    /// From the start of the connection to the client's proof ([`HANDSHAKE_TIME`]).
    pub handshake: Duration,
    /// From the first byte of a frame to its last ([`FRAME_TIME`]).
    pub frame: Duration,
    /// From one frame to the next ([`IDLE_TIME`]).
    pub idle: Duration,
}

/// What the caller has to do next.
#[derive(Debug)]
pub enum Event {
    /// Write these bytes.
    Send(Vec<u8>),
    /// Do what is asked and answer with [`Server::reply`].
    Request(Box<ReceivedRequest>),
    /// Answer with this refusal: the holder of the key sent what is no request. The connection goes on. Worth counting.
    Malformed {
        /// The number to give to [`Server::reply`].
        seq: u64,
        /// The answer.
        refusal: Refusal,
    },
    /// Count it, write the answer if there is one, and close. Nothing comes after it.
    Refused {
        /// Why.
        reason: Refused,
        /// Bytes to write before closing.
        answer: Option<Vec<u8>>,
    },
}

/// A request whose sender holds the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedRequest {
    /// The number to give to [`Server::reply`].
    pub seq: u64,
    /// Which key signed it.
    pub key_id: KeyId,
    /// What that key allowed when the connection began; [`crate::access::permits`] judges.
    pub role: Role,
    /// What is asked.
    pub request: Request,
}

/// Why a connection is refused. [`Refused::as_str`] names the reason in metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// The first bytes are not those of this protocol.
    #[error("the client does not speak this protocol")]
    BadMagic,
    /// Another version of the protocol; the answer is a hello with ours.
    #[error("the client speaks another version of the protocol")]
    BadVersion,
    /// The client names a key that does not exist (or no longer).
    #[error("there is no key of this id")]
    UnknownKey,
    /// A tag does not hold: another secret, or bytes changed on the way, or from another connection or direction.
    #[error("the tag of a frame is wrong")]
    BadTag,
    /// A genuine frame out of its turn: repeated, left out or exchanged.
    #[error("a frame is repeated or out of order")]
    BadSequence,
    /// A frame is announced with more bytes than allowed.
    #[error("a frame is longer than allowed")]
    TooLong,
    /// A hello or frame that cannot be: too short, of a wrong type, or with a key id that is none.
    #[error("the client broke the protocol's form")]
    Malformed,
    /// The stream ended inside a hello, the handshake or a frame.
    #[error("the stream ended too early")]
    Truncated,
    /// The handshake or a frame took longer than allowed.
    #[error("the client was too slow")]
    TooSlow,
    /// Nothing was asked for a long time. No attack: the connection is just closed.
    #[error("the connection was idle")]
    Idle,
}

/// Why a reply was not written. The connection can go on with another reply to the same request.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplyError {
    /// The frame would be longer than the limit. Answer with less: a shorter page, or a refusal.
    #[error(
        "the reply needs a frame of {bytes} bytes, and {max} are allowed: ask for a shorter page"
    )]
    TooLong {
        /// The bytes it needs.
        bytes: usize,
        /// The bytes that are allowed.
        max: usize,
    },
    /// The caller answers requests out of order, twice, or before there are any.
    #[error("a reply to request {given}, where {expected:?} is next")]
    OutOfOrder {
        /// The number given.
        given: u64,
        /// The number that is next, if any.
        expected: Option<u64>,
    },
    /// The message has no JSON form.
    #[error("the reply cannot be written: {0}")]
    Encode(String),
}

/// The server's side of one connection.
#[derive(Debug)]
pub struct Server {
    state: State,
    buffer: Buffer,
    limits: Limits,
    /// When the connection, or the wait for the next frame, began.
    waiting_since: Instant,
    /// When the first byte of an unfinished frame came.
    frame_since: Option<Instant>,
}

impl Server {
    /// A connection that begins now. The nonce must come from the system's generator and be used only here.
    pub fn new(nonce: [u8; NONCE_LEN], now: Instant, limits: Limits) -> Self {
        Self {
            state: State::Hello(ExpectHello { nonce }),
            buffer: Buffer::default(),
            limits,
            waiting_since: now,
            frame_since: None,
        }
    }

    /// Takes bytes from the client, any number of them. The events are to be acted upon in their order.
    pub fn feed(&mut self, mut input: &[u8], now: Instant, keys: &dyn KeyLookup) -> Vec<Event> {
        let mut events = Vec::new();
        let mut finished = false;
        loop {
            let wanted = match self.state.wanted(self.buffer.as_slice(), &self.limits) {
                Ok(Some(wanted)) => wanted,
                Ok(None) => break,
                Err(reason) => {
                    events.push(self.refuse(reason));
                    break;
                }
            };
            if self.buffer.as_slice().len() < wanted {
                if input.is_empty() {
                    break;
                }
                self.buffer.fill(&mut input, wanted);
                continue;
            }
            finished = true;
            let unit = self.buffer.take();
            let state = std::mem::replace(&mut self.state, State::Closed);
            match state.handle(unit, keys) {
                Ok((next, event)) => {
                    self.state = next;
                    events.push(event);
                }
                Err((reason, answer)) => {
                    events.push(Event::Refused { reason, answer });
                    break;
                }
            }
        }
        self.restart_clocks(finished, now);
        events
    }

    /// Writes the reply to request `seq`. Requests are answered in the order in which they came.
    ///
    /// # Errors
    /// See [`ReplyError`]; after each of them another reply to the same request can be written.
    pub fn reply<T: serde::Serialize>(
        &mut self,
        seq: u64,
        reply: &Reply<T>,
    ) -> Result<Vec<u8>, ReplyError> {
        let max = self.limits.max_frame;
        let State::Request(state) = &mut self.state else {
            return Err(ReplyError::OutOfOrder { given: seq, expected: None });
        };
        let expected = Some(state.next_reply).filter(|next| *next < state.next_request);
        if expected != Some(seq) {
            return Err(ReplyError::OutOfOrder { given: seq, expected });
        }
        let keys = &state.keys.server;
        let place = Place { key: &keys.seal, sequence: seq, kind: Kind::Reply };
        let body = match reply {
            Reply::Ok(_) => body::encode(reply, place),
            Reply::Error(refusal) => body::encode(&Reply::<()>::Error(refusal.shortened()), place),
        }
        .map_err(|e: CannotEncode| ReplyError::Encode(e.to_string()))?;
        let bytes = frame::emit(&*keys.mac, seq, Kind::Reply, &body, max)
            .map_err(|bytes| ReplyError::TooLong { bytes, max })?;
        state.next_reply += 1;
        Ok(bytes)
    }

    /// Whose connection it is, once the client has proved its key and until the connection is refused. It is the key as
    /// it was when the connection began; whether it still holds is the caller's to ask ([`KnownKey::is_same`]).
    pub const fn peer(&self) -> Option<&KnownKey> {
        match &self.state {
            State::Request(state) => Some(&state.known),
            _ => None,
        }
    }

    /// Until when the next bytes must have come; `None` when the connection is over.
    pub fn deadline(&self) -> Option<Instant> {
        match (&self.state, self.frame_since) {
            (State::Closed, _) => None,
            (State::Hello(_) | State::Proof(_), _) => {
                Some(self.waiting_since + self.limits.handshake)
            }
            (State::Request(_), Some(since)) => Some(since + self.limits.frame),
            (State::Request(_), None) => Some(self.waiting_since + self.limits.idle),
        }
    }

    /// Ends the connection if its deadline has passed; the reason is [`Refused::TooSlow`] or [`Refused::Idle`].
    pub fn expire(&mut self, now: Instant) -> Option<Refused> {
        self.deadline().filter(|deadline| *deadline <= now)?;
        let idle = matches!(self.state, State::Request(_)) && self.frame_since.is_none();
        self.state = State::Closed;
        Some(if idle { Refused::Idle } else { Refused::TooSlow })
    }

    /// The client has ended its stream.
    ///
    /// # Errors
    /// [`Refused::Truncated`] when that was inside a hello, the handshake or a frame. A client that never sent a byte
    /// is no error.
    pub fn end(&mut self) -> Result<(), Refused> {
        let inside = match std::mem::replace(&mut self.state, State::Closed) {
            State::Hello(_) | State::Request(_) => !self.buffer.is_empty(),
            State::Proof(_) => true,
            State::Closed => false,
        };
        if inside { Err(Refused::Truncated) } else { Ok(()) }
    }

    /// Bytes of memory that this connection's unfinished input holds.
    pub fn buffered(&self) -> usize {
        self.buffer.capacity()
    }

    fn refuse(&mut self, reason: Refused) -> Event {
        let state = std::mem::replace(&mut self.state, State::Closed);
        self.buffer = Buffer::default();
        let answer = match (reason, state) {
            (Refused::BadVersion, State::Hello(state)) => {
                Some(ServerHello::new(&state.nonce).as_bytes().to_vec())
            }
            _ => None,
        };
        Event::Refused { reason, answer }
    }

    fn restart_clocks(&mut self, finished: bool, now: Instant) {
        if finished && matches!(self.state, State::Request(_)) {
            self.waiting_since = now;
            self.frame_since = None;
        }
        if self.frame_since.is_none() && !self.buffer.is_empty() {
            self.frame_since = Some(now);
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_frame: MAX_FRAME_BYTES,
            handshake: HANDSHAKE_TIME,
            frame: FRAME_TIME,
            idle: IDLE_TIME,
        }
    }
}

impl Refused {
    /// Every reason.
    pub const ALL: [Self; 10] = [
        Self::BadMagic,
        Self::BadVersion,
        Self::UnknownKey,
        Self::BadTag,
        Self::BadSequence,
        Self::TooLong,
        Self::Malformed,
        Self::Truncated,
        Self::TooSlow,
        Self::Idle,
    ];

    /// The reason as one word for metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadMagic => "bad_magic",
            Self::BadVersion => "bad_version",
            Self::UnknownKey => "unknown_key",
            Self::BadTag => "bad_tag",
            Self::BadSequence => "bad_sequence",
            Self::TooLong => "too_long",
            Self::Malformed => "malformed",
            Self::Truncated => "truncated",
            Self::TooSlow => "too_slow",
            Self::Idle => "idle",
        }
    }
}

impl From<BadHello> for Refused {
    fn from(bad: BadHello) -> Self {
        match bad {
            BadHello::Magic => Self::BadMagic,
            BadHello::Version(_) => Self::BadVersion,
            BadHello::KeyId => Self::Malformed,
        }
    }
}

// === the states ===

/// A state and the event on the way to it, or a refusal and what to write before closing.
type Step = Result<(State, Event), (Refused, Option<Vec<u8>>)>;

#[derive(Debug)]
enum State {
    Hello(ExpectHello),
    Proof(ExpectProof),
    Request(ExpectRequest),
    Closed,
}

#[derive(Debug)]
struct ExpectHello {
    nonce: [u8; NONCE_LEN],
}

#[derive(Debug)]
struct ExpectProof {
    keys: ConnectionKeys,
    /// Absent for an unknown id, which gets the same answers at the same times.
    known: Option<KnownKey>,
}

#[derive(Debug)]
struct ExpectRequest {
    keys: ConnectionKeys,
    known: KnownKey,
    next_request: u64,
    next_reply: u64,
}

impl State {
    /// How many bytes the unit that starts with `start` has, as far as `start` tells.
    fn wanted(&self, start: &[u8], limits: &Limits) -> Result<Option<usize>, Refused> {
        let frame = |max| {
            Frame::wanted(start, max).map_err(|length| match length {
                short if short < FRAME_OVERHEAD as u64 => Refused::Malformed,
                _ => Refused::TooLong,
            })
        };
        match self {
            Self::Hello(_) => Ok(Some(ClientHello::wanted(start)?)),
            // A proof has no body, so nobody who has not proved the key makes us hold more than this.
            Self::Proof(_) => frame(FRAME_OVERHEAD).map(Some),
            Self::Request(_) => frame(limits.max_frame).map(Some),
            Self::Closed => Ok(None),
        }
    }

    fn handle(self, unit: Vec<u8>, keys: &dyn KeyLookup) -> Step {
        match self {
            Self::Hello(state) => state.handle(unit, keys),
            Self::Proof(state) => state.handle(&Frame::new(unit)),
            Self::Request(state) => state.handle(&Frame::new(unit)),
            Self::Closed => Err((Refused::Malformed, None)),
        }
    }
}

impl ExpectHello {
    fn handle(self, unit: Vec<u8>, keys: &dyn KeyLookup) -> Step {
        let client = ClientHello::parse(unit).map_err(|bad| (bad.into(), None))?;
        let server = ServerHello::new(&self.nonce);
        let known = keys.lookup(&client.key_id);
        let secret = known.as_ref().map_or(&DECOY_SECRET[..], |known| known.key.secret());
        let state = ExpectProof { keys: ConnectionKeys::derive(secret, &client, &server), known };
        Ok((State::Proof(state), Event::Send(server.as_bytes().to_vec())))
    }
}

impl ExpectProof {
    fn handle(self, frame: &Frame) -> Step {
        let genuine = frame.verify(&*self.keys.client.mac);
        let unauthenticated = |reason| Err((reason, Some(UNAUTHENTICATED.to_vec())));
        let Some(known) = self.known else {
            return unauthenticated(Refused::UnknownKey);
        };
        if !genuine {
            return unauthenticated(Refused::BadTag);
        }
        if frame.sequence() != 0 {
            return Err((Refused::BadSequence, None));
        }
        if !frame.is(Kind::ClientProof) {
            return Err((Refused::Malformed, None));
        }
        let proof = frame::proof(&*self.keys.server.mac, Kind::ServerProof);
        let state = ExpectRequest { keys: self.keys, known, next_request: 1, next_reply: 1 };
        Ok((State::Request(state), Event::Send(proof)))
    }
}

impl ExpectRequest {
    fn handle(mut self, frame: &Frame) -> Step {
        let keys = &self.keys.client;
        if !frame.verify(&*keys.mac) {
            return Err((Refused::BadTag, None));
        }
        let seq = frame.sequence();
        if seq != self.next_request {
            return Err((Refused::BadSequence, None));
        }
        if !frame.is(Kind::Request) {
            return Err((Refused::Malformed, None));
        }
        let place = Place { key: &keys.seal, sequence: seq, kind: Kind::Request };
        let event = match body::decode(frame.body(), place)
            .and_then(|value| Request::from_json(value).map_err(BadBody::Json))
        {
            Ok(request) => Event::Request(Box::new(ReceivedRequest {
                seq,
                key_id: self.known.key.id().clone(),
                role: self.known.role.clone(),
                request,
            })),
            Err(bad) => Event::Malformed { seq, refusal: malformed(&bad) },
        };
        self.next_request += 1;
        Ok((State::Request(self), event))
    }
}

fn malformed(bad: &BadBody) -> Refusal {
    Refusal {
        code: RefusalCode::Malformed,
        message: format!("the request is not understood: {bad}"),
        hint: Some("client and gateway may be of different versions".to_owned()),
    }
}
