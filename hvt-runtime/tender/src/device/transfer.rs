//! System calls that move bytes between a descriptor and the guest's memory, without a copy in between.
//!
//! Guest code may change the bytes meanwhile: the kernel copies them, and no Rust reference to them exists.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use vm_memory::VolatileSlice;

/// Reads once, into as much of the slice as the kernel fills.
///
/// # Errors
/// What the host says, except that an interrupted call is repeated.
pub fn read(fd: BorrowedFd<'_>, slice: &VolatileSlice<'_>) -> io::Result<usize> {
    let guard = slice.ptr_guard_mut();
    // SAFETY: the guard keeps `slice.len()` bytes at its pointer mapped and writable for the call; they are shared with
    // the guest, so nobody holds a reference to them.
    repeat(|| unsafe { libc::read(fd.as_raw_fd(), guard.as_ptr().cast(), slice.len()) })
}

/// Writes once, as much of the slice as the kernel takes.
///
/// # Errors
/// What the host says, except that an interrupted call is repeated.
pub fn write(fd: BorrowedFd<'_>, slice: &VolatileSlice<'_>) -> io::Result<usize> {
    loop {
        match write_once(fd, slice) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// As [`write()`], but a signal that interrupts it is an error, so that who waits long can look at what it says.
///
/// # Errors
/// What the host says.
pub fn write_once(fd: BorrowedFd<'_>, slice: &VolatileSlice<'_>) -> io::Result<usize> {
    let guard = slice.ptr_guard();
    // SAFETY: the guard keeps `slice.len()` bytes at its pointer mapped and readable for the call.
    let written = unsafe { libc::write(fd.as_raw_fd(), guard.as_ptr().cast(), slice.len()) };
    usize::try_from(written).map_err(|_| io::Error::last_os_error())
}

/// Reads all of the slice from a place in a file.
///
/// # Errors
/// What the host says; [`io::ErrorKind::UnexpectedEof`] when the file ends before.
pub fn read_exact_at(fd: BorrowedFd<'_>, slice: &VolatileSlice<'_>, offset: u64) -> io::Result<()> {
    let guard = slice.ptr_guard_mut();
    whole(slice.len(), offset, |done, at| {
        // SAFETY: `done` is below the slice's length (see `whole`), so pointer and rest stay inside the guarded bytes,
        // which nobody holds a reference to.
        unsafe {
            let rest = guard.as_ptr().add(done).cast();
            libc::pread(fd.as_raw_fd(), rest, slice.len() - done, at)
        }
    })
}

/// Writes all of the slice to a place in a file.
///
/// # Errors
/// What the host says; [`io::ErrorKind::UnexpectedEof`] when the file takes no more.
pub fn write_all_at(fd: BorrowedFd<'_>, slice: &VolatileSlice<'_>, offset: u64) -> io::Result<()> {
    let guard = slice.ptr_guard();
    whole(slice.len(), offset, |done, at| {
        // SAFETY: as in `read_exact_at`, and the bytes are only read.
        unsafe {
            let rest = guard.as_ptr().add(done).cast();
            libc::pwrite(fd.as_raw_fd(), rest, slice.len() - done, at)
        }
    })
}

/// Repeats a transfer until `len` bytes are done. `once` gets how many are done, always below `len`, and the offset.
fn whole(
    len: usize,
    offset: u64,
    mut once: impl FnMut(usize, libc::off_t) -> isize,
) -> io::Result<()> {
    let mut done = 0;
    while done < len {
        let at = offset.checked_add(done as u64).and_then(|at| libc::off_t::try_from(at).ok());
        let at = at.ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
        match repeat(|| once(done, at))? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => done += n,
        }
    }
    Ok(())
}

fn repeat(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        match usize::try_from(call()) {
            Ok(n) => return Ok(n),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}
