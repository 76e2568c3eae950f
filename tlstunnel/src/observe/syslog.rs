//! Log lines as syslog messages (RFC 5424) over UDP (RFC 5426).
//!
//! Whoever logs never waits: a line goes into a bounded queue, and when the queue is full it is dropped and counted. A
//! task sends from the queue, and says in the stream itself how many lines were lost.

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::Context;

use crate::counters::Counter;

/// Messages that may wait to be sent.
pub const QUEUE_MESSAGES: usize = 1024;
/// Octets of one message; the rest is cut. Every receiver should take 2048 (RFC 5424, section 6.1).
pub const MAX_MESSAGE: usize = 2048;
/// The default port (RFC 5426, section 3.3).
pub const DEFAULT_PORT: u16 = 514;

/// The half that formats events and queues them.
#[derive(Debug)]
pub struct SyslogLayer {
    queue: mpsc::Sender<String>,
    header: Header,
    dropped: Arc<Counter>,
}

/// The half that sends what is queued. Nothing leaves until [`SyslogSender::run`] runs.
#[derive(Debug)]
pub struct SyslogSender {
    queue: mpsc::Receiver<String>,
    server: Server,
    header: Header,
    dropped: Arc<Counter>,
}

/// The two halves for `server`, written `HOST`, `HOST:PORT` or `[V6]:PORT`. `name` is the APP-NAME. None when the server
/// is not understood.
pub fn open(server: &str, name: &str) -> Option<(SyslogLayer, SyslogSender)> {
    let server = Server::parse(server)?;
    let header = Header::new(name);
    let (sender, receiver) = mpsc::channel(QUEUE_MESSAGES);
    let dropped = Arc::new(Counter::default());
    let layer =
        SyslogLayer { queue: sender, header: header.clone(), dropped: Arc::clone(&dropped) };
    Some((layer, SyslogSender { queue: receiver, server, header, dropped }))
}

impl SyslogSender {
    /// Lines that were lost because the queue was full.
    pub fn dropped(&self) -> Arc<Counter> {
        Arc::clone(&self.dropped)
    }

    /// Sends until every [`SyslogLayer`] is gone. Errors are not logged here, for they would come back; a message that
    /// cannot be sent is lost, as UDP may lose it anyway, and counted.
    pub async fn run(mut self) {
        let mut target: Option<(UdpSocket, Instant)> = None;
        let mut reported = 0;
        while let Some(message) = self.queue.recv().await {
            if target.as_ref().is_none_or(|(_, since)| since.elapsed() > RESOLVE_AGAIN) {
                // A server that cannot be resolved now is tried again, but not for each message.
                target = match self.server.connect().await {
                    Some(socket) => Some((socket, Instant::now())),
                    None => target.map(|(socket, _)| (socket, Instant::now())),
                };
            }
            let Some((socket, _)) = &target else {
                self.dropped.add_one();
                tokio::time::sleep(RETRY_AFTER).await;
                continue;
            };
            let lost = self.dropped.value();
            if lost > reported {
                let notice = self.header.message(
                    WARNING,
                    "syslog",
                    &format!("{} log lines were lost: the syslog queue was full", lost - reported),
                );
                reported = lost;
                // Whether the notice arrives is as uncertain as any datagram.
                let _ = socket.send(notice.as_bytes()).await;
            }
            if socket.send(message.as_bytes()).await.is_err() {
                self.dropped.add_one();
            }
        }
    }
}

impl<S: Subscriber> Layer<S> for SyslogLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut text = Text::default();
        event.record(&mut text);
        let target = event.metadata().target();
        let message =
            self.header.message(severity(*event.metadata().level()), target, &text.finish());
        if self.queue.try_send(message).is_err() {
            self.dropped.add_one();
        }
    }
}

/// Where messages go.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Server {
    host: String,
    port: u16,
}

impl Server {
    fn parse(text: &str) -> Option<Self> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Some(Self { host: address.ip().to_string(), port: address.port() });
        }
        let unbracketed = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
        if unbracketed.parse::<std::net::IpAddr>().is_ok() {
            return Some(Self { host: unbracketed.to_owned(), port: DEFAULT_PORT });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().ok().filter(|&port| port != 0)?),
            None => (text, DEFAULT_PORT),
        };
        let host = config_proto::model::normalize_host(host).ok()?;
        Some(Self { host, port })
    }

    async fn connect(&self) -> Option<UdpSocket> {
        let address = match self.host.parse() {
            Ok(ip) => SocketAddr::new(ip, self.port),
            Err(_) => {
                tokio::net::lookup_host((self.host.as_str(), self.port)).await.ok()?.next()?
            }
        };
        let local: SocketAddr = match address {
            SocketAddr::V4(_) => ([0; 4], 0).into(),
            SocketAddr::V6(_) => ([0; 16], 0).into(),
        };
        let socket = UdpSocket::bind(local).await.ok()?;
        socket.connect(address).await.ok()?;
        Some(socket)
    }
}

/// What is the same in every message.
#[derive(Clone, Debug)]
struct Header {
    app_name: String,
    process_id: u32,
}

impl Header {
    fn new(name: &str) -> Self {
        Self { app_name: printable(name, MAX_APP_NAME), process_id: std::process::id() }
    }

    /// `<PRI>1 TIMESTAMP HOSTNAME APP-NAME PROCID MSGID STRUCTURED-DATA MSG` (RFC 5424, section 6).
    fn message(&self, severity: u8, target: &str, text: &str) -> String {
        let mut out = format!("<{}>1 ", FACILITY_DAEMON * 8 + severity);
        let written = out.len();
        if SystemTime.format_time(&mut Writer::new(&mut out)).is_err() {
            out.truncate(written);
            out.push('-');
        }
        // HOSTNAME is the instance's name: in a guest there is no other.
        let message_id = printable(target, MAX_MESSAGE_ID);
        // Writing to a String does not fail.
        let _ = write!(out, " {0} {0} {1} {message_id} - {text}", self.app_name, self.process_id);
        if out.len() > MAX_MESSAGE {
            let end = (0..=MAX_MESSAGE).rev().find(|end| out.is_char_boundary(*end));
            out.truncate(end.unwrap_or(0));
        }
        out
    }
}

/// Collects the fields of an event as `message key=value …`, control characters escaped, so that a name sent by a client
/// cannot begin a line of its own in somebody's log file.
#[derive(Debug, Default)]
struct Text {
    message: String,
    fields: String,
}

impl Text {
    fn finish(mut self) -> String {
        self.message.push_str(&self.fields);
        self.message
    }

    fn push(&mut self, field: &Field, value: &str) {
        let out = if field.name() == "message" {
            &mut self.message
        } else {
            let separator = if self.fields.len() < MAX_MESSAGE { " " } else { return };
            self.fields.push_str(separator);
            self.fields.push_str(field.name());
            self.fields.push('=');
            &mut self.fields
        };
        for c in value.chars().take(MAX_MESSAGE) {
            match c.is_control() {
                true => out.extend(c.escape_default()),
                false => out.push(c),
            }
        }
    }
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.push(field, &format!("{value:?}"));
    }
}

/// A header field: printable ASCII without spaces, at most `max` octets, `-` for nothing (RFC 5424, section 6).
fn printable(text: &str, max: usize) -> String {
    let field: String =
        text.chars().take(max).map(|c| if c.is_ascii_graphic() { c } else { '_' }).collect();
    if field.is_empty() { "-".to_owned() } else { field }
}

fn severity(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => WARNING,
        Level::INFO => 6,
        _ => 7,
    }
}

const FACILITY_DAEMON: u8 = 3;
const WARNING: u8 = 4;
const MAX_APP_NAME: usize = 48;
const MAX_MESSAGE_ID: usize = 32;
const RESOLVE_AGAIN: Duration = Duration::from_secs(300);
const RETRY_AFTER: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn servers() {
        let parse = |text| Server::parse(text).map(|s| (s.host, s.port));
        assert_eq!(parse("10.0.0.1"), Some(("10.0.0.1".into(), 514)));
        assert_eq!(parse("10.0.0.1:5514"), Some(("10.0.0.1".into(), 5514)));
        assert_eq!(parse("2001:db8::1"), Some(("2001:db8::1".into(), 514)));
        assert_eq!(parse("[2001:db8::1]:515"), Some(("2001:db8::1".into(), 515)));
        assert_eq!(parse("Logs.example.org:515"), Some(("logs.example.org".into(), 515)));
        for bad in ["", ":514", "a b", "host:0", "host:99999", "host:"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }

    #[tokio::test]
    async fn a_line_arrives_as_one_message_with_its_octets_escaped() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap().to_string();
        let (layer, sender) = open(&address, "edge 1").unwrap();
        tokio::spawn(sender.run());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::warn!(target: "access", server_name = "a\nb", "odd\r\nname");
            tracing::info!(long = "x".repeat(10_000), "cut");
        });
        let mut buffer = [0; 4096];
        let n = server.recv(&mut buffer).await.unwrap();
        let text = std::str::from_utf8(&buffer[..n]).unwrap();
        let (pri, rest) = text.split_once(' ').unwrap();
        assert_eq!(pri, "<28>1");
        let fields: Vec<&str> = rest.splitn(7, ' ').collect();
        assert!(fields[0].ends_with('Z'), "{text}");
        assert_eq!(&fields[1..3], ["edge_1", "edge_1"]);
        assert_eq!(&fields[4..6], ["access", "-"]);
        assert_eq!(fields[6], "odd\\r\\nname server_name=a\\nb");
        assert_eq!(server.recv(&mut buffer).await.unwrap(), MAX_MESSAGE);
    }

    #[tokio::test]
    async fn a_full_queue_drops_counts_and_says_so() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (layer, sender) = open(&server.local_addr().unwrap().to_string(), "edge").unwrap();
        let dropped = sender.dropped();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            for n in 0..QUEUE_MESSAGES + 3 {
                tracing::info!(n, "line");
            }
        });
        assert_eq!(dropped.value(), 3);
        tokio::spawn(sender.run());
        let mut buffer = [0; 4096];
        let n = server.recv(&mut buffer).await.unwrap();
        assert!(std::str::from_utf8(&buffer[..n]).unwrap().contains("3 log lines were lost"));
    }
}
