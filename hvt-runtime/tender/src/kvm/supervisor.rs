//! The pages that a guest runs under: page tables, GDT, IDT, fault stubs, TSS, one stack.
//!
//! They are in memory of their own, above 4 GiB where no hypercall can point. A fault enters a stub there, which tells the
//! tender its vector by an `out` to [`FAULT_PORT`] and never returns. Without stubs a fault would be a triple fault, after
//! which some processors forget what happened.
//!
//! For a guest at ring 3 the page tables map a few of them below 64 KiB, for ring 0 only: the guest can't reach them. A
//! guest at ring 0 has page tables of its own, to which the pages are added above 4 GiB. It can do with them what it
//! likes, and replaces them when it installs fault handlers; until then its faults are told as well.

use hvt_abi::hypercall::PORT_BASE;
use hvt_abi::ring::KICK_PORT;
use vm_memory::{Bytes, MmapRegion, VolatileMemory};

use super::KvmError;
use super::paging::{Access, Tables, room_for};
use crate::image::Rights;
use crate::layout::Layout;

/// Guest-physical address of these pages.
pub(super) const SUPERVISOR_BASE: u64 = 4 << 30;
/// The port by which a stub tells its vector. Only ring 0 may use it.
pub(super) const FAULT_PORT: u16 = 0xf0;

/// The vector of `int3`.
const BREAKPOINT: u64 = 3;
const PAGE: u64 = 4096;
// Pages in the region, and where the processor sees them in the window. A hole below the stack catches its overflow.
const GDT: (u64, u64) = (0, 0);
const IDT: (u64, u64) = (PAGE, PAGE);
const STUBS: (u64, u64) = (2 * PAGE, 2 * PAGE);
const TSS: (u64, u64) = (3 * PAGE, 3 * PAGE);
const STACK: (u64, u64) = (4 * PAGE, 5 * PAGE);
const TABLES: u64 = 5 * PAGE;
/// Where the window is for a guest at ring 3, and at ring 0.
const WINDOW_RING3: u64 = 0x1000;
const WINDOW_RING0: u64 = SUPERVISOR_BASE;

pub(super) const GDT_LIMIT: u16 = 7 * 8 - 1;
pub(super) const IDT_LIMIT: u16 = 256 * 16 - 1;
pub(super) const TSS_LIMIT: u32 = 104 + (KICK_PORT as u32 + 3) / 8 + 2 - 1;

/// Selectors in the GDT.
const KERNEL_CODE: u16 = 0x08;
pub(super) const USER_CODE: u16 = 0x18 | 3;
pub(super) const USER_DATA: u16 = 0x20 | 3;
pub(super) const TASK: u16 = 0x28;

/// Hypercalls 0 to 32 with the width of their `out`, and the ring's kick.
const OPEN_PORTS: [std::ops::RangeInclusive<u16>; 2] =
    [PORT_BASE..=PORT_BASE + 0x23, KICK_PORT..=KICK_PORT + 3];
/// One bit a port up to the last open one, and the byte of ones that must follow.
const BITMAP_LEN: usize = (KICK_PORT as usize + 3) / 8 + 2;

/// The pages, filled.
#[derive(Debug)]
pub(super) struct Supervisor {
    region: MmapRegion,
    /// At ring 3, for CR3; at ring 0, the table of the second level that maps the window's GiB.
    pub(super) root: u64,
    window: u64,
}

/// What a stub saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) error_code: u64,
    pub(super) rax: u64,
    pub(super) rip: u64,
    pub(super) rflags: u64,
    pub(super) rsp: u64,
}

impl Supervisor {
    /// For a guest at ring 3 with this layout.
    pub(super) fn ring3(layout: &Layout) -> Result<Self, KvmError> {
        let reach = layout.areas.iter().map(|area| area.pages.end).max().unwrap_or(0);
        let region = Self::map(room_for(reach))?;
        let mut tables = Tables::new(&region, SUPERVISOR_BASE, TABLES)?;
        for area in &layout.areas {
            let first = area.pages.start;
            tables.map(area.pages.clone(), first, Access::Guest(area.rights))?;
        }
        map_window(&mut tables, WINDOW_RING3, Access::Supervisor)?;
        let root = tables.root();
        Self { region, root, window: WINDOW_RING3 }.filled()
    }

    /// For a guest at ring 0, in whose processor no-execute is off.
    pub(super) fn ring0() -> Result<Self, KvmError> {
        let region = Self::map(room_for(PAGE))?;
        let mut tables = Tables::new(&region, SUPERVISOR_BASE, TABLES)?;
        map_window(&mut tables, WINDOW_RING0, Access::Stock)?;
        let root = tables.directory(WINDOW_RING0)?;
        Self { region, root, window: WINDOW_RING0 }.filled()
    }

    fn map(tables: u64) -> Result<MmapRegion, KvmError> {
        let size = usize::try_from(TABLES + tables).unwrap_or(usize::MAX);
        MmapRegion::new(size).map_err(|e| KvmError::Memory(e.to_string()))
    }

    fn filled(self) -> Result<Self, KvmError> {
        let window = self.window;
        for (place, bytes) in [
            (GDT, gdt(window).as_slice()),
            (IDT, &idt(window)),
            (STUBS, &stubs()),
            (TSS, &tss(window)),
        ] {
            self.write(place.0, bytes)?;
        }
        Ok(self)
    }

    /// Address of the GDT, with [`GDT_LIMIT`].
    pub(super) fn gdt_address(&self) -> u64 {
        self.window + GDT.1
    }

    /// Address of the IDT, with [`IDT_LIMIT`].
    pub(super) fn idt_address(&self) -> u64 {
        self.window + IDT.1
    }

    /// Address of the task state, with [`TSS_LIMIT`].
    pub(super) fn tss_address(&self) -> u64 {
        self.window + TSS.1
    }

    pub(super) fn region(&self) -> &MmapRegion {
        &self.region
    }

    /// Whether an address is in the stubs.
    pub(super) fn is_stub(&self, address: u64) -> bool {
        let stubs = self.window + STUBS.1;
        (stubs..stubs + PAGE).contains(&address)
    }

    /// Reads what the processor and the stub pushed, given the stack pointer in the stub.
    pub(super) fn fault(&self, vector: u8, rsp: u64) -> Option<Fault> {
        let mut at = rsp.checked_sub(self.window + STACK.1)?;
        let mut pop = || {
            let offset = usize::try_from(STACK.0 + at).ok().filter(|_| at <= PAGE - 8)?;
            at += 8;
            self.region.as_volatile_slice().read_obj::<u64>(offset).ok()
        };
        let rax = pop()?;
        let error_code = if pushes_error_code(vector) { pop()? } else { 0 };
        let rip = pop()?;
        let _cs = pop()?;
        Some(Fault { error_code, rax, rip, rflags: pop()?, rsp: pop()? })
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), KvmError> {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let slice = self.region.as_volatile_slice();
        slice.write_slice(bytes, offset).map_err(|e| KvmError::Memory(e.to_string()))
    }
}

fn map_window(
    tables: &mut Tables<'_>,
    window: u64,
    access: impl Fn(Rights) -> Access,
) -> Result<(), KvmError> {
    for ((offset, place), rights) in [
        (GDT, Rights::Read),
        (IDT, Rights::Read),
        (STUBS, Rights::Execute),
        (TSS, Rights::Read),
        (STACK, Rights::Write),
    ] {
        let pages = window + place..window + place + PAGE;
        tables.map(pages, SUPERVISOR_BASE + offset, access(rights))?;
    }
    Ok(())
}

/// AMD64 APM volume 2, section 8.2: the exceptions that push an error code.
fn pushes_error_code(vector: u8) -> bool {
    matches!(vector, 8 | 10..=14 | 17 | 21 | 29 | 30)
}

/// Code and data for both rings, with the accessed bit set, and the task's descriptor of 16 bytes (section 4.8).
fn gdt(window: u64) -> Vec<u8> {
    let base = window + TSS.1;
    let (low, middle, high) = (base & 0xff_ffff, base >> 24 & 0xff, base >> 32);
    let task = u64::from(TSS_LIMIT) | low << 16 | 0x8b << 40 | middle << 56;
    let entries: [u64; 7] = [
        0,
        0x00af_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        0x00af_fb00_0000_ffff,
        0x00cf_f300_0000_ffff,
        task,
        high,
    ];
    entries.iter().flat_map(|entry| entry.to_le_bytes()).collect()
}

/// Every vector enters its stub at ring 0 on the interrupt stack (section 4.8.4). Ring 3 may raise only the breakpoint by
/// an instruction, so that it is reported as what it is; others are a general protection fault.
fn idt(window: u64) -> Vec<u8> {
    let gate = |vector: u64| {
        let stub = window + STUBS.1 + vector * 16;
        let kind: u64 = if vector == BREAKPOINT { 0xee } else { 0x8e };
        let middle = stub >> 16 & 0xffff;
        let low = stub & 0xffff | u64::from(KERNEL_CODE) << 16 | 1 << 32 | kind << 40;
        [low | middle << 48, stub >> 32]
    };
    (0..256).flat_map(gate).flat_map(u64::to_le_bytes).collect()
}

/// `push rax; mov al, VECTOR; out FAULT_PORT, al; hlt; jmp` back to the `hlt`.
fn stubs() -> Vec<u8> {
    let port = FAULT_PORT.to_le_bytes()[0];
    let stub = |vector: u8| {
        let mut code = [0xcc; 16];
        code[..8].copy_from_slice(&[0x50, 0xb0, vector, 0xe6, port, 0xf4, 0xeb, 0xfd]);
        code
    };
    (0..=255).flat_map(stub).collect()
}

/// The task state (section 12.2.5): the interrupt stack and the ports that ring 3 may use.
fn tss(window: u64) -> Vec<u8> {
    let mut tss = vec![0; 104 + BITMAP_LEN];
    let stack_end = (window + STACK.1 + PAGE).to_le_bytes();
    tss[4..12].copy_from_slice(&stack_end);
    tss[36..44].copy_from_slice(&stack_end);
    tss[102..104].copy_from_slice(&104_u16.to_le_bytes());
    let bitmap = &mut tss[104..];
    bitmap.fill(0xff);
    for port in OPEN_PORTS.into_iter().flatten() {
        bitmap[usize::from(port / 8)] &= !(1 << (port % 8));
    }
    tss
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_ports_of_the_abi_are_open() {
        let tss = tss(WINDOW_RING3);
        assert_eq!(tss.len(), TSS_LIMIT as usize + 1);
        assert_eq!(tss.last(), Some(&0xff));
        let bits = &tss[104..tss.len() - 1];
        let open: Vec<usize> =
            (0..bits.len() * 8).filter(|port| bits[port / 8] & 1 << (port % 8) == 0).collect();
        let expected: Vec<usize> = (0x500..=0x523).chain(0x600..=0x603).collect();
        assert_eq!(open, expected);
    }

    #[test]
    fn tables_have_the_sizes_that_their_limits_say() {
        assert_eq!(gdt(WINDOW_RING3).len(), usize::from(GDT_LIMIT) + 1);
        assert_eq!(idt(WINDOW_RING0).len(), usize::from(IDT_LIMIT) + 1);
        assert_eq!(stubs().len(), 4096);
    }
}
