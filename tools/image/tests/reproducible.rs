//! Two clean builds in two different folders give the same bytes. It takes minutes, so it runs only when `HVT_REPRODUCIBLE`
//! is set: to 1, or to the package to build in place of the demo, as `hvt-socket-demo`, which has little, or `tlstunnel`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What a build needs, without what builds and version control leave behind.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        if name == "target" || name == ".git" {
            continue;
        }
        let (from, to) = (entry.path(), to.join(name));
        if entry.file_type().unwrap().is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(from, to).unwrap();
        }
    }
}

fn build(source: &Path, folder: &Path, package: &str) -> Vec<u8> {
    copy(source, folder);
    // The last line says where the image is.
    let output = Command::new(env!("CARGO_BIN_EXE_hvt-image"))
        .args(["build", package])
        .current_dir(folder)
        .env_remove("CARGO_TARGET_DIR")
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success());
    let said = String::from_utf8(output.stdout).unwrap();
    fs::read(said.lines().next_back().unwrap()).unwrap()
}

#[test]
fn builds_in_two_folders_are_the_same() {
    let Ok(wanted) = std::env::var("HVT_REPRODUCIBLE") else {
        println!("not tested: it takes minutes; set HVT_REPRODUCIBLE=1");
        return;
    };
    let package = if wanted == "1" { "hvt-guest-demo" } else { wanted.as_str() };
    let source: PathBuf =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let first = build(&source, &folder.path().join("one"), package);
    let other = folder.path().join("a-longer-name-of-a-folder/two");
    let second = build(&source, &other, package);
    let difference = first.iter().zip(&second).position(|(a, b)| a != b);
    assert_eq!((difference, first.len()), (None, second.len()), "first difference, and lengths");
}
