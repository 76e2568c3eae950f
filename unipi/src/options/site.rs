//! What the site is, and where it is kept.

use std::path::PathBuf;
use std::time::Duration;

use certify::options::VaultOptions;
use clap::Args;
use clap::builder::BoolishValueParser;
use http::HeaderValue;

use super::values::{duration, header_value, mime_type, site_path, size, url_path};
use crate::site::SitePath;

/// What the site is.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "The site")]
pub struct SiteOptions {
    /// The media type of an extension; repeatable
    #[arg(long, env = "UNIPI_MIME_TYPE", value_name = "EXTENSION:TYPE", value_delimiter = ',',
          value_parser = mime_type)]
    pub mime_type: Vec<(String, HeaderValue)>,

    /// The media type of files whose extension says nothing
    #[arg(long, env = "UNIPI_DEFAULT_MIME_TYPE", default_value = "application/octet-stream",
          value_name = "TYPE", value_parser = header_value)]
    pub default_mime_type: HeaderValue,

    /// Where requests for what is not there are sent (302), unless the site has a 404.html
    #[arg(long, env = "UNIPI_DEFAULT", value_name = "PATH", value_parser = site_path)]
    pub default: Option<SitePath>,

    /// Bytes that a site may have; a larger one is refused and the old one stays
    #[arg(long, env = "UNIPI_MAX_SITE_SIZE", default_value = "256MiB", value_name = "SIZE",
          value_parser = size)]
    pub max_site_size: u64,

    /// Sites that are kept in memory, the current one among them
    #[arg(long, env = "UNIPI_KEEP", default_value_t = 3, value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub keep: u16,

    /// How long an earlier site can be gone back to at least, where memory is too short for it and for gzip variants of
    /// the current one
    #[arg(long, env = "UNIPI_ROLLBACK_TIME", default_value = "1h", value_name = "TIME", value_parser = duration)]
    pub rollback_time: Duration,

    /// Shows the deploy log at this path, and for programs at the same with .json
    #[arg(long, env = "UNIPI_STATUS_PATH", value_name = "PATH", value_parser = url_path)]
    pub status_path: Option<String>,
}

/// Where the site is kept.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Storage")]
pub struct StorageOptions {
    /// A file or block device for the current site: the next start serves it at once
    #[arg(long, env = "UNIPI_STORAGE", value_name = "FILE")]
    pub storage: Option<PathBuf>,

    /// The size of a storage file that is created; it is sparse
    #[arg(long, env = "UNIPI_STORAGE_SIZE", default_value = "1GiB", value_name = "SIZE", value_parser = size)]
    pub storage_size: u64,

    /// What secrets are encrypted with there.
    #[command(flatten)]
    pub vault: VaultOptions,

    /// Erases storage that holds something else or is damaged
    #[arg(long, env = "UNIPI_FORMAT", value_parser = BoolishValueParser::new())]
    pub format: bool,
}
