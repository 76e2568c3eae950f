//! Listening sockets: bound here, or inherited from whoever started the program.

use std::io;
use std::net::{SocketAddr, TcpListener};

use listenfd::ListenFd;
use socket2::{Domain, Protocol, Socket, Type};

/// Connections that the kernel holds until they are accepted; the system caps it (net.core.somaxconn).
pub const BACKLOG: i32 = 4096;

/// Why there is no listener.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The operating system refuses.
    #[error("cannot listen on {address}: {error}{}", hint(error))]
    Bind {
        /// The address that was asked for.
        address: SocketAddr,
        /// What the operating system says.
        error: io::Error,
    },
    /// An inherited descriptor is no listening TCP socket.
    #[error("the inherited socket {position} ({name}) is no listening TCP socket: {error}")]
    Inherited {
        /// Counted from 0, in the order of systemd.
        position: usize,
        /// Its FileDescriptorName, or the name that its position gives.
        name: String,
        /// What the operating system says.
        error: io::Error,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            " (is another server running? Give this one another port, or both gateways --reuse-port)"
        }
        io::ErrorKind::AddrNotAvailable => " (no interface of this machine has that address)",
        io::ErrorKind::PermissionDenied => {
            " (ports below 1024 need CAP_NET_BIND_SERVICE, or socket activation)"
        }
        _ => "",
    }
}

/// Listens on `address`. An IPv6 address is IPv6 only, so that `[::]:443` and `0.0.0.0:443` stand side by side whatever
/// the system's default. With `reuse_port` a second process may listen on the same address, which is how a new version
/// takes over from an old one.
///
/// # Errors
/// [`BindError::Bind`].
pub fn bind(address: SocketAddr, reuse_port: bool) -> Result<TcpListener, BindError> {
    try_bind(address, reuse_port).map_err(|error| BindError::Bind { address, error })
}

fn try_bind(address: SocketAddr, reuse_port: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Without it, connections of an earlier run in TIME-WAIT would keep the address for a minute.
    socket.set_reuse_address(true)?;
    if reuse_port {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Another handle on the same socket, for another worker: all take from one queue.
///
/// # Errors
/// When the process is out of file descriptors.
pub fn clone_for_worker(listener: &TcpListener) -> io::Result<TcpListener> {
    listener.try_clone()
}

/// Makes a listening socket that shares its port deaf to new clients, while those whose handshake has begun can finish it.
/// The packet of a new client is dropped without an answer, so that the client sends it again, and a successor on the same
/// port gets it then. A socket that has its port alone is left as it is: either nobody comes after it, or it is itself
/// handed to the successor, which must not find it deaf.
///
/// # Errors
/// When the system has no packet filters; the socket then goes on as before.
#[cfg(target_os = "linux")]
pub(super) fn ignore_new_clients(listener: &impl std::os::fd::AsFd) -> io::Result<()> {
    use socket2::{SockFilter, SockRef};
    if !SockRef::from(listener).reuse_port()? {
        return Ok(());
    }
    // Classic BPF (the kernel's networking/filter.rst); a TCP socket's filter sees the packet from its TCP header on,
    // whose byte 13 holds the flags (RFC 9293, section 3.1).
    const LOAD_BYTE: u16 = 0x30;
    const JUMP_IF_SET: u16 = 0x45;
    const RETURN: u16 = 0x06;
    const FLAGS: u32 = 13;
    const SYN: u32 = 0x02;
    SockRef::from(listener).attach_filter(&[
        SockFilter::new(LOAD_BYTE, 0, 0, FLAGS),
        SockFilter::new(JUMP_IF_SET, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ])
}

/// Undoes [`ignore_new_clients`] on a socket that a predecessor left behind.
fn hear_new_clients(listener: &TcpListener) {
    #[cfg(target_os = "linux")]
    if let Err(error) = socket2::SockRef::from(listener).detach_filter() {
        // The usual case: there is none.
        tracing::trace!(%error, "no filter on an inherited socket");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = listener;
}

/// As above, where there are no packet filters.
///
/// # Errors
/// Always.
#[cfg(not(target_os = "linux"))]
pub(super) fn ignore_new_clients<T>(_listener: &T) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Listeners that were passed in at start (systemd's socket activation protocol, sd_listen_fds(3)).
///
/// The descriptor's name says what a socket is for (`FileDescriptorName=http`, `https`, `control`, `metrics`; several of
/// one name are fine, such as IPv4 and IPv6). Sockets without such names are taken in this order: http, https, control,
/// metrics.
#[derive(Debug, Default)]
pub struct Inherited {
    /// For redirects.
    pub http: Vec<TcpListener>,
    /// For TLS.
    pub https: Vec<TcpListener>,
    /// For the control protocol.
    pub control: Vec<TcpListener>,
    /// For metrics and health.
    pub metrics: Vec<TcpListener>,
}

/// What sockets are for when no names say so.
const ORDER: [&str; 4] = ["http", "https", "control", "metrics"];

impl Inherited {
    /// Takes the inherited listeners; there are none unless `LISTEN_FDS` and `LISTEN_PID` are this process's.
    ///
    /// # Errors
    /// [`BindError::Inherited`].
    pub fn take() -> Result<Self, BindError> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        Self::sort(&mut ListenFd::from_env(), &names)
    }

    fn sort(inherited: &mut ListenFd, names: &str) -> Result<Self, BindError> {
        let mut sorted = Self::default();
        for (position, name) in roles(inherited.len(), names).into_iter().enumerate() {
            let listener = inherited
                .take_tcp_listener(position)
                .map_err(|error| BindError::Inherited { position, name: name.to_owned(), error })?;
            let Some(listener) = listener else { continue };
            hear_new_clients(&listener);
            match name {
                "http" => sorted.http.push(listener),
                "https" => sorted.https.push(listener),
                "control" => sorted.control.push(listener),
                "metrics" => sorted.metrics.push(listener),
                _ => tracing::warn!(position, "an inherited socket has no use and is closed"),
            }
        }
        Ok(sorted)
    }

    /// Whether nothing was inherited.
    pub fn is_empty(&self) -> bool {
        [&self.http, &self.https, &self.control, &self.metrics].iter().all(|list| list.is_empty())
    }
}

/// What each of `count` sockets is for. Names count only if at least one is ours: systemd names a socket after its unit
/// (`tlstunnel.socket`) when the unit says nothing.
fn roles(count: usize, names: &str) -> Vec<&str> {
    let names: Vec<&str> = names.split(':').collect();
    let named = names.iter().any(|name| ORDER.contains(name));
    (0..count)
        .map(|i| if named { names.get(i) } else { ORDER.get(i) }.copied().unwrap_or_default())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_a_socket_is_for_and_else_the_order() {
        assert_eq!(roles(3, "https:https:control"), ["https", "https", "control"]);
        assert_eq!(roles(2, "tlstunnel.socket:tlstunnel.socket"), ["http", "https"]);
        assert_eq!(roles(5, ""), ["http", "https", "control", "metrics", ""]);
        assert_eq!(roles(2, "http"), ["http", ""]);
    }

    #[test]
    fn v4_and_v6_share_a_port_number() {
        let v4 = bind(([127, 0, 0, 1], 0).into(), false).unwrap();
        let port = v4.local_addr().unwrap().port();
        match bind((std::net::Ipv6Addr::LOCALHOST, port).into(), false) {
            Ok(v6) => assert_eq!(v6.local_addr().unwrap().port(), port),
            Err(error) => println!("no IPv6 on this machine: {error}"),
        }
        let again = bind(v4.local_addr().unwrap(), false).unwrap_err();
        assert!(again.to_string().contains("another server"), "{again}");
    }

    #[test]
    fn two_may_share_an_address_when_both_say_so() {
        let first = bind(([127, 0, 0, 1], 0).into(), true).unwrap();
        bind(first.local_addr().unwrap(), true).unwrap();
    }
}
