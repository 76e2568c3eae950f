//! `top` without a terminal, and on a real one (util-linux `script` makes it).

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::support::{FakeGateway, Home, KEY, peer};

/// One look at the counters.
pub(crate) fn look(uptime_ms: u64, total: u64) -> Value {
    json!({
        "uptime-ms": uptime_ms, "open": 2, "total": total, "handshakes": total,
        "handshake-failures": 0, "bytes-in": total * 1024, "bytes-out": 0,
        "routes": [{"name": "blog.example.org", "open": 2, "total": total,
                    "bytes-in": total * 1024, "bytes-out": 0}],
        "connections": [{"id": 7, "client": "192.0.2.9:4711", "server-name": "blog.example.org",
                         "route": "blog.example.org", "backend": "10.0.0.7:80", "age-ms": 61_000,
                         "bytes-in": 5, "bytes-out": 2048}]
    })
}

/// A gateway on which 5 connections come per second, by its own clock.
fn busy() -> FakeGateway {
    let looks = AtomicU64::new(1);
    FakeGateway::start(move |_| {
        let number = looks.fetch_add(1, Ordering::SeqCst);
        Ok(look(number * 2000, number * 10))
    })
}

#[test]
fn once_shows_rates_between_two_looks() {
    let gateway = busy();
    let run = Home::new().ask(&gateway, &["top", "--once", "--interval", "10ms"]).code(0);
    let run = run.says("connections 5.0/s").says("in 5.0 KiB/s").says("192.0.2.9:4711");
    assert!(!run.stdout.contains('\u{1b}'));
    assert_eq!(gateway.requests().len(), 2);
}

#[test]
fn a_pipe_gets_text_without_being_asked() {
    Home::new().ask(&busy(), &["top", "--interval", "10ms"]).code(0).says("ROUTE");
}

#[test]
fn json_is_one_look() {
    let gateway = busy();
    let run = Home::new().ask(&gateway, &["top", "--json", "-n", "5"]).code(0);
    assert_eq!(run.json(), look(2000, 10));
    assert_eq!(gateway.request(), json!({"op": "top", "limit": 5}));
}

/// `top` on a terminal of its own, which ends by itself if a test waits in vain.
struct OnTerminal {
    child: Child,
    keys: ChildStdin,
    screen: ChildStdout,
    shown: Vec<u8>,
}

impl OnTerminal {
    /// Starts on a terminal that is too narrow for the first line; a line in the pipe `wider` makes it wide enough.
    fn start(home: &Home, gateway: &FakeGateway) -> Self {
        let program = env!("CARGO_BIN_EXE_tlstunnel-ctl");
        let (address, key) = (gateway.address, home.write("admin.key", KEY));
        let (key, wider) = (key.display(), home.path("wider").display().to_string());
        let commands = format!(
            "mkfifo {wider}; stty cols 30 rows 8; (read line < {wider}; stty -F /dev/tty cols 120 rows 30) & \
             exec {program} --remote {address} --key-file {key} top --interval 20ms"
        );
        let mut command = Command::new("timeout");
        command.args(["60", "script", "--quiet", "--return", "--command", &commands, "/dev/null"]);
        command.env("SHELL", "/bin/sh").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (keys, screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, keys, screen, shown: Vec::new() }
    }

    /// Reads until the text was shown.
    #[track_caller]
    fn await_text(&mut self, text: &str) {
        let mut buffer = [0; 4096];
        while !self.shows(text) {
            let length = self.screen.read(&mut buffer).unwrap();
            let shown = String::from_utf8_lossy(&self.shown);
            assert_ne!(length, 0, "ended without showing {text:?}: {shown}");
            self.shown.extend_from_slice(&buffer[..length]);
        }
    }

    fn shows(&self, text: &str) -> bool {
        self.shown.windows(text.len()).any(|part| part == text.as_bytes())
    }

    /// Presses a key and demands that the program ends well and gives the terminal back.
    #[track_caller]
    fn end_with(mut self, key: &[u8]) {
        self.keys.write_all(key).unwrap();
        self.screen.read_to_end(&mut self.shown).unwrap();
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
        // The main screen again, and the cursor visible.
        assert!(self.shows("\u{1b}[?1049l") && self.shows("\u{1b}[?25h"));
    }
}

fn terminal_peers() -> bool {
    ["script", "stty", "timeout", "mkfifo"].into_iter().all(peer)
}

#[test]
fn a_terminal_is_refreshed_resized_and_given_back() {
    if !terminal_peers() {
        return;
    }
    let (home, gateway) = (Home::new(), busy());
    let mut top = OnTerminal::start(&home, &gateway);
    // Clipped at 30 columns, and with rates once there were two looks.
    top.await_text("connections 5.0/s   handshakes");
    assert!(!top.shows("since start"), "wider than the terminal");
    std::fs::write(home.path("wider"), "now\n").unwrap();
    top.await_text("since start");
    top.end_with(b"q");
}

#[test]
fn control_c_ends_it_well() {
    if !terminal_peers() {
        return;
    }
    let (home, gateway) = (Home::new(), busy());
    let mut top = OnTerminal::start(&home, &gateway);
    top.await_text("ROUTE");
    // Frees the shell that waits for a wider terminal.
    std::fs::write(home.path("wider"), "now\n").unwrap();
    top.end_with(b"\x03");
}
