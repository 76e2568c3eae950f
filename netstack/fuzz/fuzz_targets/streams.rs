//! Streams between two stacks over a wire that the input controls.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| netstack::fuzz::streams(input));
