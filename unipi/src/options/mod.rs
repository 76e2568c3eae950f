//! The command line and the environment: what the site server is told at start.
//!
//! Every option `--some-name` is also read from `UNIPI_SOME_NAME`; the command line wins. Names and defaults are the
//! original's where it has them. This module only parses: it opens nothing. Each part has a file of its own.

mod limits;
mod listen;
mod observe;
mod publishing;
mod repository;
mod site;
mod tls;
mod values;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;

pub use limits::LimitOptions;
pub use listen::ListenOptions;
pub use observe::ObserveOptions;
pub use publishing::{ControlOptions, PublishingOptions};
pub use repository::{AccessOptions, RefreshOptions};
pub use site::{SiteOptions, StorageOptions};
pub use tls::TlsOptions;

use crate::git::Remote;
use values::{name_server, remote};

/// How to run the site server.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "unipi",
    version,
    about = "A site server: a static web site straight out of a git repository",
    long_about = "A site server: fetches a branch of a git repository into memory, serves it over HTTP and HTTPS, and \
        refreshes on a webhook. Publishing is git push.\n\nTLS is its own (--tls), or the gateway's (tlstunnel). Every \
        option is also read from the environment: --hook-secret-file from UNIPI_HOOK_SECRET_FILE. Secrets are best given in \
        files; a unikernel has none, and takes them as they are (--hook-secret; hvt --args-file keeps them off its command \
        line)."
)]
pub struct Options {
    /// The repository and its branch or tag: https, http, git or ssh [default branch: the remote's]. Without it, the site
    /// is pushed (--push-token-file), or sites are added at run time (--control)
    #[arg(long, env = "UNIPI_REMOTE", value_name = "URL[#BRANCH]", value_parser = remote,
          required_unless_present_any = ["push_token_file", "push_token", "control"])]
    pub remote: Option<Remote>,

    /// The instance's name, in logs
    #[arg(long, env = "UNIPI_NAME", default_value = "unipi")]
    pub name: String,

    /// A DNS server for the names of remotes and of authorities; repeatable [default: the system's]
    #[arg(long = "name-server", env = "UNIPI_NAME_SERVER", value_delimiter = ',',
          value_name = "ADDRESS[:PORT]", value_parser = name_server)]
    pub name_servers: Vec<SocketAddr>,

    /// Writes the bound addresses as JSON to this file once every listener is open
    #[arg(long, env = "UNIPI_READY_FILE", value_name = "FILE")]
    pub ready_file: Option<PathBuf>,

    /// Where clients come in.
    #[command(flatten)]
    pub listen: ListenOptions,
    /// How it is served over TLS.
    #[command(flatten)]
    pub tls: TlsOptions,
    /// How the repository lets us in.
    #[command(flatten)]
    pub access: AccessOptions,
    /// When it is looked at.
    #[command(flatten)]
    pub refresh: RefreshOptions,
    /// Who may publish besides the remote.
    #[command(flatten)]
    pub publishing: PublishingOptions,
    /// Who may configure.
    #[command(flatten)]
    pub control: ControlOptions,
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

/// The command of [`Options`], with every option's environment variable.
pub fn command() -> clap::Command {
    let command = <Options as clap::CommandFactory>::command();
    let command = certify::options::environment(command, "UNIPI");
    // The original's name.
    command.mut_arg("cert_keys", |arg| arg.visible_alias("key"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use http::HeaderValue;

    use super::*;

    fn parse(arguments: &[&str]) -> Result<Options, clap::Error> {
        let fixed = ["unipi", "--remote", "https://forge.example/site.git#main"];
        Options::try_parse_from(fixed.iter().chain(arguments))
    }

    #[test]
    fn options_as_the_original_names_them() {
        let options =
            parse(&["--port", "8080", "--hook", "/h", "--mime-type", ".Foo:text/foo"]).unwrap();
        assert_eq!(options.remote.unwrap().reference.as_deref(), Some("main"));
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
    fn secrets_come_by_value_or_by_file_and_are_not_shown() {
        let given = ["--hook-secret", "very-secret", "--push-token", "very-secret"];
        let control = ["--control", "127.0.0.1:1235", "--control-key", "very-secret"];
        let storage = ["--storage", "/dev/storage", "--storage-key", "very-secret"];
        let all = [&given[..], &control, &storage].concat();
        let options = parse(&all).unwrap();
        assert_eq!(options.refresh.hook_secret.as_ref().unwrap().text(), "very-secret");
        assert!(!format!("{options:?}").contains("very-secret"));
        for option in ["--hook-secret", "--push-token", "--control-key", "--storage-key"] {
            let file = match option {
                "--control-key" => "--key-file".to_owned(),
                option => format!("{option}-file"),
            };
            assert!(parse(&[&all[..], &[file.as_str(), "f"]].concat()).is_err(), "{option}");
        }
        let pushed = ["unipi", "--push-token", "0123456789abcdef"];
        assert!(Options::try_parse_from(pushed).unwrap().remote.is_none());
    }

    #[test]
    fn name_servers_have_ports() {
        let options = parse(&["--name-server", "9.9.9.9,[::1]:5353"]).unwrap();
        let servers: Vec<u16> = options.name_servers.iter().map(|a| a.port()).collect();
        assert_eq!(servers, [53, 5353]);
        assert!(parse(&["--name-server", "dns.example.org"]).is_err());
    }

    #[test]
    fn definition_is_sound() {
        command().debug_assert();
    }
}
