//! The object file that makes a linked program an image: the notes, the program's name, and the interpreter that keeps a
//! Linux kernel from running it.
//!
//! A stock tender looks only at the first note of each `PT_NOTE`. The linker starts a new one where the alignment
//! changes, so the ABI note is aligned to four and the manifest to eight; our own note may follow the first.

use anyhow::{Context, Result};
use hvt_abi::manifest::{
    BLOCK_BASIC, Entry, Header, NAME_SIZE, NET_BASIC, RESERVED_FIRST, VERSION,
};
use hvt_abi::note::{
    ABI1_SECTION, Abi1Note, GUEST_SECTION, GuestNote, INTERPRETER, MFT1, MFT1_SECTION, SOLO5_NAME,
};
use object::write::{Object, Symbol, SymbolSection};
use object::{
    Architecture, BinaryFormat, Endianness, SectionFlags, SectionKind, SymbolFlags, SymbolKind,
    SymbolScope, elf,
};

use crate::project::{DeviceKind, Settings};

/// The symbol by which the guest library finds the program's name.
const NAME_SYMBOL: &[u8] = b"hvt_image_name";

/// The object for a program called `name`.
///
/// # Errors
/// When the object can't be written, which its size would have to be the reason for.
pub fn object(name: &str, settings: &Settings) -> Result<Vec<u8>> {
    let mut object = Object::new(BinaryFormat::Elf, Architecture::X86_64, Endianness::Little);
    for (section, bytes, align) in [
        (ABI1_SECTION, abi_note(&Abi1Note::HVT), 4),
        (GUEST_SECTION, guest_note(&guest(settings)), 4),
        (MFT1_SECTION, manifest_note(settings), 8),
    ] {
        let id = object.add_section(Vec::new(), section.into(), SectionKind::Note);
        object.section_mut(id).flags =
            SectionFlags::Elf { sh_type: elf::SHT_NOTE, sh_flags: elf::SHF_ALLOC };
        object.append_section_data(id, &bytes, align);
    }
    let id = object.add_section(Vec::new(), b".interp".to_vec(), SectionKind::ReadOnlyData);
    // Nothing refers to it, so the linker must be told to keep it.
    object.section_mut(id).flags = SectionFlags::Elf {
        sh_type: elf::SHT_PROGBITS,
        sh_flags: elf::SHF_ALLOC | elf::SHF_GNU_RETAIN,
    };
    object.append_section_data(id, INTERPRETER, 1);
    let id = object.add_section(Vec::new(), b".rodata.hvt".to_vec(), SectionKind::ReadOnlyData);
    let text = [name.as_bytes(), b"\0"].concat();
    let value = object.append_section_data(id, &text, 1);
    object.add_symbol(Symbol {
        name: NAME_SYMBOL.to_vec(),
        value,
        size: text.len() as u64,
        kind: SymbolKind::Data,
        scope: SymbolScope::Linkage,
        weak: false,
        section: SymbolSection::Section(id),
        flags: SymbolFlags::None,
    });
    object.write().context("cannot write the object with the notes")
}

fn guest(settings: &Settings) -> GuestNote {
    let mut note = GuestNote::new(hvt_guest::FEATURES);
    note.stack_size = settings.stack_kib * 1024;
    note.thread_stack_size = settings.thread_stack_kib * 1024;
    note.thread_stack_count = settings.thread_stacks;
    note
}

fn words(words: &[u32]) -> impl Iterator<Item = u8> {
    words.iter().flat_map(|word| word.to_le_bytes())
}

fn abi_note(note: &Abi1Note) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(words(&[note.header.name_len, note.header.desc_len, note.header.kind]));
    bytes.extend(note.header.name);
    bytes.extend(words(&[note.target, note.version, note.reserved[0], note.reserved[1]]));
    bytes
}

fn guest_note(note: &GuestNote) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(words(&[note.name_len, note.desc_len, note.kind]));
    bytes.extend(note.name);
    bytes.extend(words(&[note.version, note.features, note.stack_size]));
    bytes.extend(words(&[note.thread_stack_size, note.thread_stack_count, note.reserved]));
    bytes
}

fn manifest_note(settings: &Settings) -> Vec<u8> {
    let mut entries = vec![Entry::RESERVED_FIRST];
    entries.extend(settings.devices.iter().map(|device| {
        let kind = match device.kind {
            DeviceKind::Block => BLOCK_BASIC,
            DeviceKind::Net => NET_BASIC,
        };
        Entry::declare(&device.name, kind)
    }));
    debug_assert_eq!(entries[0].kind, RESERVED_FIRST);
    // At most 64 entries.
    let count = u32::try_from(entries.len()).unwrap_or(u32::MAX);
    let entry_size = u32::try_from(size_of::<Entry>()).unwrap_or(0);
    let padding = 4;
    let header_size = u32::try_from(size_of::<Header>()).unwrap_or(0);
    let mut bytes = Vec::new();
    bytes.extend(words(&[6, padding + header_size + entry_size * count, MFT1]));
    bytes.extend(SOLO5_NAME);
    bytes.extend(words(&[0, VERSION, count]));
    for entry in &entries {
        let mut image = [0; size_of::<Entry>()];
        image[..NAME_SIZE].copy_from_slice(&entry.name);
        image[NAME_SIZE..NAME_SIZE + 4].copy_from_slice(&entry.kind.to_le_bytes());
        bytes.extend(image);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::project::Device;

    fn word(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
    }

    /// Offsets as in Solo5's `mft_abi.h` and `elf_abi.h`.
    #[test]
    fn notes_have_their_fields_where_solo5_looks_for_them() {
        let abi = abi_note(&Abi1Note::HVT);
        assert_eq!(abi.len(), 36);
        assert_eq!((word(&abi, 0), word(&abi, 4), word(&abi, 8)), (6, 16, 0x3149_4241));
        assert_eq!(&abi[12..20], b"Solo5\0\0\0");
        assert_eq!((word(&abi, 20), word(&abi, 24)), (1, 2));

        let devices = vec![
            Device { name: "storage".to_owned(), kind: DeviceKind::Block },
            Device { name: "service".to_owned(), kind: DeviceKind::Net },
        ];
        let manifest = manifest_note(&Settings { devices, ..Settings::default() });
        assert_eq!(manifest.len(), 32 + 3 * 104);
        assert_eq!((word(&manifest, 4), word(&manifest, 8)), (12 + 3 * 104, 0x3154_464d));
        assert_eq!((word(&manifest, 20), word(&manifest, 24), word(&manifest, 28)), (0, 1, 3));
        assert_eq!(word(&manifest, 32 + 68), 0x4000_0000);
        assert_eq!(&manifest[32 + 104..32 + 104 + 8], b"storage\0");
        assert_eq!(word(&manifest, 32 + 104 + 68), 1);
        assert_eq!(word(&manifest, 32 + 208 + 68), 2);
        assert!(manifest[32 + 104 + 72..32 + 208].iter().all(|&byte| byte == 0));
    }
}
