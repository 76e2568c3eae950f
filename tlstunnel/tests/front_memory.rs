//! What an idle connection costs in memory, measured on a real process: the gateway's. Clients and backend are another.
#![allow(clippy::unwrap_used, clippy::panic)]

mod front_common;

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use front_common::{PATH_CA, World, backend, client_trusting, echo, greeting, tcp, tls};

/// The bar: bytes of an idle connection with terminated TLS, buffers included.
const PER_CONNECTION: usize = 32 * 1024;
/// Connections that are open before measuring, so that tables and pools have grown.
const WARM: usize = 60;
/// Connections that are measured.
const MEASURED: usize = 300;
/// Set in the process of the clients: the gateway's address.
const CLIENTS: &str = "FRONT_MEMORY_CLIENTS";

#[test]
fn an_idle_connection_costs_at_most_32_kib() {
    if let Ok(address) = std::env::var(CLIENTS) {
        return clients(address.parse().unwrap());
    }
    let world = World::new();
    let ca = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(ca.path(), &world.ca.chain_pem).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "an_idle_connection_costs_at_most_32_kib", "--nocapture"])
        .env(CLIENTS, world.https.to_string())
        .env(PATH_CA, ca.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut commands = child.stdin.take().unwrap();
    let mut answers = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = |word: &str| {
        loop {
            let line = answers.next().expect("the clients' process ended").unwrap();
            if let Some((_, rest)) = line.split_once(word) {
                return rest.trim().to_owned();
            }
        }
    };
    let backend: SocketAddr = next("backend at ").parse().unwrap();
    world.route("*.example.org", &[backend], config_proto::model::RouteSettings::default());
    let mut open = |count: usize| {
        writeln!(commands, "{count}").unwrap();
        next("opened");
        world.wait("idleness", |world| {
            let idle = world.gateway.live.oldest(WARM + MEASURED);
            idle.iter().all(|c| c.bytes_in >= 1000).then_some(())
        });
        resident()
    };
    let before = open(WARM);
    let after = open(MEASURED);
    assert_eq!(world.gateway.live.open(), WARM + MEASURED);
    let each = after.saturating_sub(before) / MEASURED;
    println!("{each} bytes of resident memory per idle connection");
    assert!(each <= PER_CONNECTION, "{each} bytes per idle connection");
    drop(commands);
    assert!(child.wait().unwrap().success());
}

/// Resident memory of this process in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().trim().parse::<usize>().unwrap() * 1024
}

/// Opens as many connections as each line of input says, moves data through each, and holds them to the end of input.
fn clients(gateway: SocketAddr) {
    println!("backend at {}", backend("memory"));
    let mut held = Vec::new();
    for line in std::io::stdin().lines() {
        for _ in 0..line.unwrap().trim().parse::<usize>().unwrap() {
            let mut client = tls(client_trusting(), "m.example.org", tcp(gateway)).unwrap();
            assert_eq!(greeting(&mut client), "hello from memory\n");
            echo(&mut client, &"x".repeat(40_000));
            held.push(client);
        }
        println!("opened");
    }
}
