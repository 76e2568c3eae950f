//! The C symbols of sockets: those of the network, and the ends of a `socketpair` inside of the program, over which
//! tokio's signals come.

use alloc::boxed::Box;
use core::ffi::{c_int, c_void};
use core::net::SocketAddr;

use libc::{sockaddr, socklen_t};
use netstack::Shutdown;

use crate::files::{Errno, Kind, OUT, READ_HANGUP};
use crate::net::{Family, Network, Socket, Transport, Value, address, moment};
use crate::sched::{Channel, Wake};

use super::super::error::{count, fail, status};
use super::super::file::{buffer, data, is_socket, read_some, with_files, write_some};
use super::super::thread::{self, CHANNEL_FILE};
use super::super::time;
use super::device::Port;
use super::on_socket;

/// What a call may wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Receive,
    Send,
}

/// Does an operation on a socket, waiting for it to become possible as the socket and the flags of the call say.
pub(super) fn waiting<R>(
    fd: c_int,
    flags: c_int,
    direction: Direction,
    mut operation: impl FnMut(&mut Network<Port>, u32, &mut Socket) -> Result<R, Errno>,
) -> Result<R, Errno> {
    let mut deadline = None;
    let mut timed_out = false;
    loop {
        let result = on_socket(fd, &mut operation);
        if !matches!(result, Err(Errno::AGAIN)) || flags & libc::MSG_DONTWAIT != 0 || timed_out {
            return result;
        }
        let (id, nonblocking, limit) = with_files(|files| {
            let id = files.id(fd)?;
            let file = files.get(fd)?;
            let limit = match &file.kind {
                Kind::Socket(socket) if direction == Direction::Receive => socket.receive_timeout(),
                Kind::Socket(socket) => socket.send_timeout(),
                _ => None,
            };
            Ok((id, file.nonblocking, limit))
        })?;
        if nonblocking {
            return result;
        }
        if let Some(limit) = limit {
            let limit = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
            deadline.get_or_insert_with(|| time::now().saturating_add(limit));
        }
        timed_out = thread::block(CHANNEL_FILE | Channel::from(id), deadline) == Wake::TimedOut;
    }
}

/// Receives from a socket of the network.
pub(in super::super) fn receive(
    fd: c_int,
    buffer: &mut [u8],
    flags: c_int,
) -> Result<usize, Errno> {
    receive_from(fd, buffer, flags).map(|(received, _)| received)
}

/// Receives from a socket of the network, with the sender of a datagram.
pub(super) fn receive_from(
    fd: c_int,
    buffer: &mut [u8],
    flags: c_int,
) -> Result<(usize, Option<SocketAddr>), Errno> {
    if flags & libc::MSG_OOB != 0 {
        return Err(Errno::INVALID);
    }
    let peek = flags & libc::MSG_PEEK != 0;
    let mut filled = 0;
    loop {
        let (received, from) = waiting(fd, flags, Direction::Receive, |network, _, socket| {
            if socket.transport() == Transport::Stream {
                return Ok((network.receive(socket, &mut buffer[filled..], peek)?, None));
            }
            let (data, from, _) =
                if peek { network.peek_from(socket) } else { network.receive_from(socket) }?;
            let copied = data.len().min(buffer.len());
            buffer[..copied].copy_from_slice(&data[..copied]);
            let len = if flags & libc::MSG_TRUNC != 0 { data.len() } else { copied };
            Ok((len, Some(from)))
        })
        // What has come already is told first.
        .or_else(|error| if filled > 0 { Ok((0, None)) } else { Err(error) })?;
        filled += received;
        let more = flags & libc::MSG_WAITALL != 0 && from.is_none() && !peek && received > 0;
        if !more || filled >= buffer.len() {
            return Ok((filled, from));
        }
    }
}

/// Sends on a socket of the network; a blocking one sends all, as on Linux.
pub(in super::super) fn send(fd: c_int, data: &[u8], flags: c_int) -> Result<usize, Errno> {
    send_to(fd, data, flags, None)
}

pub(super) fn send_to(
    fd: c_int,
    data: &[u8],
    flags: c_int,
    to: Option<SocketAddr>,
) -> Result<usize, Errno> {
    if flags & libc::MSG_OOB != 0 {
        return Err(Errno(libc::EOPNOTSUPP));
    }
    let mut sent = 0;
    loop {
        let step =
            waiting(fd, flags, Direction::Send, |network, file, socket| match socket.transport() {
                Transport::Stream => network.send(socket, &data[sent..]).map(|sent| (sent, true)),
                Transport::Datagram => {
                    let now = moment(time::now());
                    network.send_to(file, socket, data, to, now).map(|sent| (sent, false))
                }
            });
        match step {
            Ok((more, true)) => sent += more,
            Ok((all, false)) => return Ok(all),
            Err(_) if sent > 0 => return Ok(sent),
            Err(error) => return Err(error),
        }
        let blocking = flags & libc::MSG_DONTWAIT == 0
            && with_files(|files| files.get(fd).map(|file| !file.nonblocking))?;
        if sent >= data.len() || !blocking {
            return Ok(sent);
        }
    }
}

// === Making, naming ===

#[unsafe(no_mangle)]
extern "C" fn socket(family: c_int, kind: c_int, protocol: c_int) -> c_int {
    let family = match family {
        libc::AF_INET => Family::V4,
        libc::AF_INET6 => Family::V6,
        _ => return fail(Errno(libc::EAFNOSUPPORT)),
    };
    let transport = match (kind & 0xf, protocol) {
        (libc::SOCK_STREAM, 0 | libc::IPPROTO_TCP) => Transport::Stream,
        (libc::SOCK_DGRAM, 0 | libc::IPPROTO_UDP) => Transport::Datagram,
        (libc::SOCK_STREAM | libc::SOCK_DGRAM, _) => return fail(Errno(libc::EPROTONOSUPPORT)),
        _ => return fail(Errno(libc::ESOCKTNOSUPPORT)),
    };
    let socket = Kind::Socket(Box::new(Socket::new(family, transport)));
    let nonblocking = kind & libc::SOCK_NONBLOCK != 0;
    status(with_files(|files| files.open(socket, libc::O_RDWR, nonblocking)))
}

/// An address that the program gives.
///
/// # Safety
/// There are `len` readable bytes, or the pointer is null.
pub(super) unsafe fn given(
    from: *const sockaddr,
    len: socklen_t,
) -> Result<Option<SocketAddr>, Errno> {
    if from.is_null() {
        return Err(Errno(libc::EFAULT));
    }
    // SAFETY: the caller's promise.
    address::parse(unsafe { data(from.cast(), len as usize) })
}

/// Tells the program an address, cut to the room that it has.
///
/// # Safety
/// As for `getsockname`: both are null, or `len` is the room at `to`.
pub(super) unsafe fn tell(shown: Option<SocketAddr>, to: *mut sockaddr, len: *mut socklen_t) {
    if to.is_null() || len.is_null() {
        return;
    }
    let (bytes, size) = shown.map_or(([0; address::SIZE_V6], 0), address::emit);
    // SAFETY: the caller's promise.
    unsafe {
        let room = (*len as usize).min(size);
        to.cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), room);
        *len = socklen_t::try_from(size).unwrap_or(0);
    }
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn bind(fd: c_int, local: *const sockaddr, len: socklen_t) -> c_int {
    // SAFETY: the caller's promise.
    let local = unsafe { given(local, len) };
    status(on_socket(fd, |network, file, socket| {
        let local = local?.ok_or(Errno(libc::EAFNOSUPPORT))?;
        network.bind(file, socket, local).map(|()| 0)
    }))
}

#[unsafe(no_mangle)]
extern "C" fn listen(fd: c_int, backlog: c_int) -> c_int {
    status(on_socket(fd, |network, file, socket| network.listen(file, socket, backlog).map(|()| 0)))
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn accept4(
    fd: c_int,
    from: *mut sockaddr,
    from_len: *mut socklen_t,
    flags: c_int,
) -> c_int {
    let accepted = waiting(fd, 0, Direction::Receive, |network, _, socket| network.accept(socket));
    let opened = accepted.and_then(|(socket, peer)| {
        let fd = with_files(|files| {
            let nonblocking = flags & libc::SOCK_NONBLOCK != 0;
            files.open(Kind::Socket(Box::new(socket)), libc::O_RDWR, nonblocking)
        })?;
        on_socket(fd, |network, file, socket| {
            network.adopt(file, socket);
            Ok(())
        })?;
        // SAFETY: the caller's promise.
        unsafe { tell(Some(peer), from, from_len) };
        Ok(fd)
    });
    status(opened)
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn accept(fd: c_int, from: *mut sockaddr, from_len: *mut socklen_t) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { accept4(fd, from, from_len, 0) }
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn connect(fd: c_int, remote: *const sockaddr, len: socklen_t) -> c_int {
    // SAFETY: the caller's promise.
    let remote = unsafe { given(remote, len) };
    let begun = on_socket(fd, |network, file, socket| match remote? {
        Some(remote) => network.connect(file, socket, remote, moment(time::now())),
        None if socket.transport() == Transport::Datagram => {
            network.connect_datagram(file, socket, None)
        }
        None => Err(Errno(libc::EAFNOSUPPORT)),
    });
    let in_progress = Errno(libc::EINPROGRESS);
    if begun != Err(in_progress) {
        return status(begun.map(|()| 0));
    }
    let done = waiting(fd, 0, Direction::Send, |network, _, socket| network.connected(socket));
    status(
        done.map(|()| 0).map_err(|error| if error == Errno::AGAIN { in_progress } else { error }),
    )
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn getsockname(fd: c_int, to: *mut sockaddr, len: *mut socklen_t) -> c_int {
    status(on_socket(fd, |network, _, socket| {
        let local = socket.family().show(network.local_address(socket)?);
        // SAFETY: the caller's promise.
        unsafe { tell(Some(local), to, len) };
        Ok(0)
    }))
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn getpeername(fd: c_int, to: *mut sockaddr, len: *mut socklen_t) -> c_int {
    status(on_socket(fd, |network, _, socket| {
        let peer = socket.family().show(network.peer_address(socket)?);
        // SAFETY: the caller's promise.
        unsafe { tell(Some(peer), to, len) };
        Ok(0)
    }))
}

// === Data ===

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn recv(fd: c_int, start: *mut c_void, len: usize, flags: c_int) -> isize {
    // SAFETY: the caller's promise.
    unsafe { recvfrom(fd, start, len, flags, core::ptr::null_mut(), core::ptr::null_mut()) }
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn recvfrom(
    fd: c_int,
    start: *mut c_void,
    len: usize,
    flags: c_int,
    from: *mut sockaddr,
    from_len: *mut socklen_t,
) -> isize {
    // SAFETY: the caller's promise.
    let buffer = unsafe { buffer(start, len) };
    let received = match is_socket(fd) {
        Ok(true) => receive_from(fd, buffer, flags),
        Ok(false) => only_pair(fd).and_then(|()| read_some(fd, buffer)).map(|n| (n, None)),
        Err(error) => Err(error),
    };
    count(received.map(|(received, sender)| {
        // SAFETY: the caller's promise.
        unsafe { tell(sender, from, from_len) };
        received
    }))
}

/// # Safety
/// As in C.
#[unsafe(export_name = "send")]
unsafe extern "C" fn send_all(fd: c_int, start: *const c_void, len: usize, flags: c_int) -> isize {
    // SAFETY: the caller's promise.
    unsafe { sendto(fd, start, len, flags, core::ptr::null(), 0) }
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn sendto(
    fd: c_int,
    start: *const c_void,
    len: usize,
    flags: c_int,
    to: *const sockaddr,
    to_len: socklen_t,
) -> isize {
    // SAFETY: the caller's promise.
    let (bytes, to) = unsafe {
        let to = if to.is_null() { Ok(None) } else { given(to, to_len) };
        (data(start, len), to)
    };
    count(match is_socket(fd) {
        Ok(true) => to.and_then(|to| send_to(fd, bytes, flags, to)),
        Ok(false) => only_pair(fd).and_then(|()| write_some(fd, bytes)),
        Err(error) => Err(error),
    })
}

#[unsafe(no_mangle)]
extern "C" fn shutdown(fd: c_int, how: c_int) -> c_int {
    let how = match how {
        libc::SHUT_RD => Shutdown::Read,
        libc::SHUT_WR => Shutdown::Write,
        libc::SHUT_RDWR => Shutdown::Both,
        _ => return fail(Errno::INVALID),
    };
    if is_socket(fd) == Ok(true) {
        let done = on_socket(fd, |network, file, socket| network.shutdown(file, socket, how));
        return status(done.and_then(|()| {
            with_files(|files| {
                let id = files.id(fd)?;
                // Whoever waits finds out what it means for him.
                files.changed(id, OUT | READ_HANGUP | crate::files::IN);
                Ok(0)
            })
        }));
    }
    status(only_pair(fd).and_then(|()| {
        if how == Shutdown::Read {
            return Ok(0);
        }
        with_files(|files| {
            let id = files.id(fd)?;
            files.stream_finish(id).map(|()| 0)
        })
    }))
}

// === Options ===

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn setsockopt(
    fd: c_int,
    level: c_int,
    option: c_int,
    value: *const c_void,
    len: socklen_t,
) -> c_int {
    // SAFETY: the caller's promise.
    let value = Value::parse(level, option, unsafe { data(value, len as usize) });
    status(on_socket(fd, |network, _, socket| {
        network.set_option(socket, level, option, &value?).map(|()| 0)
    }))
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn getsockopt(
    fd: c_int,
    level: c_int,
    option: c_int,
    value: *mut c_void,
    len: *mut socklen_t,
) -> c_int {
    let error = (level, option) == (libc::SOL_SOCKET, libc::SO_ERROR);
    let found = match is_socket(fd) {
        Ok(true) => on_socket(fd, |network, _, socket| {
            if error {
                return Ok(Value::Int(network.take_error(socket).map_or(0, |error| error.0)));
            }
            network.option(socket, level, option)
        }),
        // A pair inside of the program has no pending errors.
        Ok(false) if error => only_pair(fd).map(|()| Value::Int(0)),
        Ok(false) => only_pair(fd).and(Err(Errno(libc::ENOPROTOOPT))),
        Err(error) => Err(error),
    };
    status(found.map(|found| {
        let bytes = found.bytes();
        // SAFETY: the caller's promise.
        unsafe {
            let room = (*len as usize).min(bytes.len());
            value.cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), room);
            *len = socklen_t::try_from(room).unwrap_or(0);
        }
        0
    }))
}

// === Pairs inside of the program ===

fn only_pair(fd: c_int) -> Result<(), Errno> {
    with_files(|files| match files.get(fd)?.kind {
        Kind::Stream(_) => Ok(()),
        _ => Err(Errno(libc::ENOTSOCK)),
    })
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn socketpair(
    family: c_int,
    kind: c_int,
    _protocol: c_int,
    out: *mut c_int,
) -> c_int {
    if family != libc::AF_UNIX || kind & 0xf != libc::SOCK_STREAM {
        return fail(Errno(libc::EAFNOSUPPORT));
    }
    let pair =
        with_files(|files| files.open_pair([libc::O_RDWR; 2], kind & libc::SOCK_NONBLOCK != 0));
    // SAFETY: the caller's promise.
    status(pair.map(|pair| unsafe {
        out.cast::<[c_int; 2]>().write(pair);
        0
    }))
}
