//! Only what an allowed key signed goes live: keys by the real ssh-keygen, signatures by the real git.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod git_support;
mod site_support;

use std::path::{Path, PathBuf};
use std::process::Command;

use git_support::{git, git_command};
use site_support::{Forge, Unipi, available, eventually, get};

const TOKEN: &str = "a-token-for-tests-0123456789";

/// Makes a key pair; the public key's line.
fn key(folder: &Path, name: &str, kind: &[&str]) -> String {
    let path = folder.join(name);
    let made = Command::new("ssh-keygen")
        .args(["-q", "-N", "", "-C", name, "-f", path.to_str().unwrap()])
        .args(kind)
        .status()
        .unwrap();
    assert!(made.success());
    std::fs::read_to_string(path.with_extension("pub")).unwrap().trim().to_owned()
}

struct Bench {
    folder: tempfile::TempDir,
    work: PathBuf,
    unipi: Unipi,
}

impl Bench {
    /// A program that takes pushes signed by one of `signers`, and a repository.
    fn start(folder: tempfile::TempDir, signers: &str, format: &str) -> Self {
        let (list, token) = (folder.path().join("signers"), folder.path().join("token"));
        std::fs::write(&list, signers).unwrap();
        std::fs::write(&token, TOKEN).unwrap();
        let unipi = Unipi::start(
            "",
            &[
                "--push-token-file",
                token.to_str().unwrap(),
                "--allowed-signers",
                list.to_str().unwrap(),
                "--object-format",
                format,
                "--status-path",
                "/status",
            ],
        );
        let work = folder.path().join("work");
        std::fs::create_dir(&work).unwrap();
        git(&work, &["init", "-q", "-b", "main", &format!("--object-format={format}")]);
        git(&work, &["config", "gpg.format", "ssh"]);
        Self { folder, work, unipi }
    }

    /// Commits a page, signed with a key if one is named, and pushes it; what git said.
    fn push(&self, page: &str, key: Option<&str>) -> (bool, String) {
        std::fs::write(self.work.join("index.html"), page).unwrap();
        git(&self.work, &["add", "-A"]);
        match key {
            Some(key) => {
                let file = self.folder.path().join(key);
                git(&self.work, &["config", "user.signingkey", file.to_str().unwrap()]);
                git(&self.work, &["commit", "-q", "-S", "-m", page]);
            }
            None => drop(git(&self.work, &["commit", "-q", "-m", page])),
        }
        self.push_ref("HEAD:main")
    }

    fn push_ref(&self, reference: &str) -> (bool, String) {
        let url = format!("http://me:{TOKEN}@{}/site.git", self.unipi.http);
        let output =
            git_command(&self.work).args(["push", "--force", &url, reference]).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn page(&self) -> Vec<u8> {
        get(&self.unipi.url("/"), &[]).body
    }
}

#[test]
fn signed_pushes_go_live_and_no_others() {
    if !available(&["git", "curl", "ssh-keygen"]) {
        return;
    }
    for format in ["sha1", "sha256"] {
        let folder = tempfile::tempdir().unwrap();
        let mut signers = String::from("# who may publish\n");
        let kinds: [(&str, &[&str]); 3] = [
            ("ed", &["-t", "ed25519"]),
            ("ec", &["-t", "ecdsa", "-b", "256"]),
            ("rsa", &["-t", "rsa", "-b", "2048"]),
        ];
        for (name, kind) in kinds {
            let public = key(folder.path(), name, kind);
            signers.push_str(&format!("{name}@example.org namespaces=\"git\" {public}\n"));
        }
        key(folder.path(), "stranger", &["-t", "ed25519"]);
        let mail = key(folder.path(), "mail", &["-t", "ed25519"]);
        signers.push_str(&format!("mail@example.org namespaces=\"file\" {mail}\n"));
        let old = key(folder.path(), "old", &["-t", "ed25519"]);
        signers.push_str(&format!("old@example.org valid-before=\"20240101\" {old}\n"));
        let bench = Bench::start(folder, &signers, format);
        for (name, _) in kinds {
            let page = format!("signed by {name}");
            let (done, said) = bench.push(&page, Some(name));
            assert!(done, "{said}");
            assert_eq!(bench.page(), page.as_bytes());
        }
        let live = bench.page();
        for (key, why) in [
            (None, "is not signed"),
            (Some("stranger"), "not among the allowed signers"),
            (Some("mail"), "other namespaces"),
            // The commit says 2023, when the key was valid. Today it is not.
            (Some("old"), "not valid any more"),
        ] {
            let (done, said) = bench.push(&format!("{key:?}"), key);
            assert!(!done && said.contains(why), "{key:?}: {said}");
            assert_eq!(bench.page(), live, "{key:?}");
            let log = get(&bench.unipi.url("/status.json"), &[]).body;
            let log: serde_json::Value = serde_json::from_slice(&log).unwrap();
            assert_eq!(log["log"][0]["outcome"], "failed");
        }
        // A signature of another commit.
        let signed = git(&bench.work, &["log", "--all", "--format=%H", "--grep=signed by ed"]);
        let raw = git(&bench.work, &["cat-file", "commit", &signed]);
        let forged = raw.replace("signed by ed", "signed by nobody") + "\n";
        let file = bench.folder.path().join("forged");
        std::fs::write(&file, forged).unwrap();
        let forged =
            git(&bench.work, &["hash-object", "-t", "commit", "-w", file.to_str().unwrap()]);
        let (done, said) = bench.push_ref(&format!("{forged}:main"));
        assert!(!done && said.contains("does not fit its content"), "{said}");
        assert_eq!(bench.page(), live);
        // And the allowed ones go on.
        assert!(bench.push("on we go", Some("ed")).0);
        assert_eq!(bench.page(), b"on we go");
        let log = get(&bench.unipi.url("/status.json"), &[]).body;
        let log: serde_json::Value = serde_json::from_slice(&log).unwrap();
        assert_eq!(log["log"][0]["by"], "push (me), signed by ed@example.org");
    }
}

#[test]
fn signed_tags_and_fetched_commits() {
    if !available(&["git", "curl", "ssh-keygen"]) {
        return;
    }
    let forge = Forge::start();
    let folder = tempfile::tempdir().unwrap();
    let public = key(folder.path(), "ed", &["-t", "ed25519"]);
    key(folder.path(), "stranger", &["-t", "ed25519"]);
    let list = folder.path().join("signers");
    std::fs::write(&list, format!("ann@example.org {public}\n")).unwrap();
    let sign = |key: &str| {
        forge.git(&["config", "gpg.format", "ssh"]);
        let file = folder.path().join(key);
        forge.git(&["config", "user.signingkey", file.to_str().unwrap()]);
    };
    let options = ["--allowed-signers", list.to_str().unwrap(), "--poll", "1"];
    let commit = |page: &str, key: Option<&str>| {
        forge.write("index.html", page);
        forge.git(&["add", "-A"]);
        if let Some(key) = key {
            sign(key);
        }
        let signing = if key.is_some() { "-S" } else { "--no-gpg-sign" };
        forge.git(&["commit", "-q", signing, "-m", page]);
        forge.git(&["push", "-q", "--force", "origin", "HEAD:main"]);
    };
    commit("one", Some("ed"));
    let branch = Unipi::start(&forge.remote(), &options);
    branch.shows("/", "one");
    commit("unsigned", None);
    eventually("the refusal is reported", || branch.log().contains("is not signed"));
    assert_eq!(get(&branch.url("/"), &[]).body, b"one");
    commit("two", Some("ed"));
    branch.shows("/", "two");

    // A signed tag vouches for a commit that nobody signed.
    commit("released", None);
    let tag = |name: &str, key: &str| {
        sign(key);
        forge.git(&["tag", "-f", "-s", "-m", name, name]);
        forge.git(&["push", "-q", "--force", "origin", name]);
    };
    tag("v1", "stranger");
    let remote = forge.remote().replace("#main", "#v1");
    let tagged = Unipi::start(&remote, &options);
    eventually("the stranger is refused", || {
        tagged.log().contains("not among the allowed signers")
    });
    assert_eq!(get(&tagged.url("/"), &[]).status, 503);
    tag("v1", "ed");
    tagged.shows("/", "released");
    let metrics = get(&format!("http://{}/metrics", tagged.metrics), &[]).body;
    assert!(String::from_utf8(metrics).unwrap().contains("unipi_generation{site=\"default\"} 1"));
}
