//! The state in which a guest's processor starts.

use hvt_abi::boot::BOOT_INFO_ADDRESS;
use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2, kvm_regs, kvm_segment, kvm_sregs, kvm_xcr,
    kvm_xcrs,
};
use kvm_ioctls::{Kvm, VcpuFd};
use vm_memory::{Bytes, VolatileMemory};

use super::paging::{LARGE, PRESENT, WRITE};
use super::supervisor::{
    GDT_LIMIT, IDT_LIMIT, SUPERVISOR_BASE, Supervisor, TASK, TSS_LIMIT, USER_CODE, USER_DATA,
};
use super::{KvmError, step};
use crate::layout::Layout;
use crate::memory::GuestSpace;

const CR0_PE: u64 = 1;
const CR0_MP: u64 = 1 << 1;
const CR0_ET: u64 = 1 << 4;
const CR0_NE: u64 = 1 << 5;
const CR0_WP: u64 = 1 << 16;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const CR4_OSFXSR: u64 = 1 << 9;
const CR4_OSXMMEXCPT: u64 = 1 << 10;
const CR4_FSGSBASE: u64 = 1 << 16;
const CR4_OSXSAVE: u64 = 1 << 18;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const EFER_NXE: u64 = 1 << 11;
/// Bit 1 is always set; IOPL 3, because some processors ask it and others the task's bitmap.
const RFLAGS_RING3: u64 = 1 << 1 | 3 << 12;
const RFLAGS_RING0: u64 = 1 << 1;
/// State that a guest may use: x87, SSE, AVX and the three parts of AVX-512.
const XCR0_OFFERED: u64 = 0b1110_0111;

/// Gives the processor the features that KVM offers, without those that only widen the border: nested virtualization,
/// performance counters and tracing, enclaves.
pub(super) fn set_features(kvm: &Kvm, vcpu: &VcpuFd) -> Result<u64, KvmError> {
    let mut cpuid =
        kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(step("KVM_GET_SUPPORTED_CPUID"))?;
    mask(&mut cpuid);
    vcpu.set_cpuid2(&cpuid).map_err(step("KVM_SET_CPUID2"))?;
    let xsave = cpuid.as_slice().iter().find(|leaf| leaf.function == 0xd && leaf.index == 0);
    Ok(xsave.map_or(0, |leaf| u64::from(leaf.eax)) & XCR0_OFFERED)
}

fn mask(cpuid: &mut CpuId) {
    for leaf in cpuid.as_mut_slice() {
        let clear = |register: &mut u32, bits: &[u32]| {
            bits.iter().for_each(|bit| *register &= !(1 << bit));
        };
        let empty = |leaf: &mut kvm_cpuid_entry2| {
            (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx) = (0, 0, 0, 0);
        };
        match leaf.function {
            // VMX, PDCM.
            1 => clear(&mut leaf.ecx, &[5, 15]),
            // SGX, Processor Trace; SGX launch control.
            7 if leaf.index == 0 => {
                clear(&mut leaf.ebx, &[2, 25]);
                clear(&mut leaf.ecx, &[30]);
            }
            // Architectural performance monitoring, SGX, Processor Trace, performance monitoring extended.
            0xa | 0x12 | 0x14 | 0x23 => empty(leaf),
            // SVM, IBS, performance counters of the core, the northbridge and the last cache, and their time stamp.
            0x8000_0001 => clear(&mut leaf.ecx, &[2, 10, 23, 24, 27, 28]),
            // SVM, IBS, performance monitoring version 2.
            0x8000_000a | 0x8000_001b | 0x8000_0022 => empty(leaf),
            _ => {}
        }
    }
}

/// The state of a guest at ring 3.
pub(super) fn start_ring3(
    vcpu: &VcpuFd,
    supervisor: &Supervisor,
    xcr0: u64,
    entry: u64,
    layout: &Layout,
) -> Result<(), KvmError> {
    let mut sregs = vcpu.get_sregs().map_err(step("KVM_GET_SREGS"))?;
    sregs.cr0 = CR0_PG | CR0_WP | CR0_NE | CR0_ET | CR0_MP | CR0_PE;
    sregs.cr3 = supervisor.root;
    sregs.cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_FSGSBASE | CR4_OSXSAVE;
    sregs.efer = EFER_LME | EFER_LMA | EFER_NXE;
    set_ring3_segments(&mut sregs);
    set_data_segments(&mut sregs, data_segment(USER_DATA, 3));
    set_tables(&mut sregs, supervisor);
    vcpu.set_sregs(&sregs).map_err(step("KVM_SET_SREGS"))?;
    if xcr0 != 0 {
        let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
        xcrs.xcrs[0] = kvm_xcr { xcr: 0, value: xcr0, ..Default::default() };
        vcpu.set_xcrs(&xcrs).map_err(step("KVM_SET_XCRS"))?;
    }
    start_registers(vcpu, entry, layout.stack.end, RFLAGS_RING3)
}

/// What the processor asks when a fault happens.
fn set_tables(sregs: &mut kvm_sregs, supervisor: &Supervisor) {
    sregs.tr = kvm_segment {
        base: supervisor.tss_address(),
        limit: TSS_LIMIT,
        selector: TASK,
        type_: 11,
        present: 1,
        ..Default::default()
    };
    sregs.ldt = kvm_segment { unusable: 1, ..Default::default() };
    (sregs.gdt.base, sregs.gdt.limit) = (supervisor.gdt_address(), GDT_LIMIT);
    (sregs.idt.base, sregs.idt.limit) = (supervisor.idt_address(), IDT_LIMIT);
}

/// Code and stack of ring 3.
pub(super) fn set_ring3_segments(sregs: &mut kvm_sregs) {
    sregs.cs = code_segment(USER_CODE, 3);
    sregs.ss = data_segment(USER_DATA, 3);
}

/// The state that Solo5 starts its guests in, at ring 0, with its page tables in the guest's own memory (Solo5's
/// `hvt_cpu_x86_64.c` and `cpu_x86_64.h`). Where Solo5 leaves the IDT empty, so that a fault before the guest has
/// installed its own is a triple fault, there is ours.
pub(super) fn start_ring0(
    vcpu: &VcpuFd,
    supervisor: &Supervisor,
    space: &GuestSpace,
    entry: u64,
    layout: &Layout,
) -> Result<(), KvmError> {
    write_stock_tables(space, layout, supervisor.root)?;
    let mut sregs = vcpu.get_sregs().map_err(step("KVM_GET_SREGS"))?;
    sregs.cr0 = CR0_PG | CR0_WP | CR0_NE | CR0_PE;
    sregs.cr3 = STOCK_PML4;
    sregs.cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT;
    sregs.efer = EFER_LME | EFER_LMA;
    sregs.cs = code_segment(8, 0);
    set_data_segments(&mut sregs, data_segment(16, 0));
    set_tables(&mut sregs, supervisor);
    vcpu.set_sregs(&sregs).map_err(step("KVM_SET_SREGS"))?;
    start_registers(vcpu, entry, layout.stack.end, RFLAGS_RING0)
}

fn start_registers(vcpu: &VcpuFd, entry: u64, stack: u64, rflags: u64) -> Result<(), KvmError> {
    // Eight below a multiple of 16, as after a `call`.
    let regs = kvm_regs {
        rip: entry,
        rsp: stack - 8,
        rdi: BOOT_INFO_ADDRESS,
        rflags,
        ..Default::default()
    };
    vcpu.set_regs(&regs).map_err(step("KVM_SET_REGS"))
}

const STOCK_PML4: u64 = 0x2000;
const STOCK_PDPT: u64 = 0x3000;
const STOCK_DIRECTORIES: u64 = 0x4000;
const STOCK_TABLE: u64 = 0x8000;

/// One to one page tables: nothing below 64 KiB, read-only to 1 MiB, all else writable; up to 2 MiB in small pages, from
/// there in large ones. Above all that, what is in `above`.
fn write_stock_tables(space: &GuestSpace, layout: &Layout, above: u64) -> Result<(), KvmError> {
    let slice = space.region().as_volatile_slice();
    let store = |table: u64, index: u64, value: u64| {
        let offset = usize::try_from(table + index * 8).unwrap_or(usize::MAX);
        slice.write_obj(value, offset).map_err(|e| KvmError::Memory(e.to_string()))
    };
    store(STOCK_PML4, 0, STOCK_PDPT | PRESENT | WRITE)?;
    for gib in 0..4 {
        store(STOCK_PDPT, gib, (STOCK_DIRECTORIES + gib * 4096) | PRESENT | WRITE)?;
    }
    store(STOCK_PDPT, SUPERVISOR_BASE >> 30, above | PRESENT | WRITE)?;
    let end = layout.ring.map_or(layout.memory, |ring| ring + crate::layout::RING_RESERVE);
    store(STOCK_DIRECTORIES, 0, STOCK_TABLE | PRESENT | WRITE)?;
    for large in 1..end >> 21 {
        store(STOCK_DIRECTORIES, large, large << 21 | PRESENT | WRITE | LARGE)?;
    }
    for page in 0x10..0x100 {
        store(STOCK_TABLE, page, page << 12 | PRESENT)?;
    }
    for page in 0x100..0x200 {
        store(STOCK_TABLE, page, page << 12 | PRESENT | WRITE)?;
    }
    Ok(())
}

fn code_segment(selector: u16, dpl: u8) -> kvm_segment {
    kvm_segment {
        limit: u32::MAX,
        selector,
        type_: 11,
        present: 1,
        dpl,
        s: 1,
        l: 1,
        g: 1,
        ..Default::default()
    }
}

fn data_segment(selector: u16, dpl: u8) -> kvm_segment {
    kvm_segment {
        limit: u32::MAX,
        selector,
        type_: 3,
        present: 1,
        dpl,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    }
}

fn set_data_segments(sregs: &mut kvm_sregs, segment: kvm_segment) {
    for register in [&mut sregs.ss, &mut sregs.ds, &mut sregs.es, &mut sregs.fs, &mut sregs.gs] {
        *register = segment;
    }
}
