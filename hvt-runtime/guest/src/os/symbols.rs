//! The names of the image's functions, as the program's own executable: `std` opens that for its first backtrace.
//!
//! The image carries them packed. They are unpacked when they are first asked for, and stay, because `std` keeps what it
//! maps.

use hvt_symbols::{Table, elf};

use super::single::Single;

#[derive(Clone, Copy)]
enum Symbols {
    Packed(&'static [u8]),
    File(&'static [u8]),
}

static SYMBOLS: Single<Symbols> = Single::new(Symbols::File(&[]));

/// Takes the packed table.
pub(super) fn start(packed: &'static [u8]) {
    SYMBOLS.with(|symbols| *symbols = Symbols::Packed(packed));
}

/// The executable; it is empty when there are no names, or no memory for them.
pub(super) fn executable() -> &'static [u8] {
    SYMBOLS.with(|symbols| match *symbols {
        Symbols::File(file) => file,
        Symbols::Packed(packed) => {
            let file = Table::unpack(packed).ok().and_then(|table| elf::file(&table));
            let file: &'static [u8] = file.map_or(&[], |file| file.leak());
            *symbols = Symbols::File(file);
            file
        }
    })
}
