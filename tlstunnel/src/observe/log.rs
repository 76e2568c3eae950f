//! Logging set-up: one filter, lines on standard error for eyes or programs, and optionally a syslog server.
//!
//! The rest of the program only uses `tracing` macros. The access log, one line for each connection, has the target
//! [`ACCESS_TARGET`] and is switched on its own, so that quiet logs can still account for every connection.

use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, Registry, fmt};

use super::syslog::{self, SyslogSender};
use crate::options::{LogFormat, ObserveOptions, Switch};

/// The `tracing` target of access-log lines.
pub const ACCESS_TARGET: &str = "access";

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The filter is not understood.
    #[error(
        "--log-level {filter:?} is not a filter: {source}; write info, or info,tlstunnel::backend=debug"
    )]
    Filter {
        /// As given.
        filter: String,
        /// What is wrong with it.
        source: ParseError,
    },
    /// The syslog server's address is not understood.
    #[error("--syslog {0:?} is not HOST or HOST:PORT")]
    Syslog(String),
    /// The program has set up logging already.
    #[error("logging is set up already: {0}")]
    Installed(#[from] TryInitError),
}

/// Sets up logging for the whole process. What comes back sends queued lines to the syslog server; it must be run.
///
/// # Errors
/// When the filter or the server's address is not understood, or when logging is set up already.
pub fn install(options: &ObserveOptions, name: &str) -> Result<Option<SyslogSender>, LogError> {
    let (syslog_layer, sender) = match &options.syslog {
        Some(server) => {
            let (layer, sender) =
                syslog::open(server, name).ok_or_else(|| LogError::Syslog(server.clone()))?;
            (Some(layer), Some(sender))
        }
        None => (None, None),
    };
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
    let layers: Vec<Box<dyn Layer<Registry> + Send + Sync>> =
        std::iter::once(lines).chain(syslog_layer.map(|layer| Box::new(layer) as _)).collect();
    tracing_subscriber::registry().with(layers.with_filter(filter(options)?)).try_init()?;
    Ok(sender)
}

fn filter(options: &ObserveOptions) -> Result<EnvFilter, LogError> {
    let access = match options.access_log {
        Switch::On => "info",
        Switch::Off => "off",
    };
    // The access switch stands last: the last directive for a target wins.
    let filter = format!("{},{ACCESS_TARGET}={access}", options.log_level);
    EnvFilter::try_new(filter)
        .map_err(|source| LogError::Filter { filter: options.log_level.clone(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;

    #[test]
    fn the_access_log_is_switched_apart_from_the_level() {
        let mut options = Options::defaults().observe;
        options.log_level = "error".to_owned();
        assert!(filter(&options).unwrap().to_string().contains("access=info"));
        options.access_log = Switch::Off;
        assert!(filter(&options).unwrap().to_string().contains("access=off"));
        options.log_level = "a=b=c".to_owned();
        assert!(matches!(filter(&options), Err(LogError::Filter { .. })));
    }
}
