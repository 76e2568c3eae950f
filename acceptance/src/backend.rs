//! Backends of a test: small TCP servers, one thread for each connection.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::unikernel::backend_address;

/// A TCP server on a free port (of the loopback, where the gateway is a process of this machine) that lives until the test process ends.
#[derive(Clone, Debug)]
pub struct Backend {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Backend {
    /// Calls `handle` with every connection, each on a thread of its own.
    ///
    /// # Panics
    /// If there is no free port.
    pub fn serve(handle: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((backend_address(), 0)).expect("a free port");
        let address = listener.local_addr().expect("bound");
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let handle = Arc::new(handle);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::SeqCst);
                let _ = stream.set_nodelay(true);
                let handle = Arc::clone(&handle);
                let thread = std::thread::Builder::new().stack_size(128 * 1024);
                thread.spawn(move || handle(stream)).expect("a thread");
            }
        });
        Self { address, connections }
    }

    /// Answers every HTTP/1.1 request with its own name and the request's head.
    pub fn http(name: &str) -> Self {
        let name = name.to_owned();
        Self::serve(move |stream| {
            let _ = answer_requests(&name, &stream);
        })
    }

    /// Sends everything back; ends when the client has ended.
    pub fn echo() -> Self {
        Self::serve(|mut stream| {
            let mut reader = stream.try_clone().expect("a second handle");
            let _ = std::io::copy(&mut reader, &mut stream);
            let _ = stream.shutdown(Shutdown::Write);
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address as the control tool takes it.
    pub fn to_arg(&self) -> String {
        self.address.to_string()
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// A backend that answers every HTTP request with the HTML page `body`, readable from any origin.
pub fn page(title: &str, body: &str) -> Backend {
    let body = format!("<!doctype html><title>{title}</title>{body}");
    Backend::serve(move |stream| {
        let mut reader = BufReader::new(&stream);
        let mut writer = &stream;
        let mut line = String::new();
        while reader.read_line(&mut line).is_ok_and(|n| n > 0) {
            if line == "\r\n" {
                let head =
                    "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\naccess-control-allow-origin: *";
                if write!(writer, "{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).is_err()
                {
                    return;
                }
            }
            line.clear();
        }
    })
}

fn answer_requests(name: &str, stream: &TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    loop {
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
            if line == "\r\n" {
                break;
            }
            head.push_str(&line);
        }
        std::io::copy(&mut (&mut reader).take(length), &mut std::io::sink())?;
        let body = format!("backend {name}\n{head}");
        write!(writer, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())?;
        if head.to_ascii_lowercase().contains("connection: close") {
            return Ok(());
        }
    }
}
