//! The HTTP client towards the authority: HTTP/1.1 over TLS, one connection for each request, everything bounded.
//!
//! It needs no files and no second thread: trusted roots are a value, and names are resolved by whom the program gives.
//! An authority is asked a dozen times for a certificate of months, so connections are not kept.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::{DATE, HOST, HeaderValue, LINK, RETRY_AFTER};
use http::uri::PathAndQuery;
use http::{HeaderMap, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Body;
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{InvalidDnsNameError, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::roots::RootsError;

/// The largest answer that is read. A chain with four RSA-4096 certificates has about 10 KiB.
pub const MAX_ANSWER: usize = 256 * 1024;
/// For a request from its name being resolved to the last byte of the answer.
pub const REQUEST_TIME: Duration = Duration::from_secs(30);
/// Other chains of a certificate that are looked at.
const MAX_ALTERNATES: usize = 8;
/// For a connection to one of several addresses to open.
const CONNECT_TIME: Duration = Duration::from_secs(8);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The address has no host, or is not https.
    #[error("{0} is no https address")]
    Address(String),
    /// The host's name.
    #[error("{0}")]
    Resolve(String),
    /// No address of the host takes a connection.
    #[error("{host} cannot be connected to")]
    Connect {
        /// The host.
        host: String,
        /// What the system says about the last address.
        source: io::Error,
    },
    /// No TLS with the host; commonly its certificate is not trusted.
    #[error("no TLS with {host}")]
    Tls {
        /// The host.
        host: String,
        /// What TLS says.
        source: io::Error,
    },
    /// The host's name cannot be asked for in TLS.
    #[error(transparent)]
    ServerName(#[from] InvalidDnsNameError),
    /// What comes is no HTTP, or ends early.
    #[error("the connection failed")]
    Http(#[from] hyper::Error),
    /// More than [`MAX_ANSWER`], or a broken body.
    #[error("the answer is too large or broken: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    /// Not within [`REQUEST_TIME`].
    #[error("there is no answer within 30 seconds")]
    Slow,
    /// A status that says that the server cannot now.
    #[error("the server answers {status}")]
    Unavailable {
        /// The status.
        status: StatusCode,
        /// `Retry-After` in seconds.
        retry_after: Option<u64>,
    },
}

impl TransportError {
    /// What the authority asked for, in seconds.
    pub fn retry_after(&self) -> Option<u64> {
        match self {
            Self::Unavailable { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// Finds the addresses of a host.
pub trait Resolve: Send + Sync + 'static {
    /// The addresses, or why there are none.
    fn resolve<'a>(
        &'a self,
        host: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<IpAddr>, String>> + Send + 'a>>;

    /// The name that `name` is a CNAME for, as anybody would be told; none when it has no such record. Asked for names
    /// that our own DNS server does not answer for.
    fn alias<'a>(
        &'a self,
        name: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Option<String>, String>> + Send + 'a>> {
        let _ = name;
        Box::pin(std::future::ready(Ok(None)))
    }
}

/// The client. A clone is another handle on the same.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    tls: Arc<ClientConfig>,
    resolver: Arc<dyn Resolve>,
    last: Mutex<LastAnswer>,
}

/// What the ACME library does not tell of the last answer.
#[derive(Clone, Debug, Default)]
struct LastAnswer {
    /// `Retry-After` in seconds, if it was no success.
    retry_after: Option<u64>,
    /// Addresses of other chains of the same certificate (RFC 8555, section 7.4.2).
    alternates: Vec<String>,
    /// The authority's clock in seconds since 1970, and when it said so.
    date: Option<(i64, Instant)>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Client {
    /// A client that trusts `roots` and asks `resolver` for addresses.
    ///
    /// # Errors
    /// When the cryptographic provider cannot do TLS.
    pub fn new(roots: RootCertStore, resolver: impl Resolve) -> Result<Self, RootsError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(RootsError::Tls)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let shared =
            Shared { tls: Arc::new(tls), resolver: Arc::new(resolver), last: Mutex::default() };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Sends a request to whom it is addressed, https or http, and gives the answer whatever its status.
    ///
    /// # Errors
    /// When there is no answer within [`REQUEST_TIME`] and [`MAX_ANSWER`].
    pub(crate) async fn send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Bytes>, TransportError> {
        let exchanged = self.shared.deliver(request);
        timeout(REQUEST_TIME, exchanged).await.unwrap_or(Err(TransportError::Slow))
    }

    /// Who is asked for addresses.
    pub fn resolver(&self) -> Arc<dyn Resolve> {
        Arc::clone(&self.shared.resolver)
    }

    /// `Retry-After` of the last answer, in seconds, if that answer was no success.
    pub(crate) fn last_retry_after(&self) -> Option<u64> {
        self.shared.last().retry_after
    }

    /// Addresses of other chains, if the last answer was a certificate that has some.
    pub(crate) fn last_alternates(&self) -> Vec<String> {
        self.shared.last().alternates
    }

    /// What the authority's clock shows now, seconds since 1970, as far as it has said.
    pub(crate) fn authority_time(&self) -> Option<i64> {
        let (date, said) = self.shared.last().date?;
        Some(date.saturating_add(i64::try_from(said.elapsed().as_secs()).ok()?))
    }
}

impl HttpClient for Client {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            let answer = match timeout(REQUEST_TIME, shared.exchange(request)).await {
                Ok(answer) => answer,
                Err(_) => Err(TransportError::Slow),
            };
            answer.map(BytesResponse::from).map_err(|error| Error::Other(Box::new(error)))
        })
    }
}

impl Shared {
    async fn exchange(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Result<Response<Full<Bytes>>, TransportError> {
        let (host, port) = https_host(request.uri())?;
        let stream = self.connect_tls(&host, port).await?;
        let answer = talk(stream, request).await?.map(Full::new);
        let status = answer.status();
        let retry_after = retry_after(answer.headers(), SystemTime::now());
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = LastAnswer {
            retry_after: if status.is_success() { None } else { retry_after },
            alternates: alternates(answer.headers()),
            date: date(answer.headers()).map(|date| (date, Instant::now())),
        };
        match status.is_server_error() {
            true => Err(TransportError::Unavailable { status, retry_after }),
            false => Ok(answer),
        }
    }

    fn last(&self) -> LastAnswer {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn deliver(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Bytes>, TransportError> {
        let uri = request.uri();
        if uri.scheme_str() == Some("http")
            && let Some(host) = uri.host()
        {
            let (stream, _) = self.connect(host, uri.port_u16().unwrap_or(80)).await?;
            return talk(stream, request).await;
        }
        let (host, port) = https_host(uri)?;
        talk(self.connect_tls(&host, port).await?, request).await
    }

    async fn connect_tls(
        &self,
        host: &str,
        port: u16,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, TransportError> {
        let (stream, name) = self.connect(host, port).await?;
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(&self.tls));
        connector
            .connect(name, stream)
            .await
            .map_err(|source| TransportError::Tls { host: host.to_owned(), source })
    }

    async fn connect(
        &self,
        host: &str,
        port: u16,
    ) -> Result<(TcpStream, ServerName<'static>), TransportError> {
        let (name, addresses) = match host.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(ip) => (ServerName::from(ip), vec![ip]),
            Err(_) => (
                ServerName::try_from(host.to_owned())?,
                self.resolver.resolve(host).await.map_err(TransportError::Resolve)?,
            ),
        };
        let mut last = io::Error::new(io::ErrorKind::NotFound, "it has no address");
        for ip in addresses {
            match timeout(CONNECT_TIME, TcpStream::connect(SocketAddr::new(ip, port))).await {
                Ok(Ok(stream)) => return Ok((stream, name)),
                Ok(Err(error)) => last = error,
                Err(_) => last = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(TransportError::Connect { host: host.to_owned(), source: last })
    }
}

/// One request and its answer over a connection of its own.
async fn talk<B>(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Request<B>,
) -> Result<Response<Bytes>, TransportError>
where
    B: Body + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = origin_form(request)?;
    let exchanged = async {
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, MAX_ANSWER);
        let bytes = body.collect().await.map_err(TransportError::Body)?.to_bytes();
        Ok::<_, TransportError>(Response::from_parts(head, bytes))
    };
    let mut exchanged = std::pin::pin!(exchanged);
    // The connection is driven here and not in a task of its own, so that dropping the request ends it.
    tokio::select! {
        answer = &mut exchanged => answer,
        ended = connection => match ended {
            Ok(()) => exchanged.await,
            Err(error) => Err(error.into()),
        },
    }
}

/// An error with its causes on one line.
pub(crate) fn chain(error: &TransportError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

fn https_host(uri: &Uri) -> Result<(String, u16), TransportError> {
    match (uri.scheme_str(), uri.host()) {
        (Some("https"), Some(host)) => Ok((host.to_owned(), uri.port_u16().unwrap_or(443))),
        _ => Err(TransportError::Address(uri.to_string())),
    }
}

/// The request as it goes over a connection: the path alone, and the host in a field (RFC 9112, section 3.2.1).
fn origin_form<B>(mut request: Request<B>) -> Result<Request<B>, TransportError> {
    let address = || TransportError::Address(request.uri().to_string());
    let authority = request.uri().authority().ok_or_else(address)?.as_str();
    let host = HeaderValue::from_str(authority).map_err(|_| address())?;
    let path = request.uri().path_and_query().map_or("/", PathAndQuery::as_str);
    let path = path.parse::<Uri>().map_err(|_| address())?;
    *request.uri_mut() = path;
    request.headers_mut().insert(HOST, host);
    Ok(request)
}

/// `Retry-After` in seconds, from either of its forms (RFC 9110, section 10.2.3).
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<u64> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(seconds);
    }
    let at = SystemTime::from(value.parse::<httpdate::HttpDate>().ok()?);
    Some(at.duration_since(now).map_or(0, |wait| wait.as_secs().saturating_add(1)))
}

/// `Date` in seconds since 1970 (RFC 9110, section 6.6.1).
fn date(headers: &HeaderMap) -> Option<i64> {
    let date: httpdate::HttpDate = headers.get(DATE)?.to_str().ok()?.trim().parse().ok()?;
    let since = SystemTime::from(date).duration_since(SystemTime::UNIX_EPOCH).ok()?;
    i64::try_from(since.as_secs()).ok()
}

/// The targets of `Link: <...>;rel="alternate"` (RFC 8288, section 3), at most [`MAX_ALTERNATES`].
fn alternates(headers: &HeaderMap) -> Vec<String> {
    headers
        .get_all(LINK)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|link| {
            let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
            let is_alternate = parameters
                .split(';')
                .map(str::trim)
                .any(|parameter| matches!(parameter, "rel=\"alternate\"" | "rel=alternate"));
            is_alternate.then(|| target.to_owned())
        })
        .take(MAX_ALTERNATES)
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn retry_after_in_both_forms() {
        let of = |value: &'static str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(value))]);
            retry_after(&headers, SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000))
        };
        assert_eq!(of("120"), Some(120));
        assert_eq!(of("Sun, 09 Sep 2001 01:47:40 GMT"), Some(61));
        assert_eq!(of("Sun, 06 Nov 1994 08:49:37 GMT"), Some(0));
        assert_eq!(of("soon"), None);
        assert_eq!(of("-1"), None);
    }

    #[test]
    fn links_and_dates() {
        let headers = HeaderMap::from_iter(
            [
                "<https://ca/dir>;rel=\"index\", <https://ca/1>; rel=\"alternate\"",
                "<https://ca/2>;title=x;rel=alternate",
                "https://ca/3;rel=\"alternate\"",
            ]
            .map(|link| (LINK, HeaderValue::from_static(link))),
        );
        assert_eq!(alternates(&headers), ["https://ca/1", "https://ca/2"]);
        let at = HeaderValue::from_static("Sun, 09 Sep 2001 01:46:40 GMT");
        assert_eq!(date(&HeaderMap::from_iter([(DATE, at)])), Some(1_000_000_000));
        assert_eq!(date(&HeaderMap::new()), None);
    }

    #[test]
    fn only_https_is_asked() {
        for bad in ["http://ca.example/dir", "/dir", "ftp://ca.example"] {
            assert!(https_host(&bad.parse().unwrap()).is_err(), "{bad}");
        }
        let host = https_host(&"https://ca.example:14000/dir".parse().unwrap()).unwrap();
        assert_eq!(host, ("ca.example".to_owned(), 14000));
    }
}
