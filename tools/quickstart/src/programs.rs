//! Finds the gateway and its control tool, or has cargo build them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

use crate::options::Options;

/// The real programs, as a user would start them.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) tlstunnel: PathBuf,
    pub(crate) unipi: PathBuf,
    ctl: PathBuf,
    /// What a gateway as a unikernel needs besides, if it shall be one.
    pub(crate) unikernel: Option<UnikernelPrograms>,
}

/// The tender, and the gateway's image for it.
#[derive(Debug)]
pub(crate) struct UnikernelPrograms {
    pub(crate) hvt: PathBuf,
    pub(crate) image: PathBuf,
}

impl Programs {
    /// The programs beside this one. Under `cargo run` they are built first, in the same profile: cargo builds only the
    /// program that it runs, and all the dependencies are shared. The image is brought up to date at every start.
    pub(crate) fn build_or_find(with_unikernel: bool) -> anyhow::Result<Self> {
        let own = std::env::current_exe().context("cannot find this program's own file")?;
        let folder = own.parent().context("this program's file has no folder")?;
        cargo_build(folder, &["tlstunnel", "unipi", "tlstunnel-ctl"])?;
        let program = |name| {
            let path = folder.join(name);
            ensure!(
                path.exists(),
                "{} is missing: start the demonstration with `cargo run --release`",
                path.display()
            );
            Ok(path)
        };
        let unikernel = match with_unikernel {
            false => None,
            true => {
                // By themselves, so that the programs above are the same with and without them.
                cargo_build(folder, &["hvt-tender", "hvt-image"])?;
                let image = match std::env::var_os("CARGO") {
                    Some(_) => build_image(&program("hvt-image")?)?,
                    None => program("../hvt/tlstunnel.hvt")?,
                };
                Some(UnikernelPrograms { hvt: program("hvt")?, image })
            }
        };
        Ok(Self {
            tlstunnel: program("tlstunnel")?,
            unipi: program("unipi")?,
            ctl: program("tlstunnel-ctl")?,
            unikernel,
        })
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

/// Has cargo build these packages' programs in the profile of `folder`, if cargo started this program.
fn cargo_build(folder: &Path, packages: &[&str]) -> anyhow::Result<()> {
    let Some(cargo) = std::env::var_os("CARGO") else { return Ok(()) };
    println!("Building {} (the first time takes a few minutes)", packages.join(", "));
    let mut build = Command::new(cargo);
    build.args(["build", "--bins"]);
    for package in packages {
        build.args(["--package", package]);
    }
    if folder.file_name().is_some_and(|name| name == "release") {
        build.arg("--release");
    }
    build.current_dir(env!("CARGO_MANIFEST_DIR"));
    let status = build.status().context("cannot start cargo")?;
    ensure!(status.success(), "cargo could not build the programs; its messages are above");
    Ok(())
}

/// Has the gateway made into an image; says where that is.
fn build_image(hvt_image: &Path) -> anyhow::Result<PathBuf> {
    println!("Making the gateway's image (the first time takes a few minutes)");
    let mut command = Command::new(hvt_image);
    command.args(["build", "tlstunnel"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = command.stderr(Stdio::inherit()).output().context("cannot start hvt-image")?;
    ensure!(
        output.status.success(),
        "hvt-image could not build the gateway's image; its messages are above"
    );
    let path = String::from_utf8(output.stdout).context("a path that is no text")?;
    Ok(path.trim_end().into())
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
