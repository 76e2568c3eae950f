//! Two clean builds in two different folders give the same bytes. It takes several minutes, so it runs only when
//! `HVT_REPRODUCIBLE=1`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

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

fn build(source: &Path, folder: &Path) -> Vec<u8> {
    copy(source, folder);
    let status = Command::new(env!("CARGO_BIN_EXE_hvt-image"))
        .args(["build", "hvt-guest-demo"])
        .current_dir(folder)
        .env_remove("CARGO_TARGET_DIR")
        .status()
        .unwrap();
    assert!(status.success());
    fs::read(folder.join("target/hvt/guest-demo.hvt")).unwrap()
}

#[test]
fn builds_in_two_folders_are_the_same() {
    if std::env::var_os("HVT_REPRODUCIBLE").is_none_or(|value| value != "1") {
        println!("not tested: it takes minutes; set HVT_REPRODUCIBLE=1");
        return;
    }
    let source: PathBuf =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let first = build(&source, &folder.path().join("one"));
    let second = build(&source, &folder.path().join("a-longer-name-of-a-folder/two"));
    let difference = first.iter().zip(&second).position(|(a, b)| a != b);
    assert_eq!((difference, first.len()), (None, second.len()), "first difference, and lengths");
}
