//! The names of an image's functions: packed by the image builder, unpacked where a backtrace is written.
//!
//! A backtrace is rare and an image is always loaded whole, so the table is small rather than quick to search: names are
//! stored as people read them (demangled, which also drops the compiler's hashes), and the whole is compressed. As an ELF
//! symbol table the same takes eight times the space.
//!
//! This room must not know where a table is kept, nor who asks. The builder (`hvt-image`) packs; the guest turns the
//! table into what `std` reads ([`elf`]); the tender looks up the addresses of a crash. A table in an image may be
//! hostile: unpacking is bounded by [`MOST_BYTES`], and what does not make sense is [`Damaged`].
//!
//! # Format, version 1
//!
//! | bytes | meaning |
//! |---|---|
//! | 8 | [`MAGIC`] |
//! | 4 | number of functions, little-endian |
//! | 4 | length of the places below, in bytes |
//! | 4 | length of the names below, in bytes |
//! | rest | places, then names, compressed (RFC 1951) |
//!
//! *Places*: for each function, in ascending order, its address less the one before and its size, each as LEB128.
//! *Names*: in the same order, UTF-8, each with a zero byte behind it.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod elf;

use alloc::boxed::Box;
use alloc::vec::Vec;

use miniz_oxide::deflate::{CompressionLevel, compress_to_vec};
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

/// The first bytes of a table. The digit is the version of the format.
pub const MAGIC: [u8; 8] = *b"hvtsyms1";

/// The type of the section that holds a table, in the range that is free for systems' own use.
pub const SECTION_TYPE: u32 = 0x6876_7473;
/// The name of that section.
pub const SECTION: &str = ".hvt_symbols";

/// The most bytes that a table may have without compression. The largest program here needs a thirtieth of it.
pub const MOST_BYTES: usize = 64 << 20;

const HEADER: usize = 20;

/// A function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Function<'a> {
    /// Where it starts.
    pub address: u64,
    /// How many bytes it has.
    pub size: u64,
    /// Its name, demangled.
    pub name: &'a str,
}

/// Why a table can't be read. Whoever built the image has to change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damaged {
    /// It is of another kind or version.
    #[error("not a table of function names that this program knows")]
    Unknown,
    /// It is larger than [`MOST_BYTES`], or than memory allows.
    #[error("the table of function names has {0} bytes, which is too much")]
    TooLarge(usize),
    /// The compressed part is broken or does not give what the header says.
    #[error("the table of function names is damaged")]
    Compressed,
}

/// Packs functions, which come in ascending order of their addresses. A zero byte ends a name.
#[must_use]
pub fn pack(functions: &[Function<'_>]) -> Vec<u8> {
    let (mut body, mut names) = (Vec::new(), Vec::new());
    let mut last = 0;
    for function in functions {
        push_number(&mut body, function.address.wrapping_sub(last));
        push_number(&mut body, function.size);
        last = function.address;
        names.extend(function.name.bytes().take_while(|&byte| byte != 0));
        names.push(0);
    }
    let mut packed = MAGIC.to_vec();
    // An image is smaller than 4 GiB.
    for length in [functions.len(), body.len(), names.len()] {
        packed.extend(u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    }
    body.extend(names);
    packed.extend(compress_to_vec(&body, CompressionLevel::UberCompression as u8));
    packed
}

/// An unpacked table.
#[derive(Debug)]
pub struct Table {
    count: usize,
    body: Vec<u8>,
    /// Where the names begin.
    names: usize,
}

impl Table {
    /// Unpacks a table of at most [`MOST_BYTES`].
    ///
    /// # Errors
    /// See [`Damaged`].
    pub fn unpack(packed: &[u8]) -> Result<Self, Damaged> {
        let rest = packed.strip_prefix(&MAGIC).ok_or(Damaged::Unknown)?;
        let number = |index: usize| {
            let bytes = rest.get(4 * index..)?.first_chunk()?;
            usize::try_from(u32::from_le_bytes(*bytes)).ok()
        };
        let field = |index| number(index).ok_or(Damaged::Unknown);
        let (count, names, length) = (field(0)?, field(1)?, field(2)?);
        let total = names.saturating_add(length);
        if total > MOST_BYTES {
            return Err(Damaged::TooLarge(total));
        }
        let mut body = Vec::new();
        body.try_reserve_exact(total).map_err(|_| Damaged::TooLarge(total))?;
        body.resize(total, 0);
        let flags = TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
        let compressed = packed.get(HEADER..).unwrap_or_default();
        let mut state = Box::<DecompressorOxide>::default();
        let (status, _, written) = decompress(&mut state, compressed, &mut body, 0, flags);
        if status != TINFLStatus::Done || written != total {
            return Err(Damaged::Compressed);
        }
        Ok(Self { count, body, names })
    }

    /// The functions in ascending order, as far as the table makes sense.
    pub fn functions(&self) -> impl Iterator<Item = Function<'_>> {
        let (mut places, mut names) = self.body.split_at(self.names);
        let mut address = 0_u64;
        (0..self.count).map_while(move |_| {
            address = address.checked_add(take_number(&mut places)?)?;
            let size = take_number(&mut places)?;
            let end = names.iter().position(|&byte| byte == 0)?;
            let name = core::str::from_utf8(&names[..end]).ok()?;
            names = &names[end + 1..];
            Some(Function { address, size, name })
        })
    }

    /// The innermost function at each of these addresses, in one pass over the table.
    #[must_use]
    pub fn find(&self, addresses: &[u64]) -> Vec<Option<Function<'_>>> {
        let mut found = alloc::vec![None; addresses.len()];
        for function in self.functions() {
            for (address, found) in addresses.iter().zip(&mut found) {
                let inside = address
                    .checked_sub(function.address)
                    .is_some_and(|offset| offset < function.size.max(1));
                if inside {
                    *found = Some(function);
                }
            }
        }
        found
    }
}

/// Appends a number in LEB128.
fn push_number(bytes: &mut Vec<u8>, mut value: u64) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            bytes.push(low & 0x7f);
            return;
        }
        bytes.push(low | 0x80);
    }
}

/// Takes a number off the front, or `None` when there is none of 64 bits.
fn take_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u64::from(byte & 0x7f);
        if part << shift >> shift != part {
            return None;
        }
        value |= part << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
