//! Sockets as a BSD socket layer needs them, between two stacks on a perfect cable.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

mod support;

use std::time::Duration;

use netstack::{Close, DropReason, KeepAlive, Limits, Readiness, Shutdown, SocketError};
use support::*;

fn events(stack: &mut netstack::Stack<Plug>) -> Vec<(netstack::SocketId, Readiness)> {
    std::iter::from_fn(|| stack.next_event()).collect()
}

#[test]
fn data_flows_both_ways_over_both_families() {
    for address in [B4, B6] {
        let mut world = World::calm();
        let (_, client, server) = world.connected(at(address, 80));
        assert_eq!(world.a.peer_addr(client), Ok(at(address, 80)));
        assert_eq!(world.b.peer_addr(server), world.a.local_addr(client));
        assert_eq!(world.a.send(client, b"question"), Ok(8));
        world.settle();
        let mut buffer = [0; 100];
        assert_eq!(world.b.peek(server, &mut buffer), Ok(8));
        assert_eq!(world.b.recv(server, &mut buffer), Ok(8));
        assert_eq!(&buffer[..8], b"question");
        assert_eq!(world.b.recv(server, &mut buffer), Err(SocketError::WouldBlock));
        assert_eq!(world.b.send(server, b"answer"), Ok(6));
        world.settle();
        assert_eq!(world.a.recv(client, &mut buffer), Ok(6));
        assert_eq!(&buffer[..6], b"answer");
    }
}

#[test]
fn every_arrival_is_an_edge_and_levels_say_the_same() {
    let mut world = World::calm();
    let listener = world.b.listen(at(B4, 80), false, 16).unwrap();
    assert_eq!(world.b.readiness(listener), Ok(Readiness::NONE));
    let client = world.a.connect(None, at(B4, 80), world.now).unwrap();
    assert_eq!(world.a.readiness(client), Ok(Readiness::NONE));
    assert_eq!(world.a.send(client, b"early"), Err(SocketError::WouldBlock));
    world.settle();
    assert_eq!(events(&mut world.a), [(client, Readiness::WRITABLE)]);
    assert_eq!(events(&mut world.b), [(listener, Readiness::READABLE)]);
    let (server, _) = world.b.accept(listener).unwrap();
    assert_eq!(world.b.accept(listener), Err(SocketError::WouldBlock));
    assert_eq!(events(&mut world.b), [(server, Readiness::WRITABLE)]);
    for _ in 0..3 {
        world.a.send(client, b"x").unwrap();
        world.settle();
        assert_eq!(
            events(&mut world.b),
            [(server, Readiness::READABLE)],
            "though unread data waits"
        );
    }
    assert_eq!(world.b.readiness(server), Ok(Readiness::READABLE | Readiness::WRITABLE));
    world.b.recv(server, &mut [0; 9]).unwrap();
    assert_eq!(world.b.readiness(server), Ok(Readiness::WRITABLE));
    world.a.shutdown(client, Shutdown::Write).unwrap();
    world.settle();
    assert_eq!(events(&mut world.b), [(server, Readiness::READABLE | Readiness::READ_CLOSED)]);
    assert_eq!(world.b.recv(server, &mut [0; 9]), Ok(0));
}

#[test]
fn a_full_buffer_is_writable_again_when_a_good_part_is_free() {
    let mut world = World::calm();
    let (_, client, server) = world.connected(at(B4, 80));
    events(&mut world.a);
    let big = vec![7; 1 << 20];
    let mut sent = 0;
    while let Ok(n) = world.a.send(client, &big) {
        sent += n;
        world.settle();
    }
    assert!(!world.a.readiness(client).unwrap().contains(Readiness::WRITABLE));
    assert!(sent >= 128 << 10, "both buffers are full: {sent}");
    events(&mut world.a);
    let mut buffer = vec![0; 4 << 10];
    let mut read = 0;
    while events(&mut world.a).is_empty() {
        read += world.b.recv(server, &mut buffer).unwrap();
        world.settle();
        assert!(read <= sent);
    }
    assert!(world.a.send(client, &big).unwrap() >= (64 << 10) / 3);
}

#[test]
fn half_close_and_the_end_of_both_sides() {
    let mut world = World::calm();
    let (_, client, server) = world.connected(at(B4, 80));
    world.a.send(client, b"all").unwrap();
    world.a.shutdown(client, Shutdown::Write).unwrap();
    assert_eq!(world.a.send(client, b"more"), Err(SocketError::BrokenPipe));
    world.settle();
    let mut buffer = [0; 10];
    assert_eq!(world.b.recv(server, &mut buffer), Ok(3));
    assert_eq!(world.b.recv(server, &mut buffer), Ok(0));
    world.b.send(server, b"still here").unwrap();
    world.settle();
    assert_eq!(world.a.recv(client, &mut buffer), Ok(10));
    world.b.close(server, Close::Graceful).unwrap();
    assert_eq!(world.b.recv(server, &mut buffer), Err(SocketError::BadSocket));
    world.settle();
    assert_eq!(world.a.recv(client, &mut buffer), Ok(0));
    assert!(world.a.readiness(client).unwrap().contains(Readiness::HANG_UP));
    assert_eq!(world.a.take_error(client), Ok(None));
    world.a.close(client, Close::Graceful).unwrap();
    world.settle();
    // The client ended first: it waits; the server forgets at once.
    assert_eq!((world.a.census().time_wait, world.b.census().time_wait), (1, 0));
    assert_eq!((world.a.census().buffers, world.b.census().buffers), (0, 0));
    world.run(Limits::default().time_wait);
    assert_eq!(world.a.census(), Default::default());
    assert_eq!(world.a.next_deadline(), None);
}

#[test]
fn a_refused_port_and_a_silent_host_are_told_apart() {
    let mut world = World::calm();
    let refused = world.a.connect(None, at(B4, 81), world.now).unwrap();
    let silent = world.a.connect(None, at("10.0.0.77", 80), world.now).unwrap();
    world.settle();
    assert!(world.a.readiness(refused).unwrap().contains(Readiness::ERROR | Readiness::HANG_UP));
    assert_eq!(world.a.take_error(refused), Ok(Some(SocketError::ConnectionRefused)));
    assert_eq!(world.a.take_error(refused), Ok(None));
    world.run(Limits::default().connect);
    assert_eq!(world.a.take_error(silent), Ok(Some(SocketError::TimedOut)));
    let nowhere = world.a.connect(None, at("192.0.2.1", 80), world.now);
    assert_eq!(nowhere, Err(SocketError::NetworkUnreachable));
    assert_eq!(world.b.counters().resets_sent, 1);
}

#[test]
fn a_reset_reaches_the_peer_as_an_error() {
    let mut world = World::calm();
    let (listener, client, server) = world.connected(at(B4, 80));
    world.b.close(server, Close::Reset).unwrap();
    world.settle();
    assert!(world.a.readiness(client).unwrap().contains(Readiness::ERROR | Readiness::HANG_UP));
    assert_eq!(world.a.recv(client, &mut [0; 9]), Err(SocketError::ConnectionReset));
    assert_eq!(world.a.recv(client, &mut [0; 9]), Ok(0));
    assert_eq!(world.b.census().buffers, 0);
    // Unread data makes a close a reset.
    let client = world.a.connect(None, at(B4, 80), world.now).unwrap();
    world.settle();
    let (server, _) = world.b.accept(listener).unwrap();
    world.a.send(client, b"unread").unwrap();
    world.settle();
    world.b.close(server, Close::Graceful).unwrap();
    world.settle();
    assert_eq!(world.a.take_error(client), Ok(Some(SocketError::ConnectionReset)));
}

#[test]
fn data_for_an_orphan_is_answered_with_a_reset() {
    let mut world = World::calm();
    let (_, client, server) = world.connected(at(B4, 80));
    world.b.close(server, Close::Graceful).unwrap();
    world.settle();
    assert_eq!(world.b.census().orphans, 1);
    world.a.send(client, b"anyone?").unwrap();
    world.settle();
    assert_eq!(world.a.take_error(client), Ok(Some(SocketError::BrokenPipe)));
    assert_eq!(world.b.census(), Default::default());
}

#[test]
fn an_orphan_does_not_wait_for_ever() {
    let mut world = World::calm();
    let (_, _client, server) = world.connected(at(B4, 80));
    world.b.close(server, Close::Graceful).unwrap();
    world.run(Limits::default().fin_wait + Duration::from_secs(1));
    assert_eq!(world.b.census(), Default::default());
}

#[test]
fn the_backlog_holds_what_it_says_and_the_rest_waits_without_a_reset() {
    let mut world = World::calm();
    let listener = world.b.listen(at(B4, 80), false, 2).unwrap();
    let clients: Vec<_> =
        (0..5).map(|_| world.a.connect(None, at(B4, 80), world.now).unwrap()).collect();
    world.settle();
    assert!(world.b.counters().dropped(DropReason::BacklogFull) >= 3);
    assert_eq!(world.b.census().established, 2);
    for client in &clients {
        assert_eq!(world.a.take_error(*client), Ok(None));
    }
    let mut accepted = 0;
    for _ in 0..10 {
        while world.b.accept(listener).is_ok() {
            accepted += 1;
        }
        for client in &clients {
            let _ = world.a.send(*client, b".");
        }
        world.run(Duration::from_secs(3));
    }
    assert_eq!(accepted, 5);
}

#[test]
fn addresses_in_use_and_stale_handles() {
    let mut world = World::calm();
    let wild = world.b.listen(at("0.0.0.0", 80), false, 1).unwrap();
    assert_eq!(world.b.listen(at("0.0.0.0", 80), false, 1), Err(SocketError::AddressInUse));
    assert_eq!(world.b.listen(at("::", 80), true, 1), Err(SocketError::AddressInUse));
    assert_eq!(world.b.listen(at("10.0.0.9", 80), false, 1), Err(SocketError::AddressNotAvailable));
    world.b.close(wild, Close::Graceful).unwrap();
    let both = world.b.listen(at("::", 80), true, 9).unwrap();
    assert_ne!(wild, both);
    assert_eq!(world.b.readiness(wild), Err(SocketError::BadSocket));
    assert_eq!(world.b.close(wild, Close::Graceful), Err(SocketError::BadSocket));
    let clients = [at(B4, 80), at(B6, 80)].map(|to| world.a.connect(None, to, world.now).unwrap());
    world.settle();
    for _ in clients {
        world.b.accept(both).unwrap();
    }
    let local = world.a.local_addr(clients[0]).unwrap();
    let again = world.a.connect(Some(local), at(B4, 80), world.now);
    assert_eq!(again, Err(SocketError::AddressInUse));
    let free = world.a.listen(at(A4, 0), false, 1).unwrap();
    assert!(world.a.local_addr(free).unwrap().port() >= 32_768);
}

#[test]
fn datagrams_keep_their_borders_and_errors_come_back() {
    for (from, to) in [(A4, B4), (A6, B6)] {
        let mut world = World::calm();
        let client = world.a.udp_bind(at(from, 0), false).unwrap();
        let server = world.b.udp_bind(at("::", 53), true).unwrap();
        for data in [&b"one"[..], b"", b"three"] {
            assert_eq!(world.a.send_to(client, Some(at(to, 53)), data, world.now), Ok(data.len()));
        }
        world.settle();
        assert_eq!(events(&mut world.b).len(), 1);
        for data in [&b"one"[..], b"", b"three"] {
            let (got, peer, local) = world.b.recv_from(server).unwrap();
            assert_eq!((&got[..], peer), (data, world.a.local_addr(client).unwrap()));
            assert_eq!(local, at(to, 53));
        }
        assert_eq!(world.b.recv_from(server), Err(SocketError::WouldBlock));
        let long = world.a.send_to(client, Some(at(to, 53)), &[0; 1500], world.now);
        assert_eq!(long, Err(SocketError::MessageTooLong));
        // The queue is bounded.
        for _ in 0..10_000 {
            world.a.send_to(client, Some(at(to, 53)), &[], world.now).unwrap();
        }
        world.settle();
        assert!(world.b.counters().dropped(DropReason::NoBuffers) > 5_000);
    }
}

#[test]
fn keep_alive_finds_a_dead_peer_and_an_idle_connection_costs_nothing() {
    let mut world = World::calm();
    let (_, client, _server) = world.connected(at(B4, 80));
    // What was armed for the handshake comes up once and is not renewed.
    world.run(Limits::default().user_timeout + Duration::from_secs(1));
    assert_eq!((world.a.next_deadline(), world.b.next_deadline()), (None, None));
    let seconds = Duration::from_secs;
    let keepalive = KeepAlive { idle: seconds(60), interval: seconds(10), give_up: seconds(100) };
    world.a.set_keepalive(client, Some(keepalive)).unwrap();
    world.run(Duration::from_secs(300));
    assert_eq!(world.a.take_error(client), Ok(None), "a living peer answers");
    world.weather.loss = 1000;
    world.run(Duration::from_secs(300));
    assert_eq!(world.a.take_error(client), Ok(Some(SocketError::TimedOut)));
}

#[test]
fn the_first_flight_has_ten_segments_and_the_second_twenty() {
    let (mut b, inbox, outbox) = stack(
        2,
        Limits { receive_buffer: 1 << 18, send_buffer: 1 << 18, ..Limits::default() },
        1500,
    );
    let (mut a, a_in, a_out) =
        stack(1, Limits { receive_buffer: 1 << 18, ..Limits::default() }, 1500);
    let mut now = Duration::from_secs(1);
    let listener = b.listen(at(B4, 80), false, 4).unwrap();
    let client = a.connect(None, at(B4, 80), now).unwrap();
    let mut server = None;
    let mut flights = Vec::new();
    for _ in 0..8 {
        now += Duration::from_millis(20);
        a.receive(now);
        // A reader that keeps up, so that the window is no limit.
        while a.recv(client, &mut [0; 65_536]).is_ok() {}
        a.transmit(now);
        inbox.borrow_mut().extend(a_out.borrow_mut().drain(..));
        b.turn(now);
        server = server.or_else(|| b.accept(listener).ok());
        if let Some((id, _)) = server {
            let _ = b.send(id, &vec![1; 1 << 18]);
            b.transmit(now);
        }
        let flight: Vec<_> = outbox.borrow_mut().drain(..).collect();
        if server.is_some() {
            flights.push(flight.iter().filter(|frame| frame.len() > 1000).count());
        }
        a_in.borrow_mut().extend(flight);
    }
    // One of the third flight is short: it ends what was written first.
    assert_eq!(flights[..3], [10, 20, 39], "{flights:?}");
}

#[test]
fn a_remembered_end_gives_way_to_a_new_connection_from_the_same_port() {
    let mut world = World::calm();
    let (listener, client, server) = world.connected(at(B4, 80));
    let local = world.a.local_addr(client).unwrap();
    world.b.close(server, Close::Graceful).unwrap();
    world.settle();
    world.a.close(client, Close::Graceful).unwrap();
    world.settle();
    assert_eq!((world.a.census(), world.b.census().time_wait), (Default::default(), 1));
    world.run(Duration::from_secs(1));
    let again = world.a.connect(Some(local), at(B4, 80), world.now).unwrap();
    world.settle();
    assert_eq!(world.b.census().time_wait, 0);
    let (server, _) = world.b.accept(listener).unwrap();
    world.a.send(again, b"new").unwrap();
    world.settle();
    assert_eq!(world.b.recv(server, &mut [0; 9]), Ok(3));
}

/// A proxy closes first towards its backends: without this, each backend could be given 546 connections per second.
#[test]
fn whoever_closed_first_may_connect_again_from_the_same_port_after_a_second() {
    let mut world = World::calm();
    let (listener, mut client, mut server) = world.connected(at(B4, 80));
    let local = world.a.local_addr(client).unwrap();
    let mut sent = vec![0; 1 << 20];
    for round in 0u8..3 {
        // More than the clock of initial numbers goes on meanwhile, so that the next one has to begin beyond it.
        sent.fill(round);
        let (mut written, mut read, mut buffer) = (0, 0, vec![0; 1 << 16]);
        while read < sent.len() {
            written += world.a.send(client, &sent[written..]).unwrap_or(0);
            world.turn();
            world.advance();
            while let Ok(count) = world.b.recv(server, &mut buffer) {
                assert_eq!(buffer[..count], sent[read..read + count]);
                read += count;
            }
        }
        world.a.close(client, Close::Graceful).unwrap();
        world.settle();
        world.b.close(server, Close::Graceful).unwrap();
        world.settle();
        assert_eq!((world.a.census().time_wait, world.b.census()), (1, Default::default()));
        let early = world.a.connect(Some(local), at(B4, 80), world.now);
        assert_eq!(early, Err(SocketError::AddressInUse));
        world.run(Duration::from_secs(1));
        client = world.a.connect(Some(local), at(B4, 80), world.now).unwrap();
        assert_eq!(world.a.census().time_wait, 0);
        world.settle();
        server = world.b.accept(listener).unwrap().0;
    }
}

#[test]
fn the_memory_of_all_connections_is_bounded_and_nothing_is_lost() {
    let limits = Limits { buffers_total: 200 << 10, ..Limits::default() };
    let mut world = World::new(1, Weather::default(), Limits::default(), 1500);
    let (b, inbox, outbox) = stack(2, limits, 1500);
    world.replace_b(b, inbox, outbox);
    let listener = world.b.listen(at(B4, 80), false, 64).unwrap();
    let data = vec![7; 60 << 10];
    let mut pairs = Vec::new();
    for _ in 0..20 {
        let client = world.a.connect(None, at(B4, 80), world.now).unwrap();
        world.settle();
        let Ok((server, _)) = world.b.accept(listener) else { break };
        let sent = world.a.send(client, &data).unwrap();
        world.settle();
        pairs.push((server, sent));
        // One piece may reach beyond the limit, which is known only after it was taken.
        assert!(world.b.census().buffers <= (200 + 64) << 10, "{:?}", world.b.census());
    }
    assert!((3..20).contains(&pairs.len()), "{} connections had room", pairs.len());
    assert!(world.b.counters().dropped(DropReason::NoBuffers) > 0);
    let mut buffer = vec![0; 64 << 10];
    for round in 0.. {
        assert!(round < 1000, "something did not arrive: {pairs:?}");
        for (server, left) in &mut pairs {
            *left -= world.b.recv(*server, &mut buffer).unwrap_or(0);
        }
        if pairs.iter().all(|(_, left)| *left == 0) {
            break;
        }
        world.run(Duration::from_secs(1));
    }
    assert_eq!(world.b.census().buffers, 0);
}
