//! Names for addresses, from the image's symbol table.
//!
//! The table is read after a crash, in pieces, straight from the file: names cost nothing while the guest runs. The file
//! may be hostile; a table that does not make sense gives no names.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::bytes::{u16_at, u32_at, u64_at};

/// The most sections and symbols that are looked at.
const MAX_SECTIONS: u64 = 4096;
const MAX_SYMBOLS: u64 = 4 << 20;
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
        let table = Self::find(file);
        let found = table.as_ref().map_or_else(Vec::new, |table| table.search(addresses));
        let name = |(i, address): (usize, &u64)| {
            let best = found.get(i).copied().flatten()?;
            let text = table.as_ref()?.name(best.name)?;
            Some(format!("{:#}+{:#x}", rustc_demangle::demangle(&text), address - best.start))
        };
        addresses.iter().enumerate().map(name).collect()
    }

    fn find(file: &'a File) -> Option<Self> {
        let header: [u8; 64] = read(file, 0)?;
        let (sections, count) = (u64_at(&header, 40), u64::from(u16_at(&header, 60)));
        let section = |index: u64| -> Option<[u8; SECTION_SIZE]> {
            read(file, sections.checked_add(index.checked_mul(SECTION_SIZE as u64)?)?)
        };
        for index in 0..count.min(MAX_SECTIONS) {
            let symbols = section(index)?;
            if u32_at(&symbols, 4) == SHT_SYMTAB {
                let names = section(u32_at(&symbols, 40).into())?;
                let extent = |s: &[u8]| (u64_at(s, 24), u64_at(s, 32));
                return Some(Self { file, table: extent(&symbols), names: extent(&names) });
            }
        }
        None
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
        // A name goes to a terminal.
        (len > 0 && text.chars().all(|c| !c.is_control())).then(|| text.to_owned())
    }
}

fn read<const N: usize>(file: &File, at: u64) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    file.read_exact_at(&mut bytes, at).ok()?;
    Some(bytes)
}
