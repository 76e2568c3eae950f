//! Clients of a test that need more control than curl gives: a blocking TLS client on rustls, and a plain HTTP one.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// How long a client waits for a byte before it calls the gateway hung.
const SILENCE_LIMIT: Duration = Duration::from_secs(20);

/// A TLS connection.
pub type Tls = StreamOwned<ClientConnection, TcpStream>;

/// A TLS client configuration that trusts the certificates in `ca_file` and offers `alpn`.
///
/// # Panics
/// If the file holds no certificate.
pub fn config(ca_file: &Path, alpn: &[&str]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca_file).expect("CA file") {
        roots.add(certificate.expect("PEM")).expect("a CA certificate");
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// Connects and finishes the handshake.
///
/// # Errors
/// Those of the connection and of TLS.
pub fn connect(
    address: SocketAddr,
    name: &str,
    config: &Arc<ClientConfig>,
) -> std::io::Result<Tls> {
    let name = ServerName::try_from(name.to_owned()).expect("a server name");
    let connection =
        ClientConnection::new(Arc::clone(config), name).map_err(std::io::Error::other)?;
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE_LIMIT))?;
    let mut tls = StreamOwned::new(connection, stream);
    while tls.conn.is_handshaking() {
        tls.conn.complete_io(&mut tls.sock)?;
    }
    Ok(tls)
}

/// Sends a GET request and reads the answer's head and body (of the announced length).
///
/// # Errors
/// Those of the stream; `UnexpectedEof` if it ends inside the answer.
pub fn get(stream: &mut (impl Read + Write), host: &str, path: &str) -> std::io::Result<String> {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")?;
    stream.flush()?;
    read_answer(stream)
}

/// Reads one HTTP answer: its head and a body of the announced length, or up to the end without one.
///
/// # Errors
/// Those of the stream; `UnexpectedEof` if it ends inside the answer.
pub fn read_answer(stream: &mut impl Read) -> std::io::Result<String> {
    let mut data = Vec::new();
    let mut piece = [0; 16 * 1024];
    loop {
        let text = String::from_utf8_lossy(&data);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
            });
            if length.is_some_and(|length: usize| body.len() >= length) {
                return Ok(text.into_owned());
            }
        }
        match stream.read(&mut piece)? {
            0 if data.is_empty() || !text.contains("\r\n\r\n") => {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            0 => return Ok(text.into_owned()),
            n => data.extend_from_slice(&piece[..n]),
        }
    }
}

/// The body of a plain HTTP answer.
///
/// # Panics
/// If there is none.
pub fn http_get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(SILENCE_LIMIT)).expect("a time limit");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")
        .expect("sent");
    let answer = read_answer(&mut stream).expect("an answer");
    answer.split_once("\r\n\r\n").expect("a head").1.to_owned()
}
