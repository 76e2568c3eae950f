//! What is packed comes back, as a table and as an ELF file; what was not packed does no harm.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use hvt_symbols::{Damaged, Function, MAGIC, MOST_BYTES, Table, elf, pack};
use object::{Object, ObjectSymbol};
use proptest::prelude::*;

const SOME: [Function<'static>; 3] = [
    Function { address: 0x10_0000, size: 0x40, name: "_start" },
    Function {
        address: 0x10_0040,
        size: 1,
        name: "<alloc::string::String as core::fmt::Display>::fmt",
    },
    Function { address: 0xffff_ffff_0000_0000, size: 0xffff, name: "größer" },
];

/// Functions in ascending order, as a linker places them.
fn functions() -> impl Strategy<Value = Vec<(u64, u64, String)>> {
    let one = (1..1_u64 << 40, any::<u64>(), "[^\\x00]{0,40}");
    prop::collection::vec(one, 0..60).prop_map(|mut functions| {
        let mut address = 0;
        for function in &mut functions {
            address += function.0;
            function.0 = address;
        }
        functions
    })
}

fn borrowed(functions: &[(u64, u64, String)]) -> Vec<Function<'_>> {
    functions
        .iter()
        .map(|(address, size, name)| Function { address: *address, size: *size, name })
        .collect()
}

proptest! {
    #[test]
    fn what_is_packed_comes_back(functions in functions()) {
        let functions = borrowed(&functions);
        let table = Table::unpack(&pack(&functions)).unwrap();
        prop_assert_eq!(table.functions().collect::<Vec<_>>(), functions.clone());

        let file = elf::file(&table).unwrap();
        let file = object::File::parse(file.as_slice()).unwrap();
        let read: Vec<_> = file.symbols().collect();
        let read: Vec<_> = read
            .iter()
            .map(|symbol| Function { address: symbol.address(), size: symbol.size(), name: symbol.name().unwrap() })
            .collect();
        prop_assert_eq!(read, functions);
    }

    /// A hostile image: no table, a torn one, one with a wrong byte.
    #[test]
    fn damage_is_told_or_bounded(
        functions in functions(),
        cut in any::<prop::sample::Index>(),
        place in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        noise in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut packed = pack(&borrowed(&functions));
        prop_assert!(Table::unpack(&packed[..cut.index(packed.len())]).is_err());
        let place = place.index(packed.len());
        packed[place] = byte;
        for bytes in [packed, [&MAGIC[..], &noise].concat(), noise] {
            let Ok(table) = Table::unpack(&bytes) else { continue };
            let length: usize = table.functions().map(|function| function.name.len() + 1).sum();
            prop_assert!(length <= MOST_BYTES);
            let _ = table.find(&[0, 1 << 30, u64::MAX]);
            let _ = elf::file(&table);
        }
    }
}

#[test]
fn addresses_find_their_functions() {
    let table = Table::unpack(&pack(&SOME)).unwrap();
    let addresses = [0, 0x10_0000, 0x10_003f, 0x10_0040, 0x10_0041, u64::MAX];
    let names: Vec<_> = table.find(&addresses).into_iter().map(|f| f.map(|f| f.name)).collect();
    let display = Some(SOME[1].name);
    assert_eq!(names, [None, Some("_start"), Some("_start"), display, None, None]);
}

#[test]
fn a_table_larger_than_allowed_is_refused_before_memory_is_taken() {
    let mut packed = pack(&SOME);
    assert_eq!(Table::unpack(b"ELF").unwrap_err(), Damaged::Unknown);
    assert_eq!(Table::unpack(&packed[..12]).unwrap_err(), Damaged::Unknown);
    packed[16..20].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(Table::unpack(&packed), Err(Damaged::TooLarge(size)) if size > MOST_BYTES));
    packed[16..20].copy_from_slice(&1_u32.to_le_bytes());
    assert_eq!(Table::unpack(&packed).unwrap_err(), Damaged::Compressed);
}

/// A count that the table does not hold ends the list, it does not make things up.
#[test]
fn a_wrong_count_ends_with_the_table() {
    let mut packed = pack(&SOME);
    packed[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    let table = Table::unpack(&packed).unwrap();
    assert_eq!(table.functions().collect::<Vec<_>>(), SOME);
    let file = elf::file(&table).unwrap();
    assert_eq!(object::File::parse(file.as_slice()).unwrap().symbols().count(), SOME.len());
}
