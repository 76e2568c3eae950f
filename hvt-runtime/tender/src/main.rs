//! The command `hvt`: see the library for the way of a start, `--help` for its use.

use std::process::ExitCode;

use hvt_tender::device::console::message;
use hvt_tender::failure::Failure;
use hvt_tender::launch;
use hvt_tender::options::{self, Command, HELP};

fn main() -> ExitCode {
    match start() {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            message(&failure.to_string());
            ExitCode::from(failure.exit_status())
        }
    }
}

fn start() -> Result<u8, Failure> {
    let words = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned());
    match options::parse(words)? {
        Command::Run(options) => launch::run(&options),
        Command::Help => Ok(print(HELP)),
        Command::Version => {
            let version = env!("CARGO_PKG_VERSION");
            Ok(print(&format!("hvt {version}\nABI version {}\n", hvt_abi::ABI_VERSION)))
        }
    }
}

/// A reader that has gone away is no failure.
fn print(text: &str) -> u8 {
    _ = std::io::Write::write_all(&mut std::io::stdout().lock(), text.as_bytes());
    0
}
