//! The work per packet does not depend on how many connections there are: counted, not timed.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

mod support;

use std::time::Duration;

use netstack::{Limits, SocketId};
use support::*;

/// A world with this many established connections, all idle.
fn crowd(count: usize) -> (World, Vec<(SocketId, SocketId)>) {
    let limits = Limits { receive_buffer: 2048, send_buffer: 2048, ..Limits::default() };
    let mut world = World::new(1, Weather::default(), limits, 1500);
    let listener = world.b.listen(at(B4, 80), false, 1 << 16).unwrap();
    let mut pairs = Vec::with_capacity(count);
    while pairs.len() < count {
        let batch: Vec<_> = (0..500.min(count - pairs.len()))
            .map(|_| world.a.connect(None, at(B4, 80), world.now).unwrap())
            .collect();
        // Neighbours are found by the first of them; the others would overflow its queue.
        if pairs.is_empty() {
            world.settle();
        }
        world.run(Duration::from_secs(4));
        for client in batch {
            let (server, _) = world.b.accept(listener).unwrap();
            pairs.push((client, server));
        }
    }
    // Leftover timers of the handshakes come up once.
    world.run(Limits::default().user_timeout);
    while world.a.next_event().is_some() || world.b.next_event().is_some() {}
    (world, pairs)
}

/// Connection polls, timer entries and frames that a hundred questions and answers cost.
fn work(count: usize) -> [u64; 4] {
    let (mut world, pairs) = crowd(count);
    let (client, _) = pairs[count / 2];
    // Both ends belong together by address, not by order.
    let address = world.a.local_addr(client).unwrap();
    let own = |(_, server): &&(SocketId, SocketId)| world.b.peer_addr(*server) == Ok(address);
    let server = pairs.iter().find(own).unwrap().1;
    // The neighbours were forgotten while nothing happened; they are found again first.
    world.a.send(client, b"x").unwrap();
    world.settle();
    world.b.recv(server, &mut [0; 99]).unwrap();
    world.settle();
    let before = (world.a.counters().clone(), world.b.counters().clone());
    for _ in 0..100 {
        world.a.send(client, b"question").unwrap();
        world.turn();
        world.turn();
        assert_eq!(world.b.recv(server, &mut [0; 99]), Ok(8));
        world.b.send(server, b"answer").unwrap();
        world.turn();
        world.turn();
        assert_eq!(world.a.recv(client, &mut [0; 99]), Ok(6));
        world.turn();
    }
    let after = (world.a.counters(), world.b.counters());
    [
        after.0.connection_polls - before.0.connection_polls,
        after.1.connection_polls - before.1.connection_polls,
        after.0.timer_pops + after.1.timer_pops - before.0.timer_pops - before.1.timer_pops,
        after.0.frames_sent + after.1.frames_sent - before.0.frames_sent - before.1.frames_sent,
    ]
}

#[test]
fn a_packet_costs_the_same_among_ten_and_ten_thousand_connections() {
    let few = work(10);
    assert!(few[0] > 0 && few[0] <= 400 && few[1] <= 400, "{few:?}");
    assert_eq!(work(1_000), few);
    assert_eq!(work(10_000), few);
}

#[test]
fn idle_connections_cost_no_work_at_all() {
    let (mut world, _pairs) = crowd(1_000);
    let polls = world.a.counters().connection_polls + world.b.counters().connection_polls;
    assert_eq!((world.a.next_deadline(), world.b.next_deadline()), (None, None));
    world.run(Duration::from_secs(3600));
    let later = world.a.counters().connection_polls + world.b.counters().connection_polls;
    assert_eq!(later, polls);
}
