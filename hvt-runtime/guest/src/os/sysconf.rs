//! What the system is like: one processor, pages of 4 KiB, so much memory.

use core::ffi::{c_char, c_int, c_long, c_ulong};

use crate::files::Errno;

use super::{error, net, process, string};

#[unsafe(no_mangle)]
extern "C" fn sysconf(name: c_int) -> c_long {
    match name {
        libc::_SC_PAGESIZE => 4096,
        libc::_SC_NPROCESSORS_ONLN | libc::_SC_NPROCESSORS_CONF => 1,
        libc::_SC_PHYS_PAGES | libc::_SC_AVPHYS_PAGES => {
            c_long::try_from(process::memory_size() / 4096).unwrap_or(c_long::MAX)
        }
        libc::_SC_OPEN_MAX => crate::files::MAX_DESCRIPTORS as c_long,
        libc::_SC_IOV_MAX => 1024,
        libc::_SC_GETPW_R_SIZE_MAX | libc::_SC_GETGR_R_SIZE_MAX => 1024,
        libc::_SC_CLK_TCK => 100,
        _ => c_long::from(error::fail(Errno::INVALID)),
    }
}

#[unsafe(no_mangle)]
extern "C" fn getpagesize() -> c_int {
    4096
}

/// The auxiliary vector is a kernel's way to tell a process about itself; here there is none.
#[unsafe(no_mangle)]
extern "C" fn getauxval(kind: c_ulong) -> c_ulong {
    if kind == libc::AT_PAGESZ { 4096 } else { 0 }
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn sched_getaffinity(_thread: c_int, len: usize, set: *mut u8) -> c_int {
    if len < size_of::<u64>() {
        return error::fail(Errno::INVALID);
    }
    // SAFETY: the caller's promise.
    unsafe {
        set.write_bytes(0, len);
        set.write(1);
    }
    0
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn gethostname(buffer: *mut c_char, len: usize) -> c_int {
    let name = core::str::from_utf8(net::host_name()).unwrap_or("hvt");
    // SAFETY: the caller's promise.
    if unsafe { string::put(name, buffer, len) } {
        0
    } else {
        error::fail(Errno(libc::ENAMETOOLONG))
    }
}

/// The version of the interface that the symbols here follow.
#[unsafe(no_mangle)]
extern "C" fn gnu_get_libc_version() -> *const c_char {
    c"2.36".as_ptr()
}
