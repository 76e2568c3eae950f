//! `errno` and the C convention of telling errors.

use core::ffi::{c_char, c_int};

use crate::files::Errno;

use super::{string, thread};

#[unsafe(no_mangle)]
extern "C" fn __errno_location() -> *mut c_int {
    thread::errno()
}

/// Sets `errno` and gives the -1 that goes with it.
pub(super) fn fail(error: Errno) -> c_int {
    // SAFETY: the running thread's own variable.
    unsafe { *thread::errno() = error.0 };
    -1
}

/// A result by the C convention.
pub(super) fn status(result: Result<c_int, Errno>) -> c_int {
    result.unwrap_or_else(fail)
}

/// A count by the C convention.
pub(super) fn count(result: Result<usize, Errno>) -> isize {
    match result {
        Ok(count) => count.cast_signed(),
        Err(error) => fail(error) as isize,
    }
}

fn text(error: c_int) -> &'static str {
    match error {
        0 => "Success",
        libc::EPERM => "Operation not permitted",
        libc::ENOENT => "No such file or directory",
        libc::EINTR => "Interrupted system call",
        libc::EIO => "Input/output error",
        libc::EBADF => "Bad file descriptor",
        libc::EAGAIN => "Resource temporarily unavailable",
        libc::ENOMEM => "Cannot allocate memory",
        libc::EACCES => "Permission denied",
        libc::EBUSY => "Device or resource busy",
        libc::EEXIST => "File exists",
        libc::ENOTDIR => "Not a directory",
        libc::EISDIR => "Is a directory",
        libc::EINVAL => "Invalid argument",
        libc::EMFILE => "Too many open files",
        libc::ENOTTY => "Inappropriate ioctl for device",
        libc::EFBIG => "File too large",
        libc::ENOSPC => "No space left on device",
        libc::ESPIPE => "Illegal seek",
        libc::EROFS => "Read-only file system",
        libc::EPIPE => "Broken pipe",
        libc::ERANGE => "Numerical result out of range",
        libc::EDEADLK => "Resource deadlock avoided",
        libc::ENAMETOOLONG => "File name too long",
        libc::ENOSYS => "Function not implemented",
        libc::EOVERFLOW => "Value too large for defined data type",
        libc::ENOTSOCK => "Socket operation on non-socket",
        libc::EOPNOTSUPP => "Operation not supported",
        libc::EAFNOSUPPORT => "Address family not supported by protocol",
        libc::EADDRINUSE => "Address already in use",
        libc::EADDRNOTAVAIL => "Cannot assign requested address",
        libc::ENETDOWN => "Network is down",
        libc::ENETUNREACH => "Network is unreachable",
        libc::ECONNABORTED => "Software caused connection abort",
        libc::ECONNRESET => "Connection reset by peer",
        libc::ENOBUFS => "No buffer space available",
        libc::EISCONN => "Transport endpoint is already connected",
        libc::ENOTCONN => "Transport endpoint is not connected",
        libc::ETIMEDOUT => "Connection timed out",
        libc::ECONNREFUSED => "Connection refused",
        libc::EHOSTUNREACH => "No route to host",
        libc::EALREADY => "Operation already in progress",
        libc::EINPROGRESS => "Operation now in progress",
        _ => "Unknown error",
    }
}

/// The XSI form of `strerror_r`, which `std` calls.
///
/// # Safety
/// `buffer` has `len` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn __xpg_strerror_r(error: c_int, buffer: *mut c_char, len: usize) -> c_int {
    // SAFETY: the caller's promise.
    if unsafe { string::put(text(error), buffer, len) } { 0 } else { libc::ERANGE }
}
