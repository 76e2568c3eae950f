//! Names for addresses, from the image: its packed table ([`hvt_symbols`]), or the ELF symbol table of other tools' images.
//!
//! Either is read after a crash, straight from the file: names cost nothing while the guest runs. The file may be hostile;
//! a table that does not make sense gives no names.

use std::fs::File;
use std::os::unix::fs::FileExt;

use hvt_symbols::{Function, Table};

use crate::bytes::{u16_at, u32_at, u64_at};

/// The most sections and symbols that are looked at.
const MAX_SECTIONS: u64 = 4096;
const MAX_SYMBOLS: u64 = 4 << 20;
/// The largest packed table that is read, in bytes.
const MAX_PACKED: u64 = 16 << 20;
/// The longest name that is shown, before demangling.
const MAX_NAME: usize = 512;
const SECTION_SIZE: usize = 64;
const SYMBOL_SIZE: usize = 24;
const SHT_SYMTAB: u32 = 2;
const STT_FUNC: u8 = 2;

/// A symbol table in a file.
#[derive(Debug)]
pub struct Symbols<'a> {
    file: &'a File,
    table: (u64, u64),
    names: (u64, u64),
}

/// The best match so far.
#[derive(Clone, Copy)]
struct Match {
    start: u64,
    name: u32,
}

impl<'a> Symbols<'a> {
    /// For each address `function+0x12`, where the table has one.
    #[must_use]
    pub fn resolve(file: &'a File, addresses: &[u64]) -> Vec<Option<String>> {
        if let Some(names) = packed(file, addresses) {
            return names;
        }
        let table = Self::find(file);
        let found = table.as_ref().map_or_else(Vec::new, |table| table.search(addresses));
        let name = |(i, address): (usize, &u64)| {
            let best = found.get(i).copied().flatten()?;
            let text = table.as_ref()?.name(best.name)?;
            let text = format!("{:#}", rustc_demangle::demangle(&text));
            Some(place(&text, address - best.start))
        };
        addresses.iter().enumerate().map(name).collect()
    }

    fn find(file: &'a File) -> Option<Self> {
        let section = |index: u64| section(file, index);
        let symbols = sections(file).find(|section| u32_at(section, 4) == SHT_SYMTAB)?;
        let names = section(u32_at(&symbols, 40).into())?;
        Some(Self { file, table: extent(&symbols), names: extent(&names) })
    }

    /// One pass over the table for all addresses.
    fn search(&self, addresses: &[u64]) -> Vec<Option<Match>> {
        let mut best: Vec<Option<Match>> = vec![None; addresses.len()];
        let mut left = (self.table.1 / SYMBOL_SIZE as u64).min(MAX_SYMBOLS);
        let mut at = self.table.0;
        let mut chunk = vec![0; 1024 * SYMBOL_SIZE];
        while left > 0 {
            let count = left.min(1024);
            let len = usize::try_from(count).unwrap_or(0) * SYMBOL_SIZE;
            if self.file.read_exact_at(&mut chunk[..len], at).is_err() {
                break;
            }
            for symbol in chunk[..len].chunks_exact(SYMBOL_SIZE) {
                if symbol[4] & 0xf != STT_FUNC {
                    continue;
                }
                let (start, size) = (u64_at(symbol, 8), u64_at(symbol, 16));
                for (address, best) in addresses.iter().zip(&mut best) {
                    let inside =
                        address.checked_sub(start).is_some_and(|offset| offset < size.max(1));
                    if inside && best.is_none_or(|best| best.start < start) {
                        *best = Some(Match { start, name: u32_at(symbol, 0) });
                    }
                }
            }
            left -= count;
            at = at.saturating_add(len as u64);
        }
        best
    }

    fn name(&self, offset: u32) -> Option<String> {
        let offset = u64::from(offset);
        let room = self.names.1.checked_sub(offset)?.min(MAX_NAME as u64);
        let mut bytes = vec![0; usize::try_from(room).ok()?];
        self.file.read_exact_at(&mut bytes, self.names.0.checked_add(offset)?).ok()?;
        let len = bytes.iter().position(|b| *b == 0)?;
        let text = std::str::from_utf8(&bytes[..len]).ok()?;
        can_be_shown(text).then(|| text.to_owned())
    }
}

/// What the packed table says, if the image has one.
fn packed(file: &File, addresses: &[u64]) -> Option<Vec<Option<String>>> {
    let section = sections(file).find(|section| u32_at(section, 4) == hvt_symbols::SECTION_TYPE)?;
    let (offset, len) = extent(&section);
    let mut bytes = vec![0; usize::try_from(len.min(MAX_PACKED)).ok()?];
    file.read_exact_at(&mut bytes, offset).ok()?;
    let table = Table::unpack(&bytes).ok()?;
    let name = |(address, function): (&u64, Option<Function<'_>>)| {
        let function = function.filter(|function| can_be_shown(function.name))?;
        let short: String = function.name.chars().take(MAX_NAME).collect();
        Some(place(&short, address - function.address))
    };
    Some(addresses.iter().zip(table.find(addresses)).map(name).collect())
}

fn place(name: &str, offset: u64) -> String {
    format!("{name}+{offset:#x}")
}

/// A name goes to a terminal.
fn can_be_shown(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| !c.is_control())
}

/// Section headers of a file, as far as there are any.
fn sections(file: &File) -> impl Iterator<Item = [u8; SECTION_SIZE]> {
    let count = read::<64>(file, 0).map_or(0, |header| u64::from(u16_at(&header, 60)));
    (0..count.min(MAX_SECTIONS)).map_while(move |index| section(file, index))
}

fn section(file: &File, index: u64) -> Option<[u8; SECTION_SIZE]> {
    let header: [u8; 64] = read(file, 0)?;
    read(file, u64_at(&header, 40).checked_add(index.checked_mul(SECTION_SIZE as u64)?)?)
}

/// Where a section's bytes are, and how many.
fn extent(section: &[u8]) -> (u64, u64) {
    (u64_at(section, 24), u64_at(section, 32))
}

fn read<const N: usize>(file: &File, at: u64) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    file.read_exact_at(&mut bytes, at).ok()?;
    Some(bytes)
}
