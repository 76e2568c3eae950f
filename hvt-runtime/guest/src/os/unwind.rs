//! Where the unwinder and `std`'s backtraces find what the image has for them. The unwinder is the crate `unwinding`,
//! whose `_Unwind_` symbols come with it.

use core::ffi::{c_char, c_int, c_void};
use core::mem;

use libc::{Elf64_Phdr, dl_phdr_info};
use unwinding::custom_eh_frame_finder::{
    EhFrameFinder, FrameInfo, FrameInfoKind, set_custom_eh_frame_finder,
};

struct Image;

static IMAGE: Image = Image;

/// Tells the unwinder where to look.
pub(super) fn start() {
    // It is told once, so it can't be told already.
    let _ = set_custom_eh_frame_finder(&IMAGE);
}

// SAFETY: the table is the one that the linker made for this image, found by its program header.
unsafe impl EhFrameFinder for Image {
    fn find(&self, pc: usize) -> Option<FrameInfo> {
        let segments = super::start::program_headers();
        let text = segments.iter().find(|segment| {
            segment.p_type == libc::PT_LOAD
                && segment.p_flags & libc::PF_X != 0
                && (pc as u64).wrapping_sub(segment.p_vaddr) < segment.p_memsz
        })?;
        let table = segments.iter().find(|segment| segment.p_type == libc::PT_GNU_EH_FRAME)?;
        Some(FrameInfo {
            text_base: usize::try_from(text.p_vaddr).ok(),
            kind: FrameInfoKind::EhFrameHdr(usize::try_from(table.p_vaddr).ok()?),
        })
    }
}

type Callback = unsafe extern "C" fn(*mut dl_phdr_info, usize, *mut c_void) -> c_int;

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn dl_iterate_phdr(callback: Callback, argument: *mut c_void) -> c_int {
    let segments: &[Elf64_Phdr] = super::start::program_headers();
    // SAFETY: all fields may be zero; the image is not relocated and has the empty name of a main program.
    unsafe {
        let mut info: dl_phdr_info = mem::zeroed();
        info.dlpi_name = c"".as_ptr();
        info.dlpi_phdr = segments.as_ptr();
        info.dlpi_phnum = u16::try_from(segments.len()).unwrap_or(u16::MAX);
        callback(&raw mut info, size_of::<dl_phdr_info>(), argument)
    }
}

/// There is nothing to look symbols up in at run time: `std` asks for newer functions this way, and does without.
#[unsafe(no_mangle)]
extern "C" fn dlsym(_library: *mut c_void, _name: *const c_char) -> *mut c_void {
    core::ptr::null_mut()
}
