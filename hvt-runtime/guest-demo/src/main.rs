#![forbid(unsafe_code)]
//! A program that uses what a guest must offer, with the same output wherever it runs: on the host, in a virtual machine,
//! as a confined process.
//!
//! `guest-demo [STORAGE]` runs all parts; STORAGE is a file or device of at least 4 MiB, `/dev/storage` by default, and
//! is overwritten. `guest-demo speed [STORAGE]` measures. Other words show how a program fails: `panic`, `overflow`,
//! `thread-overflow`, `memory`, `exit N`; and some that go
//! on for a while: `spin`, `wait`, and `drain`, which ends when it is asked to. `sockets` makes many calls on sockets of the
//! loopback, `sockets NEAR FAR` across a network from the address NEAR to a `sockets-far FAR` somewhere else.

mod failures;
mod parts;
mod sockets;
mod speed;

use anyhow::Result;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        [] => parts::all("/dev/storage"),
        ["speed"] => speed::measure("/dev/storage"),
        ["speed", storage] => speed::measure(storage),
        ["exit", status] => std::process::exit(status.parse()?),
        ["drain"] => parts::drain(),
        ["sockets"] => sockets::on_loopback(),
        ["sockets", near, far] => sockets::across(near, far),
        ["sockets-far", at] => sockets::serve(at),
        [word] if failures::run(word) => Ok(()),
        [storage] => parts::all(storage),
        _ => anyhow::bail!("too many arguments; see the top of main.rs"),
    }
}
