#![forbid(unsafe_code)]
//! A program that uses what a guest must offer, with the same output wherever it runs: on the host, in a virtual machine,
//! as a confined process.
//!
//! `guest-demo [STORAGE]` runs all parts; STORAGE is a file or device of at least 4 MiB, `/dev/storage` by default, and
//! is overwritten. `guest-demo speed [STORAGE [NAME]]` measures, with a name only what begins with it. Other words show how a program fails: `panic`, `overflow`,
//! `thread-overflow`, `large-thread-overflow`, `memory`, `exit N`; and some that go on for a while: `spin`, `wait`, `ebb`,
//! and `drain`, which ends when it is asked to. `write` writes and does not flush; `count` commits a number after the other
//! until it is killed.

mod failures;
mod parts;
mod speed;

use anyhow::Result;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        [] => parts::all("/dev/storage"),
        ["speed"] => speed::measure("/dev/storage", ""),
        ["speed", storage] => speed::measure(storage, ""),
        ["speed", storage, only] => speed::measure(storage, only),
        ["exit", status] => std::process::exit(status.parse()?),
        ["drain"] => parts::drain(),
        ["count"] => parts::count("/dev/storage"),
        [word] if failures::run(word) => Ok(()),
        [storage] => parts::all(storage),
        _ => anyhow::bail!("too many arguments; see the top of main.rs"),
    }
}
