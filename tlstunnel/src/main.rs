//! The gateway as a program: parse → build → run → drain.
//!
//! Exit codes: 0 stopped in good order, 1 failed, 64 wrong usage (sysexits(3), EX_USAGE).
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::FromArgMatches;
use daemon::secrets;
use tlstunnel::config::offline;
use tlstunnel::observe::log;
use tlstunnel::options::{Command, CommandLine, Options, StorageCommand, command};
use tlstunnel::run::{RunError, Stops, run};

/// Failed.
const FAILED: u8 = 1;
/// Wrong usage.
const USAGE: u8 = 64;
/// Options with a secret that can be given by file as well.
const SECRETS: [&str; 5] =
    ["key", "storage_key", "storage_key_old", "dns_hook_auth", "cert_key_pems"];

fn main() -> ExitCode {
    let matches = match command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => return usage(&error),
    };
    let shown = secrets::shown(&matches, &SECRETS);
    match CommandLine::from_arg_matches(&matches) {
        Err(error) => usage(&error),
        Ok(CommandLine { command: Some(Command::Storage(command)), .. }) => storage(&command),
        Ok(CommandLine { command: None, options }) => gateway(&options, &shown),
    }
}

/// Help and version are no errors.
fn usage(error: &clap::Error) -> ExitCode {
    // Nobody reads: nothing can be said.
    let _ = error.print();
    if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS }
}

/// `shown` are the options with a secret that other users of this machine can see.
fn gateway(options: &Options, shown: &[String]) -> ExitCode {
    let syslog = match log::install(&options.observe, &options.name) {
        Ok(syslog) => syslog,
        Err(error) => {
            eprintln!("tlstunnel: {error}");
            return ExitCode::from(USAGE);
        }
    };
    secrets::warn(shown);
    match run(options, Stops::signals(), syslog, |_| {}) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn failed(error: &RunError) -> ExitCode {
    eprintln!("tlstunnel: {error}");
    ExitCode::from(if error.is_usage() { USAGE } else { FAILED })
}

fn storage(command: &StorageCommand) -> ExitCode {
    let done = match command {
        StorageCommand::Info { storage, storage_key_file } => {
            offline::info(storage, storage_key_file.as_deref())
        }
        StorageCommand::Check { storage, storage_key_file } => {
            offline::check(storage, storage_key_file.as_deref())
        }
        StorageCommand::ExportV1 { storage, storage_key_file, out } => {
            offline::export_v1(storage, storage_key_file.as_deref(), out)
        }
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
