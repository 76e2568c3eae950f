//! Two stacks over bad cables: everything arrives, in order, whatever the weather.
//!
//! Time is simulated and the weather is seeded, so the table of throughput is the same on every
//! machine. `NETSTACK_SNAPSHOT=write` writes it anew after a change that is meant.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

mod support;

use std::fmt::Write as _;
use std::time::Duration;

use netstack::{Close, Limits, Shutdown, SocketError};
use sha2::{Digest, Sha256};
use support::*;

struct Run {
    name: &'static str,
    weather: Weather,
    limits: Limits,
    mtu: usize,
    octets: usize,
}

/// Moves random octets from `a` to `b`, ends, and returns the simulated time that it took.
fn transfer(run: &Run, seed: u64, address: &str) -> Duration {
    let mut world = World::new(seed, run.weather, run.limits.clone(), run.mtu);
    let listener = world.b.listen(at(address, 80), false, 4).unwrap();
    let client = world.a.connect(None, at(address, 80), world.now).unwrap();
    let mut dice = Dice(seed + 99);
    let data: Vec<u8> = (0..run.octets).map(|_| dice.roll() as u8).collect();
    let (mut sent, mut shut, mut server) = (0, false, None);
    let mut received = Sha256::new();
    let (mut count, mut turns) = (0, 0);
    let start = world.now;
    let mut buffer = vec![0; 1 << 16];
    loop {
        while sent < data.len() {
            match world.a.send(client, &data[sent..]) {
                Ok(n) => sent += n,
                Err(SocketError::WouldBlock) => break,
                Err(error) => panic!("{}: {error} after {sent}", run.name),
            }
        }
        if sent == data.len() && !shut {
            world.a.shutdown(client, Shutdown::Write).unwrap();
            shut = true;
        }
        if server.is_none() {
            server = world.b.accept(listener).ok().map(|(id, _)| id);
        }
        let mut ended = false;
        while let Some(server) = server {
            match world.b.recv(server, &mut buffer) {
                Ok(0) => {
                    ended = true;
                    break;
                }
                Ok(n) => {
                    received.update(&buffer[..n]);
                    count += n;
                }
                Err(SocketError::WouldBlock) => break,
                Err(error) => panic!("{}: {error} after {count}", run.name),
            }
        }
        if ended {
            break;
        }
        world.turn();
        if !world.advance() {
            let queued = (world.a.queued(client), server.map(|id| world.b.queued(id)));
            let (a, b) = (world.a.census(), world.b.census());
            panic!("{}: stuck after {count} of {sent}: {queued:?} {a:?} {b:?}", run.name);
        }
        turns += 1;
        assert!(turns < 3_000_000, "{}: no end after {count} octets", run.name);
    }
    let took = world.now - start;
    assert_eq!(received.finalize(), Sha256::digest(&data), "{}", run.name);
    // The end is orderly on both sides too, and leaves nothing.
    world.b.close(server.unwrap(), Close::Graceful).unwrap();
    world.a.close(client, Close::Graceful).unwrap();
    world.run(Duration::from_secs(400));
    assert_eq!(world.a.census(), Default::default(), "{}", run.name);
    assert_eq!(world.b.census(), Default::default(), "{}", run.name);
    took
}

fn runs() -> Vec<Run> {
    let ms = Duration::from_millis;
    let weather = |loss, duplication, reordering, delay| Weather {
        loss,
        duplication,
        reordering,
        delay: ms(delay),
    };
    let run =
        |name, weather, octets| Run { name, weather, limits: Limits::default(), mtu: 1500, octets };
    let tiny = Limits { receive_buffer: 2000, send_buffer: 3000, ..Limits::default() };
    vec![
        run("1 ms", weather(0, 0, 0, 1), 1 << 20),
        run("25 ms", weather(0, 0, 0, 25), 1 << 20),
        run("1 ms, loss 0.1 %", weather(1, 0, 0, 1), 1 << 20),
        run("25 ms, loss 0.1 %", weather(1, 0, 0, 25), 1 << 20),
        run("25 ms, loss 1 %", weather(10, 0, 0, 25), 1 << 20),
        run("25 ms, 8 MiB", weather(0, 0, 0, 25), 8 << 20),
        run("25 ms, loss 0.1 %, 8 MiB", weather(1, 0, 0, 25), 8 << 20),
        run("25 ms, loss 1 %, 8 MiB", weather(10, 0, 0, 25), 8 << 20),
        run("25 ms, loss 5 %", weather(50, 0, 0, 25), 1 << 18),
        run("1 ms, duplicates 10 %", weather(0, 100, 0, 1), 1 << 20),
        run("5 ms, reordering 10 %", weather(0, 0, 100, 5), 1 << 20),
        run("5 ms, loss 2 %, duplicates 2 %, reordering 20 %", weather(20, 20, 200, 5), 1 << 18),
        Run { limits: tiny, ..run("1 ms, tiny windows, loss 1 %", weather(10, 0, 0, 1), 1 << 17) },
        Run { mtu: 9000, ..run("1 ms, MTU 9000, loss 0.1 %", weather(1, 0, 0, 1), 1 << 20) },
        Run { mtu: 9000, ..run("25 ms, MTU 9000, loss 1 %", weather(10, 0, 0, 25), 8 << 20) },
    ]
}

#[test]
fn everything_arrives_and_throughput_is_as_recorded() {
    let seeds = std::env::var("NETSTACK_SEEDS").map_or(3, |text| text.parse().unwrap());
    let mut table = String::from("KiB/s of simulated time, least and most of three seeds\n\n");
    for run in runs() {
        let mut rates = Vec::new();
        for seed in 1..=seeds.max(3) {
            let address = if seed % 2 == 0 { B6 } else { B4 };
            let took = transfer(&run, seed * 7919, address);
            if seed <= 3 {
                rates.push(run.octets as u128 * 1000 / 1024 / took.as_millis().max(1));
            }
        }
        let (least, most) = (rates.iter().min().unwrap(), rates.iter().max().unwrap());
        writeln!(table, "{:<50} {least:>8} {most:>8}", run.name).unwrap();
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/weather.txt");
    if std::env::var_os("NETSTACK_SNAPSHOT").is_some_and(|v| v == "write") {
        std::fs::write(path, &table).unwrap();
    }
    let recorded = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(table, recorded, "set NETSTACK_SNAPSHOT=write if the change is meant");
}
