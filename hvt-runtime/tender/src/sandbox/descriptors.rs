//! Closing descriptors.

use std::io;

use super::SandboxError;

/// Closes every descriptor but these.
pub(super) fn close_others(keep: &[i32]) -> Result<(), SandboxError> {
    let mut keep: Vec<u32> = keep.iter().filter_map(|fd| u32::try_from(*fd).ok()).collect();
    keep.sort_unstable();
    let mut first = 0;
    for fd in keep {
        if fd > first {
            close_range(first, fd - 1)?;
        }
        first = first.max(fd + 1);
    }
    close_range(first, u32::MAX)
}

fn close_range(first: u32, last: u32) -> Result<(), SandboxError> {
    // SAFETY: the call touches no memory. Descriptors that Rust values still own become invalid numbers, and since
    // nothing is opened afterwards no other file can get such a number: their owners see errors, never foreign files.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, 0_u32) } {
        0 => Ok(()),
        _ => Err(SandboxError::Step { step: "close_range", source: io::Error::last_os_error() }),
    }
}
