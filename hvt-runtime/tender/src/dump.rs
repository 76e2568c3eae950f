//! `--dumpcore`: an ELF core file of a guest that crashed or aborted, for `gdb IMAGE CORE`.
//!
//! The folder is opened before the sandbox closes; afterwards the filter lets through one `openat` of this form, and
//! landlock nothing but making a file there. Pages that are all zero are left out as holes, so the file takes about as
//! much room as the guest used.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use vm_memory::Bytes;

use crate::crash::Registers;
use crate::image::Rights;
use crate::layout::{Area, Layout, What};
use crate::memory::GuestSpace;

/// How a core file is opened; the filter compares.
pub(crate) const OPEN_FLAGS: i32 = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_CLOEXEC;
/// The descriptor that a core file gets: the lowest free one, since the sandbox closes standard input.
pub(crate) const CORE_FD: i32 = 0;

const PAGE: usize = 4096;
const HEADER: u64 = 64;
const PROGRAM_HEADER: u64 = 56;
/// `struct elf_prstatus`: its size, and where its registers begin (Linux, `include/uapi/linux/elfcore.h`).
const PRSTATUS: usize = 336;
const PRSTATUS_REGISTERS: usize = 112;
const SIGSEGV: u16 = 11;

/// Where core files go.
#[derive(Debug)]
pub struct CoreFolder {
    folder: OwnedFd,
}

impl CoreFolder {
    /// Opens the folder.
    ///
    /// # Errors
    /// When it is not a folder that can be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::options().read(true).custom_flags(libc::O_DIRECTORY).open(path)?;
        Ok(Self { folder: file.into() })
    }

    /// The folder's descriptor, for the sandbox.
    #[must_use]
    pub fn raw_fd(&self) -> i32 {
        self.folder.as_raw_fd()
    }

    /// Writes a core file; its name.
    ///
    /// # Errors
    /// When it can't be made or written.
    pub fn write(
        &self,
        space: &GuestSpace,
        layout: &Layout,
        registers: &Registers,
    ) -> io::Result<String> {
        let name = format!("core.hvt.{}", std::process::id());
        let path = CString::new(name.as_str())?;
        // SAFETY: the descriptor is open, the name ends with a zero byte, and a new descriptor is owned by nobody.
        let file = unsafe {
            match libc::openat(self.raw_fd(), path.as_ptr(), OPEN_FLAGS, 0o600) {
                -1 => return Err(io::Error::last_os_error()),
                fd => File::from(OwnedFd::from_raw_fd(fd)),
            }
        };
        write_core(&file, space, layout, registers)?;
        Ok(name)
    }
}

fn write_core(
    file: &File,
    space: &GuestSpace,
    layout: &Layout,
    registers: &Registers,
) -> io::Result<()> {
    let shared = |area: &Area| matches!(area.what, What::Ring | What::Slot);
    let held = |area: &&Area| area.rights != Rights::None && !shared(area);
    let areas: Vec<&Area> = layout.areas.iter().filter(held).collect();
    let note = note(registers);
    let count = areas.len() as u64 + 1;
    let note_at = HEADER + count * PROGRAM_HEADER;
    let mut at = (note_at + note.len() as u64).next_multiple_of(PAGE as u64);

    let mut head = header(count);
    head.extend(program_header(4, 0, note_at, 0, note.len() as u64, 0));
    for area in &areas {
        let flags = match area.rights {
            Rights::Write => 6,
            Rights::Execute => 5,
            _ => 4,
        };
        let len = area.pages.end - area.pages.start;
        head.extend(program_header(1, flags, at, area.pages.start, len, len));
        write_pages(file, at, space, area)?;
        at += len;
    }
    head.extend(note);
    file.write_all_at(&head, 0)?;
    // A byte at the very end, so that the last hole is part of the file.
    file.write_all_at(&[0], at)
}

fn write_pages(file: &File, at: u64, space: &GuestSpace, area: &Area) -> io::Result<()> {
    let mut page = vec![0_u8; PAGE];
    for address in area.pages.clone().step_by(PAGE) {
        let slice = space.readable(address, PAGE as u64).map_err(io::Error::other)?;
        slice.read_slice(&mut page, 0).map_err(io::Error::other)?;
        if page.iter().any(|byte| *byte != 0) {
            file.write_all_at(&page, at + (address - area.pages.start))?;
        }
    }
    Ok(())
}

/// An ELF header of a core file for x86-64.
fn header(programs: u64) -> Vec<u8> {
    let mut h = b"\x7fELF\x02\x01\x01".to_vec();
    h.resize(16, 0);
    for half in [4_u16, 62] {
        h.extend(half.to_le_bytes());
    }
    h.extend(1_u32.to_le_bytes());
    for word in [0, HEADER, 0] {
        h.extend(word.to_le_bytes());
    }
    h.extend([0; 4]);
    let programs = u16::try_from(programs).unwrap_or(u16::MAX);
    for half in [64, 56, programs, 64, 0, 0] {
        h.extend(half.to_le_bytes());
    }
    h
}

fn program_header(kind: u32, flags: u32, at: u64, address: u64, len: u64, memory: u64) -> Vec<u8> {
    let mut p = Vec::new();
    p.extend(kind.to_le_bytes());
    p.extend(flags.to_le_bytes());
    for word in [at, address, address, len, memory, 4] {
        p.extend(word.to_le_bytes());
    }
    p
}

/// The note NT_PRSTATUS with the registers in the order of `struct user_regs_struct`.
fn note(r: &Registers) -> Vec<u8> {
    let mut status = vec![0_u8; PRSTATUS];
    status[12..14].copy_from_slice(&SIGSEGV.to_le_bytes());
    // gdb takes a process number of zero for no thread.
    status[32..36].copy_from_slice(&1_u32.to_le_bytes());
    let (code, stack) = (0x1b, 0x23);
    let registers = [
        r.r15,
        r.r14,
        r.r13,
        r.r12,
        r.rbp,
        r.rbx,
        r.r11,
        r.r10,
        r.r9,
        r.r8,
        r.rax,
        r.rcx,
        r.rdx,
        r.rsi,
        r.rdi,
        u64::MAX,
        r.rip,
        code,
        r.rflags,
        r.rsp,
        stack,
        r.fs_base,
    ];
    for (i, register) in registers.iter().enumerate() {
        let at = PRSTATUS_REGISTERS + 8 * i;
        status[at..at + 8].copy_from_slice(&register.to_le_bytes());
    }
    let mut note = Vec::new();
    for word in [5, 336, 1_u32] {
        note.extend(word.to_le_bytes());
    }
    note.extend(b"CORE\0\0\0\0");
    note.extend(status);
    note
}
