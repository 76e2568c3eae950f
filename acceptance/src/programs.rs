//! Finds the programs under test; has cargo build them in the profile that the tests run in.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// The path of the workspace program `name`, built once per test process.
///
/// # Panics
/// If cargo cannot build it.
pub fn program(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        // Test executables lie in target/PROFILE/deps, programs in target/PROFILE.
        let own = std::env::current_exe().expect("the test's own file");
        let folder =
            own.parent().and_then(|deps| deps.parent()).expect("target/PROFILE").to_owned();
        let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        build.args([
            "build",
            "--quiet",
            "--package",
            "tlstunnel",
            "--package",
            "tlstunnel-ctl",
            "--bins",
        ]);
        if folder.ends_with("release") {
            build.arg("--release");
        }
        build.current_dir(env!("CARGO_MANIFEST_DIR"));
        assert!(
            build.status().expect("cargo starts").success(),
            "cargo could not build the programs"
        );
        folder
    });
    folder.join(name)
}
