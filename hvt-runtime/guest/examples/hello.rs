//! The smallest program: it says who it is, what it was given, and what time it is.
//!
//! `cargo run -p hvt-image -- build hvt-guest --example hello`, then `hvt target/hvt/hello.hvt one two`.

use std::time::{Duration, SystemTime};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    println!("Hello from an ordinary main, with {arguments:?}.");
    let since_2020 = SystemTime::UNIX_EPOCH + Duration::from_secs(1_577_836_800);
    println!("The clock is after 2020: {}.", SystemTime::now() > since_2020);
    if arguments.first().is_some_and(|word| word == "exit") {
        std::process::exit(7);
    }
}
