//! The rule for peers: a missing one is said aloud, and is a failure where `REQUIRE_PEERS=1` is set.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Whether every one of `programs` is installed.
///
/// # Panics
/// If one is missing and `REQUIRE_PEERS=1` is set.
pub fn available(programs: &[&str]) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    // Debian keeps servers in sbin, which is not in everybody's path.
    let folders: Vec<PathBuf> =
        std::env::split_paths(&paths).chain(["/usr/sbin".into(), "/sbin".into()]).collect();
    let missing: Vec<_> = programs
        .iter()
        .filter(|program| !folders.iter().any(|folder| folder.join(program).exists()))
        .collect();
    if missing.is_empty() {
        return true;
    }
    assert!(
        std::env::var_os("REQUIRE_PEERS").is_none_or(|v| v != "1"),
        "missing peers: {missing:?}; tools/install-peers installs them"
    );
    println!("SKIPPED: missing peers {missing:?}; tools/install-peers installs them");
    false
}

/// A process that is killed when the value is dropped.
#[derive(Debug)]
pub struct Process(pub Child);

impl Process {
    /// Starts `command` with its output going to `log`.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(command: &mut Command, log: &Path) -> Self {
        let file =
            std::fs::OpenOptions::new().create(true).append(true).open(log).expect("log file");
        let errors = file.try_clone().expect("log file");
        command.stdin(Stdio::null()).stdout(file).stderr(errors);
        Self(command.spawn().unwrap_or_else(|e| panic!("cannot start {command:?}: {e}")))
    }

    /// Waits until the program that was just started is up: `look` finds what shows it.
    ///
    /// # Panics
    /// If it ends, or is not up within 30 seconds; `log` is in the message.
    pub fn wait_until_up<T>(&mut self, log: &Path, mut look: impl FnMut() -> Option<T>) -> T {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(found) = look() {
                return found;
            }
            let ended = self.0.try_wait().expect("status");
            if ended.is_some() || Instant::now() > end {
                let log = std::fs::read_to_string(log).unwrap_or_default();
                panic!("it did not come up ({ended:?}):\n{log}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends `signal` (such as `TERM`) and waits for the end; gives the exit code.
    ///
    /// # Panics
    /// If there is no program `kill`.
    pub fn stop(mut self, signal: &str) -> Option<i32> {
        let mut kill = Command::new("kill");
        kill.args([&format!("-{signal}"), &self.0.id().to_string()]);
        assert!(kill.status().expect("kill starts").success(), "{kill:?}");
        self.0.wait().expect("status").code()
    }
}

/// What a program has written to its ready file; none yet, if it has not.
pub fn read_ready_file(path: &Path) -> Option<serde_json::Value> {
    serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok()
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs `command` to its end with `input` on its standard input; kills it after `limit`.
///
/// # Panics
/// If it cannot be started or does not end in time.
pub fn run(command: &mut Command, input: &[u8], limit: Duration) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_vec();
    std::thread::spawn(move || {
        // A peer that ends early does not read all of it; what matters is what it answers.
        let _ = std::io::Write::write_all(&mut stdin, &input);
    });
    let id = child.id();
    let (done, watch) = std::sync::mpsc::channel::<()>();
    let killer = std::thread::spawn(move || {
        let late = watch.recv_timeout(limit) == Err(std::sync::mpsc::RecvTimeoutError::Timeout);
        if late {
            let _ = Command::new("kill").args(["-9", &id.to_string()]).status();
        }
        late
    });
    let output = child.wait_with_output().expect("output");
    drop(done);
    assert!(
        !killer.join().expect("killer"),
        "{command:?} did not end within {limit:?}: {output:?}"
    );
    output
}

/// Waits until `condition` holds.
///
/// # Panics
/// If it does not within a minute: a bound against hanging, not a claim about speed.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < end, "did not come true within 60 s: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
