//! The command line and the environment: what the site server is told at start.
//!
//! Every option `--some-name` is also read from `UNIPI_SOME_NAME`; the command line wins. Names and defaults are the
//! original's where it has them. This module only parses: it opens nothing.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{Args, Parser, ValueEnum};
use http::HeaderValue;

use crate::git::{FetchError, HostKeyPin, Remote};
use crate::serve::Limits;
use crate::site::SitePath;

/// How to run the site server.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "unipi",
    version,
    about = "A site server: a static web site straight out of a git repository",
    long_about = "A site server: fetches a branch of a git repository into memory, serves it over HTTP, and refreshes on a \
        webhook. Publishing is git push.\n\nTLS is the gateway's (tlstunnel). Every option is also read from the \
        environment: --hook-secret-file from UNIPI_HOOK_SECRET_FILE."
)]
pub struct Options {
    /// The repository and its branch or tag: https, http, git or ssh [default branch: the remote's]
    #[arg(long, env = "UNIPI_REMOTE", value_name = "URL[#BRANCH]", value_parser = remote)]
    pub remote: Remote,

    /// The instance's name, in logs
    #[arg(long, env = "UNIPI_NAME", default_value = "unipi")]
    pub name: String,

    /// Writes the bound addresses as JSON to this file once every listener is open
    #[arg(long, env = "UNIPI_READY_FILE", value_name = "FILE")]
    pub ready_file: Option<PathBuf>,

    /// Where clients come in.
    #[command(flatten)]
    pub listen: ListenOptions,
    /// How the repository lets us in.
    #[command(flatten)]
    pub access: AccessOptions,
    /// When it is looked at.
    #[command(flatten)]
    pub refresh: RefreshOptions,
    /// What the site is.
    #[command(flatten)]
    pub site: SiteOptions,
    /// Where the site is kept.
    #[command(flatten)]
    pub storage: StorageOptions,
    /// What clients may cost.
    #[command(flatten)]
    pub limits: LimitOptions,
    /// Logs and metrics.
    #[command(flatten)]
    pub observe: ObserveOptions,
}

/// Where clients come in.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Listening")]
pub struct ListenOptions {
    /// The port of HTTP, on all addresses
    #[arg(long, env = "UNIPI_PORT", default_value_t = 80)]
    pub port: u16,

    /// An address and port of HTTP, in place of --port; repeatable
    #[arg(long, env = "UNIPI_LISTEN_HTTP", value_name = "ADDRESS:PORT", value_delimiter = ',')]
    pub listen_http: Vec<SocketAddr>,

    /// An address and port of metrics: GET /metrics
    #[arg(long, env = "UNIPI_METRICS", value_name = "ADDRESS:PORT")]
    pub metrics: Option<SocketAddr>,
}

/// How the repository lets us in.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Access to the repository")]
pub struct AccessOptions {
    /// The private SSH key, in OpenSSH or PKCS#8 PEM form without a passphrase
    #[arg(long, env = "UNIPI_SSH_KEY_FILE", value_name = "FILE", requires = "ssh_authenticator")]
    pub ssh_key_file: Option<PathBuf>,

    /// The server's SSH key: SHA256:FINGERPRINT, or the public key itself (ssh-ed25519 AAAA...)
    #[arg(long, env = "UNIPI_SSH_AUTHENTICATOR", value_name = "KEY", value_parser = authenticator,
          requires = "ssh_key_file")]
    pub ssh_authenticator: Option<HostKeyPin>,
}

/// When the repository is looked at.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Refreshing")]
pub struct RefreshOptions {
    /// The path of the webhook
    #[arg(long, env = "UNIPI_HOOK", default_value = "/hook", value_name = "PATH", value_parser = url_path)]
    pub hook: String,

    /// The file with the webhook's secret, as the forge has it; without it there is no webhook
    #[arg(long, env = "UNIPI_HOOK_SECRET_FILE", value_name = "FILE")]
    pub hook_secret_file: Option<PathBuf>,

    /// Refreshes on any GET or POST of the hook's path, unsigned, as the original did
    #[arg(long, env = "UNIPI_HOOK_OPEN", conflicts_with = "hook_secret_file",
          value_parser = BoolishValueParser::new())]
    pub hook_open: bool,

    /// Looks at the repository every so many seconds, unasked; a little more or less each time
    #[arg(long, env = "UNIPI_POLL", value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    pub poll: Option<u64>,
}

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

    /// Erases storage that holds something else
    #[arg(long, env = "UNIPI_FORMAT", value_parser = BoolishValueParser::new())]
    pub format: bool,
}

/// What clients may cost.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitOptions {
    /// Connections at the same time; more wait
    #[arg(long, env = "UNIPI_MAX_CONNECTIONS", default_value_t = 10_000, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_connections: u32,

    /// Bytes that the head of a request may have
    #[arg(long, env = "UNIPI_MAX_HEAD", default_value = "16KiB", value_name = "SIZE", value_parser = buffer_size)]
    pub max_head: usize,

    /// Headers that a request may have
    #[arg(long, env = "UNIPI_MAX_HEADERS", default_value_t = 100, value_name = "N",
          value_parser = clap::value_parser!(u16).range(10..=1000))]
    pub max_headers: u16,

    /// Bytes that a request target may have
    #[arg(long, env = "UNIPI_MAX_TARGET", default_value = "8KiB", value_name = "SIZE", value_parser = buffer_size)]
    pub max_target: usize,

    /// Requests that an HTTP/2 connection may have open
    #[arg(long, env = "UNIPI_MAX_STREAMS", default_value_t = 100, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub max_streams: u32,

    /// Bytes that the body of a webhook may have
    #[arg(long, env = "UNIPI_MAX_HOOK", default_value = "16MiB", value_name = "SIZE", value_parser = buffer_size)]
    pub max_hook: usize,

    /// For the head of a request to arrive
    #[arg(long, env = "UNIPI_HEAD_TIMEOUT", default_value = "10s", value_name = "TIME", value_parser = duration)]
    pub head_timeout: Duration,

    /// For a connection on which nothing moves
    #[arg(long, env = "UNIPI_IDLE_TIMEOUT", default_value = "60s", value_name = "TIME", value_parser = duration)]
    pub idle_timeout: Duration,

    /// For the body of a webhook to arrive
    #[arg(long, env = "UNIPI_HOOK_TIMEOUT", default_value = "10s", value_name = "TIME", value_parser = duration)]
    pub hook_timeout: Duration,

    /// For open connections to end when the server is told to stop
    #[arg(long, env = "UNIPI_DRAIN_TIMEOUT", default_value = "30s", value_name = "TIME", value_parser = duration)]
    pub drain_timeout: Duration,

    /// For a fetch as a whole
    #[arg(long, env = "UNIPI_FETCH_TIMEOUT", default_value = "10m", value_name = "TIME", value_parser = duration)]
    pub fetch_timeout: Duration,
}

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

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For eyes.
    Human,
    /// A JSON object on each line.
    Json,
}

impl ListenOptions {
    /// Where to listen for HTTP.
    pub fn http(&self) -> Vec<SocketAddr> {
        match self.listen_http.is_empty() {
            true => vec![(IpAddr::from(Ipv6Addr::UNSPECIFIED), self.port).into()],
            false => self.listen_http.clone(),
        }
    }
}

impl LimitOptions {
    /// The server's limits.
    pub fn serving(&self) -> Limits {
        Limits {
            connections: usize::try_from(self.max_connections).unwrap_or(usize::MAX),
            head_bytes: self.max_head,
            headers: usize::from(self.max_headers),
            target_bytes: self.max_target,
            head_time: self.head_timeout,
            idle_time: self.idle_timeout,
            streams: self.max_streams,
            hook_bytes: self.max_hook,
            hook_time: self.hook_timeout,
            drain_time: self.drain_timeout,
        }
    }
}

fn remote(text: &str) -> Result<Remote, FetchError> {
    Remote::parse(text)
}

fn authenticator(text: &str) -> Result<HostKeyPin, String> {
    match text {
        _ if text.starts_with("SHA256:") => Ok(HostKeyPin::Fingerprint(text.to_owned())),
        _ if text.starts_with("ssh-") || text.starts_with("ecdsa-") => {
            Ok(HostKeyPin::PublicKey(text.to_owned()))
        }
        _ => Err("write SHA256:FINGERPRINT, or a public key as in ssh-ed25519 AAAA...".to_owned()),
    }
}

/// A path as clients ask for it, compared as it stands.
fn url_path(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    match text.len() > 1 && text.starts_with('/') && text.bytes().all(plain) {
        true => Ok(text.to_owned()),
        false => Err("write a path such as /hook, of letters, digits and -._~/".to_owned()),
    }
}

fn site_path(text: &str) -> Result<SitePath, String> {
    SitePath::parse(text.as_bytes()).map_err(|error| error.to_string())
}

fn mime_type(text: &str) -> Result<(String, HeaderValue), String> {
    let (extension, kind) =
        text.split_once(':').ok_or("write EXTENSION:TYPE, as in wasm:application/wasm")?;
    let extension = extension.trim_start_matches('.').to_ascii_lowercase();
    Ok((extension, header_value(kind)?))
}

fn header_value(text: &str) -> Result<HeaderValue, String> {
    let value = HeaderValue::from_str(text).map_err(|error| error.to_string())?;
    match text.split_once('/') {
        Some((kind, sub)) if !kind.is_empty() && !sub.is_empty() => Ok(value),
        _ => Err("a media type looks like text/html".to_owned()),
    }
}

/// `10s`, `500ms`, `5m`, `1h`, `1d`, or a plain number of seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let milliseconds: u64 = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(format!("{unit:?} is not a unit of time: use ms, s, m, h or d")),
    };
    let number: u64 = number.parse().map_err(|_| "write a number and a unit, as in 10s")?;
    let time = number.checked_mul(milliseconds).filter(|ms| *ms <= 365 * 86_400_000);
    time.map(Duration::from_millis).ok_or_else(|| "longer than 365 days".to_owned())
}

/// `64MiB`, `32KiB`, `1GiB` (also `64M`, `32k`, `1G`: powers of 1024), or a plain number of bytes.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        _ => return Err(format!("{unit:?} is not a unit of size: use KiB, MiB or GiB")),
    };
    let number: u64 = number.parse().map_err(|_| "write a number and a unit, as in 64MiB")?;
    number.checked_mul(1 << shift).ok_or_else(|| "too large".to_owned())
}

/// As [`size`], from 1 KiB to 64 MiB.
fn buffer_size(text: &str) -> Result<usize, String> {
    let bytes = usize::try_from(size(text)?).ok();
    bytes
        .filter(|bytes| (1 << 10..=64 << 20).contains(bytes))
        .ok_or_else(|| "must be from 1KiB to 64MiB".to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Options, clap::Error> {
        let fixed = ["unipi", "--remote", "https://forge.example/site.git#main"];
        Options::try_parse_from(fixed.iter().chain(arguments))
    }

    #[test]
    fn options_as_the_original_names_them() {
        let options =
            parse(&["--port", "8080", "--hook", "/h", "--mime-type", ".Foo:text/foo"]).unwrap();
        assert_eq!(options.remote.reference.as_deref(), Some("main"));
        assert_eq!(options.listen.http(), ["[::]:8080".parse().unwrap()]);
        assert_eq!(options.refresh.hook, "/h");
        assert_eq!(
            options.site.mime_type,
            [("foo".to_owned(), HeaderValue::from_static("text/foo"))]
        );
        assert_eq!(options.site.max_site_size, 256 << 20);
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [
            &["--hook", "hook"][..],
            &["--hook", "/a?b"],
            &["--mime-type", "x"],
            &["--default-mime-type", "text"],
            &["--max-site-size", "5 parsecs"],
            &["--max-target", "1"],
            &["--head-timeout", "1y"],
            &["--poll", "0"],
            &["--keep", "0"],
            &["--ssh-authenticator", "MD5:00"],
            &["--hook-open", "--hook-secret-file", "x"],
            &["--default", "/%zz"],
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        assert!(Options::try_parse_from(["unipi"]).is_err());
        assert!(Options::try_parse_from(["unipi", "--remote", "ftp://x/y"]).is_err());
    }

    #[test]
    fn definition_is_sound() {
        use clap::CommandFactory as _;
        Options::command().debug_assert();
    }
}
