//! Programs that make TXT records for others over HTTP, played: a webhook and an acme-dns server. The records are those of
//! pebble's own DNS server.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::backend::Backend;

/// The domain that the acme-dns server gives names in.
const ACME_DNS_DOMAIN: &str = "acme-dns.test";

/// A running hook.
#[derive(Clone, Debug)]
pub struct DnsHook {
    backend: Backend,
    seen: Arc<Mutex<Vec<Asked>>>,
}

/// What the hook was asked.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Such as `present`.
    pub what: String,
    /// The field `Authorization`.
    pub authorization: Option<String>,
    /// The body.
    pub body: Value,
}

impl DnsHook {
    /// Starts a hook that makes records at pebble's test server, whose management is at `records`.
    pub fn start(records: SocketAddr) -> Self {
        let seen = Arc::<Mutex<Vec<Asked>>>::default();
        let noted = Arc::clone(&seen);
        let backend = Backend::serve(move |stream| {
            let Ok(asked) = read(&stream) else { return };
            let answer = answer(&asked, records);
            noted.lock().expect("seen").push(asked);
            let (status, body) = match answer {
                Ok(body) => (200, body.to_string()),
                Err(status) => (status, String::new()),
            };
            let length = body.len();
            let _ = write!(
                &stream,
                "HTTP/1.1 {status} Said\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
            );
        });
        Self { backend, seen }
    }

    /// Its address, as options take it.
    pub fn url(&self) -> String {
        format!("http://{}", self.backend.address())
    }

    /// What it was asked so far.
    ///
    /// # Panics
    /// If answering has panicked.
    pub fn asked(&self) -> Vec<Asked> {
        self.seen.lock().expect("seen").clone()
    }
}

fn answer(asked: &Asked, records: SocketAddr) -> Result<Value, u16> {
    let text = |field: &str| asked.body[field].as_str().ok_or(400_u16);
    match asked.what.as_str() {
        "present" => {
            let record = json!({ "host": text("fqdn")?, "value": text("value")? });
            manage(records, "set-txt", &record)?;
        }
        "cleanup" => manage(records, "clear-txt", &json!({ "host": text("fqdn")? }))?,
        "register" => {
            return Ok(json!({
                "username": "a user", "password": "a password", "subdomain": "d420c923",
                "fulldomain": format!("d420c923.{ACME_DNS_DOMAIN}"), "allowfrom": [],
            }));
        }
        "update" => {
            let host = format!("{}.{ACME_DNS_DOMAIN}.", text("subdomain")?);
            manage(records, "set-txt", &json!({ "host": host, "value": text("txt")? }))?;
            return Ok(json!({ "txt": text("txt")? }));
        }
        _ => return Err(404),
    }
    Ok(json!({}))
}

/// Posts to the management of pebble's test server.
///
/// # Errors
/// The status to answer with when it says no.
pub fn manage(records: SocketAddr, what: &str, body: &Value) -> Result<(), u16> {
    let body = body.to_string();
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(records)?;
        write!(
            stream,
            "POST /{what} HTTP/1.1\r\nhost: records\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    match ask() {
        Ok(answer) if answer.starts_with("HTTP/1.1 200") => Ok(()),
        _ => Err(502),
    }
}

fn read(stream: &TcpStream) -> std::io::Result<Asked> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default();
    let what = path.rsplit('/').next().unwrap_or_default().to_owned();
    let (mut authorization, mut length) = (None, 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "authorization" => authorization = Some(value.to_owned()),
            "content-length" => length = value.parse().unwrap_or(0),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Asked { what, authorization, body: serde_json::from_slice(&body)? })
}
