#![forbid(unsafe_code)]
//! The command `hvt-image`.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use hvt_image::{build, project, show};

/// Builds programs of this workspace into images for hvt.
#[derive(Debug, Parser)]
#[command(name = "hvt-image", version, arg_required_else_help = true)]
struct Options {
    #[command(subcommand)]
    command: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Build a package's program into target/hvt/NAME.hvt.
    ///
    /// The devices that the image asks for come from the package's Cargo.toml:
    ///
    ///   [package.metadata.hvt]
    ///   devices = [{ name = "storage", type = "block" }, { name = "service", type = "net" }]
    Build {
        /// The package.
        package: String,
        /// The program, where the package has several.
        #[arg(long)]
        bin: Option<String>,
        /// Build the example of this name instead of a program.
        #[arg(long, conflicts_with = "bin")]
        example: Option<String>,
    },
    /// Show an image's ABI, devices, segments and what takes its space.
    Show {
        /// The image.
        image: PathBuf,
    },
    /// Build a package's program and run it under hvt, with hvt's exit status.
    ///
    /// hvt-image run hvt-guest-demo -- --mem=64 --block:storage=storage.img -- speed
    Run {
        /// The package.
        package: String,
        /// The program, where the package has several.
        #[arg(long)]
        bin: Option<String>,
        /// Run the example of this name instead of a program.
        #[arg(long, conflicts_with = "bin")]
        example: Option<String>,
        /// This hvt instead of one that is built for the purpose.
        #[arg(long, env = "HVT", value_name = "FILE")]
        hvt: Option<PathBuf>,
        /// Options for hvt, then, after another `--`, arguments for the program.
        #[arg(last = true)]
        options: Vec<String>,
    },
}

fn main() -> ExitCode {
    match run(Options::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("hvt-image: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(action: Action) -> Result<ExitCode> {
    match action {
        Action::Build { package, bin, example } => {
            let project = project::Project::read()?;
            let image = build::build(&project, &package, wanted(bin, example))?;
            println!("{}", image.display());
            Ok(ExitCode::SUCCESS)
        }
        Action::Show { image } => {
            let bytes = std::fs::read(&image)
                .with_context(|| format!("cannot read {}", image.display()))?;
            let report = show::report(&bytes).with_context(|| image.display().to_string())?;
            print!("{report}");
            Ok(ExitCode::SUCCESS)
        }
        Action::Run { package, bin, example, hvt, options } => {
            let project = project::Project::read()?;
            let image = build::build(&project, &package, wanted(bin, example))?;
            let split = options.iter().position(|option| option == "--").unwrap_or(options.len());
            let (for_hvt, for_guest) = options.split_at(split);
            let hvt = hvt.map_or_else(|| build::tender(&project), Ok)?;
            let status = Command::new(&hvt)
                .args(for_hvt)
                .arg("--")
                .arg(image)
                .args(for_guest.iter().skip(1))
                .status()
                .with_context(|| format!("cannot start {}", hvt.display()))?;
            let code = status.code().and_then(|code| u8::try_from(code).ok());
            Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
        }
    }
}

fn wanted(bin: Option<String>, example: Option<String>) -> project::Wanted {
    match example {
        Some(name) => project::Wanted::Example(name),
        None => project::Wanted::Program(bin),
    }
}
