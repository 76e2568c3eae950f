//! The server name of a ClientHello that rustls refuses, so that it can be passed through.
//!
//! rustls speaks TLS 1.2 and 1.3 and refuses the hello of a client that knows only older versions, or that lacks an
//! extension which the newer ones need. A backend behind a passthrough route may take such a client all the same. This
//! parser knows the hello's outer form alone (RFC 8446, section 4.1.2; the same since SSL 3.0) and the extension
//! `server_name` (RFC 6066, section 3). It looks at each byte once, and every length must be that of what it frames.

use super::framing::{HEADER, MESSAGE_HEADER};

const RANDOM: usize = 32;
const EXTENSION_SERVER_NAME: u16 = 0;
const NAME_TYPE_HOST: u8 = 0;

/// The bytes do not have the form of a ClientHello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Formless;

/// The host name in the hello, if there is one. `raw` is what [`super::framing`] calls complete, record headers
/// included.
pub(super) fn server_name(raw: &[u8]) -> Result<Option<String>, Formless> {
    let message = message(raw)?;
    let mut hello = Reader(&message);
    let _version = hello.u16()?;
    let _random = hello.take(RANDOM)?;
    let _session_id = hello.vector_u8()?;
    let cipher_suites = hello.vector_u16()?;
    let compression_methods = hello.vector_u8()?;
    if cipher_suites.0.is_empty() || compression_methods.0.is_empty() {
        return Err(Formless);
    }
    if hello.0.is_empty() {
        // A client without extensions (RFC 5246, section 7.4.1.2).
        return Ok(None);
    }
    let mut extensions = hello.vector_u16()?;
    hello.end()?;
    let mut found = None;
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let body = extensions.vector_u16()?;
        // A second one could make the backend see another name than we do.
        if kind == EXTENSION_SERVER_NAME && found.replace(host_name(body)?).is_some() {
            return Err(Formless);
        }
    }
    Ok(found)
}

/// The body of the one `host_name` in the extension. A list of several was never used and is refused, as rustls does.
fn host_name(mut extension: Reader<'_>) -> Result<String, Formless> {
    let mut list = extension.vector_u16()?;
    extension.end()?;
    let kind = list.u8()?;
    let name = list.vector_u16()?;
    list.end()?;
    match std::str::from_utf8(name.0) {
        Ok(name) if kind == NAME_TYPE_HOST && !name.is_empty() => Ok(name.to_owned()),
        _ => Err(Formless),
    }
}

/// The ClientHello's body, out of its records.
fn message(raw: &[u8]) -> Result<Vec<u8>, Formless> {
    let mut records = Reader(raw);
    let mut payload = Vec::with_capacity(raw.len());
    while !records.0.is_empty() {
        let _type_and_version = records.take(HEADER - 2)?;
        payload.extend_from_slice(records.vector_u16()?.0);
    }
    let mut payload = Reader(&payload);
    let header = payload.take(MESSAGE_HEADER)?;
    let length = header[1..].iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    let body = payload.take(length)?;
    payload.end()?;
    Ok(body.to_vec())
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Formless> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Formless)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, Formless> {
        let (first, rest) = self.0.split_first().ok_or(Formless)?;
        self.0 = rest;
        Ok(*first)
    }

    fn u16(&mut self) -> Result<u16, Formless> {
        Ok(u16::from_be_bytes([self.u8()?, self.u8()?]))
    }

    fn vector_u8(&mut self) -> Result<Self, Formless> {
        let length = self.u8()?;
        self.take(length.into()).map(Self)
    }

    fn vector_u16(&mut self) -> Result<Self, Formless> {
        let length = self.u16()?;
        self.take(length.into()).map(Self)
    }

    const fn end(&self) -> Result<(), Formless> {
        if self.0.is_empty() { Ok(()) } else { Err(Formless) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;
    use crate::client_hello::accept;

    /// A hello of rustls for `name`; of an address, it has no server name.
    fn hello(name: &str) -> Vec<u8> {
        let config = ClientConfig::builder_with_provider(Arc::clone(crate::tls::provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut raw = Vec::new();
        client.write_tls(&mut raw).unwrap();
        raw
    }

    #[test]
    fn finds_the_name_however_the_records_are_cut() {
        let raw = hello("a.example.org");
        assert_eq!(server_name(&raw), Ok(Some("a.example.org".to_owned())));
        let cut: Vec<u8> = raw[HEADER..]
            .chunks(50)
            .flat_map(|piece| {
                let length = u8::try_from(piece.len()).unwrap();
                [&[22, 3, 1, 0, length][..], piece].concat()
            })
            .collect();
        assert_eq!(server_name(&cut), Ok(Some("a.example.org".to_owned())));
        assert_eq!(server_name(&hello("192.0.2.1")), Ok(None));
        for end in 0..raw.len() {
            assert_eq!(server_name(&raw[..end]), Err(Formless), "{end}");
        }
    }

    proptest! {
        /// Wherever rustls accepts a hello, both see the same name in it.
        #[test]
        fn agrees_with_rustls(at in 43usize..300, byte: u8) {
            let mut raw = hello("a.example.org");
            raw[at] = byte;
            if let Ok(accepted) = accept(&raw) {
                let theirs = accepted.client_hello().server_name().map(str::to_owned);
                let ours = server_name(&raw).map(|name| name.map(|name| name.to_ascii_lowercase()));
                prop_assert!(ours == Ok(theirs.clone()) || theirs.is_none(), "{ours:?} {theirs:?}");
            }
        }

        #[test]
        fn any_bytes_are_judged(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = server_name(&bytes);
        }
    }
}
