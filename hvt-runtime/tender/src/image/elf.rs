//! ELF headers (System V ABI, "Object Files"; the rules are those of Solo5's `tenders/common/elf.c`).

use std::fs::File;
use std::os::unix::fs::FileExt;

use hvt_abi::PAGE_SIZE;
use hvt_abi::boot::GUEST_MIN_BASE;

use super::{ImageError, Rights, Segment};
use crate::bytes::{u16_at, u32_at, u64_at};

/// The most program headers that an image may have. Linkers make about ten.
pub const MAX_PROGRAM_HEADERS: u16 = 128;

const HEADER_SIZE: usize = 64;
const PROGRAM_HEADER_SIZE: usize = 56;

const PT_LOAD: u32 = 1;
pub(super) const PT_NOTE: u32 = 4;
const PF_X: u32 = 1;
const PF_W: u32 = 2;
const PF_R: u32 = 4;

/// What is needed of the ELF header.
pub(super) struct Header {
    entry: u64,
    table: u64,
    count: u16,
}

/// What is needed of a program header.
pub(super) struct ProgramHeader {
    pub(super) kind: u32,
    flags: u32,
    pub(super) offset: u64,
    address: u64,
    pub(super) file_len: u64,
    memory_len: u64,
    align: u64,
}

/// All segments with their overall bounds.
pub(super) struct Segments {
    pub(super) segments: Vec<Segment>,
    pub(super) kernel_end: u64,
    pub(super) end: u64,
}

impl Header {
    pub(super) fn read(file: &File) -> Result<Self, ImageError> {
        let mut h = [0; HEADER_SIZE];
        file.read_exact_at(&mut h, 0)
            .map_err(|_| ImageError::NotAnImage("it is shorter than an ELF header"))?;
        let checks = [
            (h.starts_with(b"\x7fELF"), "it is not an ELF file"),
            (h[4] == 2, "it is not a 64-bit ELF file"),
            (h[5] == 1, "it is not little-endian"),
            (h[6] == 1 && u32_at(&h, 20) == 1, "its ELF version is not 1"),
            (u16_at(&h, 18) == 62, "it is for another processor"),
            (u16_at(&h, 16) == 2, "it is not a static executable of fixed address (ET_EXEC)"),
            (usize::from(u16_at(&h, 52)) == HEADER_SIZE, "its ELF header has another size"),
            (
                usize::from(u16_at(&h, 54)) == PROGRAM_HEADER_SIZE,
                "its program headers have another size",
            ),
            (u16_at(&h, 56) >= 1, "it has no program headers"),
            (u16_at(&h, 56) <= MAX_PROGRAM_HEADERS, "it has more than 128 program headers"),
        ];
        if let Some((_, why)) = checks.iter().find(|(good, _)| !good) {
            return Err(ImageError::NotAnImage(why));
        }
        Ok(Self { entry: u64_at(&h, 24), table: u64_at(&h, 32), count: u16_at(&h, 56) })
    }

    /// The entry point, if it is inside memory.
    pub(super) fn entry(&self, memory: u64) -> Result<u64, ImageError> {
        match (GUEST_MIN_BASE..memory).contains(&self.entry) {
            true => Ok(self.entry),
            false => Err(ImageError::BadEntry { entry: self.entry, mem: memory }),
        }
    }
}

pub(super) fn program_headers(
    file: &File,
    header: &Header,
) -> Result<Vec<ProgramHeader>, ImageError> {
    let mut table = vec![0; usize::from(header.count) * PROGRAM_HEADER_SIZE];
    file.read_exact_at(&mut table, header.table)
        .map_err(|source| ImageError::Read { what: "the program headers", source })?;
    let parse = |p: &[u8]| ProgramHeader {
        kind: u32_at(p, 0),
        flags: u32_at(p, 4),
        offset: u64_at(p, 8),
        address: u64_at(p, 16),
        file_len: u64_at(p, 32),
        memory_len: u64_at(p, 40),
        align: u64_at(p, 48),
    };
    Ok(table.chunks_exact(PROGRAM_HEADER_SIZE).map(parse).collect())
}

/// Checks the segments to load.
///
/// A stock tender skips segments without bytes in the file before it looks at them, and its own images rely on that, so
/// such a segment is never refused: one that makes sense reserves its pages, another is ignored.
pub(super) fn segments(programs: &[ProgramHeader], memory: u64) -> Result<Segments, ImageError> {
    let mut all = Segments { segments: Vec::new(), kernel_end: 0, end: 0 };
    let mut last_address = 0;
    for (index, program) in programs.iter().enumerate() {
        if program.kind != PT_LOAD {
            continue;
        }
        let bad = |why: String| ImageError::BadSegment { index, why };
        let placed = place(program, memory);
        if program.file_len == 0 {
            if let Ok(segment) = placed
                && segment.pages.start >= all.end
                && !segment.pages.is_empty()
            {
                all.end = segment.pages.end;
                all.segments.push(segment);
            }
            continue;
        }
        let segment = placed.map_err(bad)?;
        if program.address < last_address || segment.pages.start < all.end {
            return Err(bad(format!(
                "it starts at {:#x}, before the end of the one before it ({:#x})",
                program.address, all.end
            )));
        }
        last_address = program.address;
        all.end = segment.pages.end;
        all.kernel_end = segment.pages.end;
        all.segments.push(segment);
    }
    match all.kernel_end {
        0 => Err(ImageError::NotAnImage("it has nothing to load")),
        _ => Ok(all),
    }
}

fn place(program: &ProgramHeader, memory: u64) -> Result<Segment, String> {
    let ProgramHeader { flags, offset, address, file_len, memory_len, align, .. } = *program;
    if !align.is_power_of_two() {
        return Err(format!("its alignment {align:#x} is not a power of two"));
    }
    if memory_len < file_len {
        return Err(format!("it has more bytes in the file ({file_len:#x}) than in memory"));
    }
    let start = address & !(align - 1);
    let end = address
        .checked_add(memory_len)
        .and_then(|end| end.checked_next_multiple_of(align))
        .filter(|&end| end <= memory)
        .ok_or_else(|| {
            format!(
                "{memory_len:#x} bytes at {address:#x} do not fit into {memory:#x} bytes of memory; \
                 give more with --mem"
            )
        })?;
    if start < GUEST_MIN_BASE {
        return Err(format!("it starts at {start:#x}, below {GUEST_MIN_BASE:#x}"));
    }
    if start % PAGE_SIZE != 0 || end % PAGE_SIZE != 0 {
        return Err(format!(
            "{start:#x} to {end:#x} are not whole pages: link with -z separate-code"
        ));
    }
    if offset.checked_add(file_len).is_none() {
        return Err("its place in the file is not valid".into());
    }
    let rights = match (flags & PF_R != 0, flags & PF_W != 0, flags & PF_X != 0) {
        (_, true, true) => return Err("it is both writable and executable".into()),
        (_, true, false) => Rights::Write,
        (_, false, true) => Rights::Execute,
        (true, false, false) => Rights::Read,
        (false, false, false) => Rights::None,
    };
    Ok(Segment { pages: start..end, address, offset, file_len, rights })
}
