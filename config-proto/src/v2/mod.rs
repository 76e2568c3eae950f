//! Protocol v2: both sides contribute a nonce, both prove the key, and every frame is numbered and tagged.
//!
//! `PROTOCOL.md` is the specification. In short: client hello → server hello → client proof → server proof, then
//! requests and replies. Until the client's proof has arrived, the server holds at most [`MAX_CLIENT_HELLO_LEN`] bytes of
//! input for it; until the server's proof has arrived, the client sends nothing that it was asked to say.
//!
//! [`server::Server`] and [`client::Client`] are state machines: bytes go in in any pieces, events and bytes come out.
//! Bodies travel in the open: the protocol keeps requests honest, not secret. Only [`crate::message::Sealed`] fields are
//! encrypted.

use std::time::Duration;

mod body;
pub mod client;
mod frame;
mod hello;
mod schedule;
pub mod server;

pub use client::Client;
pub use server::Server;

use crate::key::MAX_KEY_ID_LEN;

/// The first bytes of both hellos. The line end in it shows a path that rewrites line ends.
pub const MAGIC: [u8; 8] = *b"tlsctl\r\n";
/// The protocol's version, in both hellos.
pub const VERSION: u8 = 2;
/// The length of a nonce in bytes. A nonce comes from the system's generator, fresh for each connection.
pub const NONCE_LEN: usize = 32;
/// The longest client hello in bytes: magic, version, length of the id, id, nonce.
pub const MAX_CLIENT_HELLO_LEN: usize = MAGIC.len() + 1 + 1 + MAX_KEY_ID_LEN + NONCE_LEN;
/// The length of a server hello in bytes: magic, version, nonce.
pub const SERVER_HELLO_LEN: usize = MAGIC.len() + 1 + NONCE_LEN;
/// The bytes of a frame besides its body: length, sequence number, type, tag.
pub const FRAME_OVERHEAD: usize = frame::HEADER_LEN + crate::mac::TAG_LEN;
/// The longest frame in bytes that a side accepts unless told otherwise, with its overhead.
pub const MAX_FRAME_BYTES: usize = 1 << 20;
/// The longest frame in bytes that tlstunnel and tlstunnel-ctl accept from each other: about 200,000 routes in one
/// document. A gateway with little memory takes less. A server holds that much only for a client that has proved its key.
pub const GATEWAY_FRAME_BYTES: usize = 16 << 20;
/// The time from the start of a connection to the client's proof.
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// The time from the first byte of a frame to its last.
pub const FRAME_TIME: Duration = Duration::from_secs(30);
/// The time between two frames of a client.
pub const IDLE_TIME: Duration = Duration::from_secs(300);

/// What a server answers in place of its proof when the client's proof does not hold: a frame with number 0, type 0xff,
/// no body, and zeros for a tag. It is not authenticated; a client concludes from it that it was refused, and no more.
pub const UNAUTHENTICATED: [u8; FRAME_OVERHEAD] = frame::refusal();
