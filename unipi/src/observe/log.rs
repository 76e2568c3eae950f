//! Logging set-up: one filter, lines on standard error for eyes or programs.

use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, Registry, fmt};

use crate::options::{LogFormat, ObserveOptions};
use crate::serve::ACCESS_TARGET;

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The filter is not understood.
    #[error("--log-level is not a filter: {0}; write info, or info,unipi::git=debug")]
    Filter(#[from] ParseError),
    /// The program has set up logging already.
    #[error("logging is set up already: {0}")]
    Installed(#[from] TryInitError),
}

/// Sets up logging for the whole process.
///
/// # Errors
/// When the filter is not understood, or when logging is set up already.
pub fn install(options: &ObserveOptions) -> Result<(), LogError> {
    let access = if options.access_log { "info" } else { "off" };
    // The access switch stands last: the last directive for a target wins.
    let filter = EnvFilter::try_new(format!("{},{ACCESS_TARGET}={access}", options.log_level))?;
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match options.log_format {
        LogFormat::Json => {
            Box::new(fmt::layer().json().flatten_event(true).with_writer(std::io::stderr))
        }
        LogFormat::Human => Box::new(
            fmt::layer()
                .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
                .with_writer(std::io::stderr),
        ),
    };
    Ok(tracing_subscriber::registry().with(lines.with_filter(filter)).try_init()?)
}
