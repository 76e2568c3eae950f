//! The part of `stdio` that the crypto library's messages use: formatted text to a buffer or to the console.
//!
//! A variadic C function can't be defined in stable Rust. Its arguments come as the psABI says: the first six integers in
//! registers, the others on the stack; a few instructions put the registers in memory and make the `va_list` of it.

use core::arch::naked_asm;
use core::ffi::{c_char, c_int, c_void};
use core::slice;

use crate::printf::{self, Arguments};

use super::{hypercall, string, thread};

/// The x86-64 psABI's `va_list`.
#[derive(Debug)]
#[repr(C)]
struct VaList {
    /// Bytes of integer registers already used, of 48.
    integers: u32,
    /// Bytes already used of the register area, whose vector registers start at 48, of 176.
    floats: u32,
    stack: *const u64,
    registers: *const u8,
}

impl Arguments for VaList {
    fn integer(&mut self) -> u64 {
        if self.integers >= 48 {
            return self.next_on_stack();
        }
        // SAFETY: below the end of the integer registers.
        let value = unsafe { self.registers.add(self.integers as usize).cast::<u64>().read() };
        self.integers += 8;
        value
    }

    fn float(&mut self) -> f64 {
        if self.floats >= 176 {
            return f64::from_bits(self.next_on_stack());
        }
        // SAFETY: below the end of the vector registers, where the caller saved them.
        let value = unsafe { self.registers.add(self.floats as usize).cast::<u64>().read() };
        self.floats += 16;
        f64::from_bits(value)
    }

    fn text(&mut self, at: *const c_char, limit: usize) -> &[u8] {
        // SAFETY: the caller of `printf` passed a string for `%s`, which ends at the limit or with a zero byte.
        unsafe { slice::from_raw_parts(at.cast(), string::strnlen(at, limit)) }
    }
}

impl VaList {
    fn next_on_stack(&mut self) -> u64 {
        // SAFETY: the caller passed as many arguments as its format names.
        unsafe {
            let value = self.stack.read();
            self.stack = self.stack.add(1);
            value
        }
    }
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn vsnprintf(
    out: *mut c_char,
    len: usize,
    format: *const c_char,
    arguments: *mut VaList,
) -> c_int {
    let mut total = 0_usize;
    // SAFETY: the caller's promise: the buffer has `len` bytes, and the arguments fit the format.
    unsafe {
        printf::format(string::bytes(format), &mut *arguments, |bytes| {
            let room = len.saturating_sub(total + 1);
            let count = bytes.len().min(room);
            out.cast::<u8>().wrapping_add(total).copy_from_nonoverlapping(bytes.as_ptr(), count);
            total += bytes.len();
        });
        if len > 0 {
            out.add(total.min(len - 1)).write(0);
        }
    }
    c_int::try_from(total).unwrap_or(c_int::MAX)
}

/// All streams are the console.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn vfprintf(
    _stream: *mut c_void,
    format: *const c_char,
    arguments: *mut VaList,
) -> c_int {
    let mut line = [0; 512];
    // SAFETY: the caller's promise.
    let total = unsafe { vsnprintf(line.as_mut_ptr().cast(), line.len(), format, arguments) };
    let written = usize::try_from(total).unwrap_or(0).min(line.len() - 1);
    hypercall::puts(&line[..written]);
    total
}

/// Defines a variadic function with `$named` bytes of named arguments that calls `$body` with the `va_list` in place of
/// the others, in register `$register`.
macro_rules! variadic {
    ($name:ident, $named:literal, $register:literal, $body:ident) => {
        /// # Safety
        /// As in C.
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name() -> c_int {
            naked_asm!(
                ".cfi_startproc",
                "sub rsp, 216",
                ".cfi_def_cfa_offset 224",
                // The register area at rsp + 32, the `va_list` at rsp.
                "mov [rsp + 32], rdi",
                "mov [rsp + 40], rsi",
                "mov [rsp + 48], rdx",
                "mov [rsp + 56], rcx",
                "mov [rsp + 64], r8",
                "mov [rsp + 72], r9",
                "movaps [rsp + 80], xmm0",
                "movaps [rsp + 96], xmm1",
                "movaps [rsp + 112], xmm2",
                "movaps [rsp + 128], xmm3",
                "movaps [rsp + 144], xmm4",
                "movaps [rsp + 160], xmm5",
                "movaps [rsp + 176], xmm6",
                "movaps [rsp + 192], xmm7",
                concat!("mov dword ptr [rsp], ", $named),
                "mov dword ptr [rsp + 4], 48",
                "lea rax, [rsp + 224]",
                "mov [rsp + 8], rax",
                "lea rax, [rsp + 32]",
                "mov [rsp + 16], rax",
                concat!("mov ", $register, ", rsp"),
                "call {body}",
                "add rsp, 216",
                ".cfi_def_cfa_offset 8",
                "ret",
                ".cfi_endproc",
                body = sym $body,
            )
        }
    };
}

variadic!(fprintf, "16", "rdx", vfprintf);
variadic!(snprintf, "24", "rcx", vsnprintf);

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn fwrite(
    data: *const c_void,
    size: usize,
    count: usize,
    _: *mut c_void,
) -> usize {
    let len = size.saturating_mul(count);
    if len > 0 {
        // SAFETY: the caller's promise.
        hypercall::puts(unsafe { slice::from_raw_parts(data.cast(), len) });
    }
    count
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn perror(what: *const c_char) {
    // SAFETY: the caller's promise; the running thread's own variable.
    let (what, error) = unsafe { (string::text(what), *thread::errno()) };
    super::console::say(format_args!("{what}: error {error}"));
}

/// Nothing is read from formatted text in an image but a variable for debugging the crypto library, which is ignored.
#[unsafe(no_mangle)]
extern "C" fn __isoc99_sscanf() -> c_int {
    super::stubs::missing("sscanf")
}

/// What `stderr` points to; nobody looks inside.
static CONSOLE: u64 = 0;

/// A pointer that C code reads.
#[repr(transparent)]
struct Stream(*const u64);

// SAFETY: it points to a constant.
unsafe impl Sync for Stream {}

#[unsafe(no_mangle)]
static stderr: Stream = Stream(&raw const CONSOLE);
#[unsafe(no_mangle)]
static stdout: Stream = Stream(&raw const CONSOLE);
