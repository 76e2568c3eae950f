//! Finds the gateway and its control tool, or has cargo build them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use crate::options::Options;

/// The real programs, as a user would start them.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) tlstunnel: PathBuf,
    pub(crate) unipi: PathBuf,
    ctl: PathBuf,
}

impl Programs {
    /// The programs beside this one. Under `cargo run` they are built first, in the same profile: cargo builds only the
    /// program that it runs, and all the dependencies are shared.
    pub(crate) fn build_or_find() -> anyhow::Result<Self> {
        let own = std::env::current_exe().context("cannot find this program's own file")?;
        let folder = own.parent().context("this program's file has no folder")?;
        if let Some(cargo) = std::env::var_os("CARGO") {
            println!(
                "Building tlstunnel, unipi and tlstunnel-ctl (the first time takes a few minutes)"
            );
            let mut build = Command::new(cargo);
            build.args(["build", "--bins"]);
            for package in ["tlstunnel", "unipi", "tlstunnel-ctl"] {
                build.args(["--package", package]);
            }
            if folder.file_name().is_some_and(|name| name == "release") {
                build.arg("--release");
            }
            build.current_dir(env!("CARGO_MANIFEST_DIR"));
            let status = build.status().context("cannot start cargo")?;
            ensure!(status.success(), "cargo could not build the programs; its messages are above");
        }
        let program = |name| folder.join(name);
        let programs = Self {
            tlstunnel: program("tlstunnel"),
            unipi: program("unipi"),
            ctl: program("tlstunnel-ctl"),
        };
        for program in [&programs.tlstunnel, &programs.unipi, &programs.ctl] {
            ensure!(
                program.exists(),
                "{} is missing: start the demonstration with `cargo run --release`",
                program.display()
            );
        }
        Ok(programs)
    }

    /// The command that runs `tlstunnel-ctl` on the demonstration's gateway.
    pub(crate) fn ctl(&self, options: &Options) -> Command {
        let mut command = Command::new(&self.ctl);
        command.args(ctl_arguments(options));
        command
    }

    /// The same, as a user types it from the folder where the demonstration was started.
    pub(crate) fn ctl_command(&self, options: &Options) -> String {
        self.typed(ctl_arguments(options))
    }

    /// The command for the site server.
    pub(crate) fn site_command(&self, options: &Options) -> String {
        let key = options.key_file().display().to_string();
        let remote = options.pages_control().to_string();
        self.typed(vec!["--remote".to_owned(), remote, "--key-file".to_owned(), key])
    }

    fn typed(&self, arguments: Vec<String>) -> String {
        let here = std::env::current_dir().unwrap_or_default();
        let program = self.ctl.strip_prefix(&here).unwrap_or(&self.ctl);
        std::iter::once(program.display().to_string())
            .chain(arguments)
            .map(quote)
            .collect::<Vec<_>>()
            .join(" ")
    }
}

fn ctl_arguments(options: &Options) -> Vec<String> {
    let mut arguments =
        vec!["--key-file".to_owned(), Path::new(&options.key_file()).display().to_string()];
    if options.control_port != 1234 {
        arguments.extend(["--remote".to_owned(), format!("127.0.0.1:{}", options.control_port)]);
    }
    arguments
}

/// A word as a shell takes it.
pub(crate) fn quote(word: String) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/.:_-".contains(c);
    if word.chars().all(plain) { word } else { format!("'{}'", word.replace('\'', r"'\''")) }
}
