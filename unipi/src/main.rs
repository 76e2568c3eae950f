//! The site server as a program: parse → build → run → drain.
//!
//! Exit codes: 0 stopped in good order, 1 failed, 64 wrong usage (sysexits(3), EX_USAGE).
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::FromArgMatches;
use daemon::secrets;
use unipi::options::{Options, command};
use unipi::run::run;

/// Failed.
const FAILED: u8 = 1;
/// Wrong usage.
const USAGE: u8 = 64;
/// Options with a secret that can be given by file as well.
const SECRETS: [&str; 8] = [
    "control_key",
    "push_token",
    "hook_secret",
    "ssh_key",
    "storage_key",
    "storage_key_old",
    "dns_hook_auth",
    "cert_key_pems",
];

fn main() -> ExitCode {
    let parsed = command().try_get_matches().and_then(|found| {
        Ok((Options::from_arg_matches(&found)?, secrets::shown(&found, &SECRETS)))
    });
    let (options, shown) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            // Nobody reads: nothing can be said.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let lines = &options.observe;
    let logging = daemon::log::install(lines.log_format, &lines.log_level, lines.access_log, None);
    if let Err(error) = logging {
        eprintln!("unipi: {error}");
        return ExitCode::from(USAGE);
    }
    secrets::warn(&shown);
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("unipi: {error}");
            ExitCode::from(if error.is_usage() { USAGE } else { FAILED })
        }
    }
}
