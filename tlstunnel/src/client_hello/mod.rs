//! Reads a ClientHello of bounded size.
//!
//! The bytes may arrive in any pieces and be split over any number of TLS records: `framing` says how many bytes are
//! missing and this module reads exactly those, so that nothing behind the hello is taken from the socket. The whole is
//! given to rustls once. The raw bytes stay for passthrough, which replays them to the backend; so a hello that rustls
//! refuses is no error yet, if `lenient` can read which server it is for.
//!
//! Time is bounded by the caller, whose deadline covers the whole handshake. This room must not know routes or
//! certificates.

mod framing;
mod lenient;

use std::io;

use config_proto::model::{NameError, normalize_host};
use rustls::server::{Accepted, Acceptor};
use tokio::io::{AsyncRead, AsyncReadExt};

pub use framing::Malformed;
pub(crate) use framing::fatal_alert;
use framing::{Framing, Need};

/// What a client says first.
pub struct Hello {
    /// The ClientHello as it came, record headers included.
    pub raw: Vec<u8>,
    /// Which server the client asks for.
    pub server_name: ServerName,
    /// The hello as rustls sees it, which continues the handshake; or why rustls refuses it, as that of a client which
    /// knows only TLS 1.1. It can be passed through all the same.
    pub accepted: Result<Accepted, Refused>,
}

/// Which server a client asks for (RFC 6066, section 3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerName {
    /// This name, in compared form: lower case, without the final dot.
    Name(String),
    /// None; or an IP address, which some clients send against the RFC and which names nothing.
    Absent,
    /// A name that cannot belong to any route.
    Illegal(NameError),
}

impl ServerName {
    /// The name, if there is a legal one.
    pub fn as_deref(&self) -> Option<&str> {
        match self {
            Self::Name(name) => Some(name),
            Self::Absent | Self::Illegal(_) => None,
        }
    }

    /// The one that this hello asks for.
    pub fn of(hello: &rustls::server::ClientHello<'_>) -> Self {
        Self::from_sni(hello.server_name())
    }

    fn from_sni(sni: Option<&str>) -> Self {
        match sni.map(normalize_host) {
            None | Some(Err(NameError::IpAddress(_))) => Self::Absent,
            Some(Ok(name)) => Self::Name(name),
            Some(Err(reason)) => Self::Illegal(reason),
        }
    }
}

/// Why there is no ClientHello.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HelloError {
    /// The client closed before it sent a byte; port scans and health checks do.
    #[error("the client closed without a word")]
    Silent,
    /// The client closed in the middle.
    #[error("the client closed in the middle of its ClientHello")]
    Truncated,
    /// The connection failed.
    #[error("reading the ClientHello failed: {0}")]
    Io(io::Error),
    /// The client speaks HTTP without TLS.
    #[error("the client speaks HTTP without TLS")]
    PlainHttp,
    /// The bytes are no ClientHello.
    #[error("{0}")]
    Malformed(Malformed),
    /// rustls refuses the ClientHello, and it has not the form of one.
    #[error(transparent)]
    Refused(Refused),
}

/// rustls refuses a ClientHello.
#[derive(Debug, thiserror::Error)]
#[error("the ClientHello is refused: {reason}")]
pub struct Refused {
    /// What rustls says.
    pub reason: rustls::Error,
    /// The alert to send, as bytes for the wire.
    pub alert: Vec<u8>,
}

impl HelloError {
    /// The TLS alert that this error calls for, as bytes for the wire; empty when there is nobody to send it to.
    pub fn alert(&self) -> Vec<u8> {
        match self {
            Self::Silent | Self::Truncated | Self::Io(_) | Self::PlainHttp => Vec::new(),
            Self::Malformed(malformed) => malformed.alert().to_vec(),
            Self::Refused(refused) => refused.alert.clone(),
        }
    }
}

/// Reads one ClientHello of at most `limit` bytes, record headers included, and not one byte more.
///
/// Not cancel safe: bytes that were read are lost with the future.
///
/// # Errors
/// Says what came instead.
pub async fn read<S: AsyncRead + Unpin>(stream: &mut S, limit: usize) -> Result<Hello, HelloError> {
    let mut framing = Framing::new(limit);
    let mut raw = Vec::with_capacity(512);
    loop {
        let missing = match framing.advance(&raw).map_err(HelloError::Malformed)? {
            Need::Bytes(missing) => missing,
            Need::Nothing => break,
        };
        // `take` and `read_buf` fill the vector's spare room without zeroing it first; memory grows with what has
        // arrived, not with what a header announces.
        raw.reserve(missing.min(4096));
        let limit = u64::try_from(missing).unwrap_or(u64::MAX);
        let read = (&mut *stream).take(limit).read_buf(&mut raw).await.map_err(HelloError::Io)?;
        if read == 0 {
            return Err(match raw.len() {
                0 => HelloError::Silent,
                _ if looks_like_http(&raw) => HelloError::PlainHttp,
                _ => HelloError::Truncated,
            });
        }
        if looks_like_http(&raw) {
            return Err(HelloError::PlainHttp);
        }
    }
    let (server_name, accepted) = match accept(&raw) {
        Ok(accepted) => (ServerName::of(&accepted.client_hello()), Ok(accepted)),
        Err(HelloError::Refused(refused)) => match lenient::server_name(&raw) {
            Ok(name) => (ServerName::from_sni(name.as_deref()), Err(refused)),
            Err(lenient::Formless) => return Err(HelloError::Refused(refused)),
        },
        Err(error) => return Err(error),
    };
    Ok(Hello { raw, server_name, accepted })
}

fn accept(raw: &[u8]) -> Result<Accepted, HelloError> {
    let mut acceptor = Acceptor::default();
    let mut rest = raw;
    loop {
        if !rest.is_empty() {
            acceptor.read_tls(&mut rest).map_err(HelloError::Io)?;
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => return Ok(accepted),
            Ok(None) if rest.is_empty() => {
                return Err(HelloError::Malformed(Malformed::Incomplete));
            }
            Ok(None) => {}
            Err((reason, mut alert)) => {
                let mut bytes = Vec::new();
                alert.write_all(&mut bytes).map_err(HelloError::Io)?;
                return Err(HelloError::Refused(Refused { reason, alert: bytes }));
            }
        }
    }
}

/// Whether these first bytes of a stream begin an HTTP/1 request: a method of upper-case letters and a space. Five bytes
/// decide; `PRI * HTTP/2.0`, the preface of HTTP/2, does not count, since an HTTP/1 answer would not be understood.
pub fn looks_like_http(first: &[u8]) -> bool {
    const METHODS: [&[u8]; 9] = [
        b"GET ",
        b"HEAD ",
        b"POST ",
        b"PUT ",
        b"DELETE ",
        b"OPTIONS ",
        b"PATCH ",
        b"CONNECT ",
        b"TRACE ",
    ];
    first.len() >= framing::HEADER
        && METHODS.iter().any(|method| {
            let common = method.len().min(first.len());
            first[..common] == method[..common]
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_in_one_form() {
        let name = |sni| ServerName::from_sni(Some(sni));
        assert_eq!(name("Blog.Example.ORG."), ServerName::Name("blog.example.org".into()));
        assert_eq!(name("192.0.2.1"), ServerName::Absent);
        assert_eq!(ServerName::from_sni(None), ServerName::Absent);
        assert!(matches!(name("-a.example"), ServerName::Illegal(_)));
    }

    #[test]
    fn http_is_told_from_other_protocols() {
        for http in ["GET / HTTP/1.1", "HEAD /", "DELET", "OPTIONS * HTTP/1.1", "PUT /x"] {
            assert!(looks_like_http(http.as_bytes()), "{http}");
        }
        for other in ["GET", "get / ", "PRI * HTTP/2.0", "EHLO x", "SSH-2.0-", "\x16\x03\x01\x02\0"]
        {
            assert!(!looks_like_http(other.as_bytes()), "{other}");
        }
    }
}
