//! `sendmsg` and `recvmsg`: several pieces at once, with an address. There is no control data.

use alloc::vec;
use alloc::vec::Vec;
use core::ffi::c_int;
use core::slice;

use libc::{iovec, msghdr, socklen_t};

use crate::files::Errno;

use super::super::error::{count, fail};
use super::super::file::{buffer, data, is_socket};
use super::calls::{given, receive_from, send_to, tell};

/// The most bytes that one call carries.
const MAX: usize = 1 << 20;

/// # Safety
/// `message` is as in C.
unsafe fn pieces<'a>(message: &msghdr) -> &'a [iovec] {
    if message.msg_iovlen == 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { slice::from_raw_parts(message.msg_iov, message.msg_iovlen) }
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn sendmsg(fd: c_int, message: *const msghdr, flags: c_int) -> isize {
    match is_socket(fd) {
        Ok(true) => {}
        Ok(false) => return fail(Errno(libc::ENOTSOCK)) as isize,
        Err(error) => return fail(error) as isize,
    }
    // SAFETY: the caller's promise.
    let (bytes, to) = unsafe {
        let message = &*message;
        let mut bytes = Vec::new();
        for piece in pieces(message) {
            let room = MAX - bytes.len();
            bytes.extend_from_slice(data(piece.iov_base, piece.iov_len.min(room)));
        }
        let to = match message.msg_name.is_null() {
            true => Ok(None),
            false => given(message.msg_name.cast(), message.msg_namelen),
        };
        (bytes, to)
    };
    count(to.and_then(|to| send_to(fd, &bytes, flags, to)))
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn recvmsg(fd: c_int, message: *mut msghdr, flags: c_int) -> isize {
    match is_socket(fd) {
        Ok(true) => {}
        Ok(false) => return fail(Errno(libc::ENOTSOCK)) as isize,
        Err(error) => return fail(error) as isize,
    }
    // SAFETY: the caller's promise.
    let message = unsafe { &mut *message };
    // SAFETY: as above.
    let pieces = unsafe { pieces(message) };
    let room = pieces.iter().map(|piece| piece.iov_len).sum::<usize>().min(MAX);
    let mut bytes = vec![0; room];
    let received = receive_from(fd, &mut bytes, flags | libc::MSG_TRUNC);
    count(received.map(|(len, from)| {
        let copied = len.min(room);
        let mut rest = &bytes[..copied];
        for piece in pieces {
            let (now, later) = rest.split_at(piece.iov_len.min(rest.len()));
            // SAFETY: the caller's promise.
            unsafe { buffer(piece.iov_base, now.len()) }.copy_from_slice(now);
            rest = later;
        }
        message.msg_flags = if len > room { libc::MSG_TRUNC } else { 0 };
        message.msg_controllen = 0;
        let mut name_len: socklen_t = message.msg_namelen;
        // SAFETY: the caller's promise.
        unsafe { tell(from, message.msg_name.cast(), &raw mut name_len) };
        message.msg_namelen = if from.is_some() { name_len } else { 0 };
        if flags & libc::MSG_TRUNC != 0 { len } else { copied }
    }))
}
