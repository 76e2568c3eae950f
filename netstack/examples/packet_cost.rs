//! What a question and its answer cost between two stacks in memory, with 10, 1,000 and 10,000
//! established connections: `cargo run --release -p netstack --example packet_cost`.
//!
//! The last columns have one active connection among idle ones, and all connections in turn. The
//! first shall not grow; the second grows with what the processor's caches hold. Then: what a SYN
//! costs when the table of handshakes is full, what a KiB of a large transfer costs, and how fast
//! connections come and go. Costs are processor time of this thread. The memory is
//! that of both ends of a connection that has exchanged something and is idle.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_possible_truncation
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::Duration;

use netstack::{Close, Limits, SocketId};
use support::*;

type Pair = (SocketId, SocketId);

fn connect(world: &mut World, listener: SocketId) -> Pair {
    let client = world.a.connect(None, at(B4, 80), world.now).unwrap();
    for _ in 0..10 {
        world.turn();
        if let Ok((server, _)) = world.b.accept(listener) {
            return (client, server);
        }
    }
    panic!("no connection");
}

fn exchange(world: &mut World, pair: Pair) {
    world.a.send(pair.0, b"question").unwrap();
    world.turn();
    world.turn();
    world.b.recv(pair.1, &mut [0; 64]).unwrap();
    world.b.send(pair.1, b"answer").unwrap();
    world.turn();
    world.turn();
    world.a.recv(pair.0, &mut [0; 64]).unwrap();
}

fn drain(world: &mut World) {
    while world.a.next_event().is_some() || world.b.next_event().is_some() {}
}

/// Nanoseconds per exchange, the best of five rounds.
fn measure(world: &mut World, pairs: &[Pair]) -> u64 {
    let rounds = (0..5).map(|_| {
        let start = spent();
        for index in 0..10_000 {
            exchange(world, pairs[index % pairs.len()]);
        }
        drain(world);
        (spent() - start) / 10_000
    });
    rounds.min().unwrap()
}

/// Nanoseconds of processor time that this thread has had: other programs do not count.
fn spent() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

/// Octets of this process in memory.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
    pages.unwrap_or(0) * 4096
}

fn main() {
    let titles = ["connections", "ns, one active", "ns, all in turn", "octets, both ends"];
    println!("{:>12} {:>18} {:>18} {:>18}", titles[0], titles[1], titles[2], titles[3]);
    for count in [10, 1_000, 10_000] {
        let before = resident();
        let mut world = World::calm();
        let listener = world.b.listen(at(B4, 80), false, 64).unwrap();
        let pairs: Vec<_> = (0..count).map(|_| connect(&mut world, listener)).collect();
        drain(&mut world);
        let one = measure(&mut world, &pairs[..1]);
        let all = measure(&mut world, &pairs);
        let memory = resident().saturating_sub(before) / count;
        println!("{count:>12} {one:>18} {all:>18} {memory:>18}");
    }

    for mtu in [1500, 9000] {
        let mut world = World::new(1, Weather::default(), Limits::default(), mtu);
        let listener = world.b.listen(at(B4, 80), false, 64).unwrap();
        let (client, server) = connect(&mut world, listener);
        let block = vec![7; 1 << 18];
        let mut buffer = vec![0; 1 << 18];
        let (start, mut count) = (spent(), 0);
        while count < 256 << 20 {
            while world.a.send(client, &block).is_ok() {}
            world.turn();
            world.now += Duration::from_micros(50);
            while let Ok(read @ 1..) = world.b.recv(server, &mut buffer) {
                count += read;
            }
        }
        println!("bulk, MTU {mtu}: {} ns per KiB (both ends)", (spent() - start) / (256 << 10));
    }

    let mut world = World::calm();
    let listener = world.b.listen(at(B4, 80), false, 64).unwrap();
    let start = spent();
    for _ in 0..5_000 {
        let (client, server) = connect(&mut world, listener);
        exchange(&mut world, (client, server));
        world.a.close(client, Close::Graceful).unwrap();
        world.turn();
        world.turn();
        world.b.close(server, Close::Graceful).unwrap();
        world.turn();
        world.turn();
        drain(&mut world);
        world.now += Duration::from_millis(10);
    }
    println!("connect, exchange, close: {} ns (both ends)", (spent() - start) / 5_000);

    let mut world =
        World::new(1, Weather::default(), Limits { half_open: 0, ..Limits::default() }, 1500);
    world.b.listen(at(B4, 80), false, 64).unwrap();
    let clients = 2_000;
    let start = spent();
    for _ in 0..clients {
        world.a.connect(None, at(B4, 80), world.now).unwrap();
        world.turn();
        world.turn();
    }
    println!("handshake by cookie: {} ns (both ends)", (spent() - start) / clients);
}
