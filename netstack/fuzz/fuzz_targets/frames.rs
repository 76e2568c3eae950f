//! Hostile frames into a stack with a listener, an open connection and one that is being opened.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| netstack::fuzz::frames(input));
