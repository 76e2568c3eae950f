//! Parsing a PROXY header under arbitrary bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| tlstunnel::fuzz::proxy_header(data));
