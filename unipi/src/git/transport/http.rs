//! Git over HTTP (gitprotocol-http, the smart protocol): a GET for the advertisement, a POST for each request.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use certify::roots::public_roots;
use http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderValue, LOCATION, USER_AGENT,
};
use http::uri::Scheme;
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls::{CertificateError, ClientConfig};
use rustls_pki_types::ServerName;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::connect;
use crate::git::{Credentials, FetchError, Limits, Remote};

/// Where the advertisement is, below the repository.
const ADVERTISEMENT: &str = "/info/refs?service=git-upload-pack";

/// Bytes that the headers of one answer may take.
const MAX_HEADERS: usize = 64 << 10;

/// An HTTP connection, opened anew when the server closed it.
pub(super) struct Link {
    remote: Remote,
    limits: Limits,
    /// The repository, after redirects, without a trailing slash.
    base: Uri,
    authorization: Option<HeaderValue>,
    sender: Option<SendRequest<Full<Bytes>>>,
    body: Option<Incoming>,
}

impl Link {
    /// Asks for the advertisement; its bytes come next from [`Self::chunk`].
    pub(super) async fn open(
        remote: &Remote,
        uri: &Uri,
        limits: &Limits,
    ) -> Result<Self, FetchError> {
        let mut link = Self {
            remote: remote.clone(),
            limits: *limits,
            base: based(uri.clone(), "")?,
            authorization: remote.credentials.as_ref().map(authorization).transpose()?,
            sender: None,
            body: None,
        };
        let idle = limits.idle_time;
        for _ in 0..=limits.redirects {
            let answered = timeout(idle, link.advertisement()).await;
            if answered.map_err(|_| FetchError::Idle(idle))?? {
                return Ok(link);
            }
        }
        Err(FetchError::Limit { name: "redirects", limit: limits.redirects as u64 })
    }

    /// Sends a request; its answer's bytes come next from [`Self::chunk`].
    pub(super) async fn post(&mut self, request: Vec<u8>) -> Result<(), FetchError> {
        let request = Request::post(with_path(&self.base, "/git-upload-pack")?)
            .header(CONTENT_TYPE, "application/x-git-upload-pack-request")
            .header(ACCEPT, "application/x-git-upload-pack-result")
            .body(Full::from(request))
            .map_err(malformed)?;
        let answer = self.exchange(request).await?;
        if answer.status().is_redirection() {
            return Err(FetchError::Protocol("a request was redirected".into()));
        }
        self.body = Some(accepted(answer, "application/x-git-upload-pack-result")?);
        Ok(())
    }

    /// The next bytes of the answer. `None`: it is complete.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, FetchError> {
        let Some(body) = &mut self.body else {
            return Ok(None);
        };
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| FetchError::Connection(error.to_string()))?;
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
        self.body = None;
        Ok(None)
    }

    /// One attempt. `false`: the server sent us elsewhere, and `base` is there now.
    async fn advertisement(&mut self) -> Result<bool, FetchError> {
        let request = Request::get(with_path(&self.base, ADVERTISEMENT)?)
            .header(ACCEPT, "*/*")
            .body(Full::default())
            .map_err(malformed)?;
        let answer = self.exchange(request).await?;
        if answer.status().is_redirection() {
            self.follow(&answer)?;
            return Ok(false);
        }
        self.body = Some(accepted(answer, "application/x-git-upload-pack-advertisement")?);
        Ok(true)
    }

    /// Takes the repository's new place from a redirect, which keeps the end of the address as git demands it.
    fn follow(&mut self, answer: &Response<Incoming>) -> Result<(), FetchError> {
        let wrong = |text: &str| FetchError::Protocol(format!("a redirect {text}"));
        let location = answer.headers().get(LOCATION).ok_or_else(|| wrong("leads nowhere"))?;
        let location = location.to_str().map_err(|_| wrong("is not ASCII"))?;
        let location = match location.starts_with('/') && !location.starts_with("//") {
            true => based(self.base.clone(), location)?,
            false => location.parse().map_err(|_| wrong("has no valid address"))?,
        };
        let target = location.path_and_query().map_or("", |target| target.as_str());
        let path = target
            .strip_suffix(ADVERTISEMENT)
            .ok_or_else(|| wrong("leads to something that is no repository"))?;
        let new = based(location.clone(), if path.is_empty() { "/" } else { path })?;
        if self.base.scheme() == Some(&Scheme::HTTPS) && new.scheme() != Some(&Scheme::HTTPS) {
            return Err(FetchError::Refused("a redirect leads from HTTPS to clear text".into()));
        }
        let same_place = new.scheme() == self.base.scheme()
            && new.host() == self.base.host()
            && new.port_u16() == self.base.port_u16();
        if !same_place {
            self.authorization = None;
            self.sender = None;
        }
        self.base = new;
        Ok(())
    }

    async fn exchange(
        &mut self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, FetchError> {
        let authority = self.base.authority().map_or("", |authority| authority.as_str());
        let headers = request.headers_mut();
        headers.insert(HOST, authority.parse().map_err(malformed)?);
        headers.insert(USER_AGENT, HeaderValue::from_static("git/unipi"));
        headers.insert("git-protocol", HeaderValue::from_static("version=2"));
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        // What is left of the last answer would stand before the next one.
        let kept = match self.drained().await {
            true => self.sender.take().filter(|sender| !sender.is_closed()),
            false => None,
        };
        if let Some(mut sender) = kept
            && sender.ready().await.is_ok()
        {
            // A kept connection may be closed just now; then the request goes over a new one.
            if let Ok(answer) = sender.send_request(request.clone()).await {
                self.sender = Some(sender);
                return Ok(answer);
            }
        }
        let mut sender = self.connect().await?;
        let answer = sender
            .send_request(request)
            .await
            .map_err(|error| FetchError::Connection(error.to_string()))?;
        self.sender = Some(sender);
        Ok(answer)
    }

    /// Reads what little may be left of the last answer. `false`: it is not little, or it failed.
    async fn drained(&mut self) -> bool {
        for _ in 0..4 {
            match self.chunk().await {
                Ok(None) => return true,
                Ok(Some(_)) => {}
                Err(_) => break,
            }
        }
        self.body = None;
        false
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, FetchError> {
        let host = self.base.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let tls = self.base.scheme() == Some(&Scheme::HTTPS);
        let port = self.base.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let stream = connect::tcp(&self.remote, host, port, &self.limits).await?;
        if !tls {
            return handshake(stream).await;
        }
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| FetchError::Configuration(format!("{host:?} is no host name")))?;
        let connector = TlsConnector::from(Arc::new(tls_config(&self.remote)?));
        let connected = connector.connect(name, stream).await;
        handshake(connected.map_err(|error| tls_error(host, &error))?).await
    }
}

fn tls_error(host: &str, error: &std::io::Error) -> FetchError {
    let cause = error.get_ref().and_then(|error| error.downcast_ref());
    let advice = match cause {
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "; --remote-ca names an authority of your own"
        }
        _ => "",
    };
    FetchError::Refused(format!("TLS with {host}: {error}{advice}"))
}

async fn handshake(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
) -> Result<SendRequest<Full<Bytes>>, FetchError> {
    let (sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(MAX_HEADERS)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| FetchError::Connection(error.to_string()))?;
    // The task ends when the sender and the answer's body are gone; its error shows in them.
    tokio::spawn(connection);
    Ok(sender)
}

fn tls_config(remote: &Remote) -> Result<ClientConfig, FetchError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let roots = remote.roots.clone().unwrap_or_else(|| Arc::new(public_roots()));
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(malformed)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn authorization(credentials: &Credentials) -> Result<HeaderValue, FetchError> {
    let text = match credentials {
        Credentials::Basic { user, password } => {
            let pair = zeroize::Zeroizing::new(format!("{user}:{}", password.as_str()));
            format!("Basic {}", STANDARD.encode(pair.as_bytes()))
        }
        Credentials::Bearer(token) => format!("Bearer {}", token.as_str()),
    };
    let text = zeroize::Zeroizing::new(text);
    let mut value = HeaderValue::from_str(&text)
        .map_err(|_| FetchError::Configuration("the token has control characters".into()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// The body of a successful answer of the expected type.
fn accepted(answer: Response<Incoming>, expected: &str) -> Result<Incoming, FetchError> {
    let status = answer.status();
    match status {
        StatusCode::OK => {}
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            return Err(FetchError::Refused(format!("{status}; is the token right?")));
        }
        StatusCode::NOT_FOUND | StatusCode::GONE => {
            return Err(FetchError::NoRepository(status.to_string()));
        }
        StatusCode::TOO_MANY_REQUESTS => return Err(FetchError::Unreachable(status.to_string())),
        _ if status.is_server_error() => return Err(FetchError::Unreachable(status.to_string())),
        _ => return Err(FetchError::Protocol(format!("HTTP status {status}"))),
    }
    if answer.headers().get(CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
        return Err(FetchError::Protocol("an answer is compressed, unasked".into()));
    }
    let kind = answer.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let kind = kind.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    if !kind.eq_ignore_ascii_case(expected.as_bytes()) {
        let text = format!("this is no git repository: it answers with {}", kind.escape_ascii());
        return Err(FetchError::NoRepository(text));
    }
    Ok(answer.into_body())
}

/// `base` with another path and query; with an empty one, `base` without its trailing slash.
fn based(base: Uri, target: &str) -> Result<Uri, FetchError> {
    let mut parts = base.into_parts();
    if !matches!(parts.scheme.as_ref().map(Scheme::as_str), Some("http" | "https")) {
        return Err(FetchError::Protocol("an address is neither http nor https".into()));
    }
    if let Some(authority) = &parts.authority
        && let Some((_, authority)) = authority.as_str().rsplit_once('@')
    {
        parts.authority = Some(authority.parse().map_err(malformed)?);
    }
    let own = parts.path_and_query.as_ref().map_or("/", |target| target.path());
    let target = if target.is_empty() { own.trim_end_matches('/') } else { target };
    let target = if target.is_empty() { "/" } else { target };
    parts.path_and_query = Some(target.parse().map_err(malformed)?);
    Uri::from_parts(parts).map_err(malformed)
}

/// The origin-form target of a request below `base`.
fn with_path(base: &Uri, suffix: &str) -> Result<Uri, FetchError> {
    format!("{}{suffix}", base.path().trim_end_matches('/')).parse().map_err(malformed)
}

fn malformed(error: impl std::fmt::Display) -> FetchError {
    FetchError::Configuration(error.to_string())
}
