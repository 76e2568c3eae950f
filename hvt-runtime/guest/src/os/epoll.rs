//! `epoll` and `eventfd` over [`crate::files`].

use core::ffi::{c_int, c_uint};

use libc::epoll_event;

use crate::files::{Control, Epoll, Errno, Event, Kind};
use crate::sched::{Channel, Wake};

use super::error::{fail, status};
use super::file::with_files;
use super::thread::{self, CHANNEL_FILE};
use super::time;

#[unsafe(no_mangle)]
extern "C" fn epoll_create1(_flags: c_int) -> c_int {
    status(with_files(|files| files.open(Kind::Epoll(Epoll::default()), libc::O_RDWR, false)))
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn epoll_ctl(
    epoll: c_int,
    operation: c_int,
    fd: c_int,
    event: *const epoll_event,
) -> c_int {
    let control = if operation == libc::EPOLL_CTL_DEL {
        Control::Delete
    } else {
        // SAFETY: the caller's promise. The structure is packed, so it is copied.
        let epoll_event { events, u64: data } = unsafe { event.read_unaligned() };
        match operation {
            libc::EPOLL_CTL_ADD => Control::Add { events, data },
            libc::EPOLL_CTL_MOD => Control::Modify { events, data },
            _ => return fail(Errno::INVALID),
        }
    };
    status(with_files(|files| {
        let id = files.id(epoll)?;
        files.epoll_control(id, fd, control).map(|()| 0)
    }))
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn epoll_wait(
    epoll: c_int,
    out: *mut epoll_event,
    limit: c_int,
    timeout: c_int,
) -> c_int {
    let limit = match usize::try_from(limit) {
        Ok(limit) if limit > 0 => limit,
        _ => return fail(Errno::INVALID),
    };
    let deadline = u64::try_from(timeout)
        .ok()
        .map(|milliseconds| time::now().saturating_add(milliseconds * 1_000_000));
    // Even a program that never waits must let others run. One that looks without waiting has more to do and asks for
    // its next turn: an event loop with long work stands back behind one that serves.
    if timeout == 0 {
        thread::yield_now();
    } else {
        thread::relax();
    }
    let mut timed_out = timeout == 0;
    loop {
        let taken = with_files(|files| {
            let id = files.id(epoll)?;
            Ok((id, files.epoll_take(id, limit)?))
        });
        match taken {
            Ok((id, news)) if news.is_empty() && !timed_out => {
                let channel = CHANNEL_FILE | Channel::from(id);
                timed_out = thread::block(channel, deadline) == Wake::TimedOut;
            }
            Ok((_, news)) => {
                for (index, ready) in news.iter().enumerate() {
                    let event = epoll_event { events: ready.events, u64: ready.data };
                    // SAFETY: the caller's promise; there are at most `limit` news.
                    unsafe { out.add(index).write_unaligned(event) };
                }
                return c_int::try_from(news.len()).unwrap_or(c_int::MAX);
            }
            Err(error) => return fail(error),
        }
    }
}

#[unsafe(no_mangle)]
extern "C" fn eventfd(initial: c_uint, flags: c_int) -> c_int {
    let event = Event { count: u64::from(initial), semaphore: flags & libc::EFD_SEMAPHORE != 0 };
    let nonblocking = flags & libc::EFD_NONBLOCK != 0;
    status(with_files(|files| files.open(Kind::Event(event), libc::O_RDWR, nonblocking)))
}
