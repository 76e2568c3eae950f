//! What this library does not have: system calls by number, and symbols that programs link but hardly call.
//!
//! Each such call answers `ENOSYS`, is counted, and is named in the debug log.

use core::ffi::{c_int, c_long, c_void};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::files::Errno;

use super::futex::{self, Call};
use super::{console, entropy, error, thread};

static CALLS: AtomicU64 = AtomicU64::new(0);

/// How many calls were answered with `ENOSYS`.
pub(super) fn count() -> u64 {
    CALLS.load(Ordering::Relaxed)
}

pub(super) fn missing(name: &str) -> c_int {
    CALLS.fetch_add(1, Ordering::Relaxed);
    console::debug(format_args!("{name}: not implemented"));
    error::fail(Errno(libc::ENOSYS))
}

/// # Safety
/// As in C, for the system calls that are here.
#[unsafe(no_mangle)]
unsafe extern "C" fn syscall(
    number: c_long,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
) -> c_long {
    #[expect(clippy::cast_possible_truncation, reason = "the kernel takes 32 bits of these too")]
    match number {
        libc::SYS_futex => {
            let call = Call {
                word: a as *const u32,
                operation: (b as u32).cast_signed(),
                value: c as u32,
                fourth: d,
                second_word: e as *const u32,
                third_value: f as u32,
            };
            // SAFETY: the caller's promise.
            c_long::from(error::status(unsafe { futex::futex(&call) }))
        }
        // SAFETY: the caller's promise.
        libc::SYS_getrandom => unsafe { entropy::getrandom(a as *mut c_void, b, 0) as c_long },
        libc::SYS_gettid => c_long::from(thread::id(thread::current())) + 1,
        _ => {
            CALLS.fetch_add(1, Ordering::Relaxed);
            console::debug(format_args!("system call {number}: not implemented"));
            c_long::from(error::fail(Errno(libc::ENOSYS)))
        }
    }
}

macro_rules! missing {
    ($($name:ident)*) => {
        $(
            #[unsafe(no_mangle)]
            extern "C" fn $name() -> c_int {
                missing(stringify!($name))
            }
        )*
    };
}

macro_rules! missing_pointer {
    ($($name:ident)*) => {
        $(
            #[unsafe(no_mangle)]
            extern "C" fn $name() -> *mut c_void {
                missing(stringify!($name));
                null_mut()
            }
        )*
    };
}

missing! {
    flock ftruncate64 sendfile64 splice copy_file_range mkdir rmdir unlink rename link symlink chmod fchmod chdir nice
}

missing_pointer! {
    getcwd realpath opendir
}
