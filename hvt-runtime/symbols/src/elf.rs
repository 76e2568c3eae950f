//! A table as an ELF file of nothing but function symbols: the form in which `std`, debuggers and other tools read names.

use alloc::vec::Vec;

use crate::Table;

const HEADER: u16 = 64;
const SECTION_HEADER: u16 = 64;
const SYMBOL: usize = 24;

const ET_EXEC: u16 = 2;
const EM_X86_64: u16 = 62;
const SHT_SYMTAB: u32 = 2;
const SHT_STRTAB: u32 = 3;
const SHT_NOBITS: u32 = 8;
const SHF_ALLOC_EXECINSTR: u64 = 2 | 4;
const STB_GLOBAL_STT_FUNC: u8 = 1 << 4 | 2;

/// Names of sections, and where each starts.
const SECTION_NAMES: &[u8; 33] = b"\0.text\0.symtab\0.strtab\0.shstrtab\0";
const TEXT: u32 = 1;
const SYMTAB: u32 = 7;
const STRTAB: u32 = 15;
const SHSTRTAB: u32 = 23;
/// None, text, symbols, their names, names of sections.
const SECTIONS: u16 = 5;
const TEXT_SECTION: u16 = 1;

/// The file. `None` when there is no memory for it: whoever asks is mostly in trouble already.
#[must_use]
pub fn file(table: &Table) -> Option<Vec<u8>> {
    let names = &table.body[table.names..];
    let functions = || table.functions();
    let symbols_len = (functions().count() + 1) * SYMBOL;
    let names_at = usize::from(HEADER) + symbols_len;
    let section_names_at = names_at + 1 + names.len();
    let headers_at = (section_names_at + SECTION_NAMES.len()).next_multiple_of(8);
    let total = headers_at + usize::from(SECTIONS * SECTION_HEADER);
    let mut file = Vec::new();
    file.try_reserve_exact(total).ok()?;

    header(&mut file, headers_at as u64);
    file.extend([0; SYMBOL]);
    // The name without bytes is the first.
    let mut name = 1_u32;
    for function in functions() {
        file.extend(name.to_le_bytes());
        file.extend([STB_GLOBAL_STT_FUNC, 0]);
        file.extend(TEXT_SECTION.to_le_bytes());
        file.extend(function.address.to_le_bytes());
        file.extend(function.size.to_le_bytes());
        name = name.checked_add(u32::try_from(function.name.len()).ok()?)?.checked_add(1)?;
    }
    file.push(0);
    file.extend_from_slice(names);
    file.extend_from_slice(SECTION_NAMES);
    file.resize(headers_at, 0);

    let start = functions().next().map_or(0, |function| function.address);
    let end = functions().map(|function| function.address.saturating_add(function.size)).max();
    let text = (start, end.map_or(0, |end| end - start));
    file.extend([0; SECTION_HEADER as usize]);
    section(
        &mut file,
        [TEXT, SHT_NOBITS],
        SHF_ALLOC_EXECINSTR,
        text.0,
        (0, text.1),
        [0, 0],
        [16, 0],
    );
    let symbols = (u64::from(HEADER), symbols_len as u64);
    section(&mut file, [SYMTAB, SHT_SYMTAB], 0, 0, symbols, [3, 1], [8, SYMBOL as u64]);
    let strings = (names_at as u64, 1 + names.len() as u64);
    section(&mut file, [STRTAB, SHT_STRTAB], 0, 0, strings, [0, 0], [1, 0]);
    let strings = (section_names_at as u64, SECTION_NAMES.len() as u64);
    section(&mut file, [SHSTRTAB, SHT_STRTAB], 0, 0, strings, [0, 0], [1, 0]);
    Some(file)
}

/// The header of a file without segments, for the sections at this place.
fn header(file: &mut Vec<u8>, sections_at: u64) {
    file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    file.extend(ET_EXEC.to_le_bytes());
    file.extend(EM_X86_64.to_le_bytes());
    file.extend(1_u32.to_le_bytes());
    file.extend([0; 16]);
    file.extend(sections_at.to_le_bytes());
    file.extend([0; 4]);
    for value in [HEADER, 0, 0, SECTION_HEADER, SECTIONS, SECTIONS - 1] {
        file.extend(value.to_le_bytes());
    }
}

/// A section header: name and type, flags, address, place in the file, link and info, alignment and size of an entry.
fn section(
    file: &mut Vec<u8>,
    name_and_type: [u32; 2],
    flags: u64,
    address: u64,
    (offset, size): (u64, u64),
    link_and_info: [u32; 2],
    align_and_entry: [u64; 2],
) {
    file.extend(name_and_type.into_iter().flat_map(u32::to_le_bytes));
    file.extend([flags, address, offset, size].into_iter().flat_map(u64::to_le_bytes));
    file.extend(link_and_info.into_iter().flat_map(u32::to_le_bytes));
    file.extend(align_and_entry.into_iter().flat_map(u64::to_le_bytes));
}
