//! What a client gets that is not connected to a backend: a TLS alert, a page of HTTP/1.1, or a close.
//!
//! A page goes only to clients that speak HTTP (rule 8 of the design): an IMAP or MQTT client would take it for a reply
//! of its own protocol.

use std::io;
use std::time::Duration;

use config_proto::model::FailureAnswer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::client_hello::{fatal_alert, looks_like_http};
use crate::tls::{ALPN_H2, ALPN_HTTP_1_1};

/// How long a client whose connection cannot be served gets to show by its first bytes that it speaks HTTP.
const FIRST_BYTES: Duration = Duration::from_secs(2);
/// How long and how much is read and thrown away after the answer. Closing a socket with unread bytes in it sends RST,
/// which may destroy the answer on its way (RFC 9112, section 9.6).
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: u64 = 256 * 1024;

/// Alerts that the gateway sends itself, before or instead of a handshake (RFC 8446, section 6.2).
#[derive(Clone, Copy, Debug)]
pub(super) enum Alert {
    /// No route or certificate has the name (RFC 6066, section 3).
    UnrecognizedName,
    /// The connection cannot be served now.
    InternalError,
}

impl Alert {
    fn record(self) -> [u8; 7] {
        fatal_alert(match self {
            Self::UnrecognizedName => 112,
            Self::InternalError => 80,
        })
    }
}

/// Sends an alert to a client in the middle of its handshake and closes.
pub(super) async fn alert<S>(stream: S, alert: Alert)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    last_words(stream, &alert.record()).await;
}

/// A page that says in plain text why there is no other.
#[derive(Clone, Copy, Debug)]
pub(super) enum Page {
    /// HTTP on the port that speaks TLS.
    NotTls,
    /// No route has the name.
    UnknownName,
    /// No backend of the route can be reached.
    BackendDown,
}

impl Page {
    fn response(self) -> String {
        let (status, text) = match self {
            Self::NotTls => {
                ("400 Bad Request", "This port speaks TLS. Use https:// in front of the address.\n")
            }
            Self::UnknownName => ("404 Not Found", "There is no service of this name here.\n"),
            Self::BackendDown => {
                ("502 Bad Gateway", "The service behind this name does not answer now.\n")
            }
        };
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\
             Cache-Control: no-store\r\nConnection: close\r\n\r\n{text}",
            text.len()
        )
    }
}

/// Tells a client that speaks HTTP without TLS what this port is for.
pub(super) async fn plain_http<S>(stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    last_words(stream, Page::NotTls.response().as_bytes()).await;
}

/// Ends a TLS connection that cannot be served: with `page` if the client speaks HTTP/1, else with close_notify.
pub(super) async fn page<S>(mut stream: S, page: Page, answer: FailureAnswer, alpn: Option<&[u8]>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let speaks = match answer {
        FailureAnswer::Close => false,
        // An HTTP/1.1 answer means nothing in HTTP/2.
        _ if alpn == Some(ALPN_H2) => false,
        FailureAnswer::Auto if alpn.is_some_and(|alpn| alpn != ALPN_HTTP_1_1) => false,
        FailureAnswer::Auto => speaks_http(&mut stream).await,
        FailureAnswer::Http => {
            // The request comes first: some clients take an answer before it for an error.
            speaks_http(&mut stream).await;
            true
        }
    };
    let response = page.response();
    last_words(stream, if speaks { response.as_bytes() } else { b"" }).await;
}

async fn speaks_http<S: AsyncRead + Unpin>(stream: &mut S) -> bool {
    let mut first = Vec::with_capacity(512);
    let enough = async {
        while first.len() < 8 {
            if stream.read_buf(&mut first).await? == 0 {
                break;
            }
        }
        io::Result::Ok(())
    };
    // Timeout or error: what has come so far decides.
    let _ = timeout(FIRST_BYTES, enough).await;
    looks_like_http(&first)
}

/// Writes, ends the sending side, and reads on for a moment so that the words arrive.
pub(crate) async fn last_words<S>(mut stream: S, words: &[u8])
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let farewell = async {
        if !words.is_empty() {
            stream.write_all(words).await?;
        }
        stream.shutdown().await?;
        let mut rest = stream.take(LINGER_BYTES);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    // The connection ends whatever becomes of its last words.
    let _ = timeout(LINGER, farewell).await;
}
