//! `tlstunnel-ctl` controls a running gateway over the control protocol.
//!
//! The way of a command: [`options`] reads what was typed → [`context`] decides which gateway and key are meant →
//! [`commands`] asks over a [`session`] → [`output`] prints the answer, as text or JSON. A [`failure`] becomes a
//! message, what to try, and an exit code. This room must not know how the gateway does anything: all it has is the
//! vocabulary of `config_proto`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;

mod commands;
mod context;
mod failure;
mod files;
mod key;
mod options;
mod output;
mod session;
mod top;

fn main() -> ExitCode {
    match options::Options::try_parse() {
        Ok(options) => commands::run(options),
        Err(error) => options::explain(&error),
    }
}
