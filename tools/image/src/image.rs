//! From a linked program to an image: without debug information, with a table of function names for backtraces.
//!
//! The table ([`hvt_symbols`]) is in a read-only segment behind the program. The guest library unpacks it into what the
//! program sees as its own executable, so that `std` names the functions of a backtrace; the image's section headers name
//! the same bytes, so that the tender's crash reports find them too. Tools that want an ELF symbol table find it in the
//! `.debug` file beside the image.
//!
//! The segment takes the program header of `PT_GNU_STACK`, which means nothing to a tender.

use anyhow::{Context, Result, bail, ensure};
use hvt_symbols::{Function, Table};
use object::elf::{self, ProgramHeader64, SectionHeader64};
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader, SectionHeader};
use object::{LittleEndian, Object, ObjectSection, ObjectSymbol, SymbolKind};

const PAGE: u64 = 4096;
const SECTION_HEADER: usize = size_of::<SectionHeader64<LittleEndian>>();

type Elf<'data> = ElfFile64<'data, LittleEndian>;

/// An image, and how many of its bytes are symbols.
#[derive(Debug)]
pub struct Finished {
    /// The file.
    pub bytes: Vec<u8>,
    /// The size of the symbol segment.
    pub symbols: usize,
}

/// Makes an image of a linked program.
///
/// # Errors
/// When the program breaks a rule of Solo5's loader: not static at fixed addresses, a segment both writable and
/// executable, segments that share a page, a note that is missing.
pub fn finish(linked: &[u8]) -> Result<Finished> {
    let file = Elf::parse(linked).context("not a 64-bit ELF file")?;
    check(&file)?;
    let symbols = symbol_table(&file)?;
    let mut bytes = linked[..loaded_end(&file)?].to_vec();
    let offset = to_usize((bytes.len() as u64).next_multiple_of(PAGE))?;
    bytes.resize(offset, 0);
    let address = memory_end(&file).next_multiple_of(PAGE);
    replace_stack_header(&mut bytes, &file, offset as u64, address, symbols.len() as u64)?;
    bytes.extend_from_slice(&symbols);
    append_sections(&mut bytes, &file, (offset as u64, symbols.len() as u64))?;
    Elf::parse(bytes.as_slice()).context("the finished image")?;
    Ok(Finished { bytes, symbols: symbols.len() })
}

fn check(file: &Elf<'_>) -> Result<()> {
    let endian = LittleEndian;
    let header = file.elf_header();
    ensure!(header.e_type(endian) == elf::ET_EXEC, "not linked to fixed addresses (ET_EXEC)");
    let mut last_end = 0;
    for segment in loads(file) {
        let (start, size) = (segment.p_vaddr(endian), segment.p_memsz(endian));
        let flags = segment.p_flags(endian);
        let both = flags.contains(elf::PF_W) && flags.contains(elf::PF_X);
        ensure!(!both, "the segment at {start:#x} is writable and executable");
        ensure!(
            start - start % PAGE >= last_end,
            "the segment at {start:#x} shares a page with the one before"
        );
        last_end = (start + size).next_multiple_of(PAGE);
    }
    for name in [hvt_abi::note::ABI1_SECTION, hvt_abi::note::MFT1_SECTION] {
        ensure!(file.section_by_name(name).is_some(), "the linker left out {name}");
    }
    Ok(())
}

fn loads<'a>(file: &'a Elf<'_>) -> impl Iterator<Item = &'a ProgramHeader64<LittleEndian>> {
    file.elf_program_headers().iter().filter(|segment| segment.p_type(LittleEndian) == elf::PT_LOAD)
}

/// Where the bytes of the last segment end in the file.
fn loaded_end(file: &Elf<'_>) -> Result<usize> {
    let ends =
        loads(file).map(|segment| segment.p_offset(LittleEndian) + segment.p_filesz(LittleEndian));
    to_usize(ends.max().context("no segments")?)
}

/// Where the last segment ends in memory.
fn memory_end(file: &Elf<'_>) -> u64 {
    let ends =
        loads(file).map(|segment| segment.p_vaddr(LittleEndian) + segment.p_memsz(LittleEndian));
    ends.max().unwrap_or(0)
}

/// The program's functions, one name for each address, in the order of their addresses.
fn functions(file: &Elf<'_>) -> Vec<(u64, u64, String)> {
    let mut functions: Vec<_> = file
        .symbols()
        .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.is_definition())
        .filter(|symbol| symbol.size() > 0)
        .filter_map(|symbol| Some((symbol.address(), symbol.size(), symbol.name().ok()?)))
        .map(|(address, size, name)| (address, size, readable(name)))
        .collect();
    functions.sort_unstable();
    functions.dedup_by_key(|function| function.0);
    functions
}

/// A name as a backtrace shows it: demangled, without the compiler's hash.
fn readable(name: &str) -> String {
    format!("{:#}", rustc_demangle::demangle(name))
}

/// The table of names, packed.
fn symbol_table(file: &Elf<'_>) -> Result<Vec<u8>> {
    let functions = functions(file);
    let functions: Vec<_> = functions
        .iter()
        .map(|(address, size, name)| Function { address: *address, size: *size, name })
        .collect();
    let packed = hvt_symbols::pack(&functions);
    Table::unpack(&packed)?;
    Ok(packed)
}

fn section_name(names: &mut Vec<u8>, name: &str) -> u32 {
    let at = u32::try_from(names.len()).unwrap_or(0);
    names.extend_from_slice(name.as_bytes());
    names.push(0);
    at
}

/// A section header.
#[derive(Clone, Copy, Debug, Default)]
struct Section {
    name: u32,
    kind: u32,
    flags: u64,
    address: u64,
    offset: u64,
    size: u64,
    align: u64,
}

impl Section {
    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend(self.name.to_le_bytes());
        bytes.extend(self.kind.to_le_bytes());
        for value in [self.flags, self.address, self.offset, self.size] {
            bytes.extend(value.to_le_bytes());
        }
        // No links to other sections and nothing more about this one.
        bytes.extend([0; 8]);
        bytes.extend(self.align.to_le_bytes());
        // No table of entries of one size.
        bytes.extend([0; 8]);
    }
}

/// Turns the program header of `PT_GNU_STACK` into one that loads the symbols.
fn replace_stack_header(
    bytes: &mut [u8],
    file: &Elf<'_>,
    offset: u64,
    address: u64,
    size: u64,
) -> Result<()> {
    let endian = LittleEndian;
    let headers = file.elf_program_headers();
    let stack = headers.iter().position(|header| header.p_type(endian) == elf::PT_GNU_STACK);
    let Some(stack) = stack else { bail!("the linker made no PT_GNU_STACK header") };
    let after = headers[stack..].iter().any(|header| header.p_type(endian) == elf::PT_LOAD);
    ensure!(!after, "PT_GNU_STACK stands in front of a segment");
    let entry = usize::from(file.elf_header().e_phentsize(endian));
    let at = to_usize(file.elf_header().e_phoff(endian))? + stack * entry;
    let mut header = Vec::with_capacity(entry);
    header.extend(elf::PT_LOAD.0.to_le_bytes());
    header.extend(elf::PF_R.0.to_le_bytes());
    for value in [offset, address, address, size, size, PAGE] {
        header.extend(value.to_le_bytes());
    }
    bytes
        .get_mut(at..at + header.len())
        .context("program headers outside of the first segment")?
        .copy_from_slice(&header);
    Ok(())
}

/// Section headers for those who look for sections: what is loaded, and the names of functions.
fn append_sections(bytes: &mut Vec<u8>, file: &Elf<'_>, symbols: (u64, u64)) -> Result<()> {
    let mut names = vec![0];
    let mut sections = vec![Section::default()];
    for section in file.sections() {
        let header = section.elf_section_header();
        if !header.sh_flags(LittleEndian).contains(elf::SHF_ALLOC) {
            continue;
        }
        sections.push(Section {
            name: section_name(&mut names, section.name().context("the name of a section")?),
            kind: header.sh_type(LittleEndian).0,
            flags: header.sh_flags(LittleEndian).0,
            address: section.address(),
            offset: header.sh_offset(LittleEndian),
            size: section.size(),
            align: section.align(),
        });
    }
    sections.push(Section {
        name: section_name(&mut names, hvt_symbols::SECTION),
        kind: hvt_symbols::SECTION_TYPE,
        offset: symbols.0,
        size: symbols.1,
        align: 1,
        ..Section::default()
    });
    let name = section_name(&mut names, ".shstrtab");
    sections.push(Section {
        name,
        kind: elf::SHT_STRTAB.0,
        offset: bytes.len() as u64,
        size: names.len() as u64,
        align: 1,
        ..Section::default()
    });
    bytes.extend_from_slice(&names);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    let at = bytes.len() as u64;
    for section in &sections {
        section.write(bytes);
    }
    let count = u16::try_from(sections.len())?;
    bytes[40..48].copy_from_slice(&at.to_le_bytes());
    bytes[58..60].copy_from_slice(&u16::try_from(SECTION_HEADER)?.to_le_bytes());
    bytes[60..62].copy_from_slice(&count.to_le_bytes());
    bytes[62..64].copy_from_slice(&(count - 1).to_le_bytes());
    Ok(())
}

fn to_usize(value: u64) -> Result<usize> {
    usize::try_from(value).context("a file of this size")
}
