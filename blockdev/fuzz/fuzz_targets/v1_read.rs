//! Arbitrary bytes as a disk of the original's; what can be read must survive being written and read again.
//! Seeds: `cargo fuzz run v1_read ../tests/vectors`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|image: &[u8]| blockdev::fuzz::v1_read(image));
