//! A gateway for tests: the real server side of the protocol over a real socket, with scripted answers; and the real
//! binary, run against it with nothing of the tester's own environment.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use config_proto::key::{Key, KeyId, KnownKey};
use config_proto::message::{Refusal, RefusalCode, Reply, Request, Role};
use config_proto::v2::GATEWAY_FRAME_BYTES;
use config_proto::v2::server::{Event, Limits, Server};
use serde_json::Value;
use tempfile::TempDir;

/// What a scripted gateway says to a request.
pub(crate) type Answer = Result<Value, Refusal>;
type Script = dyn Fn(&Request) -> Answer + Send + Sync;

/// A listening gateway. Its threads end with the test's process.
pub(crate) struct FakeGateway {
    pub(crate) address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl FakeGateway {
    /// Answers every request as the script says. The key is [`KEY`].
    pub(crate) fn start(script: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (script, seen): (Arc<Script>, _) = (Arc::new(script), Arc::clone(&requests));
        let address = listen(move |stream| {
            let (script, seen) = (Arc::clone(&script), Arc::clone(&seen));
            thread::spawn(move || serve(stream, &*script, &seen));
        });
        Self { address, requests }
    }

    /// What was asked so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// The one request that was asked.
    pub(crate) fn request(&self) -> Value {
        let requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:?}");
        serde_json::to_value(&requests[0]).unwrap()
    }
}

/// The text of the key file that [`FakeGateway`] accepts.
pub(crate) const KEY: &str = "admin:AAECAwQFBgcICQoLDA0ODw==\n";
/// Another secret of the same id.
pub(crate) const WRONG_KEY: &str = "admin:AAECAwQFBgcICQoLDA0ODg==\n";

/// Accepts connections on a port of its own, for ever.
pub(crate) fn listen(mut accepted: impl FnMut(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || listener.incoming().flatten().for_each(&mut accepted));
    address
}

fn serve(mut stream: TcpStream, script: &Script, seen: &Mutex<Vec<Request>>) {
    let key: Key = KEY.trim().parse().unwrap();
    let lookup =
        |id: &KeyId| (id == key.id()).then(|| KnownKey { key: key.clone(), role: Role::Admin });
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce).unwrap();
    let limits = Limits { max_frame: GATEWAY_FRAME_BYTES, ..Limits::default() };
    let mut server = Server::new(nonce, Instant::now(), limits);
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        for event in server.feed(&buffer[..length], Instant::now(), &lookup) {
            let bytes = match event {
                Event::Send(bytes) => bytes,
                Event::Request(received) => {
                    seen.lock().unwrap().push(received.request.clone());
                    let reply = match script(&received.request) {
                        Ok(value) => Reply::Ok(value),
                        Err(refusal) => Reply::Error(refusal),
                    };
                    server.reply(received.seq, &reply).unwrap_or_else(|error| {
                        let refusal =
                            refusal(RefusalCode::Invalid, &error.to_string(), "ask for less");
                        server.reply::<Value>(received.seq, &Reply::Error(refusal)).unwrap()
                    })
                }
                Event::Malformed { seq, refusal } => {
                    server.reply::<Value>(seq, &Reply::Error(refusal)).unwrap()
                }
                Event::Refused { answer, .. } => {
                    let _ = stream.write_all(&answer.unwrap_or_default());
                    return;
                }
            };
            if stream.write_all(&bytes).is_err() {
                return;
            }
        }
    }
}

/// A refusal as a gateway words it.
pub(crate) fn refusal(code: RefusalCode, message: &str, hint: &str) -> Refusal {
    Refusal { code, message: message.to_owned(), hint: Some(hint.to_owned()) }
}

/// What a change is answered with.
pub(crate) fn changed(message: &str, name: Option<&str>) -> Answer {
    Ok(serde_json::json!({"generation": 13, "message": message, "name": name}))
}

/// A folder of its own for one test: home, configuration and keys.
pub(crate) struct Home {
    folder: TempDir,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file with mode 0600.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        let mut options = std::fs::OpenOptions::new();
        let mut file =
            options.write(true).create(true).truncate(true).mode(0o600).open(&path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        path
    }

    /// The binary in an empty environment.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tlstunnel-ctl"));
        command.env_clear().env("HOME", self.folder.path()).current_dir(self.folder.path());
        // Coverage tools and the like tell the binary by variables where to write.
        command.envs(std::env::vars().filter(|(name, _)| name.starts_with("LLVM_")));
        command.stdin(Stdio::null());
        command
    }

    /// Runs with these arguments.
    pub(crate) fn run(&self, arguments: &[&str]) -> Run {
        Run::of(self.command().args(arguments))
    }

    /// Runs with these arguments against a gateway, with its key.
    pub(crate) fn ask(&self, gateway: &FakeGateway, arguments: &[&str]) -> Run {
        self.ask_at(gateway.address, &self.write("admin.key", KEY), arguments)
    }

    /// Runs with these arguments against an address, with a key file.
    pub(crate) fn ask_at(&self, address: SocketAddr, key_file: &Path, arguments: &[&str]) -> Run {
        let mut command = self.command();
        command.arg("--remote").arg(address.to_string()).arg("--key-file").arg(key_file);
        Run::of(command.args(arguments))
    }
}

/// What the binary did.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    pub(crate) fn of(command: &mut Command) -> Self {
        let Output { status, stdout, stderr } = command.output().unwrap();
        Self {
            code: status.code().expect("ended by a signal"),
            stdout: String::from_utf8(stdout).unwrap(),
            stderr: String::from_utf8(stderr).unwrap(),
        }
    }

    /// Standard output as the one JSON document that it must be.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("not one JSON document ({error}): {self:?}"))
    }

    /// Demands an exit code.
    #[track_caller]
    pub(crate) fn code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }

    /// Demands text on standard error.
    #[track_caller]
    pub(crate) fn complains(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "no {text:?} in {self:?}");
        self
    }

    /// Demands text on standard output.
    #[track_caller]
    pub(crate) fn says(self, text: &str) -> Self {
        assert!(self.stdout.contains(text), "no {text:?} in {self:?}");
        self
    }
}

/// Whether a program that a test needs is installed. Where everything must be, a missing one is a failure.
pub(crate) fn peer(program: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", "command -v \"$0\" > /dev/null", program])
        .status()
        .is_ok_and(|status| status.success());
    if !found {
        assert_ne!(std::env::var("REQUIRE_PEERS").as_deref(), Ok("1"), "{program} is missing");
        println!("{program} is missing: this part of the test is left out");
    }
    found
}
