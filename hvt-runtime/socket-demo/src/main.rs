#![forbid(unsafe_code)]
//! The same socket calls wherever the program runs, and what they answer: this is compared with the answers of Linux.
//!
//! There are two sides. The *far* one waits on a port and does what the first line of each connection says: it is always a
//! Linux process when the *near* one is looked at across a network, and a thread of the program when both are on the
//! loopback. Only the near side prints. Nothing printed may depend on time or chance.
//!
//! `socket-demo` plays both sides on the loopback; `socket-demo NEAR FAR` the near one, from the address NEAR to the address
//! and port FAR; `socket-demo far AT` the far one at this address and port.

mod events;
mod far;
mod near;

use std::io;
use std::net::{IpAddr, SocketAddr};

use anyhow::Result;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        [] => on_loopback(),
        ["far", at] => far::serve(at),
        [near, far] => across(near, far),
        _ => anyhow::bail!("wrong arguments; see the top of main.rs"),
    }
}

/// Both sides in this program.
fn on_loopback() -> Result<()> {
    for address in ["127.0.0.1", "::1"] {
        let address: IpAddr = address.parse()?;
        let far = far::start(SocketAddr::new(address, 0))?;
        near::script(&near::Sides { near: address, far })?;
        events::script(&near::Sides { near: address, far })?;
    }
    near::both_families()?;
    println!("all calls are done");
    Ok(())
}

/// The near side at `near`, against a far side somewhere else.
fn across(near: &str, far: &str) -> Result<()> {
    let sides = near::Sides { near: near.parse()?, far: far.parse()? };
    near::script(&sides)?;
    events::script(&sides)?;
    println!("all calls are done");
    Ok(())
}

/// A result for people and for comparison: the number of Linux for an error.
fn shown<T: std::fmt::Debug>(result: &io::Result<T>) -> String {
    match result {
        Ok(value) => format!("{value:?}"),
        Err(error) => match error.raw_os_error() {
            Some(number) => format!("error {number} ({:?})", error.kind()),
            None => format!("error ({:?})", error.kind()),
        },
    }
}
