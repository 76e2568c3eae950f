//! The gateway as a program: parse → build → run → drain.
//!
//! Exit codes: 0 stopped in good order, 1 failed, 64 wrong usage (sysexits(3), EX_USAGE).
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::parser::ValueSource;
use clap::FromArgMatches;
use tlstunnel::config::offline;
use tlstunnel::observe::log;
use tlstunnel::options::{Command, CommandLine, Options, StorageCommand, command};
use tlstunnel::run::{RunError, Stops, run};

/// Failed.
const FAILED: u8 = 1;
/// Wrong usage.
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let matches = match command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => return usage(&error),
    };
    let key_in_arguments = matches.value_source("key") == Some(ValueSource::CommandLine);
    match CommandLine::from_arg_matches(&matches) {
        Err(error) => usage(&error),
        Ok(CommandLine { command: Some(Command::Storage(command)), .. }) => storage(&command),
        Ok(CommandLine { command: None, options }) => gateway(&options, key_in_arguments),
    }
}

/// Help and version are no errors.
fn usage(error: &clap::Error) -> ExitCode {
    // Nobody reads: nothing can be said.
    let _ = error.print();
    if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS }
}

fn gateway(options: &Options, key_in_arguments: bool) -> ExitCode {
    let syslog = match log::install(&options.observe, &options.name) {
        Ok(syslog) => syslog,
        Err(error) => {
            eprintln!("tlstunnel: {error}");
            return ExitCode::from(USAGE);
        }
    };
    if key_in_arguments {
        tracing::warn!("--key shows in process lists: use --key-file or TLSTUNNEL_KEY");
    }
    match run(options, Stops::signals(), syslog, |_| {}) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn failed(error: &RunError) -> ExitCode {
    eprintln!("tlstunnel: {error}");
    ExitCode::from(FAILED)
}

fn storage(command: &StorageCommand) -> ExitCode {
    let done = match command {
        StorageCommand::Info { storage } => offline::info(storage),
        StorageCommand::Check { storage } => offline::check(storage),
        StorageCommand::ExportV1 { storage, out } => offline::export_v1(storage, out),
    };
    match done {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("tlstunnel: {error}");
            ExitCode::from(FAILED)
        }
    }
}
