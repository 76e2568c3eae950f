//! The site server's program.
#![forbid(unsafe_code)]

fn main() {}
