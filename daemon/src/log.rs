//! Logging set-up: one filter, lines on standard error for eyes or programs, and what a program adds.
//!
//! The rest of a program only uses `tracing` macros. The access log, one line for each connection or request, has the
//! target [`ACCESS_TARGET`] and is switched on its own, so that quiet logs can still account for everything.

use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, Registry, fmt};

/// The `tracing` target of access-log lines.
pub const ACCESS_TARGET: &str = "access";

/// What else receives the lines that pass the filter.
pub type Further = Box<dyn Layer<Registry> + Send + Sync>;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For eyes.
    #[default]
    Human,
    /// A JSON object on each line.
    Json,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The filter is not understood.
    #[error(
        "--log-level {filter:?} is not a filter: {source}; write info, or by part as in info,certify=debug"
    )]
    Filter {
        /// As given.
        filter: String,
        /// What is wrong with it.
        source: ParseError,
    },
    /// The program has set up logging already.
    #[error("logging is set up already: {0}")]
    Installed(#[from] TryInitError),
}

/// Sets up logging for the whole process: lines of this `format`, of what `levels` lets through (the syntax of
/// [`Targets`]), with or without the `access` log, also to what is `further` wanted.
///
/// # Errors
/// When the filter is not understood, or when logging is set up already.
pub fn install(
    format: LogFormat,
    levels: &str,
    access: bool,
    further: Option<Further>,
) -> Result<(), LogError> {
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines: Further = match format {
        LogFormat::Json => Box::new(lines.json().flatten_event(true)),
        LogFormat::Human => {
            Box::new(lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())))
        }
    };
    let layers: Vec<Further> = std::iter::once(lines).chain(further).collect();
    let layers = layers.with_filter(filter(levels, access)?);
    Ok(tracing_subscriber::registry().with(layers).try_init()?)
}

/// By target and level alone: nothing here opens spans, and a filter that knows them brings regular expressions with it,
/// which would be a good part of a unikernel.
fn filter(levels: &str, access: bool) -> Result<Targets, LogError> {
    let access = if access { "info" } else { "off" };
    let parts = levels.split(',').map(str::trim).filter(|part| !part.is_empty());
    // The access switch stands last: the last directive for a target wins.
    let switch = format!("{ACCESS_TARGET}={access}");
    let parts: Vec<&str> = parts.chain([switch.as_str()]).collect();
    let parsed: Result<Targets, _> = parts.join(",").parse();
    parsed.map_err(|source| LogError::Filter { filter: levels.to_owned(), source })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tracing::Level;

    use super::*;

    #[test]
    fn the_access_log_is_switched_apart_from_the_level() {
        assert!(filter("error", true).unwrap().to_string().contains("access=info"));
        assert!(filter("error", false).unwrap().to_string().contains("access=off"));
        for wrong in ["a=b=c", "certify=loud", "info,certify=6"] {
            let refused = filter(wrong, true).unwrap_err().to_string();
            assert!(refused.contains(&format!("--log-level {wrong:?}")), "{refused}");
        }
    }

    #[test]
    fn a_filter_names_parts_of_the_program() {
        let filter = filter(" info, ,tlstunnel::backend=DEBUG,certify=0,", true).unwrap();
        for (target, level, wanted) in [
            ("tlstunnel::gateway", Level::INFO, true),
            ("tlstunnel::gateway", Level::DEBUG, false),
            ("tlstunnel::backend::connect", Level::DEBUG, true),
            ("tlstunnel::backend", Level::TRACE, false),
            ("certify::order", Level::ERROR, false),
        ] {
            assert_eq!(filter.would_enable(target, &level), wanted, "{target} {level}");
        }
    }
}
