//! Dropping privileges: no new ones by exec, no capabilities, no core dump or inspection of the tender by others.

use std::io;

use super::SandboxError;

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// `struct __user_cap_header_struct`.
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// Drops every privilege of this thread and forbids to gain one.
pub(super) fn drop_all() -> Result<(), SandboxError> {
    prctl("PR_SET_NO_NEW_PRIVS", libc::PR_SET_NO_NEW_PRIVS, 1)?;
    prctl("PR_SET_DUMPABLE", libc::PR_SET_DUMPABLE, 0)?;
    // The bounding set takes a capability to shrink; without that one there is nothing to gain from it either.
    for capability in 0..64 {
        if prctl("PR_CAPBSET_DROP", libc::PR_CAPBSET_DROP, capability).is_err() {
            break;
        }
    }
    let header = Header { version: CAPABILITY_VERSION_3, pid: 0 };
    // Two times effective, permitted and inheritable: none.
    let none = [0_u32; 6];
    // SAFETY: version 3 of the call reads the header and two structures of three words, which `none` has.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) };
    match result {
        0 => Ok(()),
        _ => Err(SandboxError::Step { step: "capset", source: io::Error::last_os_error() }),
    }
}

fn prctl(step: &'static str, option: i32, value: libc::c_ulong) -> Result<(), SandboxError> {
    let zero: libc::c_ulong = 0;
    // SAFETY: the options used here take numbers and touch no memory.
    match unsafe { libc::prctl(option, value, zero, zero, zero) } {
        -1 => Err(SandboxError::Step { step, source: io::Error::last_os_error() }),
        _ => Ok(()),
    }
}
