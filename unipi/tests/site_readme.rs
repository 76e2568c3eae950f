//! Every `tlstunnel-ctl site` command that README shows works as written.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod site_support;

use std::path::Path;

use site_support::{Unipi, available};

#[test]
fn every_site_command_works_as_written() {
    if !available(&["git"]) {
        return;
    }
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    let commands: Vec<&str> =
        readme.lines().filter(|line| line.starts_with("tlstunnel-ctl site ")).collect();
    assert!(commands.len() >= 6, "{commands:?}");
    let unipi = Unipi::start(
        "",
        &["--control", "127.0.0.1:0", "--key-file", "control.key", "--storage", "sites.img"],
    );
    for command in commands {
        let words: Vec<&str> = command.split(' ').skip(1).collect();
        let (done, said) = unipi.ctl(&words);
        assert!(done, "{command}: {said}");
    }
}
