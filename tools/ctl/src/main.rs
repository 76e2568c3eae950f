//! Controls a running gateway.
fn main() {}
