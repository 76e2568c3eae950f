//! What the tests of git share: repositories made by the real git, and servers around its own programs.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod http;
pub mod ssh;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;
use unipi::git::{FetchError, Fetched, Generation, Limits, Remote};

/// Whether the program is there. Without it a test says so and passes, but fails where REQUIRE_PEERS=1.
pub fn have(program: &str) -> bool {
    let mut command = Command::new(program);
    command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    let found = command.status().is_ok();
    if !found {
        assert!(std::env::var_os("REQUIRE_PEERS").is_none_or(|v| v != "1"), "{program} is missing");
        println!("skipped: {program} is missing");
    }
    found
}

/// A work tree, and beside it a bare repository `site.git` that servers show.
pub struct Repository {
    directory: TempDir,
}

impl Repository {
    pub fn new() -> Self {
        Self::with_format("sha1")
    }

    pub fn with_format(format: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let this = Self { directory };
        let format = format!("--object-format={format}");
        let work = this.work();
        std::fs::create_dir(&work).unwrap();
        this.git(&["init", "-q", "-b", "main", &format]);
        let bare = this.bare();
        this.git(&["init", "-q", "--bare", "-b", "main", &format, bare.to_str().unwrap()]);
        this.git(&["remote", "add", "origin", bare.to_str().unwrap()]);
        this
    }

    pub fn base(&self) -> &Path {
        self.directory.path()
    }

    pub fn work(&self) -> PathBuf {
        self.base().join("work")
    }

    pub fn bare(&self) -> PathBuf {
        self.base().join("site.git")
    }

    pub fn git(&self, arguments: &[&str]) -> String {
        git(&self.work(), arguments)
    }

    pub fn write(&self, path: impl AsRef<Path>, content: impl AsRef<[u8]>) {
        let path = self.work().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// Commits everything and pushes it; the commit's id.
    pub fn publish(&self, message: &str) -> String {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", message]);
        self.git(&["push", "-q", "--force", "origin", "HEAD"]);
        self.git(&["rev-parse", "HEAD"])
    }
}

pub fn git_command(directory: &Path) -> Command {
    let mut command = Command::new("git");
    command
        .current_dir(directory)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", directory)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_AUTHOR_NAME", "Ann Author")
        .env("GIT_AUTHOR_EMAIL", "ann@example.test")
        .env("GIT_COMMITTER_NAME", "Carl Committer")
        .env("GIT_COMMITTER_EMAIL", "carl@example.test")
        .env("GIT_AUTHOR_DATE", "1700000000 +0100")
        .env("GIT_COMMITTER_DATE", "1700000100 +0100")
        .env("GIT_TERMINAL_PROMPT", "0");
    command
}

pub fn git(directory: &Path, arguments: &[&str]) -> String {
    let output = git_command(directory).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "git {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A git daemon on a port of its own: one process of `git daemon --inetd` for each connection.
pub fn daemon(base: &Path) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let base = base.to_owned();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            let output = std::os::fd::OwnedFd::from(stream.try_clone().unwrap());
            let child = git_command(&base)
                .args(["daemon", "--inetd", "--export-all"])
                .arg(format!("--base-path={}", base.display()))
                .stdin(std::os::fd::OwnedFd::from(stream))
                .stdout(output)
                .stderr(Stdio::null())
                .spawn();
            std::thread::spawn(move || child.unwrap().wait());
        }
    });
    address
}

pub fn remote(url: &str) -> Remote {
    Remote::parse(url).unwrap()
}

/// Runs `future` as the program does: on one thread.
pub fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

pub fn fetch(remote: &Remote, known: Option<&Generation>) -> Result<Fetched, FetchError> {
    run(unipi::git::fetch(remote, known, &Limits::default()))
}

pub fn fetch_new(remote: &Remote, known: Option<&Generation>) -> std::sync::Arc<Generation> {
    match fetch(remote, known).unwrap() {
        Fetched::New { generation, .. } => generation,
        Fetched::Unchanged | Fetched::Unwanted => panic!("nothing new"),
    }
}

/// The generation shows exactly what git says is in `commit`.
pub fn assert_shows(repository: &Repository, commit: &str, generation: &Generation) {
    assert_eq!(generation.commit.id.to_string(), commit);
    let output = git_command(&repository.work())
        .args(["ls-tree", "-r", "-z", "--full-tree", commit])
        .output()
        .unwrap();
    let mut expected: Vec<(Vec<u8>, String)> = output
        .stdout
        .split(|byte| *byte == 0)
        .filter(|line| !line.is_empty())
        .map(|line| {
            let tab = line.iter().position(|byte| *byte == b'\t').unwrap();
            let words = String::from_utf8(line[..tab].to_vec()).unwrap();
            (line[tab + 1..].to_vec(), words.split(' ').nth(2).unwrap().to_owned())
        })
        .collect();
    expected.sort();
    let mut shown: Vec<(Vec<u8>, String)> = generation
        .entries
        .iter()
        .map(|entry| (entry.path.to_vec(), entry.id.to_string()))
        .collect();
    shown.sort();
    assert_eq!(shown, expected);
    let tags =
        generation.objects.values().filter(|o| o.kind == unipi::git::ObjectKind::Tag).count();
    assert_eq!(tags > 0, generation.tag.is_some());
    let mut objects = 1 + tags;
    let mut seen = std::collections::HashSet::new();
    for entry in &generation.entries {
        if entry.kind != unipi::git::EntryKind::Submodule {
            let object = &generation.objects[&entry.id];
            assert_eq!(object.data, entry.blob);
            objects += usize::from(seen.insert(entry.id));
        }
    }
    let trees = git(&repository.work(), &["ls-tree", "-r", "-t", "-d", "--object-only", commit]);
    let trees: std::collections::HashSet<&str> =
        trees.lines().chain(std::iter::once("root")).collect();
    let submodules = generation.entries.iter();
    let submodules = submodules.filter(|e| e.kind == unipi::git::EntryKind::Submodule).count();
    // `ls-tree -d` lists submodules among the directories.
    assert!(generation.objects.len() <= objects + trees.len());
    assert!(generation.objects.len() + submodules >= objects + trees.len());
}
