//! How a guest ended, and the report when it did not mean to.

use std::fmt::Write;

use hvt_abi::hypercall::TrapFrame;
use vm_memory::Bytes;

use crate::border::Misuse;
use crate::image::{Image, Rights};
use crate::layout::{Layout, What};
use crate::memory::GuestSpace;
use crate::symbols::Symbols;

/// How many words of the stack are searched for return addresses.
const STACK_WORDS: u64 = 512;
/// How many return addresses are shown.
const STACK_SHOWN: usize = 16;

/// How a guest ended.
#[derive(Debug)]
pub enum End {
    /// It halted.
    Halted {
        /// Its status.
        status: i32,
        /// Where it left a trap frame.
        cookie: Option<u64>,
        /// The processor, where it is known.
        registers: Registers,
    },
    /// It crashed.
    Crashed(Crash),
    /// It broke the rules of its border.
    Misused(Misuse, Registers),
    /// This signal ended it.
    Signal(i32),
}

/// What is known of a crash.
#[derive(Clone, Debug)]
pub struct Crash {
    /// What happened.
    pub fault: Fault,
    /// The processor at that moment.
    pub registers: Registers,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An exception of the processor.
    Exception {
        /// Its vector.
        vector: u8,
        /// Its error code, zero when it has none.
        error_code: u64,
    },
    /// The machine can't go on, for this reason.
    Machine(String),
}

/// The processor's registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the processor's own names")]
pub struct Registers {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rbp: u64,
    pub rsp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rip: u64,
    pub rflags: u64,
    /// The address of the last page fault.
    pub cr2: u64,
    pub fs_base: u64,
}

impl Registers {
    /// Replaces what a trap frame of the guest tells better.
    pub fn apply(&mut self, frame: &TrapFrame) {
        (self.cr2, self.rip, self.rsp, self.rflags) =
            (frame.cr2, frame.rip, frame.rsp, frame.rflags);
    }
}

impl Fault {
    /// The cause in words.
    #[must_use]
    pub fn describe(&self, layout: &Layout, registers: &Registers) -> String {
        match self {
            Self::Machine(cause) => cause.clone(),
            Self::Exception { vector: 14, error_code } => {
                page_fault(*error_code, layout, registers.cr2)
            }
            Self::Exception { vector, error_code } => {
                let name = match vector {
                    0 => "division by zero or overflow of a division (#DE)",
                    1 => "debug exception (#DB)",
                    3 => "breakpoint (#BP)",
                    6 => "invalid instruction (#UD)",
                    8 => "double fault (#DF)",
                    12 => "stack segment fault: an address that is not canonical (#SS)",
                    13 => {
                        "privileged instruction, forbidden port or address that is not canonical (#GP)"
                    }
                    16 => "x87 floating-point error (#MF)",
                    17 => "unaligned access (#AC)",
                    19 => "SSE floating-point error (#XM)",
                    _ => return format!("exception {vector}, error code {error_code:#x}"),
                };
                name.into()
            }
        }
    }
}

fn page_fault(error_code: u64, layout: &Layout, address: u64) -> String {
    let place = layout.describe(address);
    let access = match (error_code & 2 != 0, error_code & 16 != 0) {
        (_, true) => "execution",
        (true, _) => "write",
        _ => "read",
    };
    if let Some(stack) = layout.guarded_by(address) {
        return format!("stack overflow: {access} at {address:#x}, just below {stack}");
    }
    match (access, layout.area(address)) {
        ("execution", Some(_)) => {
            format!("execution of data: a jump to {address:#x} in {place}, which is not executable")
        }
        ("write", Some(_)) => format!("write to a read-only page: {address:#x} in {place}"),
        _ if address < hvt_abi::PAGE_SIZE => format!("null pointer: {access} at {address:#x}"),
        _ => format!("{access} at {address:#x}: {place}"),
    }
}

/// The full report of a guest's bad end.
#[must_use]
pub fn report(
    cause: &str,
    registers: &Registers,
    image: &Image,
    space: &GuestSpace,
    layout: &Layout,
) -> String {
    let r = registers;
    let returns = return_addresses(space, layout, r.rsp);
    let mut addresses = vec![r.rip];
    // The address of a call, not of what follows it, is in the caller's function.
    addresses.extend(returns.iter().map(|address| address - 1));
    let names = Symbols::resolve(&image.file, &addresses);
    let name = |i: usize| names.get(i).and_then(Option::as_deref).unwrap_or("?");

    let mut text = format!("{cause}\n  at {:#014x} {}\n", r.rip, name(0));
    for row in [
        [("rax", r.rax), ("rbx", r.rbx), ("rcx", r.rcx), ("rdx", r.rdx)],
        [("rsi", r.rsi), ("rdi", r.rdi), ("rbp", r.rbp), ("rsp", r.rsp)],
        [("r8 ", r.r8), ("r9 ", r.r9), ("r10", r.r10), ("r11", r.r11)],
        [("r12", r.r12), ("r13", r.r13), ("r14", r.r14), ("r15", r.r15)],
        [("rip", r.rip), ("rfl", r.rflags), ("cr2", r.cr2), ("fs ", r.fs_base)],
    ] {
        for (name, value) in row {
            // Writing into a string does not fail.
            _ = write!(text, "  {name} {value:016x}");
        }
        text.push('\n');
    }
    _ = writeln!(text, "  rsp is in {}", layout.describe(r.rsp));
    if !returns.is_empty() {
        text.push_str("  return addresses on the stack, nearest first (some may be left over):\n");
    }
    for (i, address) in returns.iter().enumerate() {
        _ = writeln!(text, "    {address:#014x} {}", name(i + 1));
    }
    text
}

/// Words on the stack that point behind a call instruction.
fn return_addresses(space: &GuestSpace, layout: &Layout, rsp: u64) -> Vec<u64> {
    let code = |address: u64| {
        layout
            .area(address)
            .is_some_and(|area| area.what == What::Segment && area.rights == Rights::Execute)
    };
    let after_call = |address: u64| {
        let byte = |back: u64| {
            let slice = space.readable(address.wrapping_sub(back), 1).ok()?;
            slice.read_obj::<u8>(0).ok()
        };
        // call rel32, or call through a register or memory (opcode FF, extension 2) in any of its lengths.
        let near = byte(5) == Some(0xe8);
        let modrm = |back| byte(back - 1).map(|modrm| modrm >> 3 & 7);
        let far = (2..=7).any(|back| byte(back) == Some(0xff) && modrm(back) == Some(2));
        near || far
    };
    (0..STACK_WORDS)
        .map_while(|i| space.read::<u64>(rsp.checked_add(i * 8)?).ok())
        .filter(|word| code(*word) && after_call(*word))
        .take(STACK_SHOWN)
        .collect()
}
