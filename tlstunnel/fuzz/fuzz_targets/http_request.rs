//! The answers of port 80 under arbitrary bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| tlstunnel::fuzz::http_request(data));
