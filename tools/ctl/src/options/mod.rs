//! What can be typed: global options, subcommands and the help with examples.
//!
//! This file knows words, not deeds; [`crate::commands`] carries them out.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use config_proto::message::{RevocationReason, Role};

use crate::failure::Failure;
use crate::output::Output;

mod examples;
mod route;
mod site;
mod values;

pub(crate) use route::AddOptions;
pub(crate) use site::{SiteAddOptions, SiteCommand, SiteSecrets};
pub(crate) use values::remote;

/// Controls a running tlstunnel gateway.
#[derive(Debug, Parser)]
#[command(
    name = "tlstunnel-ctl",
    version,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = examples::MAIN
)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) connection: ConnectionOptions,
    /// Print one JSON document instead of text; after a failure it is {"error": {"code", "message", "hint"}}.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Which gateway, with which key. Flags win over a context that a flag names, that one over the environment, and the
/// environment over a context that is only the default.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Connection")]
pub(crate) struct ConnectionOptions {
    /// Control port of the gateway [env: TLSTUNNEL_REMOTE] [default: 127.0.0.1:1234]
    #[arg(long, short, global = true, value_name = "HOST:PORT", value_parser = values::remote)]
    pub(crate) remote: Option<String>,
    /// File with the control key [env: TLSTUNNEL_KEY_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
    /// Id of the control key [env: TLSTUNNEL_KEY_ID] [default: the one in the key file]
    #[arg(long, global = true, value_name = "ID")]
    pub(crate) key_id: Option<String>,
    /// Named context from the configuration file; its values win over the environment [env: TLSTUNNEL_CONTEXT]
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// Longest wait for the gateway, for connecting and for each answer
    #[arg(long, global = true, value_name = "DURATION", default_value = "10s",
        value_parser = values::wait)]
    pub(crate) timeout: Duration,
    /// Speak protocol v1, for original gateways: add, remove and list only
    #[arg(long, global = true)]
    pub(crate) v1: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Add a name and the backends that serve it
    #[command(after_help = examples::ADD)]
    Add(Box<AddOptions>),
    /// Remove a name; its open connections go on
    #[command(after_help = examples::REMOVE, visible_alias = "rm")]
    Remove {
        /// Host name, `*.example.org`, `default` or `no-sni`
        name: String,
    },
    /// List the routes
    #[command(after_help = examples::LIST, visible_alias = "ls")]
    List {
        /// Only names that contain this text
        filter: Option<String>,
    },
    /// Show one route with its backends, certificate and counters
    #[command(after_help = examples::SHOW)]
    Show {
        /// Host name, `*.example.org`, `default` or `no-sni`
        name: String,
    },
    /// Show how the gateway is: version, generation, connections, certificates, problems
    #[command(after_help = examples::STATUS)]
    Status,
    /// Show the generations of the configuration, newest first
    #[command(after_help = examples::HISTORY)]
    History {
        /// Show at most this many
        #[arg(long, short = 'n', value_name = "COUNT", default_value_t = 20,
            value_parser = clap::value_parser!(u64).range(1..))]
        limit: u64,
        /// Show all of them
        #[arg(long, conflicts_with = "limit")]
        all: bool,
    },
    /// Show what changed between two generations (default: the last change)
    #[command(after_help = examples::DIFF)]
    Diff {
        /// Older generation (default: the one before TO)
        from: Option<u64>,
        /// Newer generation (default: the current one)
        to: Option<u64>,
    },
    /// Make the routes those of an earlier generation again
    #[command(after_help = examples::ROLLBACK)]
    Rollback {
        /// Generation whose routes are wanted
        generation: u64,
    },
    /// Make the routes those of a file; routes that it does not name are removed
    #[command(after_help = examples::APPLY)]
    Apply {
        /// TOML or JSON file; `-` reads standard input
        #[arg(long, short, value_name = "FILE")]
        file: PathBuf,
        /// Undo the change after this time unless `confirm` comes first
        #[arg(long, value_name = "DURATION", value_parser = values::seconds)]
        confirm: Option<u32>,
        /// Only say what would change
        #[arg(long, conflicts_with = "confirm")]
        dry_run: bool,
        /// Format of the file (default: by its ending or its first character)
        #[arg(long, value_enum)]
        format: Option<Format>,
    },
    /// Keep a change that was applied with --confirm
    #[command(after_help = examples::CONFIRM)]
    Confirm {
        /// Generation to keep (default: the one that waits)
        generation: Option<u64>,
    },
    /// Write all routes in the form that `apply` reads
    #[command(after_help = examples::EXPORT)]
    Export {
        /// Format to write (--json means json)
        #[arg(long, value_enum, default_value_t = Format::Toml)]
        format: Format,
    },
    /// Explain what becomes of a connection: which route, certificate, backend, and why
    #[command(after_help = examples::WHY)]
    Why {
        /// Server name that the client asks for
        #[arg(required_unless_present = "no_sni")]
        name: Option<String>,
        /// A client that sends no server name
        #[arg(long, conflicts_with = "name")]
        no_sni: bool,
        /// Address of the client
        #[arg(long, value_name = "IP")]
        from: Option<IpAddr>,
    },
    /// Look for settings that are legal and dangerous; exits with 1 if there is a danger
    #[command(after_help = examples::CHECK)]
    Check,
    /// List, set, renew and revoke certificates
    #[command(subcommand, after_help = examples::CERT)]
    Cert(CertCommand),
    /// Add, remove and look at the sites of a site server (unipi)
    #[command(subcommand, after_help = examples::SITE)]
    Site(SiteCommand),
    /// Make, list and remove control keys
    #[command(subcommand, after_help = examples::KEY)]
    Key(KeyCommand),
    /// Watch connections and rates; q or Ctrl-C ends it
    #[command(after_help = examples::TOP)]
    Top {
        /// Time between two looks
        #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = values::wait)]
        interval: Duration,
        /// Print one screen of text and end (also when standard output is no terminal)
        #[arg(long)]
        once: bool,
        /// Most routes and connections to show
        #[arg(long, short = 'n', value_name = "COUNT", default_value_t = 100,
            value_parser = clap::value_parser!(u32).range(1..=i64::from(config_proto::message::MAX_PAGE)))]
        limit: u32,
    },
    /// Write the completion script for a shell
    #[command(after_help = examples::COMPLETIONS)]
    Completions {
        /// Shell to write for
        shell: clap_complete::Shell,
    },
    /// Name gateways, so that remote and key need not be typed
    #[command(subcommand, after_help = examples::CONTEXT)]
    Context(ContextCommand),
}

/// How a file of routes is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Toml,
    Json,
}

/// What to do with certificates.
#[derive(Debug, Subcommand)]
pub(crate) enum CertCommand {
    /// List the certificates and their expiry
    List,
    /// Print the certificate that clients of a name are shown, and its chain, as PEM
    Show {
        /// Host name
        name: String,
        /// Only the last of the chain: with --self-signed that is the authority which clients then trust
        #[arg(long)]
        last: bool,
    },
    /// Add a certificate, or replace the one for the same names
    Set {
        /// PEM file: the certificate, then its intermediates
        #[arg(long, value_name = "FILE")]
        cert: PathBuf,
        /// PEM file: the private key
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// Have the authority issue a new certificate for a name now, whatever the age of the one in use
    Renew {
        /// Host name
        name: String,
    },
    /// Have the authority revoke the certificate in use for a name; a new one with a new key takes its place
    Revoke {
        /// Host name
        name: String,
        /// Why
        #[arg(long, value_enum, default_value_t = Reason::Unspecified)]
        reason: Reason,
    },
    /// The account with the authority
    #[command(subcommand)]
    Account(AccountCommand),
}

/// What to do with the account with the authority.
#[derive(Debug, Subcommand)]
pub(crate) enum AccountCommand {
    /// Give the account a new key
    Rollover,
}

/// Why a certificate is revoked.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Reason {
    /// None is given
    Unspecified,
    /// Somebody else may have the key
    KeyCompromise,
    /// The holder's name or organisation changed
    AffiliationChanged,
    /// Another certificate took its place
    Superseded,
    /// The name is served no more
    CessationOfOperation,
}

impl From<Reason> for RevocationReason {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Unspecified => Self::Unspecified,
            Reason::KeyCompromise => Self::KeyCompromise,
            Reason::AffiliationChanged => Self::AffiliationChanged,
            Reason::Superseded => Self::Superseded,
            Reason::CessationOfOperation => Self::CessationOfOperation,
        }
    }
}

/// What to do with control keys.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a key; its secret is shown this once
    Add {
        /// Its id: 1 to 64 letters, digits, `-`, `_`, `.`
        id: String,
        /// What it may do: admin, viewer, or names:*.team.example.org
        #[arg(long)]
        role: Role,
        /// Write the secret to this new file (mode 0600) instead of showing it
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// List the keys and their roles
    List,
    /// Remove a key; its connections end
    #[command(visible_alias = "rm")]
    Remove {
        /// Its id
        id: String,
    },
    /// Make a secret without asking any gateway, for the gateway's --key-file
    Generate {
        /// Write the secret to this new file (mode 0600) instead of showing it
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

/// What to do with contexts.
#[derive(Debug, Subcommand)]
pub(crate) enum ContextCommand {
    /// List the contexts; the default one is marked
    List,
    /// Make a context the default
    Use {
        /// Its name
        name: String,
    },
    /// Add or change a context from --remote, --key-file and --key-id; what is not given stays
    Set {
        /// Its name
        name: String,
    },
    /// Remove a context; key files stay
    #[command(visible_alias = "rm")]
    Remove {
        /// Its name
        name: String,
    },
}

/// Prints help or why the command line is not understood, as JSON if that was typed anywhere; the exit code of the
/// program.
pub(crate) fn explain(error: &clap::Error) -> ExitCode {
    let usage = error.use_stderr();
    if usage && std::env::args_os().any(|argument| argument == "--json") {
        let text = error.render().to_string();
        let message = text.trim().strip_prefix("error: ").unwrap_or(&text).to_owned();
        Output::stdout(true).report(&Failure::usage(message, Some("tlstunnel-ctl --help")));
    } else {
        // Nobody is there to read it when this fails.
        let _ = error.print();
    }
    if usage { ExitCode::from(2) } else { ExitCode::SUCCESS }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Options::command().debug_assert();
    }

    #[test]
    fn every_subcommand_shows_examples() {
        for subcommand in Options::command().get_subcommands() {
            let help = subcommand.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(
                help.contains(&format!("tlstunnel-ctl {}", subcommand.get_name())),
                "{} has no example",
                subcommand.get_name()
            );
        }
    }

    #[test]
    fn global_options_may_stand_behind_the_subcommand() {
        let options =
            Options::try_parse_from(["tlstunnel-ctl", "status", "--remote", "[::1]:9", "--json"])
                .unwrap();
        assert_eq!(options.connection.remote.as_deref(), Some("[::1]:9"));
        assert!(options.json);
    }

    #[test]
    fn why_needs_a_name_or_no_sni_and_not_both() {
        assert!(Options::try_parse_from(["tlstunnel-ctl", "why"]).is_err());
        assert!(Options::try_parse_from(["tlstunnel-ctl", "why", "a.b", "--no-sni"]).is_err());
        assert!(Options::try_parse_from(["tlstunnel-ctl", "why", "--no-sni"]).is_ok());
    }
}
