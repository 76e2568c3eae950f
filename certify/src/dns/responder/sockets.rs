//! The two sockets of the name server, opened before anything else so that a port that is taken is found out at start.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::task::JoinSet;

use super::serve::{serve_tcp, serve_udp};
use super::zones::Zones;

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 64;

/// A UDP and a TCP socket at the same address.
#[derive(Debug)]
pub struct Sockets {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Sockets {
    /// Opens both. With `reuse_port` another process may have the same address, as when a new version takes over.
    ///
    /// # Errors
    /// What the system says; commonly that a resolver of this machine has the port.
    pub fn bind(address: SocketAddr, reuse_port: bool) -> io::Result<Self> {
        let open = |address, kind, protocol| {
            let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
            if address.is_ipv6() {
                socket.set_only_v6(true)?;
            }
            if kind == Type::STREAM {
                // Without it, connections of an earlier run in TIME-WAIT would keep the address for a minute.
                socket.set_reuse_address(true)?;
            }
            if reuse_port {
                socket.set_reuse_port(true)?;
            }
            socket.bind(&address.into())?;
            socket.set_nonblocking(true)?;
            Ok::<_, io::Error>(socket)
        };
        let tcp = open(address, Type::STREAM, Protocol::TCP)?;
        tcp.listen(BACKLOG)?;
        let tcp = TcpListener::from(tcp);
        // Port 0 is chosen by the system: the second takes the same.
        let udp = open(tcp.local_addr()?, Type::DGRAM, Protocol::UDP)?;
        Ok(Self { udp: udp.into(), tcp })
    }

    /// Where both are.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Answers questions about `zones` for ever; drop the future to stop.
    ///
    /// # Errors
    /// When the runtime cannot take the sockets.
    pub async fn serve(self, zones: Arc<Zones>) -> io::Result<()> {
        let udp = tokio::net::UdpSocket::from_std(self.udp)?;
        let tcp = tokio::net::TcpListener::from_std(self.tcp)?;
        tokio::join!(serve_udp(udp, Arc::clone(&zones)), serve_tcp(tcp, zones));
        Ok(())
    }
}

/// Answers questions about `zones` at all of `sockets`; drop the future to stop.
pub async fn serve(zones: Arc<Zones>, sockets: Vec<Sockets>) {
    let mut serving = JoinSet::new();
    for socket in sockets {
        serving.spawn(socket.serve(Arc::clone(&zones)));
    }
    while let Some(ended) = serving.join_next().await {
        if let Ok(Err(error)) = ended {
            tracing::error!(%error, "delegated zones are not answered for");
        }
    }
}
