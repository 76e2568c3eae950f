//! The notes of an image ([`hvt_abi::note`]).

use std::fs::File;
use std::os::unix::fs::FileExt;

use hvt_abi::note::{self, GuestNote};

use super::ImageError;
use super::elf::{PT_NOTE, ProgramHeader};
use crate::bytes::u32_at;

/// The most bytes of one note segment that are looked at. A manifest of 64 entries has 6,688.
const MAX_NOTE_SEGMENT: u64 = 64 * 1024;
const HEADER_SIZE: usize = 12;

/// What the notes say.
pub(super) struct Notes {
    /// The manifest, without the padding before it.
    pub(super) manifest: Vec<u8>,
    pub(super) guest: Option<GuestNote>,
}

impl Notes {
    pub(super) fn read(file: &File, programs: &[ProgramHeader]) -> Result<Self, ImageError> {
        let mut abi = None;
        let mut manifest = None;
        let mut guest = None;
        for program in programs.iter().filter(|p| p.kind == PT_NOTE) {
            let mut bytes =
                vec![0; usize::try_from(program.file_len.min(MAX_NOTE_SEGMENT)).unwrap_or(0)];
            file.read_exact_at(&mut bytes, program.offset)
                .map_err(|source| ImageError::Read { what: "a note", source })?;
            for note in (Walk { rest: &bytes }) {
                match (note.name, note.kind) {
                    (b"Solo5\0", note::ABI1) => _ = abi.get_or_insert_with(|| note.desc.to_vec()),
                    (b"Solo5\0", note::MFT1) => {
                        _ = manifest.get_or_insert_with(|| note.desc.to_vec());
                    }
                    (b"hvt\0", note::GUEST) => {
                        _ = guest.get_or_insert_with(|| guest_note(note.desc));
                    }
                    _ => {}
                }
            }
        }
        check_abi(&abi.ok_or(ImageError::NoNote("ABI1"))?)?;
        let manifest = manifest.ok_or(ImageError::NoNote("MFT1 (manifest)"))?;
        // The manifest is aligned to eight within the note, so four bytes of padding come first.
        let manifest = manifest.get(4..).unwrap_or_default().to_vec();
        Ok(Self { manifest, guest: guest.transpose()? })
    }
}

fn check_abi(desc: &[u8]) -> Result<(), ImageError> {
    if desc.len() < 16 {
        let why = format!("it has {} bytes instead of 16", desc.len());
        return Err(ImageError::BadNote { note: "ABI1", why });
    }
    let (target, version) = (u32_at(desc, 0), u32_at(desc, 4));
    if target == note::TARGET_HVT && version == hvt_abi::ABI_VERSION {
        return Ok(());
    }
    let target = match target {
        1 => "hvt",
        2 => "spt",
        3 => "virtio",
        4 => "muen",
        5 => "genode",
        6 => "xen",
        _ => "an unknown target",
    };
    Err(ImageError::WrongTarget { target, version })
}

/// Fields that the descriptor does not cover are zero: it grows at its end.
fn guest_note(desc: &[u8]) -> Result<GuestNote, ImageError> {
    let version = u32_at(desc, 0);
    if version != note::GUEST_VERSION {
        let why = format!("version {version} is not {}", note::GUEST_VERSION);
        return Err(ImageError::BadNote { note: "guest", why });
    }
    Ok(GuestNote {
        stack_size: u32_at(desc, 8),
        thread_stack_size: u32_at(desc, 12),
        thread_stack_count: u32_at(desc, 16),
        ..GuestNote::new(u32_at(desc, 4))
    })
}

struct Note<'a> {
    name: &'a [u8],
    kind: u32,
    desc: &'a [u8],
}

/// The notes of one segment, up to the first that does not fit into it.
struct Walk<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Walk<'a> {
    type Item = Note<'a>;

    fn next(&mut self) -> Option<Note<'a>> {
        let bytes = self.rest;
        let name_len = usize::try_from(u32_at(bytes.get(..HEADER_SIZE)?, 0)).ok()?;
        let desc_len = usize::try_from(u32_at(bytes, 4)).ok()?;
        let name_end = HEADER_SIZE.checked_add(name_len)?;
        let desc_start = name_end.checked_next_multiple_of(4)?;
        let desc_end = desc_start.checked_add(desc_len)?;
        let note = Note {
            name: bytes.get(HEADER_SIZE..name_end)?,
            kind: u32_at(bytes, 8),
            desc: bytes.get(desc_start..desc_end)?,
        };
        let next = desc_end.checked_next_multiple_of(4)?;
        self.rest = bytes.get(next..).unwrap_or_default();
        Some(note)
    }
}
