//! Sizes as people read them.

/// A number of bytes in the largest unit that divides it, as options take it.
pub(crate) fn in_units(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let whole = units.into_iter().find(|(shift, _)| bytes != 0 && bytes.is_multiple_of(1 << shift));
    match whole {
        Some((shift, unit)) => format!("{} {unit}", bytes >> shift),
        None => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_unit_that_divides() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (65_536, "64 KiB"),
            (256 << 20, "256 MiB"),
            (3 << 30, "3 GiB"),
            ((1 << 30) + 1, "1073741825 bytes"),
        ] {
            assert_eq!(in_units(bytes), text);
        }
    }
}
