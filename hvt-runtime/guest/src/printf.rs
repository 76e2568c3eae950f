//! What `printf` formats: integers, characters, strings and pointers, with flags, width and precision. The crypto library
//! prints its error messages with it. Numbers with a fraction are not printed by any code in an image; they show as `?`.

use core::ffi::c_char;

/// The arguments of one call.
pub trait Arguments {
    /// The next integer or pointer.
    fn integer(&mut self) -> u64;
    /// The next number with a fraction.
    fn float(&mut self) -> f64;
    /// The text that a string argument points to, at most `limit` bytes of it.
    fn text(&mut self, at: *const c_char, limit: usize) -> &[u8];
}

/// One conversion's flags and sizes.
#[derive(Clone, Copy, Debug, Default)]
struct Conversion {
    left: bool,
    zero: bool,
    plus: bool,
    space: bool,
    alternate: bool,
    width: usize,
    precision: Option<usize>,
    /// Bytes of the argument.
    size: u32,
}

/// The longest number: 64 bits in octal with its prefix, or in decimal with its sign.
const DIGITS: usize = 24;

/// Widths and precisions above this are cut, so that a wrong format can't run for ever.
const MAX_WIDTH: usize = 4096;

/// Formats to `out`, which gets the bytes in order.
pub fn format(format: &[u8], arguments: &mut impl Arguments, mut out: impl FnMut(&[u8])) {
    let mut rest = format;
    while let Some(percent) = rest.iter().position(|&byte| byte == b'%') {
        out(&rest[..percent]);
        rest = &rest[percent + 1..];
        let conversion = Conversion::parse(&mut rest, arguments);
        let Some((&letter, after)) = rest.split_first() else { return };
        rest = after;
        conversion.print(letter, arguments, &mut out);
    }
    out(rest);
}

impl Conversion {
    fn parse(rest: &mut &[u8], arguments: &mut impl Arguments) -> Self {
        let mut this = Self { size: 4, ..Self::default() };
        while let Some((&flag, after)) = rest.split_first() {
            match flag {
                b'-' => this.left = true,
                b'0' => this.zero = true,
                b'+' => this.plus = true,
                b' ' => this.space = true,
                b'#' => this.alternate = true,
                _ => break,
            }
            *rest = after;
        }
        let (width, negative) = number(rest, arguments);
        this.left |= negative;
        this.width = width.unwrap_or(0);
        if let Some(after) = rest.strip_prefix(b".") {
            *rest = after;
            let (precision, negative) = number(rest, arguments);
            this.precision = if negative { None } else { Some(precision.unwrap_or(0)) };
        }
        while let Some((&size, after)) = rest.split_first() {
            this.size = match size {
                b'l' | b'z' | b'j' | b't' | b'q' | b'L' => 8,
                b'h' => this.size / 2,
                _ => break,
            };
            *rest = after;
        }
        this
    }

    fn print(&self, letter: u8, arguments: &mut impl Arguments, out: &mut impl FnMut(&[u8])) {
        match letter {
            b'%' => out(b"%"),
            b'c' => {
                let [byte, ..] = arguments.integer().to_le_bytes();
                self.pad(&[], &[byte], 0, out);
            }
            b's' => {
                let at = arguments.integer();
                let limit = self.precision.unwrap_or(usize::MAX);
                let text =
                    if at == 0 { b"(null)" } else { arguments.text(at as *const c_char, limit) };
                self.pad(&[], text, 0, out);
            }
            b'd' | b'i' => {
                let unused = 64 - self.size.clamp(1, 8) * 8;
                let value = (arguments.integer() << unused).cast_signed() >> unused;
                let sign: &[u8] = match (value < 0, self.plus, self.space) {
                    (true, ..) => b"-",
                    (_, true, _) => b"+",
                    (_, _, true) => b" ",
                    _ => b"",
                };
                self.print_number(sign, value.unsigned_abs(), 10, false, out);
            }
            b'u' | b'x' | b'X' | b'o' => {
                let unused = 64 - self.size.clamp(1, 8) * 8;
                let value = arguments.integer() << unused >> unused;
                let (radix, prefix): (u64, &[u8]) = match letter {
                    b'u' => (10, b""),
                    b'x' => (16, b"0x"),
                    b'X' => (16, b"0X"),
                    _ => (8, b"0"),
                };
                let prefix = if self.alternate && value != 0 { prefix } else { b"" };
                self.print_number(prefix, value, radix, letter == b'X', out);
            }
            b'p' => self.print_number(b"0x", arguments.integer(), 16, false, out),
            b'f' | b'F' | b'e' | b'E' | b'g' | b'G' | b'a' | b'A' => {
                arguments.float();
                out(b"?");
            }
            // Among them `n`, which writes to memory and which nobody should use.
            other => out(&[b'%', other]),
        }
    }

    fn print_number(
        &self,
        prefix: &[u8],
        mut value: u64,
        radix: u64,
        upper: bool,
        out: &mut impl FnMut(&[u8]),
    ) {
        let alphabet = if upper { b"0123456789ABCDEF" } else { b"0123456789abcdef" };
        let mut digits = [0; DIGITS];
        let mut start = DIGITS;
        while value > 0 {
            start -= 1;
            // Less than the radix, which is at most 16.
            digits[start] = alphabet[usize::try_from(value % radix).unwrap_or(0)];
            value /= radix;
        }
        let count = DIGITS - start;
        let mut zeros = self.precision.unwrap_or(1).saturating_sub(count);
        if self.zero && !self.left && self.precision.is_none() {
            zeros = zeros.max(self.width.saturating_sub(prefix.len() + count));
        }
        self.pad(prefix, &digits[start..], zeros, out);
    }

    fn pad(&self, prefix: &[u8], text: &[u8], zeros: usize, out: &mut impl FnMut(&[u8])) {
        let fill = self.width.saturating_sub(prefix.len() + zeros + text.len());
        let mut repeat = |byte: u8, count: usize| (0..count).for_each(|_| out(&[byte]));
        if !self.left {
            repeat(b' ', fill);
        }
        prefix.iter().for_each(|&byte| repeat(byte, 1));
        repeat(b'0', zeros);
        out(text);
        if self.left {
            (0..fill).for_each(|_| out(b" "));
        }
    }
}

/// A width or precision, in the format or, for `*`, among the arguments; and whether it was negative.
fn number(rest: &mut &[u8], arguments: &mut impl Arguments) -> (Option<usize>, bool) {
    if let Some(after) = rest.strip_prefix(b"*") {
        *rest = after;
        #[expect(clippy::cast_possible_truncation, reason = "an int")]
        let value = (arguments.integer() as u32).cast_signed();
        let width = usize::try_from(value.unsigned_abs()).unwrap_or(MAX_WIDTH);
        return (Some(width.min(MAX_WIDTH)), value < 0);
    }
    let mut value = None;
    while let Some((digit @ b'0'..=b'9', after)) = rest.split_first() {
        value = Some((value.unwrap_or(0) * 10 + usize::from(digit - b'0')).min(MAX_WIDTH));
        *rest = after;
    }
    (value, false)
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;

    use super::*;

    struct List(Vec<u64>, Vec<u8>);

    impl Arguments for List {
        fn integer(&mut self) -> u64 {
            self.0.remove(0)
        }

        fn float(&mut self) -> f64 {
            0.5
        }

        fn text(&mut self, at: *const c_char, limit: usize) -> &[u8] {
            // SAFETY: the tests pass live C strings.
            let text = unsafe { core::ffi::CStr::from_ptr(at) }.to_bytes();
            self.1 = text[..text.len().min(limit)].to_vec();
            &self.1
        }
    }

    fn print(text: &str, arguments: &[u64]) -> String {
        let mut printed = Vec::new();
        let mut list = List(arguments.to_vec(), Vec::new());
        format(text.as_bytes(), &mut list, |bytes| printed.extend_from_slice(bytes));
        String::from_utf8_lossy(&printed).into_owned()
    }

    /// What glibc prints for the same calls.
    #[test]
    fn conversions_print_as_in_c() {
        let minus = u64::from((-5_i32).cast_unsigned());
        assert_eq!(
            print("%d|%5d|%-5d|%05d|%+d", &[minus, minus, minus, minus, 5]),
            "-5|   -5|-5   |-0005|+5"
        );
        assert_eq!(
            print("error:%08x:%lu", &[0xbeef, u64::MAX]),
            "error:0000beef:18446744073709551615"
        );
        assert_eq!(
            print("%u %#x %X %o %%", &[u64::MAX, 255, 0xabc, 8]),
            "4294967295 0xff ABC 10 %"
        );
        assert_eq!(print("%c%c.%.3d|%.0d|%hhx", &[65, 66, 7, 0, 0x1ff]), "AB.007||ff");
        let text = CString::new("hello").unwrap_or_default();
        let at = text.as_ptr() as u64;
        assert_eq!(
            print("[%s][%7s][%-7s][%.2s][%*s]", &[at, at, at, at, 6, at]),
            "[hello][  hello][hello  ][he][ hello]"
        );
        assert_eq!(print("%s %p", &[0, 0x1000]), "(null) 0x1000");
    }

    #[test]
    fn broken_formats_end() {
        assert_eq!(print("50%", &[]), "50");
        assert_eq!(print("%y", &[]), "%y");
        assert_eq!(print("%999999999d", &[1]).len(), MAX_WIDTH);
    }
}
