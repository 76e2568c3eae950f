//! Page tables (AMD64 Architecture Programmer's Manual, volume 2, section 5.3; Intel SDM, volume 3A, chapter 4).

use std::ops::Range;

use vm_memory::{Bytes, MmapRegion, VolatileMemory};

use crate::image::Rights;

pub(super) const PRESENT: u64 = 1;
pub(super) const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
/// Accessed and dirty, set from the start, so that the processor never has to.
const TOUCHED: u64 = 1 << 5 | 1 << 6;
pub(super) const LARGE: u64 = 1 << 7;
pub(super) const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

const SMALL_PAGE: u64 = 4096;
const LARGE_PAGE: u64 = 2 << 20;
/// Entries of one table.
const ENTRIES: u64 = 512;

/// There is no room for another table. The caller sized the room for every layout, so this tells of a mistake there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no room for another page table")]
pub struct TablesFull;

/// How a page is mapped.
#[derive(Clone, Copy, Debug)]
pub(super) enum Access {
    /// For the guest at ring 3.
    Guest(Rights),
    /// For the processor and the fault stubs at ring 0 only.
    Supervisor(Rights),
    /// The same where no-execute is off, so that the bit for it must be zero.
    Stock(Rights),
}

impl Access {
    fn bits(self) -> Option<u64> {
        let (user, rights) = match self {
            Self::Guest(rights) => (USER, rights),
            Self::Supervisor(rights) | Self::Stock(rights) => (0, rights),
        };
        let no_execute = if matches!(self, Self::Stock(_)) { 0 } else { NO_EXECUTE };
        let rights = match rights {
            Rights::None => return None,
            Rights::Read => no_execute,
            Rights::Write => no_execute | WRITE,
            Rights::Execute => 0,
        };
        Some(PRESENT | TOUCHED | user | rights)
    }
}

/// Four-level tables under construction in a region of memory whose first byte has the guest-physical address `base`.
pub(super) struct Tables<'a> {
    region: &'a MmapRegion,
    base: u64,
    /// Offset of the next unused table.
    next: u64,
    root: u64,
}

impl<'a> Tables<'a> {
    /// Tables from `offset` of the region on, which must be zero from there.
    pub(super) fn new(region: &'a MmapRegion, base: u64, offset: u64) -> Result<Self, TablesFull> {
        let mut tables = Self { region, base, next: offset, root: 0 };
        tables.root = tables.allocate()?;
        Ok(tables)
    }

    /// The guest-physical address of the topmost table, for CR3.
    pub(super) fn root(&self) -> u64 {
        self.base + self.root
    }

    /// The guest-physical address of the table that maps the GiB of an address.
    pub(super) fn directory(&mut self, at: u64) -> Result<u64, TablesFull> {
        let directory = self.descend(self.root, at, 39)?;
        Ok(self.base + self.descend(directory, at, 30)?)
    }

    /// Maps whole pages. `physical` is the address of the first. A page that is mapped already is mapped anew.
    pub(super) fn map(
        &mut self,
        pages: Range<u64>,
        physical: u64,
        access: Access,
    ) -> Result<(), TablesFull> {
        let Some(bits) = access.bits() else { return Ok(()) };
        let mut at = pages.start;
        while at < pages.end {
            let target = physical + (at - pages.start);
            let fits = |size: u64| {
                at.is_multiple_of(size) && target.is_multiple_of(size) && pages.end - at >= size
            };
            let directory = self.descend(self.root, at, 39)?;
            let directory = self.descend(directory, at, 30)?;
            if fits(LARGE_PAGE) {
                self.store(slot(directory, at, 21), target | bits | LARGE)?;
                at += LARGE_PAGE;
            } else {
                let table = self.descend(directory, at, 21)?;
                self.store(slot(table, at, 12), target | bits)?;
                at += SMALL_PAGE;
            }
        }
        Ok(())
    }

    /// The table below the entry for `at` in the table at offset `table`, made if it is not there. Rights are decided in
    /// the last level alone.
    fn descend(&mut self, table: u64, at: u64, shift: u32) -> Result<u64, TablesFull> {
        let place = slot(table, at, shift);
        let entry: u64 =
            self.region.as_volatile_slice().read_obj(to_usize(place)).map_err(|_| TablesFull)?;
        if entry & PRESENT != 0 {
            return Ok((entry & ADDRESS) - self.base);
        }
        let new = self.allocate()?;
        self.store(place, (self.base + new) | PRESENT | WRITE | USER | TOUCHED & !LARGE)?;
        Ok(new)
    }

    fn allocate(&mut self) -> Result<u64, TablesFull> {
        let table = self.next;
        let next = table + SMALL_PAGE;
        if next > self.region.size() as u64 {
            return Err(TablesFull);
        }
        self.next = next;
        Ok(table)
    }

    fn store(&self, place: u64, entry: u64) -> Result<(), TablesFull> {
        let slice = self.region.as_volatile_slice();
        slice.write_obj(entry, to_usize(place)).map_err(|_| TablesFull)
    }
}

/// How many bytes of tables are enough for any layout of `memory` bytes from address zero.
pub(super) fn room_for(memory: u64) -> u64 {
    // One root, one table of the next level, and for each GiB and each 2 MiB one of the lower ones.
    (2 + memory.div_ceil(1 << 30) + memory.div_ceil(LARGE_PAGE)) * SMALL_PAGE
}

fn slot(table: u64, at: u64, shift: u32) -> u64 {
    table + (at >> shift) % ENTRIES * 8
}

fn to_usize(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = 4 << 30;

    /// What the processor would find for an address.
    fn walk(tables: &Tables<'_>, at: u64) -> Option<(u64, u64)> {
        let mut table = tables.root;
        for shift in [39, 30, 21, 12] {
            let slice = tables.region.as_volatile_slice();
            let entry: u64 = slice.read_obj(to_usize(slot(table, at, shift))).unwrap();
            if entry & PRESENT == 0 {
                return None;
            }
            if shift == 12 || shift == 21 && entry & LARGE != 0 {
                let offset = at & ((1 << shift) - 1);
                return Some(((entry & ADDRESS) + offset, entry));
            }
            table = (entry & ADDRESS) - BASE;
        }
        unreachable!()
    }

    #[test]
    fn a_range_is_mapped_to_its_last_page_and_no_further() {
        let region = MmapRegion::new(to_usize(room_for(64 << 20))).unwrap();
        let mut tables = Tables::new(&region, BASE, 0).unwrap();
        let range = 0x1f_f000..0x60_1000;
        tables.map(range.clone(), range.start, Access::Guest(Rights::Write)).unwrap();
        tables.map(0x60_1000..0x60_3000, 0x9000, Access::Supervisor(Rights::Execute)).unwrap();
        tables.map(0x60_3000..0x60_4000, 0x60_3000, Access::Guest(Rights::None)).unwrap();
        for at in [0x1f_f000, 0x1f_ffff, 0x20_0000, 0x3f_ffff, 0x40_0123, 0x60_0000, 0x60_0fff] {
            let (target, entry) = walk(&tables, at).unwrap();
            assert_eq!(target, at);
            assert_eq!(entry & (USER | WRITE | NO_EXECUTE), USER | WRITE | NO_EXECUTE);
        }
        assert_eq!(walk(&tables, 0x1f_efff), None);
        assert_eq!(walk(&tables, 0x60_3000), None);
        assert_eq!(walk(&tables, 0x60_4000), None);
        let (target, entry) = walk(&tables, 0x60_2001).unwrap();
        assert_eq!(target, 0xa001);
        assert_eq!(entry & (USER | WRITE | NO_EXECUTE), 0);
    }

    #[test]
    fn the_worst_layout_fits_and_one_table_less_does_not() {
        let memory = 16 << 20;
        let fill = |room: u64| {
            let region = MmapRegion::new(to_usize(room)).unwrap();
            let mut tables = Tables::new(&region, BASE, 0)?;
            (0..memory / LARGE_PAGE).try_for_each(|i| {
                let at = i * LARGE_PAGE + SMALL_PAGE;
                tables.map(at..at + SMALL_PAGE, at, Access::Guest(Rights::Read))
            })
        };
        assert_eq!(fill(room_for(memory)), Ok(()));
        assert_eq!(fill(room_for(memory) - SMALL_PAGE), Err(TablesFull));
    }
}
