//! Files by name and by descriptor: the console, the block devices under `/dev`, and the few files that programs expect
//! to find.
//!
//! There is no file system: nothing else can be opened, and nothing can be created.

use core::ffi::{c_char, c_int, c_long, c_uint, c_ulong, c_void};
use core::slice;

use libc::{iovec, pollfd, stat64 as Status};

use crate::files::{Errno, FileId, Files, IN, Kind, OUT};
use crate::net::Transport;
use crate::sched::Channel;

use super::error::{count, fail, status};
use super::single::Single;
use super::thread::{self, CHANNEL_FILE};
use super::{block, entropy, hypercall, net, proc, string, symbols, time};

static FILES: Single<Files> = Single::new(Files::new());

/// Opens the console as the standard descriptors.
pub(super) fn start() {
    with_files(|files| {
        for _ in 0..3 {
            // Three of a million descriptors.
            let _ = files.open(Kind::Console, libc::O_RDWR, false);
        }
    });
}

/// Uses the descriptors, and wakes who waits for what changed.
pub(super) fn with_files<R>(body: impl FnOnce(&mut Files) -> R) -> R {
    let result = FILES.with(body);
    while let Some((id, socket)) = FILES.with(Files::take_closed) {
        net::close(id, &socket);
    }
    while let Some(id) = FILES.with(Files::take_wakes) {
        thread::wake(CHANNEL_FILE | Channel::from(id), usize::MAX);
    }
    result
}

/// Numbers of descriptors that the table has room for.
pub(super) fn descriptors() -> usize {
    FILES.with(|files| files.table_size())
}

/// How many sockets are open, and how many of them are for datagrams.
pub(super) fn sockets() -> (usize, usize) {
    FILES.with(|files| {
        let datagrams =
            files.sockets().filter(|socket| socket.transport() == Transport::Datagram).count();
        (files.sockets().count(), datagrams)
    })
}

/// Does an operation on a file, waiting for it to become possible if the file is a blocking one.
pub(super) fn waiting<R>(
    fd: c_int,
    mut operation: impl FnMut(&mut Files, FileId) -> Result<R, Errno>,
) -> Result<R, Errno> {
    loop {
        let (id, nonblocking) =
            with_files(|files| Ok((files.id(fd)?, files.get(fd)?.nonblocking)))?;
        match with_files(|files| operation(files, id)) {
            Err(Errno::AGAIN) if !nonblocking => {
                thread::block(CHANNEL_FILE | Channel::from(id), None);
            }
            result => return result,
        }
    }
}

// === By name ===

fn kind_of(path: &[u8]) -> Result<Kind, Errno> {
    match path {
        b"/dev/null" => Ok(Kind::Null),
        b"/dev/zero" => Ok(Kind::Zero),
        b"/dev/random" | b"/dev/urandom" => Ok(Kind::Random),
        b"/dev/console" | b"/dev/stdout" | b"/dev/stderr" | b"/dev/tty" => Ok(Kind::Console),
        b"/proc/self/exe" => Ok(Kind::Memory(symbols::executable())),
        _ => {
            let device = path.strip_prefix(b"/dev/").and_then(block::find).map(Kind::Block);
            device.or_else(|| proc::content(path).map(Kind::Text)).ok_or(Errno::NOT_FOUND)
        }
    }
}

fn open_path(path: &[u8], flags: c_int) -> Result<c_int, Errno> {
    let create = flags & libc::O_CREAT != 0;
    let kind = match kind_of(path) {
        Err(Errno::NOT_FOUND) if create => return Err(Errno(libc::EROFS)),
        kind => kind?,
    };
    if create && flags & libc::O_EXCL != 0 {
        return Err(Errno::EXISTS);
    }
    let access = flags & libc::O_ACCMODE;
    if matches!(kind, Kind::Memory(_) | Kind::Text(_)) && access != libc::O_RDONLY {
        return Err(Errno(libc::EROFS));
    }
    with_files(|files| files.open(kind, access, flags & libc::O_NONBLOCK != 0))
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn open64(path: *const c_char, flags: c_int, _mode: c_uint) -> c_int {
    // SAFETY: the caller's promise.
    status(open_path(unsafe { string::bytes(path) }, flags))
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { open64(path, flags, mode) }
}

/// Names are absolute here, so the directory does not matter.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn openat64(_: c_int, path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { open64(path, flags, mode) }
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn stat64(path: *const c_char, out: *mut Status) -> c_int {
    // SAFETY: the caller's promise.
    let kind = kind_of(unsafe { string::bytes(path) });
    // SAFETY: as above.
    status(kind.map(|kind| unsafe { fill_status(&kind, out) }))
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn stat(path: *const c_char, out: *mut Status) -> c_int {
    // SAFETY: the caller's promise; on x86-64 both structures are the same.
    unsafe { stat64(path, out) }
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn lstat64(path: *const c_char, out: *mut Status) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { stat64(path, out) }
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn readlink(path: *const c_char, buffer: *mut c_char, len: usize) -> isize {
    // SAFETY: the caller's promise.
    if unsafe { string::bytes(path) } != b"/proc/self/exe" {
        return fail(Errno(libc::EINVAL)) as isize;
    }
    // The name of the file is a name of itself.
    let name = b"/proc/self/exe";
    let len = len.min(name.len());
    // SAFETY: the caller's promise.
    unsafe { buffer.cast::<u8>().copy_from_nonoverlapping(name.as_ptr(), len) };
    len.cast_signed()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn access(path: *const c_char, _mode: c_int) -> c_int {
    // SAFETY: the caller's promise.
    status(kind_of(unsafe { string::bytes(path) }).map(|_| 0))
}

// === Reading and writing ===

fn read_at(kind: &Kind, position: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
    match kind {
        Kind::Null | Kind::Console => Ok(0),
        Kind::Zero => {
            buffer.fill(0);
            Ok(buffer.len())
        }
        Kind::Random => {
            entropy::fill(buffer);
            Ok(buffer.len())
        }
        Kind::Memory(bytes) => Ok(read_bytes(bytes, position, buffer)),
        Kind::Text(bytes) => Ok(read_bytes(bytes, position, buffer)),
        Kind::Block(index) => block::read(*index, position, buffer),
        Kind::Event(_) | Kind::Epoll(_) | Kind::Stream(_) | Kind::Socket(_) => {
            Err(Errno(libc::ESPIPE))
        }
    }
}

fn read_bytes(bytes: &[u8], position: u64, buffer: &mut [u8]) -> usize {
    let start = usize::try_from(position).unwrap_or(usize::MAX).min(bytes.len());
    let len = buffer.len().min(bytes.len() - start);
    buffer[..len].copy_from_slice(&bytes[start..start + len]);
    len
}

fn write_at(kind: &Kind, position: u64, data: &[u8]) -> Result<usize, Errno> {
    match kind {
        Kind::Null | Kind::Zero | Kind::Random => Ok(data.len()),
        Kind::Console => {
            hypercall::puts(data);
            Ok(data.len())
        }
        Kind::Memory(_) | Kind::Text(_) => Err(Errno::BAD_DESCRIPTOR),
        Kind::Block(index) => block::write(*index, position, data),
        Kind::Event(_) | Kind::Epoll(_) | Kind::Stream(_) | Kind::Socket(_) => {
            Err(Errno(libc::ESPIPE))
        }
    }
}

pub(super) fn read_some(fd: c_int, buffer: &mut [u8]) -> Result<usize, Errno> {
    if is_socket(fd)? {
        return net::receive(fd, buffer, 0);
    }
    waiting(fd, |files, id| {
        let file = files.get(fd)?;
        if file.access == libc::O_WRONLY {
            return Err(Errno::BAD_DESCRIPTOR);
        }
        match file.kind {
            Kind::Event(_) => {
                let target = buffer.first_chunk_mut::<8>().ok_or(Errno::INVALID)?;
                *target = files.event_read(id)?.to_ne_bytes();
                Ok(8)
            }
            Kind::Stream(_) => files.stream_read(id, buffer),
            Kind::Epoll(_) => Err(Errno::INVALID),
            _ => {
                let count = read_at(&file.kind, file.position, buffer)?;
                file.position += count as u64;
                Ok(count)
            }
        }
    })
}

pub(super) fn write_some(fd: c_int, data: &[u8]) -> Result<usize, Errno> {
    if is_socket(fd)? {
        return net::send(fd, data, 0);
    }
    waiting(fd, |files, id| {
        let file = files.get(fd)?;
        if file.access == libc::O_RDONLY {
            return Err(Errno::BAD_DESCRIPTOR);
        }
        match file.kind {
            Kind::Event(_) => {
                let amount = data.first_chunk::<8>().ok_or(Errno::INVALID)?;
                files.event_write(id, u64::from_ne_bytes(*amount))?;
                Ok(8)
            }
            Kind::Stream(_) => files.stream_write(id, data),
            Kind::Epoll(_) => Err(Errno::INVALID),
            _ => {
                let count = write_at(&file.kind, file.position, data)?;
                file.position += count as u64;
                Ok(count)
            }
        }
    })
}

/// Whether a descriptor is a socket of the network.
pub(super) fn is_socket(fd: c_int) -> Result<bool, Errno> {
    with_files(|files| Ok(matches!(files.get(fd)?.kind, Kind::Socket(_))))
}

/// A buffer from C. An empty one may have any address there, but not here.
///
/// # Safety
/// As for `slice::from_raw_parts_mut`, but for an empty one.
pub(super) unsafe fn buffer<'a>(start: *mut c_void, len: usize) -> &'a mut [u8] {
    if len == 0 {
        return &mut [];
    }
    // SAFETY: the caller's promise.
    unsafe { slice::from_raw_parts_mut(start.cast(), len) }
}

/// # Safety
/// As for `slice::from_raw_parts`, but for an empty one.
pub(super) unsafe fn data<'a>(start: *const c_void, len: usize) -> &'a [u8] {
    if len == 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { slice::from_raw_parts(start.cast(), len) }
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn read(fd: c_int, start: *mut c_void, len: usize) -> isize {
    // SAFETY: the caller's promise.
    count(read_some(fd, unsafe { buffer(start, len) }))
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn write(fd: c_int, start: *const c_void, len: usize) -> isize {
    // SAFETY: the caller's promise.
    count(write_some(fd, unsafe { data(start, len) }))
}

/// Goes on with the next piece as long as pieces are done whole.
///
/// # Safety
/// As in C.
unsafe fn each_piece(
    pieces: *const iovec,
    number: c_int,
    mut operation: impl FnMut(&iovec, u64) -> Result<usize, Errno>,
) -> Result<usize, Errno> {
    let number = usize::try_from(number).map_err(|_| Errno::INVALID)?;
    if number == 0 {
        return Ok(0);
    }
    let mut total = 0;
    // SAFETY: the caller's promise.
    for piece in unsafe { slice::from_raw_parts(pieces, number) } {
        match operation(piece, total as u64) {
            Ok(count) => {
                total += count;
                if count < piece.iov_len {
                    break;
                }
            }
            Err(error) if total == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(total)
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn readv(fd: c_int, pieces: *const iovec, number: c_int) -> isize {
    // SAFETY: the caller's promise. After the first piece nothing waits: what is there is enough.
    count(unsafe {
        each_piece(pieces, number, |piece, before| {
            if before > 0 && with_files(|files| Ok(files.readiness(files.id(fd)?)))? & IN == 0 {
                return Ok(0);
            }
            read_some(fd, buffer(piece.iov_base, piece.iov_len))
        })
    })
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn writev(fd: c_int, pieces: *const iovec, number: c_int) -> isize {
    // SAFETY: the caller's promise.
    count(unsafe {
        each_piece(pieces, number, |piece, _| write_some(fd, data(piece.iov_base, piece.iov_len)))
    })
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn pread64(fd: c_int, start: *mut c_void, len: usize, offset: i64) -> isize {
    // SAFETY: the caller's promise.
    let buffer = unsafe { buffer(start, len) };
    count(with_files(|files| {
        let offset = u64::try_from(offset).map_err(|_| Errno::INVALID)?;
        let file = files.get(fd)?;
        if file.access == libc::O_WRONLY {
            return Err(Errno::BAD_DESCRIPTOR);
        }
        read_at(&file.kind, offset, buffer)
    }))
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn pwrite64(fd: c_int, start: *const c_void, len: usize, offset: i64) -> isize {
    // SAFETY: the caller's promise.
    let data = unsafe { data(start, len) };
    count(with_files(|files| {
        let offset = u64::try_from(offset).map_err(|_| Errno::INVALID)?;
        let file = files.get(fd)?;
        if file.access == libc::O_RDONLY {
            return Err(Errno::BAD_DESCRIPTOR);
        }
        write_at(&file.kind, offset, data)
    }))
}

#[unsafe(no_mangle)]
extern "C" fn lseek64(fd: c_int, offset: i64, whence: c_int) -> i64 {
    let result = with_files(|files| {
        let file = files.get(fd)?;
        let base = match (whence, &file.kind) {
            (
                _,
                Kind::Console | Kind::Event(_) | Kind::Epoll(_) | Kind::Stream(_) | Kind::Socket(_),
            ) => return Err(Errno(libc::ESPIPE)),
            (libc::SEEK_SET, _) => 0,
            (libc::SEEK_CUR, _) => file.position,
            (libc::SEEK_END, Kind::Block(index)) => block::geometry(*index).0,
            (libc::SEEK_END, Kind::Memory(bytes)) => bytes.len() as u64,
            (libc::SEEK_END, Kind::Text(bytes)) => bytes.len() as u64,
            (libc::SEEK_END, _) => 0,
            _ => return Err(Errno::INVALID),
        };
        let position = base.checked_add_signed(offset).ok_or(Errno::INVALID)?;
        file.position = position;
        i64::try_from(position).map_err(|_| Errno(libc::EOVERFLOW))
    });
    result.unwrap_or_else(|error| i64::from(fail(error)))
}

#[unsafe(no_mangle)]
extern "C" fn fsync(fd: c_int) -> c_int {
    status(with_files(|files| match files.get(fd)?.kind {
        Kind::Block(index) => block::flush(index).map(|()| 0),
        _ => Err(Errno::INVALID),
    }))
}

#[unsafe(no_mangle)]
extern "C" fn fdatasync(fd: c_int) -> c_int {
    fsync(fd)
}

// === By descriptor ===

/// # Safety
/// `out` is writable.
unsafe fn fill_status(kind: &Kind, out: *mut Status) -> c_int {
    let (mode, size, id) = match kind {
        Kind::Block(index) => (libc::S_IFBLK | 0o600, 0, *index as u64),
        Kind::Memory(bytes) => (libc::S_IFREG | 0o400, bytes.len() as u64, 1),
        // As on Linux, whose files of this kind have no size before they are read.
        Kind::Text(_) => (libc::S_IFREG | 0o400, 0, 5),
        Kind::Event(_) | Kind::Epoll(_) => (0o600, 0, 2),
        Kind::Stream(_) | Kind::Socket(_) => (libc::S_IFSOCK | 0o777, 0, 3),
        _ => (libc::S_IFCHR | 0o600, 0, 4),
    };
    // SAFETY: the caller's promise; zero is a valid value for all fields.
    unsafe {
        core::ptr::write_bytes(out, 0, 1);
        (*out).st_mode = mode;
        (*out).st_size = size.cast_signed();
        (*out).st_ino = id;
        (*out).st_rdev = id;
        (*out).st_nlink = 1;
        (*out).st_blksize = 4096;
    }
    0
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn fstat64(fd: c_int, out: *mut Status) -> c_int {
    // SAFETY: the caller's promise.
    status(with_files(|files| files.get(fd).map(|file| unsafe { fill_status(&file.kind, out) })))
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn fstat(fd: c_int, out: *mut Status) -> c_int {
    // SAFETY: the caller's promise; on x86-64 both structures are the same.
    unsafe { fstat64(fd, out) }
}

#[unsafe(no_mangle)]
extern "C" fn close(fd: c_int) -> c_int {
    status(with_files(|files| files.close(fd)).map(|()| 0))
}

#[unsafe(no_mangle)]
extern "C" fn dup(fd: c_int) -> c_int {
    status(with_files(|files| files.duplicate(fd, 0)))
}

#[unsafe(no_mangle)]
extern "C" fn dup2(fd: c_int, new: c_int) -> c_int {
    status(with_files(|files| files.duplicate_to(fd, new)))
}

#[unsafe(no_mangle)]
extern "C" fn fcntl(fd: c_int, command: c_int, argument: c_long) -> c_int {
    let number = c_int::try_from(argument).unwrap_or(c_int::MAX);
    status(with_files(|files| match command {
        libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => files.duplicate(fd, number),
        libc::F_GETFD => files.close_on_exec(fd, None).map(c_int::from),
        libc::F_SETFD => files.close_on_exec(fd, Some(number & libc::FD_CLOEXEC != 0)).map(|_| 0),
        libc::F_GETFL => {
            let file = files.get(fd)?;
            Ok(file.access | if file.nonblocking { libc::O_NONBLOCK } else { 0 })
        }
        libc::F_SETFL => {
            files.get(fd)?.nonblocking = number & libc::O_NONBLOCK != 0;
            Ok(0)
        }
        _ => Err(Errno::INVALID),
    }))
}

#[unsafe(no_mangle)]
extern "C" fn fcntl64(fd: c_int, command: c_int, argument: c_long) -> c_int {
    fcntl(fd, command, argument)
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn ioctl(fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
    const BLKSSZGET: c_ulong = 0x1268;
    const BLKGETSIZE64: c_ulong = 0x8008_1272;
    status(with_files(|files| {
        let file = files.get(fd)?;
        match (request, &file.kind) {
            (libc::FIONBIO, _) => {
                // SAFETY: the caller's promise.
                file.nonblocking = unsafe { argument.cast::<c_int>().read() } != 0;
            }
            (libc::FIONREAD, Kind::Socket(socket)) => {
                let waiting = net::octets_waiting(socket)?;
                // SAFETY: the caller's promise.
                unsafe { argument.cast::<c_int>().write(waiting.try_into().unwrap_or(c_int::MAX)) };
            }
            (BLKSSZGET, Kind::Block(index)) => {
                let size = c_int::try_from(block::geometry(*index).1).unwrap_or(c_int::MAX);
                // SAFETY: the caller's promise.
                unsafe { argument.cast::<c_int>().write(size) };
            }
            (BLKGETSIZE64, Kind::Block(index)) => {
                // SAFETY: the caller's promise.
                unsafe { argument.cast::<u64>().write(block::geometry(*index).0) };
            }
            _ => return Err(Errno(libc::ENOTTY)),
        }
        Ok(0)
    }))
}

#[unsafe(no_mangle)]
extern "C" fn isatty(fd: c_int) -> c_int {
    if let Err(error) = with_files(|files| files.get(fd).map(|_| ())) {
        fail(error);
        return 0;
    }
    // Escape sequences in a log help nobody.
    fail(Errno(libc::ENOTTY));
    0
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn pipe2(out: *mut c_int, flags: c_int) -> c_int {
    let pair = with_files(|files| {
        files.open_pair([libc::O_RDONLY, libc::O_WRONLY], flags & libc::O_NONBLOCK != 0)
    });
    // SAFETY: the caller's promise.
    status(pair.map(|pair| unsafe {
        out.cast::<[c_int; 2]>().write(pair);
        0
    }))
}

/// Waits for one file as a call on it would, and for several by looking again every millisecond: `std` asks once at the
/// start and while it connects with a time limit, and tokio uses epoll.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn poll(entries: *mut pollfd, number: c_ulong, timeout: c_int) -> c_int {
    const INTERVAL: u64 = 1_000_000;
    let number = usize::try_from(number).unwrap_or(0);
    if number == 0 && timeout == 0 {
        return 0;
    }
    let wait = u64::try_from(timeout).map_or(u64::MAX, |ms| ms * 1_000_000);
    let deadline = time::now().saturating_add(wait);
    loop {
        let mut ready = 0;
        for index in 0..number {
            // SAFETY: the caller's promise.
            let entry = unsafe { &mut *entries.add(index) };
            let mask = with_files(|files| files.id(entry.fd).map(|id| files.readiness(id)));
            let wanted = u32::from(entry.events.cast_unsigned()) | !(IN | OUT);
            #[expect(clippy::cast_possible_truncation, reason = "the flags are the low bits")]
            let found = mask.map_or(libc::POLLNVAL, |mask| ((mask & wanted) as u16).cast_signed());
            entry.revents = if entry.fd < 0 { 0 } else { found };
            ready += c_int::from(entry.revents != 0);
        }
        let now = time::now();
        if ready > 0 || now >= deadline {
            return ready;
        }
        // SAFETY: the caller's promise.
        let only = (number == 1).then(|| unsafe { (*entries).fd });
        match only.and_then(|fd| with_files(|files| files.id(fd)).ok()) {
            Some(id) => {
                thread::block(CHANNEL_FILE | Channel::from(id), Some(deadline));
            }
            None => thread::sleep_until((now + INTERVAL).min(deadline)),
        }
    }
}
