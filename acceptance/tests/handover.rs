//! A new process takes over without a refused connection: by an inherited socket, and by overlap of two processes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use acceptance::backend::Backend;
use acceptance::gateway::DOMAIN;
use acceptance::peer::{Process, available, eventually};
use acceptance::programs::program;
use acceptance::{Gateway, client};

/// Plays a service manager: holds the listening socket, starts the program on it (systemd's `LISTEN_FDS` protocol), and
/// starts it again whenever it ends. First line of output: the port.
const MANAGER: &str = r#"
import os, signal, socket, sys
child = 0
def stop(*_):
    if child: os.kill(child, signal.SIGKILL)
    os._exit(0)
s = socket.socket()
s.bind(("127.0.0.1", 0))
s.listen(4096)
print(s.getsockname()[1], flush=True)
while True:
    child = os.fork()
    if child == 0:
        os.dup2(s.fileno(), 3)
        os.set_inheritable(3, True)
        os.environ.update(LISTEN_FDS="1", LISTEN_FDNAMES="https", LISTEN_PID=str(os.getpid()))
        os.execv(sys.argv[1], sys.argv[1:])
    signal.signal(signal.SIGTERM, stop)
    print("started", child, flush=True)
    os.waitpid(child, 0)
"#;

/// The manager's process; told to stop, it takes its gateway with it.
struct Manager(Process);

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.0.0.id().to_string()).status();
        let _ = self.0.0.wait();
    }
}

/// Asks for pages until told to stop; panics when a connection is refused or cut off.
fn keep_asking(
    https: SocketAddr,
    config: &Arc<rustls::ClientConfig>,
    stop: &Arc<AtomicBool>,
) -> JoinHandle<u64> {
    let (config, stop) = (Arc::clone(config), Arc::clone(stop));
    std::thread::spawn(move || {
        let mut served = 0;
        while !stop.load(Ordering::Relaxed) {
            let mut tls =
                client::connect(https, &format!("blog.{DOMAIN}"), &config).expect("refused");
            let answer = client::get(&mut tls, "blog.apps.localhost", "/").expect("cut off");
            assert!(answer.contains("backend blog"));
            served += 1;
        }
        served
    })
}

#[test]
fn an_inherited_socket_outlives_the_process() {
    if !available(&["python3"]) {
        return;
    }
    let mut setting = Gateway::start();
    let blog = Backend::http("blog");
    setting.ctl(&["add", "blog", &blog.to_arg()]);
    setting.kill();
    let output = setting.folder().join("manager.out");
    let mut manager = Command::new("python3");
    manager.args(["-u", "-c", MANAGER]).arg(program("tlstunnel"));
    manager.arg("--storage").arg(setting.storage()).arg("--key-file").arg(setting.key_file());
    manager.args(["--domains", DOMAIN, "--self-signed", "--listen-http", "127.0.0.1:0"]);
    manager.args(["--control", "127.0.0.1:0"]);
    let _manager = Manager(Process::start(&mut manager, &output));
    let said = || std::fs::read_to_string(&output).unwrap_or_default();
    let generation = |n: usize| {
        said().lines().filter_map(|l| l.strip_prefix("started ")?.parse::<u32>().ok()).nth(n)
    };
    eventually("the gateway is started", || generation(0).is_some());
    let port: u16 = said().lines().next().unwrap().parse().unwrap();
    let config = client::config(&setting.ca_file(), &[]);
    let stop = Arc::default();
    let clients: Vec<_> = (0..4)
        .map(|_| keep_asking(SocketAddr::from(([127, 0, 0, 1], port)), &config, &stop))
        .collect();
    for n in 0..3 {
        std::thread::sleep(Duration::from_millis(500));
        let pid = generation(n).expect("running").to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        eventually("the next one is started", || generation(n + 1).is_some());
    }
    std::thread::sleep(Duration::from_millis(500));
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        assert!(client.join().unwrap_or_else(|_| panic!("refused or cut off:\n{}", said())) > 0);
    }
}

/// Two processes share the port for a moment: the new one listens, then the old one is told to stop.
#[test]
fn overlap_refuses_nobody() {
    let mut old = Gateway::start_with(&["--reuse-port"]);
    let blog = Backend::http("blog");
    old.ctl(&["add", "blog", &blog.to_arg()]);
    let config = client::config(&old.ca_file(), &[]);
    let https = old.https;
    let stop = Arc::default();
    let clients: Vec<_> = (0..4).map(|_| keep_asking(https, &config, &stop)).collect();
    std::thread::sleep(Duration::from_millis(300));
    // The store is one process's alone, so the successor starts from a copy (an export would do as well).
    let copy = old.folder().join("copy.img");
    std::fs::copy(old.storage(), &copy).unwrap();
    let mut successor = Command::new(program("tlstunnel"));
    successor.arg("--storage").arg(&copy).arg("--key-file").arg(old.key_file());
    successor.args(["--domains", DOMAIN, "--self-signed", "--reuse-port"]);
    successor.args(["--listen-https", &https.to_string(), "--listen-http", "127.0.0.1:0"]);
    successor
        .args(["--control", "127.0.0.1:0"])
        .arg("--ready-file")
        .arg(old.folder().join("successor.json"));
    let _successor = Process::start(&mut successor, &old.folder().join("successor.log"));
    eventually("the successor listens", || old.folder().join("successor.json").exists());
    assert_eq!(old.stop("TERM"), Some(0));
    std::thread::sleep(Duration::from_millis(300));
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        assert!(client.join().expect("a connection was refused or cut off") > 0);
    }
}
