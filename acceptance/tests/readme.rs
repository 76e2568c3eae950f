//! Every `tlstunnel-ctl` command that README shows works as written.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use acceptance::Gateway;
use acceptance::peer::{available, run};
use acceptance::programs::program;

/// The commands in README: code spans and lines of code blocks that begin with the program's name, in order.
fn commands(readme: &str) -> Vec<String> {
    let spans = readme.lines().flat_map(|line| {
        let block_line = Some(line).filter(|line| line.starts_with("tlstunnel-ctl "));
        let spans =
            line.split('`').skip(1).step_by(2).filter(|span| span.starts_with("tlstunnel-ctl "));
        block_line.into_iter().chain(spans.filter(|_| !line.starts_with("tlstunnel-ctl ")))
    });
    // Those of sites are for a site server: `unipi/tests/site_readme.rs`.
    let ours = |command: &String| {
        !command.contains("--help") && !command.starts_with("tlstunnel-ctl site ")
    };
    spans.map(str::to_owned).filter(ours).collect()
}

/// The files that README's commands name.
fn files(folder: &Path) {
    let issue =
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 5 -subj";
    for (cert, key, name) in [
        ("internal-ca.pem", "internal-ca.key", "internal"),
        ("staff-ca.pem", "staff-ca.key", "staff"),
        ("new.pem", "new.key", "blog.example.org"),
    ] {
        let script = format!(
            "{issue} /CN={name} -addext subjectAltName=DNS:{name} -keyout {key} -out {cert} 2>/dev/null"
        );
        assert!(
            Command::new("sh")
                .args(["-c", &script])
                .current_dir(folder)
                .status()
                .unwrap()
                .success()
        );
    }
}

#[test]
fn every_control_command_works_as_written() {
    if !available(&["openssl", "sh", "timeout"]) {
        return;
    }
    let gateway = Gateway::start_with(&["--domains", "example.org"]);
    files(gateway.folder());
    // README speaks of generations 41 and 42.
    for i in 0..45 {
        gateway.ctl(&["add", &format!("earlier{i}.example.org"), "10.0.0.1:80"]);
    }
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let commands = commands(&std::fs::read_to_string(readme).unwrap());
    assert!(commands.len() > 20, "{commands:?}");
    let ctl = program("tlstunnel-ctl");
    let path = format!("{}:{}", ctl.parent().unwrap().display(), std::env::var("PATH").unwrap());
    for command in commands {
        let mut words = command.split(' ').skip(1);
        // The same name is added in several examples; each stands for itself. A name must be there to be removed.
        match (words.next(), words.next().map(|name| name.trim_matches('\''))) {
            (Some("add"), Some(name)) if !command.contains("--replace") => {
                let _ = gateway.ctl_output(&["remove", name]);
            }
            (Some("remove" | "show" | "add"), Some(name)) => {
                gateway.ctl(&["add", "--replace", name, "10.0.0.1:80"]);
            }
            _ => {}
        }
        if command.contains("apply") && command.contains("--confirm") {
            // Somebody edits the exported file in between; without a change there would be nothing to confirm.
            let file = gateway.folder().join("routes.toml");
            let exported = std::fs::read_to_string(&file).unwrap();
            let edited = format!(
                "{exported}\n[routes.\"edited.example.org\"]\nbackends = [\"10.0.0.1:80\"]\n"
            );
            std::fs::write(&file, edited).unwrap();
        }
        let mut shell = Command::new("sh");
        // `top` runs until it is told to stop; 124 is timeout's way to say that it did that.
        let limited = if command == "tlstunnel-ctl top" {
            format!("timeout 2 {command}")
        } else {
            command.clone()
        };
        shell.args(["-c", &limited]).current_dir(gateway.folder()).env("PATH", &path);
        shell.env("TLSTUNNEL_REMOTE", gateway.control.to_string());
        shell.env("TLSTUNNEL_KEY_FILE", gateway.key_file());
        let output = run(&mut shell, b"", Duration::from_secs(30));
        let code = output.status.code();
        // `check` answers 1 when it has found a danger, and some of README's routes are dangerous on purpose.
        let fine = code == Some(0)
            || code == Some(124) && command == "tlstunnel-ctl top"
            || code == Some(1) && command == "tlstunnel-ctl check";
        assert!(fine, "{command}: {code:?}\n{}", String::from_utf8_lossy(&output.stderr));
    }
}
