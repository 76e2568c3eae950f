//! Logs.

use clap::Args;
use clap::builder::BoolishValueParser;
use daemon::log::LogFormat;

/// Logs.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Logs")]
pub struct ObserveOptions {
    /// What is logged: error, warn, info, debug, trace, or by part as in info,unipi::git=debug
    #[arg(long, env = "UNIPI_LOG_LEVEL", default_value = "info", value_name = "FILTER")]
    pub log_level: String,

    /// How log lines look
    #[arg(long, env = "UNIPI_LOG_FORMAT", default_value = "human", value_name = "FORMAT")]
    pub log_format: LogFormat,

    /// Logs a line for every request
    #[arg(long, env = "UNIPI_ACCESS_LOG", value_parser = BoolishValueParser::new())]
    pub access_log: bool,
}
