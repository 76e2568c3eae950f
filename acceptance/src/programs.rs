//! Finds the programs under test, and has cargo build them when they are missing or older than their sources.
//!
//! `cargo test --workspace` has built them already. A build from here is of the whole workspace too: with a choice of packages
//! dependencies would have other features, and all of them would be compiled again.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::SystemTime;

/// The programs that are tested, and the rooms that each is made of.
const PROGRAMS: [(&str, &[&str]); 2] = [
    (
        "tlstunnel",
        &[
            "tlstunnel/src",
            "blockdev/src",
            "certify/src",
            "config-proto/src",
            "control-port/src",
            "daemon/src",
            "proxy-protocol/src",
        ],
    ),
    ("tlstunnel-ctl", &["tools/ctl/src", "config-proto/src"]),
];

/// The path of the workspace program `name`.
///
/// # Panics
/// If cargo cannot build it.
pub fn program(name: &str) -> PathBuf {
    folder().join(name)
}

/// The folder of the workspace's programs, which are fresh.
///
/// # Panics
/// If cargo cannot build them.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        // Test executables lie in target/PROFILE/deps, programs in target/PROFILE.
        let own = std::env::current_exe().expect("the test's own file");
        let folder = own.parent().and_then(Path::parent).expect("target/PROFILE").to_owned();
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let is_fresh = |(name, rooms): &(&str, &[&str])| {
            let newest = rooms.iter().filter_map(|room| newest_change(&workspace.join(room))).max();
            changed(&folder.join(name)) >= newest
        };
        if !PROGRAMS.iter().all(is_fresh) {
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let mut build = Command::new(cargo);
            build.args(["build", "--quiet", "--workspace", "--bins"]).current_dir(&workspace);
            if folder.ends_with("release") {
                build.arg("--release");
            }
            let built = build.status().expect("cargo starts").success();
            assert!(built, "cargo could not build the programs");
        }
        folder
    })
}

fn changed(file: &Path) -> Option<SystemTime> {
    file.metadata().and_then(|metadata| metadata.modified()).ok()
}

fn newest_change(folder: &Path) -> Option<SystemTime> {
    let entries = std::fs::read_dir(folder).expect("a room of the workspace").flatten();
    entries
        .filter_map(|entry| {
            let path = entry.path();
            if path.is_dir() { newest_change(&path) } else { changed(&path) }
        })
        .max()
}
