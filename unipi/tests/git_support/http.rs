//! A web server around the real `git http-backend` (CGI), with what forges put around it: authentication, redirects, TLS.

use std::convert::Infallible;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use acceptance::unikernel::backend_address;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject as _;

/// How the server differs from a plain one.
#[derive(Clone, Default)]
pub struct Behaviour {
    /// The `Authorization` that it demands.
    pub authorization: Option<String>,
    /// The version header does not reach git, so that it speaks version 0.
    pub old: bool,
    /// Everything below `/moved` is answered with a redirect to here.
    pub moved_to: Option<String>,
    /// Serves TLS with a certificate for `localhost` and the address.
    pub tls: bool,
    /// Answers everything with this status and type.
    pub fixed: Option<(u16, &'static str)>,
}

/// Method, target and authorization of each request.
pub type Log = Arc<Mutex<Vec<(String, String, Option<String>)>>>;

pub struct Server {
    pub address: SocketAddr,
    /// The certificate, to be trusted.
    pub certificate: Option<rcgen::Certificate>,
    pub log: Log,
}

impl Server {
    pub fn start(base: PathBuf, behaviour: Behaviour) -> Self {
        let listener = std::net::TcpListener::bind((backend_address(), 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let log = Log::default();
        let (acceptor, certificate) = match behaviour.tls {
            true => {
                let (acceptor, certificate) = tls();
                (Some(acceptor), Some(certificate))
            }
            false => (None, None),
        };
        let server = Self { address, certificate, log: Arc::clone(&log) };
        std::thread::spawn(move || {
            super::run(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let (base, behaviour) = (base.clone(), behaviour.clone());
                    let (log, acceptor) = (Arc::clone(&log), acceptor.clone());
                    tokio::spawn(async move {
                        let service = service_fn(move |request| {
                            answer(request, base.clone(), behaviour.clone(), Arc::clone(&log))
                        });
                        let builder = hyper::server::conn::http1::Builder::new();
                        match acceptor {
                            None => {
                                let _ =
                                    builder.serve_connection(TokioIo::new(stream), service).await;
                            }
                            Some(acceptor) => {
                                if let Ok(stream) = acceptor.accept(stream).await {
                                    let stream = TokioIo::new(stream);
                                    let _ = builder.serve_connection(stream, service).await;
                                }
                            }
                        }
                    });
                }
            });
        });
        server
    }

    pub fn url(&self, path: &str) -> String {
        let scheme = if self.certificate.is_some() { "https" } else { "http" };
        format!("{scheme}://localhost:{}{path}", self.address.port())
    }
}

fn tls() -> (tokio_rustls::TlsAcceptor, rcgen::Certificate) {
    let names = vec!["localhost".into(), backend_address().to_string()];
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::from_pem_slice(
        made.signing_key.serialize_pem().as_bytes(),
    )
    .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    (tokio_rustls::TlsAcceptor::from(Arc::new(config)), made.cert)
}

async fn answer(
    request: Request<Incoming>,
    base: PathBuf,
    behaviour: Behaviour,
    log: Log,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let header =
        |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let target = request.uri().path_and_query().unwrap().to_string();
    let entry = (request.method().to_string(), target.clone(), header("authorization"));
    log.lock().unwrap().push(entry);
    if let Some((status, kind)) = behaviour.fixed {
        let answer = Response::builder().status(status).header("content-type", kind);
        return Ok(answer.body(Full::from("fixed")).unwrap());
    }
    if let (Some(to), Some(rest)) = (&behaviour.moved_to, target.strip_prefix("/moved")) {
        let answer = Response::builder().status(301).header("location", format!("{to}{rest}"));
        return Ok(answer.body(Full::default()).unwrap());
    }
    if behaviour.authorization.is_some() && header("authorization") != behaviour.authorization {
        let answer = Response::builder().status(401).header("www-authenticate", "Basic");
        return Ok(answer.body(Full::default()).unwrap());
    }
    let mut command = super::git_command(&base);
    command
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", &base)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("REQUEST_METHOD", request.method().as_str())
        .env("PATH_INFO", request.uri().path())
        .env("QUERY_STRING", request.uri().query().unwrap_or_default())
        .env("CONTENT_TYPE", header("content-type").unwrap_or_default())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    if let Some(version) = header("git-protocol").filter(|_| !behaviour.old) {
        command.env("GIT_PROTOCOL", version);
    }
    let body = request.into_body().collect().await.unwrap().to_bytes();
    command.env("CONTENT_LENGTH", body.len().to_string());
    let output = tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        let writer = std::thread::spawn(move || drop(input.write_all(&body)));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        output.stdout
    });
    let output = output.await.unwrap();
    let end = output.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let mut answer = Response::builder();
    for line in std::str::from_utf8(&output[..end]).unwrap().split("\r\n") {
        let (name, value) = line.split_once(": ").unwrap();
        answer = match name.eq_ignore_ascii_case("status") {
            true => answer.status(value[..3].parse::<u16>().unwrap()),
            false => answer.header(name, value),
        };
    }
    Ok(answer.body(Full::from(output[end + 4..].to_vec())).unwrap())
}
