//! The two hellos: what each side says before there are keys.
//!
//! ```text
//! client: magic (8) | version (1) | length of key id (1) | key id (1 to 64) | nonce (32)
//! server: magic (8) | version (1) | nonce (32)
//! ```
//!
//! A hello is judged as it arrives, so that a peer of another protocol is turned away at its first wrong byte. Both
//! hellos are kept as they were on the wire, because the keys are derived from all of their bytes.

use super::{MAGIC, NONCE_LEN, SERVER_HELLO_LEN, VERSION};
use crate::key::{KeyId, MAX_KEY_ID_LEN};

const VERSION_AT: usize = MAGIC.len();
const ID_LEN_AT: usize = VERSION_AT + 1;
const ID_AT: usize = ID_LEN_AT + 1;
const SERVER_NONCE_AT: usize = VERSION_AT + 1;

/// Why bytes are no hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadHello {
    /// They don't start with the magic.
    Magic,
    /// Another version of the protocol.
    Version(u8),
    /// The key id is empty, too long, or has characters that no id has.
    KeyId,
}

/// A client's hello, and its bytes.
#[derive(Clone, Debug)]
pub(super) struct ClientHello {
    pub(super) key_id: KeyId,
    bytes: Vec<u8>,
}

/// A server's hello, and its bytes.
#[derive(Clone, Debug)]
pub(super) struct ServerHello {
    bytes: [u8; SERVER_HELLO_LEN],
}

impl ClientHello {
    pub(super) fn new(key_id: KeyId, nonce: &[u8; NONCE_LEN]) -> Self {
        let id = key_id.as_str().as_bytes();
        let mut bytes = Vec::with_capacity(ID_AT + id.len() + NONCE_LEN);
        bytes.extend_from_slice(&MAGIC);
        bytes.push(VERSION);
        // A `KeyId` has at most `MAX_KEY_ID_LEN` bytes.
        bytes.push(u8::try_from(id.len()).unwrap_or(u8::MAX));
        bytes.extend_from_slice(id);
        bytes.extend_from_slice(nonce);
        Self { key_id, bytes }
    }

    /// How many bytes the hello that starts with `start` has, as far as `start` tells.
    pub(super) fn wanted(start: &[u8]) -> Result<usize, BadHello> {
        check_start(start)?;
        match start.get(ID_LEN_AT).copied().map(usize::from) {
            None => Ok(ID_AT),
            Some(len @ 1..=MAX_KEY_ID_LEN) => Ok(ID_AT + len + NONCE_LEN),
            Some(_) => Err(BadHello::KeyId),
        }
    }

    /// Parses a whole hello, whose length [`Self::wanted`] told.
    pub(super) fn parse(bytes: Vec<u8>) -> Result<Self, BadHello> {
        let id = bytes.len().checked_sub(NONCE_LEN).and_then(|end| bytes.get(ID_AT..end));
        let key_id = id
            .and_then(|id| std::str::from_utf8(id).ok())
            .and_then(|id| id.parse().ok())
            .ok_or(BadHello::KeyId)?;
        Ok(Self { key_id, bytes })
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn nonce(&self) -> &[u8] {
        &self.bytes[self.bytes.len() - NONCE_LEN..]
    }
}

impl ServerHello {
    pub(super) fn new(nonce: &[u8; NONCE_LEN]) -> Self {
        let mut bytes = [0; SERVER_HELLO_LEN];
        bytes[..MAGIC.len()].copy_from_slice(&MAGIC);
        bytes[VERSION_AT] = VERSION;
        bytes[SERVER_NONCE_AT..].copy_from_slice(nonce);
        Self { bytes }
    }

    /// How many bytes a hello has; refuses a start that cannot become one.
    pub(super) fn wanted(start: &[u8]) -> Result<usize, BadHello> {
        check_start(start).map(|()| SERVER_HELLO_LEN)
    }

    /// Parses a whole hello, whose length [`Self::wanted`] told.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, BadHello> {
        check_start(bytes)?;
        Ok(Self { bytes: bytes.try_into().map_err(|_| BadHello::Magic)? })
    }

    pub(super) const fn as_bytes(&self) -> &[u8; SERVER_HELLO_LEN] {
        &self.bytes
    }

    pub(super) fn nonce(&self) -> &[u8] {
        &self.bytes[SERVER_NONCE_AT..]
    }
}

fn check_start(start: &[u8]) -> Result<(), BadHello> {
    let magic = &start[..start.len().min(MAGIC.len())];
    if !MAGIC.starts_with(magic) {
        return Err(BadHello::Magic);
    }
    match start.get(VERSION_AT) {
        None | Some(&VERSION) => Ok(()),
        Some(&other) => Err(BadHello::Version(other)),
    }
}
