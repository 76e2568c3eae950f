//! What can go wrong, named by who is to blame.

use core::net::IpAddr;

use thiserror::Error;

/// Why a socket operation did not succeed. Each has its counterpart among the errors of BSD
/// sockets, which the socket layer above translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SocketError {
    /// The operation would have to wait (EAGAIN): an event tells when to try again.
    #[error("nothing to do at the moment: wait for the socket's next event")]
    WouldBlock,
    /// The handle names no open socket (EBADF).
    #[error("the socket is closed or was never open")]
    BadSocket,
    /// The socket is of another kind than the operation needs (EOPNOTSUPP).
    #[error("a socket of this kind has no such operation")]
    WrongKind,
    /// The socket has no connection (ENOTCONN).
    #[error("the socket is not connected")]
    NotConnected,
    /// The sending half was shut down, or the peer is gone (EPIPE).
    #[error("the sending half of the connection is closed")]
    BrokenPipe,
    /// The peer answered that nobody listens there (ECONNREFUSED).
    #[error("the peer refused the connection")]
    ConnectionRefused,
    /// The peer reset the connection (ECONNRESET).
    #[error("the peer reset the connection")]
    ConnectionReset,
    /// The peer stopped answering (ETIMEDOUT).
    #[error("the peer did not answer in time")]
    TimedOut,
    /// A router said that the host cannot be reached (EHOSTUNREACH).
    #[error("the host cannot be reached")]
    HostUnreachable,
    /// No interface has a route to the address (ENETUNREACH).
    #[error("no route leads to the address: give an interface a gateway")]
    NetworkUnreachable,
    /// Another socket has this address (EADDRINUSE).
    #[error("the address is in use")]
    AddressInUse,
    /// No interface has this address (EADDRNOTAVAIL), or no ephemeral port is free.
    #[error("no interface has this address, or no port is free")]
    AddressNotAvailable,
    /// The address makes no sense here (EINVAL): port zero, a multicast address, another family.
    #[error("the address cannot be used for this")]
    InvalidAddress,
    /// A limit of [`crate::Limits`] is reached (ENOBUFS).
    #[error("the stack's limit for sockets or buffers is reached: close some or raise it")]
    NoBuffers,
    /// A datagram is larger than the interface carries in one packet (EMSGSIZE).
    #[error("the datagram is larger than one packet of the interface")]
    MessageTooLong,
}

/// Why an interface cannot be used as configured. The operator is to blame.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// A device whose MTU is outside of [`crate::MTU_MIN`] to [`crate::MTU_MAX`].
    #[error("the device's MTU is {0}: it must be from 1280 to 65535")]
    Mtu(usize),
    /// A device whose hardware address is a group's.
    #[error("the device's hardware address is not unicast")]
    HardwareAddress,
    /// Too many addresses on one interface.
    #[error("an interface has at most {0} addresses")]
    TooManyAddresses(usize),
    /// An address that no host can have, or a prefix longer than the address.
    #[error("{0}/{1} is no address of a host")]
    Address(IpAddr, u8),
    /// A number that no interface has.
    #[error("there is no interface {0}")]
    NoInterface(usize),
    /// A gateway that is not a neighbour on the interface.
    #[error("the gateway {0} is on none of the interface's networks")]
    Gateway(IpAddr),
}
