//! The web site from git: a bare repository as a forge has it, and the real `unipi`, which publishes what is pushed.
//!
//! The repository's hook pushes on to unipi, so that `git push` says what became of the page. A user does the same by
//! hand, or with a forge's webhook.

use std::io::Read as _;
use std::path::Path;
use std::process::{Command as StdCommand, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::process::{Child, Command};

use crate::files;
use crate::options::Options;
use crate::programs::Programs;

/// How long unipi may take to open its storage and its ports.
const START_LIMIT: Duration = Duration::from_secs(30);
const START_POLL: Duration = Duration::from_millis(20);

/// What the repository begins with.
const SAMPLE: [(&str, &str); 4] = [
    (
        "index.html",
        "<!doctype html>\n<html lang=en>\n<meta charset=utf-8>\n<title>A site from git</title>\n\
         <link rel=stylesheet href=/style.css>\n<h1>A site from git</h1>\n\
         <p>Clone the repository, change this page, and push. <a href=/about>How it works</a></p>\n</html>\n",
    ),
    (
        "about.html",
        "<!doctype html>\n<html lang=en>\n<meta charset=utf-8>\n<title>How it works</title>\n\
         <link rel=stylesheet href=/style.css>\n<h1>How it works</h1>\n\
         <p>unipi holds one commit in memory. A push brings the next; when git returns, it is live.</p>\n\
         <p><a href=/>Back</a></p>\n</html>\n",
    ),
    (
        "404.html",
        "<!doctype html>\n<html lang=en>\n<meta charset=utf-8>\n<title>Not here</title>\n\
         <link rel=stylesheet href=/style.css>\n<h1>There is no such page</h1>\n<p><a href=/>Home</a></p>\n</html>\n",
    ),
    (
        "style.css",
        "body { font: 1.1rem/1.6 sans-serif; max-width: 40rem; margin: 3rem auto; padding: 0 1rem }\n",
    ),
];

/// What a push to the repository does: `unipi` takes the branch, and what it says is shown to whoever pushed.
const HOOK: &str = "#!/bin/sh\nwhile read -r old new ref; do\n  \
    [ \"$ref\" = refs/heads/main ] || continue\n  \
    git push --quiet --force \"http://hook:$(cat ../site.token)@ADDRESS/site.git\" \"$new:refs/heads/main\"\ndone\n";

/// unipi's process; it ends with this value.
#[derive(Debug)]
pub(crate) struct Pages {
    child: Child,
    /// Whether there is a repository to clone.
    pub(crate) has_repository: bool,
}

impl Pages {
    /// Starts unipi, and on the first start makes the repository. None where there is no git.
    pub(crate) async fn start(
        programs: &Programs,
        options: &Options,
    ) -> anyhow::Result<Option<Self>> {
        let has_git = StdCommand::new("git").arg("--version").stdout(Stdio::null()).status();
        if !has_git.is_ok_and(|status| status.success()) {
            println!("git is not installed: the web site from git is left out.");
            return Ok(None);
        }
        let is_first = !options.pages_storage().exists();
        make_token(&options.pages_token())?;
        let child = spawn(programs, options)?;
        let repository = options.repository();
        let mut pages = Self { child, has_repository: false };
        tokio::time::timeout(START_LIMIT, pages.listening(options))
            .await
            .with_context(|| format!("unipi did not listen within {START_LIMIT:?}"))??;
        if is_first && !repository.exists() {
            make_repository(&repository)?;
        }
        pages.has_repository = repository.exists();
        if pages.has_repository {
            // The port may be another than last time; the hook is the demonstration's.
            let hook = HOOK.replace("ADDRESS", &options.pages_address().to_string());
            files::write(&repository.join("hooks/post-receive"), &hook, 0o755)?;
            publish(&repository, options)?;
        }
        Ok(Some(pages))
    }

    async fn listening(&mut self, options: &Options) -> anyhow::Result<()> {
        while !options.pages_ready_file().exists() {
            if let Some(status) = self.child.try_wait()? {
                bail!(
                    "unipi ended with {status}; its message is above. If a port is in use, choose others: \
                     --site-port, --pages-control-port"
                );
            }
            tokio::time::sleep(START_POLL).await;
        }
        Ok(())
    }

    /// Stops it gently.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        if let Some(id) = self.child.id() {
            Command::new("kill").arg(id.to_string()).status().await?;
            self.child.wait().await?;
        }
        Ok(())
    }
}

fn spawn(programs: &Programs, options: &Options) -> anyhow::Result<Child> {
    let ready_file = options.pages_ready_file();
    // A file of an earlier run would say that unipi is ready before it is.
    match std::fs::remove_file(&ready_file) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(e).with_context(|| format!("cannot remove {}", ready_file.display()));
        }
        _ => {}
    }
    let mut command = Command::new(&programs.unipi);
    command
        .args(["--listen-http", &options.pages_address().to_string()])
        .args(["--control", &options.pages_control().to_string()])
        .args(["--status-path", "/status", "--log-level", "warn"])
        .arg("--key-file")
        .arg(options.key_file())
        .arg("--push-token-file")
        .arg(options.pages_token())
        .arg("--storage")
        .arg(options.pages_storage())
        .arg("--ready-file")
        .arg(&ready_file);
    let child = command.stdin(Stdio::null()).kill_on_drop(true).spawn();
    child.with_context(|| format!("cannot start {}", programs.unipi.display()))
}

/// A token of its own for every demonstration, readable by its owner alone.
fn make_token(path: &Path) -> anyhow::Result<()> {
    if path.exists() {
        return Ok(());
    }
    let mut random = [0; 32];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut random))
        .context("no randomness for a push token")?;
    let token: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    files::write(path, &format!("{token}\n"), 0o600)
}

/// Makes the bare repository with one commit.
fn make_repository(repository: &Path) -> anyhow::Result<()> {
    let sample = repository.with_extension("sample");
    std::fs::create_dir_all(&sample)?;
    for (name, text) in SAMPLE {
        std::fs::write(sample.join(name), text)?;
    }
    let made = (|| {
        git(&sample, &["init", "--quiet", "--initial-branch=main"])?;
        git(&sample, &["add", "--all"])?;
        git(&sample, &["commit", "--quiet", "--message=A sample site"])?;
        let repository = repository.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        git(&sample, &["clone", "--quiet", "--bare", ".", &format!("../{repository}")])
    })();
    std::fs::remove_dir_all(&sample)?;
    made
}

/// Brings unipi what the repository has; nothing where it has that already.
fn publish(repository: &Path, options: &Options) -> anyhow::Result<()> {
    let token = std::fs::read_to_string(options.pages_token())?;
    let url = format!("http://start:{}@{}/site.git", token.trim(), options.pages_address());
    git(repository, &["push", "--quiet", "--force", &url, "main:main"])
}

fn git(folder: &Path, arguments: &[&str]) -> anyhow::Result<()> {
    let output = StdCommand::new("git")
        .args(["-c", "user.name=Demonstration", "-c", "user.email=demonstration@localhost"])
        .args(["-c", "commit.gpgsign=false", "-c", "core.hooksPath=/dev/null"])
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .context("cannot start git")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "git {} failed: {said}", arguments.first().unwrap_or(&""));
    Ok(())
}
