//! The options of `site`, and how they become the settings and secrets of a site.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use config_proto::message::{MAX_PAGE, Sealed};
use config_proto::site::SiteSettings;

use super::values;
use crate::failure::Failure;
use crate::files;

/// What to do with the sites of a site server (unipi).
#[derive(Debug, Subcommand)]
pub(crate) enum SiteCommand {
    /// Add a site; it is served at once, and fetched or waits for a push
    Add(Box<SiteAddOptions>),
    /// Remove a site and everything that is kept of it
    #[command(visible_alias = "rm")]
    Remove {
        /// Host name, or `default`
        name: String,
    },
    /// List the sites and how they are
    #[command(visible_alias = "ls")]
    List {
        /// Only names that contain this text
        filter: Option<String>,
    },
    /// Look at a site's remote now
    Refresh {
        /// Host name, or `default`
        name: String,
    },
    /// Make an earlier state of a site live again
    Rollback {
        /// Host name, or `default`
        name: String,
        /// Generation to go back to (default: the one before)
        generation: Option<u64>,
    },
    /// Keep what is live: new states wait until --off
    Pin {
        /// Host name, or `default`
        name: String,
        /// Let new states go live again, the newest at once
        #[arg(long)]
        off: bool,
    },
    /// Show what happened to a site, and what can be gone back to
    Log {
        /// Host name, or `default`
        name: String,
        /// Show at most this many entries
        #[arg(long, short = 'n', value_name = "COUNT", default_value_t = 20,
            value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_PAGE)))]
        limit: u32,
    },
}

/// A name, where the site comes from, and who may change it.
#[derive(Args, Debug)]
pub(crate) struct SiteAddOptions {
    /// Host name, or `default` for all hosts that no site is named for
    pub(crate) name: String,
    /// The repository: https, http, git or ssh; without it the site is pushed
    #[arg(value_name = "URL[#BRANCH]")]
    pub(crate) url: Option<String>,
    /// The branch or tag, where the URL does not say it
    #[arg(long, value_name = "BRANCH")]
    pub(crate) branch: Option<String>,
    /// File with the secret that the forge signs webhooks with
    #[arg(long, value_name = "FILE", conflicts_with = "hook")]
    pub(crate) hook_secret_file: Option<PathBuf>,
    /// Make a webhook secret, and show it this once
    #[arg(long)]
    pub(crate) hook: bool,
    /// File with the token that `git push` gives as password
    #[arg(long, value_name = "FILE", conflicts_with = "push")]
    pub(crate) push_token_file: Option<PathBuf>,
    /// Make a push token, and show it this once
    #[arg(long)]
    pub(crate) push: bool,
    /// What object ids are while nothing was pushed yet: sha1 or sha256 [default: sha1]
    #[arg(long, value_name = "FORMAT", value_parser = ["sha1", "sha256"])]
    pub(crate) object_format: Option<String>,
    /// File with the password or access token for the repository over HTTP
    #[arg(long, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
    /// User for the repository over HTTP [default: git]
    #[arg(long, value_name = "NAME")]
    pub(crate) user: Option<String>,
    /// File with the private SSH key for the repository
    #[arg(long, value_name = "FILE")]
    pub(crate) ssh_key_file: Option<PathBuf>,
    /// The SSH server's key: SHA256:FINGERPRINT, a public key, or a line of known_hosts
    #[arg(long, value_name = "KEY")]
    pub(crate) ssh_authenticator: Option<String>,
    /// Only what one of these keys signed goes live: a file as gpg.ssh.allowedSignersFile
    #[arg(long, value_name = "FILE")]
    pub(crate) allowed_signers: Option<PathBuf>,
    /// Look at the repository this often, unasked
    #[arg(long, value_name = "DURATION", value_parser = values::seconds)]
    pub(crate) poll: Option<u32>,
    /// Bytes that the site may have [default: the server's limit]
    #[arg(long, value_name = "BYTES")]
    pub(crate) max_size: Option<u64>,
    /// States that are kept to go back to [default: the server's number]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) keep: Option<u16>,
    /// Replace the site if the name exists; secrets that are not given stay
    #[arg(long)]
    pub(crate) replace: bool,
}

/// The secrets that the options name, read or made.
#[derive(Debug, Default)]
pub(crate) struct SiteSecrets {
    pub(crate) hook_secret: Option<Sealed>,
    pub(crate) push_token: Option<Sealed>,
    pub(crate) ssh_key: Option<Sealed>,
    pub(crate) password: Option<Sealed>,
}

/// Most bytes of a secret or key.
const MAX_SECRET_BYTES: u64 = 64 * 1024;
/// Most bytes of a file of allowed signers.
const MAX_SIGNERS_BYTES: u64 = 1 << 20;

impl SiteAddOptions {
    /// The settings that these options describe, with the named files read.
    ///
    /// # Errors
    /// A file that cannot be read, or a URL that says what belongs elsewhere.
    pub(crate) fn settings(&self) -> Result<SiteSettings, Failure> {
        let (remote, branch) = match self.url.as_deref().map(|url| url.split_once('#')) {
            Some(Some((url, branch))) => (Some(url.to_owned()), Some(branch.to_owned())),
            Some(None) => (self.url.clone(), None),
            None => (None, None),
        };
        if branch.is_some() && self.branch.is_some() {
            return Err(Failure::usage("the branch is given twice", None));
        }
        if remote.is_none() && !self.replace && !self.push && self.push_token_file.is_none() {
            return Err(Failure::usage(
                format!("{} has neither a repository nor a push token", self.name),
                Some(
                    "tlstunnel-ctl site add NAME URL#BRANCH, or tlstunnel-ctl site add NAME --push",
                ),
            ));
        }
        let signers = self.allowed_signers.as_deref();
        let signers = signers.map(|path| files::read_text(path, MAX_SIGNERS_BYTES)).transpose()?;
        Ok(SiteSettings {
            remote,
            branch: branch.or_else(|| self.branch.clone()),
            object_format: self.object_format.clone(),
            user: self.user.clone(),
            authenticator: self.ssh_authenticator.clone(),
            allowed_signers: signers,
            poll_seconds: self.poll.map(u64::from),
            max_size: self.max_size,
            keep: self.keep,
        })
    }

    /// The secrets: from files, or from `generate`.
    ///
    /// # Errors
    /// A file that cannot be read, or no randomness.
    pub(crate) fn secrets(
        &self,
        generate: impl Fn() -> Result<String, Failure>,
    ) -> Result<SiteSecrets, Failure> {
        let either = |file: &Option<PathBuf>, make: bool| match (file, make) {
            (Some(path), _) => line(path).map(Some),
            (None, true) => generate().map(Sealed).map(Some),
            (None, false) => Ok(None),
        };
        let ssh_key = self.ssh_key_file.as_deref();
        let ssh_key = ssh_key.map(|path| files::read_text(path, MAX_SECRET_BYTES)).transpose()?;
        Ok(SiteSecrets {
            hook_secret: either(&self.hook_secret_file, self.hook)?,
            push_token: either(&self.push_token_file, self.push)?,
            ssh_key: ssh_key.map(Sealed),
            password: self.password_file.as_deref().map(line).transpose()?,
        })
    }
}

/// A secret of one line, without its line end.
fn line(path: &Path) -> Result<Sealed, Failure> {
    let text = files::read_text(path, MAX_SECRET_BYTES)?;
    let line = text.trim_end_matches(['\r', '\n']);
    if line.is_empty() {
        return Err(Failure::usage(format!("{} is empty", path.display()), None));
    }
    Ok(Sealed(line.to_owned()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use clap::Parser;

    use super::*;
    use crate::options::{Command, Options};

    fn add(arguments: &[&str]) -> Result<Box<SiteAddOptions>, clap::Error> {
        let all = ["tlstunnel-ctl", "site", "add"].iter().chain(arguments);
        Options::try_parse_from(all).map(|options| match options.command {
            Command::Site(SiteCommand::Add(add)) => add,
            other => panic!("not site add: {other:?}"),
        })
    }

    #[test]
    fn every_option_reaches_the_settings() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let (hook, signers) = (file("hook", "secret\n"), file("signers", "ann ssh-ed25519 AAAA"));
        let options = add(&[
            "blog.example.org",
            "https://forge.example.org/blog.git#pages",
            "--hook-secret-file",
            &hook,
            "--push",
            "--object-format=sha256",
            "--user=deploy",
            "--ssh-authenticator=SHA256:x",
            "--allowed-signers",
            &signers,
            "--poll=5m",
            "--max-size=1000",
            "--keep=7",
        ])
        .unwrap();
        let expected = serde_json::json!({
            "remote": "https://forge.example.org/blog.git", "branch": "pages",
            "object-format": "sha256", "user": "deploy", "authenticator": "SHA256:x",
            "allowed-signers": "ann ssh-ed25519 AAAA", "poll-seconds": 300, "max-size": 1000,
            "keep": 7,
        });
        assert_eq!(serde_json::to_value(options.settings().unwrap()).unwrap(), expected);
        let secrets = options.secrets(|| Ok("made".to_owned())).unwrap();
        assert_eq!(secrets.hook_secret, Some(Sealed("secret".to_owned())));
        assert_eq!(secrets.push_token, Some(Sealed("made".to_owned())));
        assert_eq!((secrets.ssh_key, secrets.password), (None, None));
    }

    #[test]
    fn a_site_has_an_origin() {
        assert!(matches!(add(&["blog"]).unwrap().settings(), Err(Failure::Usage { .. })));
        assert!(add(&["blog", "--push"]).unwrap().settings().is_ok());
        let twice = add(&["blog", "https://a.example/b#c", "--branch=d"]).unwrap();
        assert!(matches!(twice.settings(), Err(Failure::Usage { .. })));
        assert!(add(&["blog", "--push", "--push-token-file=x"]).is_err());
    }
}
