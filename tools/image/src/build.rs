//! Cargo and the linker: from a package to a linked program with the guest library for its libc.
//!
//! Everything goes into folders of its own under `target/hvt`, so that host builds are not disturbed. Names of link
//! inputs carry a hash of their content, because cargo links again only when the command line changes.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::project::{Choice, Project, Wanted, cargo};
use crate::{image, library, notes};

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The profile of the guest library, in the workspace's Cargo.toml.
const GUEST_PROFILE: &str = "hvt-guest";
/// The profile of the program, beside it.
const IMAGE_PROFILE: &str = "hvt-image";

/// What rustc links on this target. The guest library is `libc.a`; the others are empty.
const OTHER_LIBRARIES: [&str; 8] = ["m", "gcc", "gcc_eh", "gcc_s", "pthread", "rt", "dl", "util"];

/// An archive without members.
const EMPTY_ARCHIVE: &[u8] = b"!<arch>\n";

/// Where an image starts: the lowest address that the ABI allows.
const IMAGE_BASE: u64 = hvt_abi::boot::GUEST_MIN_BASE;

/// Builds a package's program or example and says where the image is. Progress goes to standard error.
///
/// # Errors
/// When the package has no such program, when cargo fails (it has said why), or when the result can't be an image.
pub fn build(project: &Project, package: &str, wanted: Wanted) -> Result<PathBuf> {
    let started = Instant::now();
    let choice = project.choose(package, &wanted)?;
    let folder = project.folder();
    for path in [&project.workspace_root, &folder] {
        if path.to_string_lossy().contains(char::is_whitespace) {
            bail!("{}: flags for a C compiler can't carry a path with spaces", path.display());
        }
    }
    let say = |text: &str| eprintln!("hvt-image: {text}");

    say("the guest library");
    let guest = guest_library(project)?;
    let libraries = library_folder(&folder, &guest)?;

    say(&format!("{package}: {}", choice.name));
    let notes = notes_object(&folder, &choice)?;
    let program = program(project, package, &choice, &libraries, &notes)?;

    let linked =
        fs::read(&program).with_context(|| format!("cannot read {}", program.display()))?;
    let finished = image::finish(&linked).context("the linked program")?;
    let target = folder.join(&choice.name).with_extension("hvt");
    write(&target, &finished.bytes)?;
    // For gdb: the same addresses, with all that was left out.
    write(&folder.join(&choice.name).with_extension("debug"), &linked)?;
    say(&format!(
        "{:.1} MB, of which {:.1} MB symbols for backtraces, in {:.0} s",
        megabytes(finished.bytes.len()),
        megabytes(finished.symbols),
        started.elapsed().as_secs_f64()
    ));
    Ok(target)
}

/// Builds the tender for development and says where it is.
///
/// # Errors
/// When cargo fails.
pub fn tender(project: &Project) -> Result<PathBuf> {
    let mut command = Command::new(cargo());
    command.current_dir(&project.workspace_root);
    command.args(["build", "--release", "--package=hvt-tender", "--bin=hvt"]);
    artifact(command, "hvt")
}

fn megabytes(bytes: usize) -> f64 {
    // Exact below 2^53 bytes.
    bytes as f64 / 1e6
}

fn guest_library(project: &Project) -> Result<PathBuf> {
    let mut command = cargo_for_target(project, "rustc");
    command.args(["--package=hvt-guest", "--lib", "--crate-type=staticlib"]);
    command.arg(format!("--profile={GUEST_PROFILE}"));
    artifact(command, "hvt_guest")
}

/// A folder for the linker in which the guest library is the C library.
fn library_folder(folder: &Path, guest: &Path) -> Result<PathBuf> {
    let bytes = fs::read(guest).with_context(|| format!("cannot read {}", guest.display()));
    let mut bytes = bytes?;
    library::weaken(&mut bytes)?;
    let libraries = folder.join("link").join(hash(&bytes));
    fs::create_dir_all(&libraries)
        .with_context(|| format!("cannot create {}", libraries.display()))?;
    for name in OTHER_LIBRARIES {
        write(&libraries.join(format!("lib{name}.a")), EMPTY_ARCHIVE)?;
    }
    write(&libraries.join("libc.a"), &bytes)?;
    Ok(libraries)
}

fn notes_object(folder: &Path, choice: &Choice) -> Result<PathBuf> {
    let bytes = notes::object(&choice.name, &choice.settings)?;
    let path = folder.join("link").join(format!("notes-{}.o", hash(&bytes)));
    write(&path, &bytes)?;
    Ok(path)
}

fn program(
    project: &Project,
    package: &str,
    choice: &Choice,
    libraries: &Path,
    notes: &Path,
) -> Result<PathBuf> {
    let mut command = cargo_for_target(project, "rustc");
    command.arg(format!("--profile={IMAGE_PROFILE}"));
    command.args(["--package", package, choice.option, &choice.name, "--"]);
    let relative =
        |path: &Path| path.strip_prefix(&project.workspace_root).unwrap_or(path).to_path_buf();
    let base = format!("-Wl,--image-base={IMAGE_BASE:#x}");
    let mut folder_option = OsString::from("-L");
    folder_option.push(relative(libraries));
    let arguments: [OsString; 14] = [
        folder_option,
        relative(notes).into(),
        "-nostartfiles".into(),
        "-nostdlib".into(),
        "-static".into(),
        "-no-pie".into(),
        base.into(),
        "-Wl,-e,_start".into(),
        "-Wl,--gc-sections".into(),
        // Generic code of different crates is often the same code. Strings share their ends.
        "-Wl,--icf=all,-O2".into(),
        "-Wl,--build-id=none".into(),
        "-Wl,-z,norelro,-z,separate-code,-z,max-page-size=4096".into(),
        // The table of the unwinder, which `gcc -static` does not ask for by itself.
        "-Wl,--eh-frame-hdr".into(),
        "-fuse-ld=lld".into(),
    ];
    for argument in arguments {
        let mut option = OsString::from("-Clink-arg=");
        option.push(argument);
        command.arg(option);
    }
    artifact(command, &choice.name)
}

/// Cargo with what all code in an image is compiled with. Build scripts and procedural macros are not, because the
/// target is named.
fn cargo_for_target(project: &Project, subcommand: &str) -> Command {
    let mut command = Command::new(cargo());
    command.current_dir(&project.workspace_root);
    command.arg(subcommand);
    command
        .arg(format!("--target={TARGET}"))
        .arg("--target-dir")
        .arg(project.folder().join("cargo"));
    let remaps = remaps(project);
    let mut flags = vec![
        "--cfg=hvt_guest".to_owned(),
        // Direct system calls would end in a fault: there is no kernel.
        "--cfg=rustix_use_libc".to_owned(),
        "-Crelocation-model=static".to_owned(),
        "-Ctarget-feature=+crt-static".to_owned(),
        "-Ctarget-cpu=x86-64-v2".to_owned(),
        "-Cforce-unwind-tables=yes".to_owned(),
    ];
    flags.extend(remaps.iter().map(|(from, to)| format!("--remap-path-prefix={from}={to}")));
    command.env_remove("RUSTFLAGS");
    command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    // The same for C: paths, and no checking wrappers of glibc's, which are not there.
    let prefix_maps = remaps.iter().map(|(from, to)| format!("-ffile-prefix-map={from}={to}"));
    // Nothing unwinds through C, so it needs no tables for that.
    let c_flags: Vec<_> = ["-U_FORTIFY_SOURCE", "-fno-pic", "-fno-asynchronous-unwind-tables"]
        .map(str::to_owned)
        .into_iter()
        .chain(prefix_maps)
        .collect();
    command.env(format!("CFLAGS_{}", TARGET.replace('-', "_")), c_flags.join(" "));
    // The guest library has randomness of the processor's and of the host's (`os/entropy`); collecting timing noise before
    // the first connection would take longer than all else of a start.
    command.env("AWS_LC_SYS_NO_JITTER_ENTROPY", "1");
    command
}

/// Folders of this machine and what stands for them in an image, so that it does not depend on where it was built.
fn remaps(project: &Project) -> BTreeMap<String, String> {
    let mut remaps = BTreeMap::new();
    let mut add = |from: &Path, to: &str| {
        remaps.insert(from.display().to_string(), to.to_owned());
    };
    add(&project.workspace_root, "/workspace");
    add(&project.folder(), "/workspace/target/hvt");
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    if let Some(home) = home.or_else(|| env::home_dir().map(|home| home.join(".cargo"))) {
        add(&home, "/cargo");
    }
    remaps
}

#[derive(Deserialize)]
struct Message {
    reason: String,
    target: Option<MessageTarget>,
    executable: Option<PathBuf>,
    #[serde(default)]
    filenames: Vec<PathBuf>,
}

#[derive(Deserialize)]
struct MessageTarget {
    name: String,
}

/// Runs cargo and says where what it made for the target `name` is.
fn artifact(mut command: Command, name: &str) -> Result<PathBuf> {
    // In front of what belongs to rustc.
    let mut full = Command::new(command.get_program());
    let mut arguments = command.get_args();
    full.args(arguments.next()).arg("--message-format=json-render-diagnostics").args(arguments);
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => full.env(key, value),
            None => full.env_remove(key),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        full.current_dir(folder);
    }
    command = full;
    let output = command.stderr(Stdio::inherit()).output().context("cannot start cargo")?;
    if !output.status.success() {
        bail!("cargo failed; its message is above");
    }
    let text = String::from_utf8(output.stdout).context("cargo's messages")?;
    let mut found = None;
    for line in text.lines().filter(|line| line.starts_with('{')) {
        let message: Message = serde_json::from_str(line).context("a message of cargo's")?;
        let of_target = message.target.is_some_and(|target| target.name == name);
        if message.reason == "compiler-artifact" && of_target {
            let archive =
                |path: &PathBuf| path.extension().is_some_and(|extension| extension == "a");
            let archive = message.filenames.iter().find(|path| archive(path)).cloned();
            found = message.executable.or(archive).or(found);
        }
    }
    found.with_context(|| format!("cargo made nothing called {name}"))
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes)[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Puts a file in place whole: several tests build the same image at once, and one may start it while another writes.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().context("a file without a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let replace = || -> io::Result<()> {
        let readable = fs::Permissions::from_mode(0o644);
        let mut file = tempfile::Builder::new().permissions(readable).tempfile_in(folder)?;
        file.write_all(bytes)?;
        file.persist(path)?;
        Ok(())
    };
    replace().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn who_reads_a_file_that_is_written_again_sees_all_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        let bytes = vec![7; 1 << 20];
        write(&path, &bytes).unwrap();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| (0..50).for_each(|_| write(&path, &bytes).unwrap()));
            while !writer.is_finished() {
                assert_eq!(fs::read(&path).unwrap().len(), bytes.len());
            }
        });
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
