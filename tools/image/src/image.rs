//! From a linked program to an image: without debug information, with a symbol table for backtraces.
//!
//! The symbol table is an ELF file of its own, of nothing but function symbols, in a read-only segment behind the program.
//! The guest library shows it to the program as its own executable, so that `std` names the functions of a backtrace; the
//! image's section headers name the same bytes, so that the tender's crash reports and other tools find them too.
//!
//! The segment takes the program header of `PT_GNU_STACK`, which means nothing to a tender.

use anyhow::{Context, Result, bail, ensure};
use object::elf::{self, FileHeader64, ProgramHeader64, SectionHeader64};
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader};
use object::{LittleEndian, Object, ObjectSection, ObjectSymbol, SymbolKind};

const PAGE: u64 = 4096;
const HEADER: usize = size_of::<FileHeader64<LittleEndian>>();
const SECTION_HEADER: usize = size_of::<SectionHeader64<LittleEndian>>();
const SYMBOL: usize = 24;

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
    let symbols = symbol_file(&file);
    let mut bytes = linked[..loaded_end(&file)?].to_vec();
    let offset = to_usize((bytes.len() as u64).next_multiple_of(PAGE))?;
    bytes.resize(offset, 0);
    let address = memory_end(&file).next_multiple_of(PAGE);
    replace_stack_header(&mut bytes, &file, offset as u64, address, symbols.bytes.len() as u64)?;
    bytes.extend_from_slice(&symbols.bytes);
    append_sections(&mut bytes, &file, &symbols, offset as u64)?;
    Elf::parse(bytes.as_slice()).context("the finished image")?;
    Ok(Finished { bytes, symbols: symbols.bytes.len() })
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

/// The symbol file, and where its parts are in it.
struct SymbolFile {
    bytes: Vec<u8>,
    symbols: (usize, usize),
    names: (usize, usize),
}

/// One function: its address, size and name.
type Function<'data> = (u64, u64, &'data [u8]);

/// The program's functions, one name for each address, in the order of their addresses.
fn functions<'data>(file: &Elf<'data>) -> Vec<Function<'data>> {
    let mut functions: Vec<_> = file
        .symbols()
        .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.is_definition())
        .filter(|symbol| symbol.size() > 0)
        .filter_map(|symbol| Some((symbol.address(), symbol.size(), symbol.name_bytes().ok()?)))
        .collect();
    functions.sort_unstable();
    functions.dedup_by_key(|function| function.0);
    functions
}

/// The section number of the text in the symbol file and in the image, for the symbols' sake.
const TEXT: u16 = 1;

fn symbol_file(file: &Elf<'_>) -> SymbolFile {
    let mut names = vec![0];
    let mut symbols = vec![0; SYMBOL];
    for (address, size, name) in functions(file) {
        // Names of less than 4 GiB: the whole image is smaller.
        let at = u32::try_from(names.len()).unwrap_or(0);
        names.extend_from_slice(name);
        names.push(0);
        symbols.extend(at.to_le_bytes());
        symbols.extend([elf::STB_GLOBAL.0 << 4 | elf::STT_FUNC.0, 0]);
        symbols.extend(TEXT.to_le_bytes());
        symbols.extend(address.to_le_bytes());
        symbols.extend(size.to_le_bytes());
    }
    let (text_start, text_size) = text(file);
    let mut section_names = Vec::new();
    let mut sections = vec![Section::default()];
    let name = |names: &mut Vec<u8>, text: &str| section_name(names, text);
    section_names.push(0);
    let symbols_at = HEADER;
    let names_at = symbols_at + symbols.len();
    let section_names_at = names_at + names.len();
    sections.push(Section {
        name: name(&mut section_names, ".text"),
        kind: elf::SHT_NOBITS.0,
        flags: elf::SHF_ALLOC.0 | elf::SHF_EXECINSTR.0,
        address: text_start,
        offset: 0,
        size: text_size,
        align: 16,
        ..Section::default()
    });
    sections.push(Section {
        name: name(&mut section_names, ".symtab"),
        kind: elf::SHT_SYMTAB.0,
        offset: symbols_at as u64,
        size: symbols.len() as u64,
        link: 3,
        info: 1,
        align: 8,
        entry: SYMBOL as u64,
        ..Section::default()
    });
    sections.push(Section {
        name: name(&mut section_names, ".strtab"),
        kind: elf::SHT_STRTAB.0,
        offset: names_at as u64,
        size: names.len() as u64,
        align: 1,
        ..Section::default()
    });
    let own_name = name(&mut section_names, ".shstrtab");
    sections.push(Section {
        name: own_name,
        kind: elf::SHT_STRTAB.0,
        offset: section_names_at as u64,
        size: section_names.len() as u64,
        align: 1,
        ..Section::default()
    });
    let headers_at = (section_names_at + section_names.len()).next_multiple_of(8);
    let mut bytes = elf_header(headers_at as u64, sections.len());
    bytes.extend_from_slice(&symbols);
    bytes.extend_from_slice(&names);
    bytes.extend_from_slice(&section_names);
    bytes.resize(headers_at, 0);
    for section in &sections {
        section.write(&mut bytes);
    }
    SymbolFile { bytes, symbols: (symbols_at, symbols.len()), names: (names_at, names.len()) }
}

/// Address and size of the code.
fn text(file: &Elf<'_>) -> (u64, u64) {
    let code = loads(file).find(|segment| segment.p_flags(LittleEndian).contains(elf::PF_X));
    code.map_or((0, 0), |code| (code.p_vaddr(LittleEndian), code.p_memsz(LittleEndian)))
}

/// The header of an ELF file without segments.
fn elf_header(sections_at: u64, sections: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER);
    bytes.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    bytes.extend(elf::ET_EXEC.0.to_le_bytes());
    bytes.extend(elf::EM_X86_64.0.to_le_bytes());
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend([0; 16]);
    bytes.extend(sections_at.to_le_bytes());
    bytes.extend([0; 4]);
    let small = |value: usize| u16::try_from(value).unwrap_or(0).to_le_bytes();
    for value in [HEADER, 0, 0, SECTION_HEADER, sections, sections - 1] {
        bytes.extend(small(value));
    }
    bytes
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
    link: u32,
    info: u32,
    align: u64,
    entry: u64,
}

impl Section {
    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend(self.name.to_le_bytes());
        bytes.extend(self.kind.to_le_bytes());
        for value in [self.flags, self.address, self.offset, self.size] {
            bytes.extend(value.to_le_bytes());
        }
        bytes.extend(self.link.to_le_bytes());
        bytes.extend(self.info.to_le_bytes());
        bytes.extend(self.align.to_le_bytes());
        bytes.extend(self.entry.to_le_bytes());
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

/// Section headers for those who look for sections: notes, text, symbols.
fn append_sections(
    bytes: &mut Vec<u8>,
    file: &Elf<'_>,
    symbols: &SymbolFile,
    symbols_at: u64,
) -> Result<()> {
    let mut names = vec![0];
    let (address, size) = text(file);
    let offset = loads(file).find(|segment| segment.p_vaddr(LittleEndian) == address);
    let offset = offset.map_or(0, |segment| segment.p_offset(LittleEndian));
    let mut sections = vec![
        Section::default(),
        Section {
            name: section_name(&mut names, ".text"),
            kind: elf::SHT_PROGBITS.0,
            flags: elf::SHF_ALLOC.0 | elf::SHF_EXECINSTR.0,
            address,
            offset,
            size,
            align: 16,
            ..Section::default()
        },
        Section {
            name: section_name(&mut names, ".symtab"),
            kind: elf::SHT_SYMTAB.0,
            offset: symbols_at + symbols.symbols.0 as u64,
            size: symbols.symbols.1 as u64,
            link: 3,
            info: 1,
            align: 8,
            entry: SYMBOL as u64,
            ..Section::default()
        },
        Section {
            name: section_name(&mut names, ".strtab"),
            kind: elf::SHT_STRTAB.0,
            offset: symbols_at + symbols.names.0 as u64,
            size: symbols.names.1 as u64,
            align: 1,
            ..Section::default()
        },
    ];
    for section in file.sections() {
        let name = section.name().unwrap_or_default();
        if !name.starts_with(".note.") {
            continue;
        }
        let (offset, size) = section.file_range().context("a note without bytes")?;
        sections.push(Section {
            name: section_name(&mut names, name),
            kind: elf::SHT_NOTE.0,
            flags: elf::SHF_ALLOC.0,
            address: section.address(),
            offset,
            size,
            align: section.align(),
            ..Section::default()
        });
    }
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
