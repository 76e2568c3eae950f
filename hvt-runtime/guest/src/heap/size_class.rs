//! The sizes of small objects: steps of 16 bytes to 128, then four per doubling, so that at most a fifth is wasted.

use super::pages::PAGE;

/// How many classes there are.
pub(super) const COUNT: usize = 36;

/// The largest small object in bytes; larger ones are whole pages.
pub(super) const LARGEST: usize = 16 * 1024;

const STEP: usize = 16;
const LINEAR: usize = 8;

const SIZES: [u16; COUNT] = {
    let mut sizes = [0; COUNT];
    let mut class = 0;
    while class < COUNT {
        #[expect(clippy::cast_possible_truncation, reason = "LARGEST fits; asserted below")]
        let size = computed_size(class) as u16;
        sizes[class] = size;
        class += 1;
    }
    sizes
};

const SLAB_PAGES: [u8; COUNT] = {
    let mut pages = [0; COUNT];
    let mut class = 0;
    while class < COUNT {
        pages[class] = computed_slab_pages(SIZES[class] as usize);
        class += 1;
    }
    pages
};

const _: () = assert!(computed_size(COUNT - 1) == LARGEST && LARGEST <= u16::MAX as usize);

const fn computed_size(class: usize) -> usize {
    if class < LINEAR {
        return (class + 1) * STEP;
    }
    let doubling = (class - LINEAR) / 4;
    let quarter = (class - LINEAR) % 4 + 1;
    let base = (STEP * LINEAR) << doubling;
    base + base / 4 * quarter
}

/// The smallest slab of at most 16 pages that holds eight objects and wastes at most an eighth, or else the 16.
const fn computed_slab_pages(size: usize) -> u8 {
    let mut pages: u8 = 1;
    while pages < 16 {
        let bytes = pages as usize * PAGE;
        if bytes / size >= 8 && (bytes % size) * 8 <= bytes {
            break;
        }
        pages += 1;
    }
    pages
}

/// The class of a size; `None` above [`LARGEST`].
#[inline]
pub(super) const fn of(size: usize) -> Option<usize> {
    if size <= STEP * LINEAR {
        return Some(size.saturating_sub(1) / STEP);
    }
    if size > LARGEST {
        return None;
    }
    // `size - 1` has its highest bit at 7 or above here; the two bits below it select the quarter.
    let top = (usize::BITS - 1 - (size - 1).leading_zeros()) as usize;
    let quarter = ((size - 1) >> (top - 2)) & 3;
    Some(LINEAR + (top - 7) * 4 + quarter)
}

/// The smallest class for a size whose objects all lie at multiples of `align`, a power of two above 16; `None` when
/// whole pages serve better.
pub(super) fn aligned(size: usize, align: usize) -> Option<usize> {
    if align > PAGE {
        return None;
    }
    let first = of(size.max(align))?;
    (first..COUNT).find(|&class| self::size(class).is_multiple_of(align))
}

/// Bytes of an object.
#[inline]
pub(super) const fn size(class: usize) -> usize {
    SIZES[class] as usize
}

/// Pages of a slab.
pub(super) const fn slab_pages(class: usize) -> usize {
    SLAB_PAGES[class] as usize
}

/// Objects in a slab.
pub(super) const fn capacity(class: usize) -> usize {
    slab_pages(class) * PAGE / size(class)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_size_has_the_smallest_class_that_holds_it() {
        for bytes in 0..=LARGEST {
            let class = of(bytes).unwrap_or(usize::MAX);
            assert!(size(class) >= bytes, "{bytes}");
            assert!(class == 0 || size(class - 1) < bytes, "{bytes}");
        }
        assert_eq!(of(LARGEST + 1), None);
    }

    #[test]
    fn slabs_waste_at_most_an_eighth() {
        for class in 0..COUNT {
            let bytes = slab_pages(class) * PAGE;
            assert!((bytes - capacity(class) * size(class)) * 8 <= bytes, "{}", size(class));
            assert!(capacity(class) >= 4);
        }
    }
}
