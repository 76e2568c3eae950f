#![allow(clippy::cast_possible_truncation)]

use std::sync::Mutex;

use super::*;

/// The level is global, so tests that set it take turns.
static TURN: Mutex<()> = Mutex::new(());

fn at_each_level(check: impl Fn()) {
    let _turn = TURN.lock();
    use_processor_features();
    let best = LEVEL.load(Ordering::Relaxed);
    for level in 0..=best {
        LEVEL.store(level, Ordering::Relaxed);
        check();
    }
}

/// All lengths to 600, and some around each threshold.
fn lengths() -> impl Iterator<Item = usize> {
    (0..600).chain([1023, 1024, 1025, 4095, 4096, 4097, 8191, 8192, 8193, 20_001])
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 251) as u8).collect()
}

#[test]
fn copies_are_exact_and_touch_nothing_else() {
    at_each_level(|| {
        for len in lengths() {
            for (from_skip, to_skip) in [(0, 0), (1, 0), (0, 3), (5, 31)] {
                let source = pattern(len + from_skip);
                let mut target = vec![0xEE; len + to_skip + 40];
                // SAFETY: both ranges have `len` bytes.
                unsafe {
                    let to = target.as_mut_ptr().add(to_skip).cast();
                    assert_eq!(hvt_memmove(to, source.as_ptr().add(from_skip).cast(), len), to);
                }
                assert!(target[..to_skip].iter().all(|&byte| byte == 0xEE), "{len}");
                assert_eq!(target[to_skip..to_skip + len], source[from_skip..], "{len}");
                assert!(target[to_skip + len..].iter().all(|&byte| byte == 0xEE), "{len}");
            }
        }
    });
}

#[test]
fn overlapping_copies_keep_the_source_as_it_was() {
    at_each_level(|| {
        for len in lengths() {
            for (from, to) in
                [(0, 1), (1, 0), (0, 17), (33, 0), (0, 64), (64, 0), (100, 3), (3, 100)]
            {
                let mut bytes = pattern(len + 128);
                let mut expected = bytes.clone();
                expected.copy_within(from..from + len, to);
                // SAFETY: both ranges lie inside of `bytes`.
                unsafe {
                    let base = bytes.as_mut_ptr();
                    hvt_memmove(base.add(to).cast(), base.add(from).cast(), len);
                }
                assert!(bytes == expected, "{len} bytes from {from} to {to}");
            }
        }
    });
}

#[test]
fn fills_are_exact_and_touch_nothing_else() {
    at_each_level(|| {
        for len in lengths() {
            for skip in [0, 1, 15] {
                let mut bytes = vec![1_u8; len + 64];
                // SAFETY: the range lies inside of `bytes`. Only the low eight bits of the value count.
                unsafe { hvt_memset(bytes.as_mut_ptr().add(skip).cast(), 0x1A5, len) };
                assert!(bytes[..skip].iter().all(|&byte| byte == 1));
                assert!(bytes[skip..skip + len].iter().all(|&byte| byte == 0xA5), "{len}");
                assert!(bytes[skip + len..].iter().all(|&byte| byte == 1), "{len}");
            }
        }
    });
}

#[test]
fn comparisons_find_the_first_difference_and_its_sign() {
    at_each_level(|| {
        for len in (0..300).chain([1000, 4097]) {
            let a = pattern(len);
            // SAFETY: both ranges have `len` bytes.
            let compare =
                |b: &[u8]| unsafe { hvt_memcmp(a.as_ptr().cast(), b.as_ptr().cast(), len) };
            assert_eq!(compare(&a.clone()), 0);
            let step = if len > 200 { 37 } else { 1 };
            for at in (0..len).step_by(step) {
                let mut b = a.clone();
                b[at] = b[at].wrapping_add(0x80);
                if let Some(last) = b[at + 1..].last_mut() {
                    *last = last.wrapping_add(1);
                }
                let expected = a.cmp(&b) as i32;
                assert_eq!(compare(&b).signum(), expected, "{len} bytes, different at {at}");
            }
        }
    });
}
