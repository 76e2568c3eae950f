//! What a socket is: its family, its state, and what was set on it before the stack knew of it.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::time::Duration;

use netstack::SocketId;

use crate::files::{Errno, HANGUP, Mask, OUT};

/// The addresses that a socket has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `AF_INET`.
    V4,
    /// `AF_INET6`; IPv4 addresses appear mapped (RFC 4291 §2.5.5.2).
    V6,
}

/// What a socket carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Stream,
    /// UDP.
    Datagram,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The stack does not know of it yet.
    Fresh,
    Listening(SocketId),
    /// The handshake is on its way; its end has not been looked at.
    Connecting(SocketId),
    Stream(SocketId),
    Datagram(SocketId),
}

/// A socket of the network.
#[derive(Debug)]
pub struct Socket {
    family: Family,
    transport: Transport,
    pub(super) state: State,
    /// The address of `bind`, for a stream.
    pub(super) bound: Option<SocketAddr>,
    /// The address of `connect`, for datagrams.
    pub(super) peer: Option<SocketAddr>,
    pub(super) options: Options,
    pub(super) ready: Mask,
    /// An error that the stack has forgotten together with its socket.
    pub(super) error: Option<Errno>,
    /// A connection attempt has failed that `connect` has not told of.
    pub(super) failed: bool,
}

/// What `setsockopt` has set.
#[derive(Clone, Debug, Default)]
pub(super) struct Options {
    pub(super) reuse_address: bool,
    pub(super) reuse_port: bool,
    pub(super) only_v6: bool,
    pub(super) broadcast: bool,
    pub(super) no_delay: bool,
    pub(super) keep_alive: bool,
    /// Seconds; zero is the default of two hours.
    pub(super) keep_idle: u32,
    pub(super) keep_interval: u32,
    pub(super) keep_count: u32,
    /// Milliseconds; zero is the stack's own limit.
    pub(super) user_timeout: u32,
    pub(super) linger: Option<u16>,
    pub(super) receive_timeout: Option<Duration>,
    pub(super) send_timeout: Option<Duration>,
}

impl Family {
    /// The address that stands for all of the family.
    #[must_use]
    pub const fn unspecified(self, port: u16) -> SocketAddr {
        match self {
            Self::V4 => SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port),
            Self::V6 => SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port),
        }
    }

    /// An address as a program with a socket of this family sees it.
    #[must_use]
    pub fn show(self, address: SocketAddr) -> SocketAddr {
        match (self, address) {
            (Self::V6, SocketAddr::V4(v4)) => {
                SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port())
            }
            _ => address,
        }
    }
}

impl Socket {
    /// A socket that is neither bound nor connected.
    #[must_use]
    pub fn new(family: Family, transport: Transport) -> Self {
        // As on Linux: a new stream is neither readable nor connected, a datagram can be sent at once.
        let ready = if transport == Transport::Stream { OUT | HANGUP } else { OUT };
        Self {
            family,
            transport,
            state: State::Fresh,
            bound: None,
            peer: None,
            options: Options::default(),
            ready,
            error: None,
            failed: false,
        }
    }

    /// Its family.
    #[must_use]
    pub fn family(&self) -> Family {
        self.family
    }

    /// What it carries.
    #[must_use]
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// What it is ready for, as far as the stack has told.
    #[must_use]
    pub fn readiness(&self) -> Mask {
        self.ready
    }

    /// How long a call that receives may wait.
    #[must_use]
    pub fn receive_timeout(&self) -> Option<Duration> {
        self.options.receive_timeout
    }

    /// How long a call that sends may wait.
    #[must_use]
    pub fn send_timeout(&self) -> Option<Duration> {
        self.options.send_timeout
    }

    pub(super) fn id(&self) -> Option<SocketId> {
        match self.state {
            State::Fresh => None,
            State::Listening(id)
            | State::Connecting(id)
            | State::Stream(id)
            | State::Datagram(id) => Some(id),
        }
    }

    pub(super) fn bound(&self) -> Option<SocketAddr> {
        self.bound
    }

    pub(super) fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    pub(super) fn resets_on_close(&self) -> bool {
        self.options.linger == Some(0)
    }

    /// An address given by the program as the stack takes it.
    ///
    /// # Errors
    /// `EAFNOSUPPORT` for one of another family, `ENETUNREACH` for an IPv4 address on a socket for IPv6 only.
    pub(super) fn accept_address(&self, address: SocketAddr) -> Result<SocketAddr, Errno> {
        match (self.family, address) {
            (Family::V4, SocketAddr::V4(_)) => Ok(address),
            (Family::V6, SocketAddr::V6(v6)) => match v6.ip().to_ipv4_mapped() {
                Some(_) if self.options.only_v6 => Err(Errno(libc::ENETUNREACH)),
                Some(v4) => Ok(SocketAddr::new(v4.into(), v6.port())),
                None => Ok(SocketAddr::new((*v6.ip()).into(), v6.port())),
            },
            // An address of IPv4 is too short for one of IPv6.
            (Family::V6, SocketAddr::V4(_)) => Err(Errno::INVALID),
            (Family::V4, SocketAddr::V6(_)) => Err(Errno(libc::EAFNOSUPPORT)),
        }
    }

    /// Whether the unspecified address means IPv4 too.
    pub(super) fn dual_stack(&self) -> bool {
        self.family == Family::V6 && !self.options.only_v6
    }
}
