//! Sockets. There are those between two ends inside of the program (`socketpair`, over which tokio's signals come);
//! those of the network need the network stack, and without it there is none of their families.

use core::ffi::{c_char, c_int, c_void};
use core::ptr::null;

use libc::{sockaddr, socklen_t};

use crate::files::{Errno, Kind};

use super::error::{count, fail, status};
use super::file::{buffer, data, read_some, with_files, write_some};

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn recv(fd: c_int, start: *mut c_void, len: usize, _flags: c_int) -> isize {
    // SAFETY: the caller's promise.
    count(only_stream(fd).and_then(|()| read_some(fd, unsafe { buffer(start, len) })))
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn send(fd: c_int, start: *const c_void, len: usize, _flags: c_int) -> isize {
    // SAFETY: the caller's promise.
    count(only_stream(fd).and_then(|()| write_some(fd, unsafe { data(start, len) })))
}

fn only_stream(fd: c_int) -> Result<(), Errno> {
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

#[unsafe(no_mangle)]
extern "C" fn shutdown(fd: c_int, how: c_int) -> c_int {
    status(only_stream(fd).and_then(|()| {
        if how == libc::SHUT_RD {
            return Ok(0);
        }
        with_files(|files| {
            let id = files.id(fd)?;
            files.stream_finish(id).map(|()| 0)
        })
    }))
}

#[unsafe(no_mangle)]
extern "C" fn socket(_family: c_int, _kind: c_int, _protocol: c_int) -> c_int {
    fail(Errno(libc::EAFNOSUPPORT))
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn recvfrom(
    fd: c_int,
    start: *mut c_void,
    len: usize,
    flags: c_int,
    _from: *mut sockaddr,
    from_len: *mut socklen_t,
) -> isize {
    // SAFETY: the caller's promise. The other end has no name.
    unsafe {
        if !from_len.is_null() {
            *from_len = 0;
        }
        recv(fd, start, len, flags)
    }
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn sendto(
    fd: c_int,
    start: *const c_void,
    len: usize,
    flags: c_int,
    _to: *const sockaddr,
    _to_len: socklen_t,
) -> isize {
    // SAFETY: the caller's promise.
    unsafe { send(fd, start, len, flags) }
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
    if let Err(error) = only_stream(fd) {
        return fail(error);
    }
    if (level, option) != (libc::SOL_SOCKET, libc::SO_ERROR) {
        return fail(Errno(libc::ENOPROTOOPT));
    }
    // SAFETY: the caller's promise. A pair inside of the program has no pending errors.
    unsafe {
        value.cast::<c_int>().write(0);
        *len = 4;
    }
    0
}

/// Calls that only sockets of the network have a use for.
macro_rules! network_only {
    ($($name:ident)*) => {
        $(
            #[unsafe(no_mangle)]
            extern "C" fn $name(fd: c_int) -> c_int {
                status(only_stream(fd).and(Err(Errno(libc::EOPNOTSUPP))))
            }
        )*
    };
}

network_only! {
    bind listen accept accept4 connect getsockname getpeername setsockopt recvmsg sendmsg
}

#[unsafe(no_mangle)]
extern "C" fn getaddrinfo(
    _name: *const c_char,
    _service: *const c_char,
    _hints: *const c_void,
    _out: *mut c_void,
) -> c_int {
    libc::EAI_FAIL
}

#[unsafe(no_mangle)]
extern "C" fn freeaddrinfo(_list: *mut c_void) {}

#[unsafe(no_mangle)]
extern "C" fn __res_init() -> c_int {
    0
}

/// The error text of `getaddrinfo`.
#[unsafe(no_mangle)]
extern "C" fn gai_strerror(code: c_int) -> *const c_char {
    if code == 0 {
        null()
    } else {
        c"there is no resolver: name servers must be asked directly".as_ptr()
    }
}
