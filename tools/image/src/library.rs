//! The guest library as the C library of a program in Rust.
//!
//! The library is linked from Rust crates, so it carries what it uses of `core` and `alloc` for itself. Nearly all names of
//! that copy are hidden when the library is made; a few are not, and would stand twice in an image. Here they become weak:
//! the program's own win, and both are the same code.

use anyhow::{Context, Result};
use object::LittleEndian;
use object::elf::{self, FileHeader64};
use object::read::archive::ArchiveFile;
use object::read::elf::{FileHeader, SectionHeader, Sym};

/// Bytes of a symbol, and where its binding is.
const SYMBOL: usize = 24;
const INFO: usize = 4;

/// Makes global definitions that are Rust's own weak, in all members of an archive.
///
/// # Errors
/// When it is no archive of 64-bit ELF files.
pub fn weaken(archive: &mut [u8]) -> Result<()> {
    for at in places(archive)? {
        archive[at] = elf::STB_WEAK.0 << 4 | archive[at] & 0xf;
    }
    Ok(())
}

/// Where the bindings of those symbols are.
fn places(archive: &[u8]) -> Result<Vec<usize>> {
    let mut places = Vec::new();
    for member in ArchiveFile::parse(archive).context("the guest library")?.members() {
        let member = member.context("the guest library")?;
        let data = member.data(archive)?;
        let start = usize::try_from(member.file_range().0)?;
        let Ok(header) = FileHeader64::<LittleEndian>::parse(data) else { continue };
        let sections = header.sections(LittleEndian, data)?;
        let symbols = sections.symbols(LittleEndian, data, elf::SHT_SYMTAB)?;
        let Ok(table) = sections.section(symbols.section()) else { continue };
        let table = usize::try_from(table.sh_offset(LittleEndian))?;
        for (index, symbol) in symbols.enumerate() {
            let name = symbol.name(LittleEndian, symbols.strings())?;
            let global = symbol.st_bind() == elf::STB_GLOBAL;
            if global && !symbol.is_undefined(LittleEndian) && is_rust_s(name) {
                places.push(start + table + index.0 * SYMBOL + INFO);
            }
        }
    }
    Ok(places)
}

fn is_rust_s(name: &[u8]) -> bool {
    name == b"rust_eh_personality" || name.starts_with(b"_ZN") || name.starts_with(b"_R")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rust_s_own_names_give_way() {
        assert!(is_rust_s(b"_RNvNtCs_3std9panicking11EMPTY_PANIC"));
        assert!(is_rust_s(b"_ZN3std9panicking11EMPTY_PANIC17h0123456789abcdefE"));
        for name in [&b"malloc"[..], b"_Unwind_Resume", b"_start", b"main"] {
            assert!(!is_rust_s(name));
        }
    }

    #[test]
    fn what_is_no_archive_is_refused() {
        assert!(weaken(&mut b"hello".to_vec()).is_err());
    }
}
