//! What is in an image, for people: ABI, devices, segments, and which crates take the space.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, Result};
use hvt_abi::extension;
use hvt_abi::manifest::{BLOCK_BASIC, Entry, NAME_SIZE, NET_BASIC};
use hvt_abi::note::{ABI1_SECTION, GUEST_SECTION, MFT1_SECTION};
use hvt_symbols::Table;
use object::elf;
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader, SectionHeader};
use object::{LittleEndian, Object, ObjectSection, ObjectSymbol};

type Elf<'data> = ElfFile64<'data, LittleEndian>;

/// Bytes in front of a note's descriptor in Solo5's notes, and of the manifest's first entry.
const SOLO5_DESCRIPTOR: usize = 20;
const FIRST_ENTRY: usize = 32;
const GUEST_DESCRIPTOR: usize = 16;

/// Lines of the table of crates; what is smaller is summed up.
const CRATES: usize = 25;
/// What is smaller than this many bytes does not matter for the size.
const SMALLEST_SECTION: u64 = 4096;

/// The report on an image.
///
/// # Errors
/// When the bytes are no ELF file or have no note of the ABI.
pub fn report(bytes: &[u8]) -> Result<String> {
    let file = Elf::parse(bytes).context("not a 64-bit ELF file")?;
    let mut text = String::new();
    abi(&file, &mut text)?;
    devices(&file, &mut text)?;
    segments(&file, &mut text)?;
    sections(&file, &mut text)?;
    crates(&file, &mut text)?;
    Ok(text)
}

fn note<'data>(file: &Elf<'data>, name: &str) -> Option<&'data [u8]> {
    file.section_by_name(name)?.data().ok()
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn abi(file: &Elf<'_>, text: &mut String) -> Result<()> {
    let abi = note(file, ABI1_SECTION).context("no ABI note: not an image")?;
    let target = word(abi, SOLO5_DESCRIPTOR).context("a short ABI note")?;
    let version = word(abi, SOLO5_DESCRIPTOR + 4).context("a short ABI note")?;
    let target = if target == hvt_abi::note::TARGET_HVT { "hvt" } else { "not hvt" };
    writeln!(text, "ABI        {target}, version {version}")?;
    let entry = file.elf_header().e_entry(LittleEndian);
    writeln!(text, "entry      {entry:#x}")?;
    if let Some(guest) = note(file, GUEST_SECTION) {
        let field = |index: usize| word(guest, GUEST_DESCRIPTOR + 4 * index).unwrap_or(0);
        let features = field(1);
        let ring = if features & extension::FEATURE_RING3 == 0 { 0 } else { 3 };
        writeln!(text, "extensions {features:#x}, ring {ring}")?;
        writeln!(
            text,
            "stacks     first {} KiB, {} for threads of {} KiB",
            field(2) / 1024,
            field(4),
            field(3) / 1024
        )?;
    }
    Ok(())
}

fn devices(file: &Elf<'_>, text: &mut String) -> Result<()> {
    let manifest = note(file, MFT1_SECTION).context("no manifest: not an image")?;
    let entries = manifest.get(FIRST_ENTRY..).unwrap_or_default();
    for (handle, entry) in entries.chunks_exact(size_of::<Entry>()).enumerate().skip(1) {
        let name = &entry[..NAME_SIZE];
        let end = name.iter().position(|&byte| byte == 0).unwrap_or(NAME_SIZE);
        let kind = match word(entry, NAME_SIZE) {
            Some(BLOCK_BASIC) => "block",
            Some(NET_BASIC) => "net",
            _ => "unknown",
        };
        writeln!(text, "device {handle:<3} {} ({kind})", String::from_utf8_lossy(&name[..end]))?;
    }
    Ok(())
}

fn segments(file: &Elf<'_>, text: &mut String) -> Result<()> {
    let endian = LittleEndian;
    writeln!(text, "\nsegment     address      in file    in memory  rights")?;
    for header in file.elf_program_headers() {
        let kind = match header.p_type(endian) {
            elf::PT_LOAD => "load",
            elf::PT_TLS => "thread-local",
            elf::PT_NOTE => "note",
            _ => continue,
        };
        let flags = header.p_flags(endian);
        let right = |flag, letter| if flags.contains(flag) { letter } else { '-' };
        writeln!(
            text,
            "{kind:<12}{:#010x} {:>10} {:>12}  {}{}{}",
            header.p_vaddr(endian),
            header.p_filesz(endian),
            header.p_memsz(endian),
            right(elf::PF_R, 'r'),
            right(elf::PF_W, 'w'),
            right(elf::PF_X, 'x'),
        )?;
    }
    Ok(())
}

/// What is in the segments.
fn sections(file: &Elf<'_>, text: &mut String) -> Result<()> {
    let mut sizes: Vec<(u64, &str)> = file
        .sections()
        .filter(|section| section.elf_section_header().sh_type(LittleEndian) != elf::SHT_NOBITS)
        .map(|section| (section.size(), section.name().unwrap_or_default()))
        .filter(|(size, _)| *size >= SMALLEST_SECTION)
        .collect();
    sizes.sort_unstable_by_key(|&(size, name)| (u64::MAX - size, name));
    writeln!(text, "\nlarge sections")?;
    for (size, name) in sizes {
        writeln!(text, "{size:>10}  {name}")?;
    }
    Ok(())
}

fn crates(file: &Elf<'_>, text: &mut String) -> Result<()> {
    let mut sizes: BTreeMap<String, u64> = BTreeMap::new();
    if let Some(packed) = note(file, hvt_symbols::SECTION) {
        let table = Table::unpack(packed).context("the names of functions")?;
        for function in table.functions() {
            *sizes.entry(crate_of(function.name)).or_default() += function.size;
        }
    }
    // An image of other tools.
    for symbol in file.symbols() {
        let name = format!("{:#}", rustc_demangle::demangle(symbol.name().unwrap_or_default()));
        *sizes.entry(crate_of(&name)).or_default() += symbol.size();
    }
    if sizes.is_empty() {
        return Ok(());
    }
    let mut sizes: Vec<_> = sizes.into_iter().collect();
    sizes.sort_by_key(|(name, size)| (u64::MAX - size, name.clone()));
    let total: u64 = sizes.iter().map(|(_, size)| size).sum();
    writeln!(text, "\ncode by crate, {total} bytes in all")?;
    for (name, size) in sizes.iter().take(CRATES) {
        writeln!(text, "{size:>10}  {name}")?;
    }
    let rest: u64 = sizes.iter().skip(CRATES).map(|(_, size)| size).sum();
    if rest > 0 {
        writeln!(text, "{rest:>10}  ({} others)", sizes.len() - CRATES)?;
    }
    Ok(())
}

/// The crate that a function belongs to: the first name of its path, or that of the type it is implemented for.
fn crate_of(path: &str) -> String {
    if !path.contains("::") {
        let own = path.starts_with("hvt_") || path.starts_with("pthread_");
        return if own { "hvt_guest".to_owned() } else { "(C and assembly)".to_owned() };
    }
    let start = path.trim_start_matches(['<', '&', '(', '[', '*']);
    let start = start.strip_prefix("mut ").or_else(|| start.strip_prefix("dyn ")).unwrap_or(start);
    let end = start.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(start.len());
    match &start[..end] {
        "" | "T" | "F" | "I" => "(generic)".to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_counted_for_their_crates() {
        assert_eq!(crate_of("core::fmt::Write::write_fmt"), "core");
        assert_eq!(crate_of("<alloc::string::String as core::fmt::Display>::fmt"), "alloc");
        assert_eq!(crate_of("aes_hw_encrypt"), "(C and assembly)");
    }

    #[test]
    fn what_is_no_image_is_refused_with_a_reason() {
        assert!(report(b"hello").is_err());
        assert!(report(&[]).is_err());
    }
}
