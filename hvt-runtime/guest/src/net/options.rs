//! Options of sockets.
//!
//! An option that is set before there is a connection is kept and applied to the connection when there is one; a
//! listener's options go to the connections that it accepts, as on Linux. The sizes of buffers are the stack's: asking for
//! others is not an error, and asking which they are tells the truth.

use alloc::vec::Vec;
use core::time::Duration;

use libc::c_int;
use netstack::{Device, KeepAlive, SocketId};

use crate::files::Errno;

use super::Network;
use super::socket::{Family, Socket, State, Transport};

/// The default of `TCP_KEEPIDLE` on Linux, in seconds.
const KEEP_IDLE: u32 = 7200;
const KEEP_INTERVAL: u32 = 75;
const KEEP_COUNT: u32 = 9;

/// The value of an option as C has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// `int`.
    Int(c_int),
    /// `struct linger`: on, and seconds.
    Linger(Option<u16>),
    /// `struct timeval`; none is zero, no limit.
    Time(Option<Duration>),
}

impl Value {
    /// From the bytes of `setsockopt`.
    ///
    /// # Errors
    /// [`Errno::INVALID`] when there are too few for this option; `EDOM` for an impossible time.
    pub fn parse(level: c_int, option: c_int, bytes: &[u8]) -> Result<Self, Errno> {
        let int = |at: usize| {
            let bytes = bytes.get(at..).and_then(<[u8]>::first_chunk);
            bytes.map(|bytes| c_int::from_ne_bytes(*bytes)).ok_or(Errno::INVALID)
        };
        let long = |at: usize| {
            let bytes = bytes.get(at..).and_then(<[u8]>::first_chunk);
            bytes.map(|bytes| i64::from_ne_bytes(*bytes)).ok_or(Errno::INVALID)
        };
        match (level, option) {
            (libc::SOL_SOCKET, libc::SO_LINGER) => {
                let seconds = u16::try_from(int(4)?.max(0)).unwrap_or(u16::MAX);
                Ok(Self::Linger((int(0)? != 0).then_some(seconds)))
            }
            (libc::SOL_SOCKET, libc::SO_RCVTIMEO | libc::SO_SNDTIMEO) => {
                let microseconds = u32::try_from(long(8)?).map_err(|_| Errno(libc::EDOM))?;
                if microseconds >= 1_000_000 {
                    return Err(Errno(libc::EDOM));
                }
                let time = u64::try_from(long(0)?).map_or(Duration::ZERO, |seconds| {
                    Duration::from_secs(seconds) + Duration::from_micros(microseconds.into())
                });
                Ok(Self::Time((!time.is_zero()).then_some(time)))
            }
            _ => Ok(Self::Int(int(0)?)),
        }
    }

    /// The bytes for `getsockopt`.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        match *self {
            Self::Int(value) => value.to_ne_bytes().to_vec(),
            Self::Linger(linger) => {
                let on = c_int::from(linger.is_some());
                let seconds = c_int::from(linger.unwrap_or(0));
                [on.to_ne_bytes(), seconds.to_ne_bytes()].concat()
            }
            Self::Time(time) => {
                let time = time.unwrap_or_default();
                let seconds = time.as_secs().to_ne_bytes();
                [seconds, u64::from(time.subsec_micros()).to_ne_bytes()].concat()
            }
        }
    }
}

impl<D: Device> Network<D> {
    /// Sets an option (`setsockopt`).
    ///
    /// # Errors
    /// `ENOPROTOOPT` for one that is not there, [`Errno::INVALID`] for a value that makes no sense.
    pub fn set_option(
        &mut self,
        socket: &mut Socket,
        level: c_int,
        option: c_int,
        value: &Value,
    ) -> Result<(), Errno> {
        match value {
            Value::Linger(linger) => {
                socket.options.linger = *linger;
                return Ok(());
            }
            Value::Time(time) if option == libc::SO_RCVTIMEO => {
                socket.options.receive_timeout = *time;
                return Ok(());
            }
            Value::Time(time) => {
                socket.options.send_timeout = *time;
                return Ok(());
            }
            Value::Int(_) => {}
        }
        let Value::Int(value) = *value else { return Err(Errno::INVALID) };
        let on = value != 0;
        let number = u32::try_from(value).map_err(|_| Errno::INVALID);
        let stream = socket.transport() == Transport::Stream;
        let v6 = socket.family() == Family::V6;
        let fresh = socket.state == State::Fresh && socket.bound.is_none();
        let options = &mut socket.options;
        match (level, option) {
            (libc::SOL_SOCKET, libc::SO_REUSEADDR) => options.reuse_address = on,
            (libc::SOL_SOCKET, libc::SO_REUSEPORT) => options.reuse_port = on,
            (libc::SOL_SOCKET, libc::SO_BROADCAST) => options.broadcast = on,
            (libc::SOL_SOCKET, libc::SO_KEEPALIVE) => options.keep_alive = on,
            // The stack's own sizes stay.
            (libc::SOL_SOCKET, libc::SO_RCVBUF | libc::SO_SNDBUF) => {}
            (libc::SOL_SOCKET, libc::SO_OOBINLINE | libc::SO_PRIORITY) => {}
            (libc::IPPROTO_TCP, libc::TCP_NODELAY) if stream => options.no_delay = on,
            (libc::IPPROTO_TCP, libc::TCP_QUICKACK) if stream => {}
            (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE) if stream => options.keep_idle = number?,
            (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL) if stream => options.keep_interval = number?,
            (libc::IPPROTO_TCP, libc::TCP_KEEPCNT) if stream => options.keep_count = number?,
            (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT) if stream => {
                options.user_timeout = number?;
            }
            (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY) if v6 && fresh => options.only_v6 = on,
            (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY) if v6 => return Err(Errno::INVALID),
            // Marks for routers, which the stack sends as zero.
            (libc::IPPROTO_IP, libc::IP_TOS) | (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {}
            _ => return Err(Errno(libc::ENOPROTOOPT)),
        }
        if let State::Stream(id) | State::Connecting(id) = socket.state {
            self.apply_options(socket, id);
        }
        Ok(())
    }

    /// Reads an option (`getsockopt`), but for `SO_ERROR`, which [`Network::take_error`] takes.
    ///
    /// # Errors
    /// `ENOPROTOOPT`.
    pub fn option(&self, socket: &Socket, level: c_int, option: c_int) -> Result<Value, Errno> {
        let stream = socket.transport() == Transport::Stream;
        let options = &socket.options;
        let number = |value: u32, default: u32| {
            let value = if value == 0 { default } else { value };
            c_int::try_from(value).unwrap_or(c_int::MAX)
        };
        let size = |size: usize| c_int::try_from(size).unwrap_or(c_int::MAX);
        let limits = self.stack.limits();
        let value = match (level, option) {
            (libc::SOL_SOCKET, libc::SO_LINGER) => return Ok(Value::Linger(options.linger)),
            (libc::SOL_SOCKET, libc::SO_RCVTIMEO) => {
                return Ok(Value::Time(options.receive_timeout));
            }
            (libc::SOL_SOCKET, libc::SO_SNDTIMEO) => return Ok(Value::Time(options.send_timeout)),
            (libc::SOL_SOCKET, libc::SO_TYPE) if stream => libc::SOCK_STREAM,
            (libc::SOL_SOCKET, libc::SO_TYPE) => libc::SOCK_DGRAM,
            (libc::SOL_SOCKET, libc::SO_DOMAIN) => match socket.family() {
                Family::V4 => libc::AF_INET,
                Family::V6 => libc::AF_INET6,
            },
            (libc::SOL_SOCKET, libc::SO_PROTOCOL) if stream => libc::IPPROTO_TCP,
            (libc::SOL_SOCKET, libc::SO_PROTOCOL) => libc::IPPROTO_UDP,
            (libc::SOL_SOCKET, libc::SO_ACCEPTCONN) => {
                c_int::from(matches!(socket.state, State::Listening(_)))
            }
            (libc::SOL_SOCKET, libc::SO_REUSEADDR) => options.reuse_address.into(),
            (libc::SOL_SOCKET, libc::SO_REUSEPORT) => options.reuse_port.into(),
            (libc::SOL_SOCKET, libc::SO_BROADCAST) => options.broadcast.into(),
            (libc::SOL_SOCKET, libc::SO_KEEPALIVE) => options.keep_alive.into(),
            (libc::SOL_SOCKET, libc::SO_RCVBUF) if stream => size(limits.receive_buffer),
            (libc::SOL_SOCKET, libc::SO_SNDBUF) if stream => size(limits.send_buffer),
            (libc::SOL_SOCKET, libc::SO_RCVBUF | libc::SO_SNDBUF) => size(limits.udp_buffer),
            (libc::IPPROTO_TCP, libc::TCP_NODELAY) if stream => options.no_delay.into(),
            (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE) if stream => {
                number(options.keep_idle, KEEP_IDLE)
            }
            (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL) if stream => {
                number(options.keep_interval, KEEP_INTERVAL)
            }
            (libc::IPPROTO_TCP, libc::TCP_KEEPCNT) if stream => {
                number(options.keep_count, KEEP_COUNT)
            }
            (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT) if stream => {
                number(options.user_timeout, 0)
            }
            (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY) if socket.family() == Family::V6 => {
                options.only_v6.into()
            }
            (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS) => 64,
            (libc::IPPROTO_IP, libc::IP_TOS) | (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => 0,
            _ => return Err(Errno(libc::ENOPROTOOPT)),
        };
        Ok(Value::Int(value))
    }

    /// Tells the stack what was set on a stream.
    pub(super) fn apply_options(&mut self, socket: &Socket, id: SocketId) {
        let options = &socket.options;
        let seconds = |value: u32, default: u32| {
            Duration::from_secs(u64::from(if value == 0 { default } else { value }))
        };
        // The socket is open: its file is.
        let _ = self.stack.set_nodelay(id, options.no_delay);
        let limit = Duration::from_millis(options.user_timeout.into());
        let keepalive = options.keep_alive.then(|| {
            let idle = seconds(options.keep_idle, KEEP_IDLE);
            let interval = seconds(options.keep_interval, KEEP_INTERVAL);
            let count = if options.keep_count == 0 { KEEP_COUNT } else { options.keep_count };
            // The limit, where there is one, takes the place of the number of probes, as on Linux.
            let give_up = if limit.is_zero() { idle + interval * count } else { limit };
            KeepAlive { idle, interval, give_up }
        });
        let _ = self.stack.set_keepalive(id, keepalive);
        if !limit.is_zero() {
            let _ = self.stack.set_user_timeout(id, limit);
        }
    }
}
