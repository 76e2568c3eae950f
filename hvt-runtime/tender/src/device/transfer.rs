//! System calls that move bytes between a descriptor and the guest's memory, without a copy in between.
//!
//! Guest code may change the bytes meanwhile: the kernel copies them, and no Rust reference to them exists.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use vm_memory::VolatileSlice;

/// What [`read_packet`] read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Bytes in the slice.
    pub len: usize,
    /// The packet was longer than the slice and lost its end.
    pub cut: bool,
}

/// Reads one packet of a descriptor that keeps them apart: its first bytes into `header`, all of which must be there, the
/// rest into the slice.
///
/// # Errors
/// What the host says, except that an interrupted call is repeated; [`io::ErrorKind::UnexpectedEof`] when nothing or only
/// a part of the header came.
pub fn read_packet(
    fd: BorrowedFd<'_>,
    header: &mut [u8],
    slice: &VolatileSlice<'_>,
) -> io::Result<Packet> {
    let guard = slice.ptr_guard_mut();
    // One byte more than there is room for tells whether something was lost.
    let mut spare = 0_u8;
    let part = |start: *mut u8, len| libc::iovec { iov_base: start.cast(), iov_len: len };
    let parts = [
        part(header.as_mut_ptr(), header.len()),
        part(guard.as_ptr(), slice.len()),
        part(&raw mut spare, 1),
    ];
    // SAFETY: three parts are passed: the header, which is borrowed; the slice, whose bytes the guard keeps mapped and
    // writable for the call, shared with the guest, so nobody holds a reference to them; and one byte of this frame.
    let got = repeat(|| unsafe { libc::readv(fd.as_raw_fd(), parts.as_ptr(), 3) })?;
    match got.checked_sub(header.len()) {
        None | Some(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Some(len) => Ok(Packet { len: len.min(slice.len()), cut: len > slice.len() }),
    }
}

/// Reads one packet into the tender's own memory: its first bytes into `header`, all of which must be there, the rest into
/// `bytes`, which must have room for all of it. How long the rest is.
///
/// # Errors
/// As [`read_packet`].
pub fn read_packet_here(
    fd: BorrowedFd<'_>,
    header: &mut [u8],
    bytes: &mut [u8],
) -> io::Result<usize> {
    let part = |b: &mut [u8]| libc::iovec { iov_base: b.as_mut_ptr().cast(), iov_len: b.len() };
    let parts = [part(header), part(bytes)];
    // SAFETY: two parts are passed, both borrowed exclusively for the call.
    let got = repeat(|| unsafe { libc::readv(fd.as_raw_fd(), parts.as_ptr(), 2) })?;
    match got.checked_sub(header.len()) {
        None | Some(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Some(len) => Ok(len),
    }
}

/// Writes one packet: the beginnings, then what each slice has from byte `skip` on. At most 1,000 slices.
///
/// # Errors
/// What the host says, except that an interrupted call is repeated.
pub fn write_parts(
    fd: BorrowedFd<'_>,
    beginnings: [&[u8]; 2],
    slices: &[VolatileSlice<'_>],
    skip: usize,
) -> io::Result<usize> {
    let guards: Vec<_> = slices.iter().map(VolatileSlice::ptr_guard).collect();
    let part =
        |start: *const u8, len| libc::iovec { iov_base: start.cast_mut().cast(), iov_len: len };
    let mut parts: Vec<_> = beginnings.iter().map(|b| part(b.as_ptr(), b.len())).collect();
    parts.extend(slices.iter().zip(&guards).map(|(slice, guard)| {
        let skip = skip.min(slice.len());
        part(guard.as_ptr().wrapping_add(skip), slice.len() - skip)
    }));
    let count = libc::c_int::try_from(parts.len()).unwrap_or(0);
    // SAFETY: `count` parts are passed, which are only read: the beginnings, which are borrowed, and ends of the slices,
    // none of which begins behind its slice, whose bytes the guards keep mapped and readable for the call.
    repeat(|| unsafe { libc::writev(fd.as_raw_fd(), parts.as_ptr(), count) })
}

/// Writes one packet: the header, then the slice.
///
/// # Errors
/// What the host says, except that an interrupted call is repeated.
pub fn write_packet(
    fd: BorrowedFd<'_>,
    header: &[u8],
    slice: &VolatileSlice<'_>,
) -> io::Result<usize> {
    if header.is_empty() {
        return repeat(|| once(fd, slice));
    }
    let guard = slice.ptr_guard();
    let part =
        |start: *const u8, len| libc::iovec { iov_base: start.cast_mut().cast(), iov_len: len };
    let parts = [part(header.as_ptr(), header.len()), part(guard.as_ptr(), slice.len())];
    // SAFETY: two parts are passed, which are only read: the header, which is borrowed, and the slice, whose bytes the
    // guard keeps mapped and readable for the call.
    repeat(|| unsafe { libc::writev(fd.as_raw_fd(), parts.as_ptr(), 2) })
}

/// Writes once, as much of the slice as the kernel takes. A signal that interrupts it is an error, so that who waits long
/// can look at what it says.
///
/// # Errors
/// What the host says.
pub fn write_once(fd: BorrowedFd<'_>, slice: &VolatileSlice<'_>) -> io::Result<usize> {
    usize::try_from(once(fd, slice)).map_err(|_| io::Error::last_os_error())
}

fn once(fd: BorrowedFd<'_>, slice: &VolatileSlice<'_>) -> isize {
    let guard = slice.ptr_guard();
    // SAFETY: the guard keeps `slice.len()` bytes at its pointer mapped and readable for the call.
    unsafe { libc::write(fd.as_raw_fd(), guard.as_ptr().cast(), slice.len()) }
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
