//! Frame bodies: JSON, with secret fields sealed.
//!
//! A sealed field is an object `{"sealed": BASE64}` where the plain message has a string. It holds ChaCha20-Poly1305
//! (RFC 8439) under the sender's sealing key. The nonce is the frame's sequence number and the field's number in
//! [`FIELDS`]; no two frames of a direction share a number, so no nonce is used twice. The associated data is the
//! frame's type and the field's place, so that a value cannot serve in another field.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Nonce};
use serde::Serialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::frame::Kind;
use super::schedule::KEY_LEN;

/// The fields that never travel in the open: the type of frame, and the place as JSON pointer (RFC 6901). A new field
/// of type [`crate::message::Sealed`] gets a line here; `tests/sealing.rs` fails if it has none.
const FIELDS: [(Kind, &str); 6] = [
    (Kind::Request, "/key_pem"),
    (Kind::Reply, "/ok/secret"),
    (Kind::Request, "/hook_secret"),
    (Kind::Request, "/push_token"),
    (Kind::Request, "/ssh_key"),
    (Kind::Request, "/password"),
];

const MARKER: &str = "sealed";

/// Where a body is: what the sealing of its fields is bound to.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) key: &'a [u8; KEY_LEN],
    pub(super) sequence: u64,
    pub(super) kind: Kind,
}

/// Why a body was not understood.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadBody {
    #[error("the body is not JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the field {0} holds a secret and must be sealed (PROTOCOL.md, \"Sealed values\")")]
    NotSealed(&'static str),
    #[error("the sealed field {0} does not open with this connection's key")]
    DoesNotOpen(&'static str),
}

/// Why a message has no body.
#[derive(Debug, thiserror::Error)]
pub(super) enum CannotEncode {
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error("a sealed value is too long")]
    Seal,
}

/// Writes a message as JSON and seals its secret fields.
pub(super) fn encode<T: Serialize>(message: &T, place: Place<'_>) -> Result<Vec<u8>, CannotEncode> {
    let mut value = serde_json::to_value(message)?;
    for (number, pointer) in place.fields() {
        if let Some(field @ Value::String(_)) = value.pointer_mut(pointer)
            && let Value::String(text) = field.take()
        {
            let text = Zeroizing::new(text);
            let sealed = place.seal(number, pointer, text.as_bytes()).ok_or(CannotEncode::Seal)?;
            *field = json!({ MARKER: sealed });
        }
    }
    Ok(serde_json::to_vec(&value)?)
}

/// Reads JSON and opens its sealed fields.
pub(super) fn decode(body: &[u8], place: Place<'_>) -> Result<Value, BadBody> {
    let mut value: Value = serde_json::from_slice(body)?;
    for (number, pointer) in place.fields() {
        if let Some(field) = value.pointer_mut(pointer) {
            let sealed = field
                .as_object()
                .filter(|object| object.len() == 1)
                .and_then(|object| object.get(MARKER)?.as_str())
                .ok_or(BadBody::NotSealed(pointer))?;
            *field =
                place.open(number, pointer, sealed).ok_or(BadBody::DoesNotOpen(pointer))?.into();
        }
    }
    Ok(value)
}

impl Place<'_> {
    /// The fields that a frame of this type may have, with their numbers.
    fn fields(self) -> impl Iterator<Item = (u32, &'static str)> {
        (0..).zip(FIELDS).filter(move |(_, (kind, _))| *kind == self.kind).map(|(n, (_, p))| (n, p))
    }

    fn seal(self, field: u32, pointer: &str, text: &[u8]) -> Option<String> {
        let aad = self.associated(pointer);
        let payload = Payload { msg: text, aad: &aad };
        let sealed = self.cipher().encrypt(&self.nonce(field), payload).ok()?;
        Some(STANDARD.encode(sealed))
    }

    fn open(self, field: u32, pointer: &str, sealed: &str) -> Option<String> {
        let sealed = STANDARD.decode(sealed).ok()?;
        let aad = self.associated(pointer);
        let payload = Payload { msg: &sealed, aad: &aad };
        String::from_utf8(self.cipher().decrypt(&self.nonce(field), payload).ok()?).ok()
    }

    fn cipher(self) -> ChaCha20Poly1305 {
        ChaCha20Poly1305::new(self.key.into())
    }

    fn nonce(self, field: u32) -> Nonce {
        let mut nonce = Nonce::default();
        nonce[..8].copy_from_slice(&self.sequence.to_be_bytes());
        nonce[8..].copy_from_slice(&field.to_be_bytes());
        nonce
    }

    fn associated(self, pointer: &str) -> Vec<u8> {
        [&[self.kind as u8], pointer.as_bytes()].concat()
    }
}
