//! From the entry point to `main`.
//!
//! The order matters: the processor, then what the tender told, then randomness (the stack protector wants it), memory,
//! clocks, the first thread, files, devices, the network, and the constructors in the image.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::arch::naked_asm;
use core::ffi::{c_char, c_int};
use core::ptr;
use core::slice;

use hvt_abi::boot::{BOOT_EXTENSION_ADDRESS, BootExtension, BootInfo, CMDLINE_SIZE, SEED_LEN};
use hvt_abi::extension;
use hvt_abi::manifest::{Entry, Header, MAX_ENTRIES};
use libc::{Elf64_Ehdr, Elf64_Phdr};

use crate::command_line::CommandLine;
use crate::{copy, ring};

use super::single::Single;
use super::thread::{StackArea, Template};
use super::{
    block, console, cpu, entropy, file, hypercall, memory, net, process, slot, symbols, thread,
    time, unwind,
};

/// The stack at the top of memory under a stock tender, which says nothing about it: 1 MiB, but at most this part.
const STOCK_STACK: usize = 1 << 20;
const STOCK_STACK_PART: usize = 8;

type Constructor = unsafe extern "C" fn(c_int, *const *const c_char, *const *const c_char);

unsafe extern "C" {
    safe static __ehdr_start: Elf64_Ehdr;
    static __init_array_start: [Constructor; 0];
    static __init_array_end: [Constructor; 0];
    safe static _end: [u8; 0];
    /// The program's name with a zero byte, by `hvt-image`.
    safe static hvt_image_name: c_char;
    fn main(argc: c_int, argv: *const *const c_char, envp: *const *const c_char) -> c_int;
}

/// What the tender told, for who asks later.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tender {
    /// Bits of [`extension`].
    pub(super) features: u32,
    /// The end of memory.
    pub(super) memory: u64,
    /// Bit `1 << handle` for each network device with offload.
    pub(super) net_offload: u64,
    /// Address of Solo5's ring.
    pub(super) ring: Option<u64>,
}

static TENDER: Single<Tender> =
    Single::new(Tender { features: 0, memory: 0, net_offload: 0, ring: None });

/// What the tender told.
pub(super) fn tender() -> Tender {
    TENDER.with(|tender| *tender)
}

/// The tender jumps here with the boot information's address in `rdi` and the stack as after a call.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn _start() -> ! {
    // The frame pointer and, already, the return address are zero: backtraces end here.
    naked_asm!(
        ".cfi_startproc",
        ".cfi_undefined rip",
        "xor ebp, ebp",
        "and rsp, -16",
        "call {enter}",
        "ud2",
        ".cfi_endproc",
        enter = sym enter,
    )
}

/// # Safety
/// Only the tender's start of the guest.
unsafe extern "C" fn enter(info: *const BootInfo) -> ! {
    // SAFETY: the tender put it there; it stays readable.
    let info = unsafe { &*info };
    if cpu::ring() == 0 {
        cpu::enable_extensions();
    }
    copy::use_processor_features();
    let extended = info.host_features & extension::FEATURE_BOOT_EXTENSION != 0;
    let boot = if extended {
        // SAFETY: the bit says that it is there; zero is a valid value for what an older tender does not fill in.
        unsafe { boot_extension() }
    } else {
        BootExtension::default()
    };
    if info.host_features & extension::FEATURE_PROCESS != 0 {
        hypercall::use_process_call(address(boot.process_call));
    }
    TENDER.with(|tender| {
        let (features, memory) = (info.host_features, info.mem_size);
        let ring = ring::offered(info);
        *tender = Tender { features, memory, net_offload: boot.net_offload, ring };
    });
    // SAFETY: the lowest bytes of the stack, of which the top is in use.
    unsafe { entropy::start(seed(&boot)) };
    let segments = program_headers();
    let (heap_end, stack) = layout(info, extended.then_some(&boot));
    // SAFETY: from the end of the image to the heap's end is nobody's, and no tender hands out memory that is not zero.
    unsafe { memory::start(image_end(segments), heap_end) };
    time::start(info.cpu_cycle_freq);
    if info.host_features & extension::FEATURE_BLOCK_SLOT != 0 && boot.block_slot != 0 {
        // SAFETY: the bit says so.
        unsafe { slot::start(address(boot.block_slot)) };
    }
    let guarded = cpu::ring() == 3 && extended;
    let stacks = StackArea {
        start: address(boot.thread_stacks),
        stride: address(boot.thread_stack_stride),
        count: address(boot.thread_stack_count),
    };
    thread::start(template(segments), stacks, stack, guarded);
    let line = if extended {
        // SAFETY: the tender put both areas there; they stay readable.
        unsafe { CommandLine::exact(area(boot.args, boot.args_len), area(boot.env, boot.env_len)) }
    } else {
        // SAFETY: the tender's zero-ended line in an area of this size.
        let line = unsafe { area(info.cmdline, CMDLINE_SIZE as u64) };
        let end = line.iter().position(|&byte| byte == 0).unwrap_or(line.len());
        CommandLine::joined(&line[..end])
    };
    console::set_debug(line.variable(b"HVT_GUEST_LOG") == Some(b"debug"));
    unwind::start();
    symbols::start(packed_symbols(segments));
    file::start();
    // SAFETY: the tender put the manifest there; it stays readable.
    let devices = unsafe { manifest(info.mft) };
    block::start(devices);
    console::debug(format_args!(
        "ring {}, features {:#x}, heap {:#x} to {heap_end:#x}, stack {stack:x?}, {} thread stacks",
        cpu::ring(),
        info.host_features,
        image_end(segments),
        stacks.count,
    ));
    let arguments = net::start(devices, &line.arguments);
    run(&line, &arguments)
}

/// Calls the constructors and `main`.
fn run(line: &CommandLine<'_>, arguments: &[&[u8]]) -> ! {
    process::set_environment(&line.environment);
    let mut argv: Vec<*const c_char> = Vec::new();
    argv.push(&raw const hvt_image_name);
    argv.extend(arguments.iter().map(|argument| leak(argument)));
    let argc = c_int::try_from(argv.len()).unwrap_or(c_int::MAX);
    argv.push(ptr::null());
    let argv = Vec::leak(argv).as_ptr();
    let envp = process::environment();
    // SAFETY: the linker delimits the array; constructors and `main` get what the ABI promises them.
    unsafe {
        let first = (&raw const __init_array_start).cast::<Constructor>();
        let last = (&raw const __init_array_end).cast::<Constructor>();
        let count = (last as usize - first as usize) / size_of::<Constructor>();
        for constructor in slice::from_raw_parts(first, count) {
            constructor(argc, argv, envp);
        }
        process::exit(main(argc, argv, envp))
    }
}

/// Copies a text, with a zero byte, to where it stays for good.
pub(super) fn leak(text: &[u8]) -> *const c_char {
    let mut copy = Vec::with_capacity(text.len() + 1);
    copy.extend_from_slice(text);
    copy.push(0);
    Box::leak(copy.into_boxed_slice()).as_ptr().cast()
}

/// # Safety
/// The tender put a [`BootExtension`] at its place.
unsafe fn boot_extension() -> BootExtension {
    let mut boot = BootExtension::default();
    let from = BOOT_EXTENSION_ADDRESS as *const u8;
    // SAFETY: the caller's promise; the first field is the size of what is there.
    unsafe {
        let size = from.cast::<u64>().read();
        let size = address(size).min(size_of::<BootExtension>());
        ptr::copy_nonoverlapping(from, (&raw mut boot).cast::<u8>(), size);
    }
    boot
}

/// The place of the host's seed, if there is one and it is where it should be.
fn seed(boot: &BootExtension) -> Option<*mut [u8; SEED_LEN]> {
    let end = boot.seed.checked_add(SEED_LEN as u64)?;
    let good =
        boot.seed_len == SEED_LEN as u64 && boot.seed >= boot.stack_base && end <= boot.stack_end;
    good.then_some(address(boot.seed) as *mut [u8; SEED_LEN])
}

/// The heap's end, and the first stack's lowest address and size.
fn layout(info: &BootInfo, boot: Option<&BootExtension>) -> (usize, (usize, usize)) {
    match boot {
        Some(boot) => {
            let (base, end) = (address(boot.stack_base), address(boot.stack_end));
            (address(boot.heap_end), (base, end.saturating_sub(base)))
        }
        None => {
            let memory = address(info.mem_size);
            let stack = STOCK_STACK.min(memory / STOCK_STACK_PART) & !4095;
            (memory - stack, (memory - stack, stack))
        }
    }
}

pub(super) fn program_headers() -> &'static [Elf64_Phdr] {
    let header = &__ehdr_start;
    let start = (&raw const __ehdr_start) as usize + address(header.e_phoff);
    // SAFETY: the ELF header, which is in the first segment, says where they are and how many.
    unsafe { slice::from_raw_parts(start as *const Elf64_Phdr, usize::from(header.e_phnum)) }
}

/// The first page behind the image.
fn image_end(segments: &[Elf64_Phdr]) -> usize {
    let loaded = segments.iter().filter(|segment| segment.p_type == libc::PT_LOAD);
    let end = loaded.map(|segment| address(segment.p_vaddr + segment.p_memsz)).max();
    end.unwrap_or(0).next_multiple_of(4096)
}

fn template(segments: &[Elf64_Phdr]) -> Template {
    match segments.iter().find(|segment| segment.p_type == libc::PT_TLS) {
        Some(tls) => Template {
            // SAFETY: the segment lies in a loaded one.
            data: unsafe { area(tls.p_vaddr, tls.p_filesz) },
            size: address(tls.p_memsz),
            align: address(tls.p_align).max(1),
        },
        None => Template { data: &[], size: 0, align: 1 },
    }
}

/// The names of functions that `hvt-image` puts behind the program.
fn packed_symbols(segments: &[Elf64_Phdr]) -> &'static [u8] {
    let end = (&raw const _end) as u64;
    let found =
        segments.iter().find(|segment| segment.p_type == libc::PT_LOAD && segment.p_vaddr >= end);
    // SAFETY: a loaded segment.
    found.map_or(&[], |segment| unsafe { area(segment.p_vaddr, segment.p_filesz) })
}

/// # Safety
/// `start` is the address of a manifest that stays readable.
unsafe fn manifest(start: u64) -> &'static [Entry] {
    // SAFETY: the caller's promise; entries follow the header.
    unsafe {
        let header = start as *const Header;
        let count = (*header).entries.min(MAX_ENTRIES) as usize;
        slice::from_raw_parts(header.add(1).cast::<Entry>(), count)
    }
}

/// # Safety
/// There are `len` readable bytes at `start`, or it is zero, and they stay as they are.
unsafe fn area(start: u64, len: u64) -> &'static [u8] {
    if start == 0 || len == 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { slice::from_raw_parts(start as *const u8, address(len)) }
}

/// A 64-bit number of the ABI as one of this machine, which is a 64-bit one.
fn address(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}
