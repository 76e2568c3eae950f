//! C strings and memory: the C names of [`crate::copy`], and what is found byte by byte.

use core::arch::{global_asm, x86_64};
use core::ffi::{CStr, c_char, c_int, c_long, c_void};
use core::ptr::{null, null_mut};

use super::memory;

// Names of the same code: `memmove` serves as `memcpy`, `memcmp` as `bcmp`.
global_asm!(
    ".globl memcpy",
    "memcpy = {memmove}",
    ".globl memmove",
    "memmove = {memmove}",
    ".globl memset",
    "memset = {memset}",
    ".globl memcmp",
    "memcmp = {memcmp}",
    ".globl bcmp",
    "bcmp = {memcmp}",
    memmove = sym crate::copy::hvt_memmove,
    memset = sym crate::copy::hvt_memset,
    memcmp = sym crate::copy::hvt_memcmp,
);

/// The bytes of a C string.
///
/// # Safety
/// It ends with a zero byte and stays.
pub(super) unsafe fn bytes<'a>(text: *const c_char) -> &'a [u8] {
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_bytes()
}

/// A C string for a message.
///
/// # Safety
/// As for [`bytes`].
pub(super) unsafe fn text<'a>(text: *const c_char) -> &'a str {
    // SAFETY: the caller's promise.
    core::str::from_utf8(unsafe { bytes(text) }).unwrap_or("(not UTF-8)")
}

/// Puts a text with its zero byte into a buffer; false when it does not fit.
///
/// # Safety
/// The buffer has `len` bytes.
pub(super) unsafe fn put(text: &str, buffer: *mut c_char, len: usize) -> bool {
    if text.len() >= len {
        return false;
    }
    // SAFETY: it fits, with the zero byte.
    unsafe {
        buffer.cast::<u8>().copy_from_nonoverlapping(text.as_ptr(), text.len());
        buffer.add(text.len()).write(0);
    }
    true
}

/// The first place of `byte` in the `len` bytes at `start`, 16 at a time. Whole aligned blocks are read, which never
/// leaves a page.
///
/// # Safety
/// The bytes up to the first match, or `len` of them, are readable.
unsafe fn find(start: *const u8, byte: u8, len: usize) -> Option<usize> {
    let misaligned = start as usize & 15;
    let mut block = start.wrapping_sub(misaligned);
    let mut at = 0_usize.wrapping_sub(misaligned);
    let mut mask = u32::MAX << misaligned;
    // SAFETY: SSE2 is part of x86-64; aligned blocks that hold a byte of the range lie in its pages.
    unsafe {
        let wanted = x86_64::_mm_set1_epi8(byte.cast_signed());
        while at.cast_signed() < len.cast_signed() {
            let found = x86_64::_mm_cmpeq_epi8(x86_64::_mm_load_si128(block.cast()), wanted);
            let bits = x86_64::_mm_movemask_epi8(found).cast_unsigned() & mask;
            if bits != 0 {
                let place = at.wrapping_add(bits.trailing_zeros() as usize);
                return (place < len).then_some(place);
            }
            mask = u32::MAX;
            block = block.wrapping_add(16);
            at = at.wrapping_add(16);
        }
    }
    None
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn strlen(text: *const c_char) -> usize {
    // SAFETY: the caller's promise.
    unsafe { find(text.cast(), 0, isize::MAX.unsigned_abs()) }.unwrap_or(0)
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn strnlen(text: *const c_char, limit: usize) -> usize {
    // SAFETY: the caller's promise.
    unsafe { find(text.cast(), 0, limit) }.unwrap_or(limit)
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memchr(start: *const c_void, byte: c_int, len: usize) -> *mut c_void {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "as C says")]
    let byte = byte as u8;
    // SAFETY: the caller's promise.
    match unsafe { find(start.cast(), byte, len) } {
        Some(at) => start.cast::<u8>().wrapping_add(at).cast_mut().cast(),
        None => null_mut(),
    }
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memrchr(start: *const c_void, byte: c_int, len: usize) -> *mut c_void {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "as C says")]
    let byte = byte as u8;
    // SAFETY: the caller's promise.
    let bytes = unsafe { core::slice::from_raw_parts(start.cast::<u8>(), len) };
    match bytes.iter().rposition(|&candidate| candidate == byte) {
        Some(at) => start.cast::<u8>().wrapping_add(at).cast_mut().cast(),
        None => null_mut(),
    }
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn strcmp(a: *const c_char, b: *const c_char) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { strncmp(a, b, usize::MAX) }
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn strncmp(a: *const c_char, b: *const c_char, limit: usize) -> c_int {
    let mut at = 0;
    while at < limit {
        // SAFETY: neither string has ended before here.
        let (x, y) = unsafe { (a.add(at).cast::<u8>().read(), b.add(at).cast::<u8>().read()) };
        if x != y || x == 0 {
            return c_int::from(x) - c_int::from(y);
        }
        at += 1;
    }
    0
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn strchr(text: *const c_char, byte: c_int) -> *mut c_char {
    // SAFETY: the caller's promise; the final zero byte may be what is looked for.
    unsafe { memchr(text.cast(), byte, strlen(text) + 1).cast() }
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn strstr(text: *const c_char, part: *const c_char) -> *const c_char {
    // SAFETY: the caller's promise.
    let (haystack, needle) = unsafe { (bytes(text), bytes(part)) };
    if needle.is_empty() {
        return text;
    }
    let found = haystack.windows(needle.len()).position(|window| window == needle);
    found.map_or(null(), |at| text.wrapping_add(at))
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn strdup(text: *const c_char) -> *mut c_char {
    // SAFETY: the caller's promise; the copy has room for the zero byte.
    unsafe {
        let len = strlen(text) + 1;
        let copy = memory::malloc(len).cast::<u8>();
        if !copy.is_null() {
            copy.copy_from_nonoverlapping(text.cast(), len);
        }
        copy.cast()
    }
}

/// As in C, for radix 0 (by prefix), 8, 10 and 16; what does not fit is cut to the nearest that does.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn strtol(text: *const c_char, end: *mut *const c_char, radix: c_int) -> c_long {
    // SAFETY: the caller's promise.
    let all = unsafe { bytes(text) };
    let mut rest = all.trim_ascii_start();
    let negative = rest.first() == Some(&b'-');
    rest = rest.strip_prefix(b"-").or_else(|| rest.strip_prefix(b"+")).unwrap_or(rest);
    let hexadecimal = rest.strip_prefix(b"0x").or_else(|| rest.strip_prefix(b"0X"));
    let radix = match (radix, hexadecimal, rest.first()) {
        (0 | 16, Some(after), _) => {
            rest = after;
            16
        }
        (0, None, Some(b'0')) => 8,
        (0, ..) => 10,
        (radix, ..) => radix.unsigned_abs(),
    };
    let mut value: c_long = 0;
    let mut any = false;
    while let Some(digit) =
        rest.first().and_then(|&byte| char::from(byte).to_digit(radix.clamp(2, 36)))
    {
        let digit = c_long::from(digit);
        value = value.saturating_mul(c_long::from(radix)).saturating_add(digit);
        any = true;
        rest = &rest[1..];
    }
    if !end.is_null() {
        let consumed = if any { all.len() - rest.len() } else { 0 };
        // SAFETY: the caller's promise.
        unsafe { *end = text.add(consumed) };
    }
    if negative { -value } else { value }
}
