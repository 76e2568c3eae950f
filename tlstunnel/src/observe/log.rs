//! Logging set-up: what every program of the house has ([`daemon::log`]), and optionally a syslog server.

use daemon::log::Further;

use super::syslog::{self, SyslogSender};
use crate::options::{ObserveOptions, Switch};

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The syslog server's address is not understood.
    #[error("--syslog {0:?} is not HOST or HOST:PORT")]
    Syslog(String),
    /// The filter, or a second set-up.
    #[error(transparent)]
    Lines(#[from] daemon::log::LogError),
}

/// Sets up logging for the whole process. What comes back sends queued lines to the syslog server; it must be run.
///
/// # Errors
/// When the filter or the server's address is not understood, or when logging is set up already.
pub fn install(options: &ObserveOptions, name: &str) -> Result<Option<SyslogSender>, LogError> {
    let (further, sender) = match &options.syslog {
        Some(server) => {
            let (layer, sender) =
                syslog::open(server, name).ok_or_else(|| LogError::Syslog(server.clone()))?;
            (Some(Box::new(layer) as Further), Some(sender))
        }
        None => (None, None),
    };
    let access = options.access_log == Switch::On;
    daemon::log::install(options.log_format, &options.log_level, access, further)?;
    Ok(sender)
}
