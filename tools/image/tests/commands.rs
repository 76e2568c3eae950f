//! `hvt-image run` and `hvt-image show` as people use them, on the smallest program. `run` needs the command `hvt`, which
//! `HVT` names or which lies beside this test's program; without it the test says so and passes, unless `REQUIRE_PEERS=1`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn hvt_image(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hvt-image")).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn hvt() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_BIN_EXE_hvt-image")).with_file_name("hvt");
    let hvt = std::env::var_os("HVT").map_or(beside, PathBuf::from);
    if hvt.exists() {
        return Some(hvt);
    }
    let required = std::env::var_os("REQUIRE_PEERS").is_some_and(|value| value == "1");
    assert!(!required, "there is no hvt: cargo build -p hvt-tender");
    println!("not tested: there is no hvt");
    None
}

#[test]
fn a_program_is_built_shown_and_run() {
    let built = hvt_image(&["build", "hvt-guest", "--example", "hello"]);
    assert!(built.status.success(), "{}", text(&built.stderr));
    let image = text(&built.stdout);

    let shown = hvt_image(&["show", image.trim_end()]);
    let report = text(&shown.stdout);
    assert!(shown.status.success(), "{}", text(&shown.stderr));
    assert!(report.starts_with("ABI        hvt, version 2\n"), "{report}");
    // Each crate with its size, the largest first, and none larger than the whole.
    let table = report.split_once("code by crate, ").expect("a table of crates").1;
    let (total, lines) = table.split_once(" bytes in all\n").unwrap();
    let total: u64 = total.parse().unwrap();
    let sizes: Vec<(u64, &str)> = lines
        .lines()
        .map(|line| line.trim_start().split_once("  ").unwrap())
        .map(|(size, name)| (size.parse().unwrap(), name))
        .collect();
    for name in ["std", "core", "hvt_guest"] {
        assert!(sizes.iter().any(|(_, other)| *other == name), "{name} is missing: {report}");
    }
    assert_eq!(sizes.iter().map(|(size, _)| size).sum::<u64>(), total);
    let named = &sizes[..sizes.len() - 1];
    assert!(named.is_sorted_by(|(a, _), (b, _)| a >= b), "{report}");

    let Some(hvt) = hvt() else { return };
    let run = Command::new(env!("CARGO_BIN_EXE_hvt-image"))
        .args(["run", "hvt-guest", "--example", "hello"])
        .args(["--", "--mem=32", "--backend=process", "--", "exit", "two words"])
        .env("HVT", hvt)
        .output()
        .unwrap();
    let said = text(&run.stdout);
    assert!(said.contains(r#"with ["exit", "two words"]."#), "{said}{}", text(&run.stderr));
    assert_eq!(run.status.code(), Some(7));
}

#[test]
fn what_can_not_be_run_is_said() {
    let output = hvt_image(&["run", "nobody-s-package", "--", "--mem=32"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("there is no package nobody-s-package"));
    let output = hvt_image(&["show", "/nonexistent.hvt"]);
    assert!(text(&output.stderr).contains("cannot read /nonexistent.hvt"));
    let output = hvt_image(&["run", "hvt-guest", "--bin", "a", "--example", "b"]);
    assert!(!output.status.success());
}
