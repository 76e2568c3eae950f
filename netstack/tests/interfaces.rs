//! Several interfaces: routes choose among them, addresses belong to theirs, and a capture sees all.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

mod support;

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use netstack::{
    AddressSource, ConfigError, Direction, InterfaceConfig, Limits, Route, SocketError, Stack,
};
use support::*;

/// Adds an interface with `10.0.N.1/24` and returns the frames that leave it.
fn add(stack: &mut Stack<Plug>, number: u8, routes: Vec<Route>) -> Lane {
    let plug = Plug {
        inbox: Lane::default(),
        outbox: Lane::default(),
        mtu: 1500,
        hardware: [2, 0, 0, 0, 1, number],
        room: 99,
    };
    let out = plug.outbox.clone();
    let addresses = vec![(IpAddr::from([10, 0, number, 1]), 24)];
    stack.add_interface(plug, InterfaceConfig { addresses, routes }).unwrap();
    out
}

#[test]
fn connections_leave_by_the_route_and_a_capture_sees_them() {
    let mut stack = Stack::new(Limits::default(), [1; 16]);
    let default = Route { network: ip("0.0.0.0"), prefix: 0, gateway: ip("10.0.1.254") };
    let service = add(&mut stack, 1, vec![default]);
    let private = add(&mut stack, 2, vec![]);
    let seen = Rc::new(RefCell::new(Vec::new()));
    let notes = seen.clone();
    stack.set_capture(Some(Box::new(move |interface, direction, frame, _| {
        assert_eq!(direction, Direction::Sent);
        // The ARP request: who has the next hop?
        notes.borrow_mut().push((interface, frame[38..42].to_vec()));
    })));
    let now = Duration::from_secs(1);
    for (to, interface, hop) in [
        ("10.0.2.7", 1, [10, 0, 2, 7]),
        ("10.0.1.7", 0, [10, 0, 1, 7]),
        ("192.0.2.9", 0, [10, 0, 1, 254]),
    ] {
        let socket = stack.connect(None, at(to, 80), now).unwrap();
        stack.turn(now);
        assert_eq!(seen.borrow_mut().drain(..).collect::<Vec<_>>(), [(interface, hop.to_vec())]);
        let own = IpAddr::from([10, 0, interface as u8 + 1, 1]);
        assert_eq!(stack.local_addr(socket).unwrap().ip(), own);
    }
    assert_eq!((service.borrow().len(), private.borrow().len()), (2, 1));
    // A bound address selects its interface, which has no route there.
    let bound = stack.connect(Some(at("10.0.2.1", 0)), at("192.0.2.9", 80), now);
    assert_eq!(bound, Err(SocketError::NetworkUnreachable));
    let foreign = stack.connect(Some(at("10.0.3.1", 0)), at("192.0.2.9", 80), now);
    assert_eq!(foreign, Err(SocketError::AddressNotAvailable));
}

#[test]
fn a_device_without_room_loses_no_data() {
    let mut world = World::calm();
    let (_, client, server) = world.connected(at(B4, 80));
    world.a.device_mut(0).unwrap().room = 0;
    assert_eq!(world.a.send(client, b"patience"), Ok(8));
    world.a.turn(world.now);
    let rest = world.a.next_deadline();
    assert!(rest.is_none_or(|at| at > world.now), "it waits for the device, not in circles");
    world.a.device_mut(0).unwrap().room = 99;
    world.settle();
    assert_eq!(world.b.recv(server, &mut [0; 99]), Ok(8));
}

/// A host that starts again has another hardware address; its neighbours need not find that out by waiting.
#[test]
fn addresses_are_announced_twice_and_neighbours_send_there() {
    let mut stack = Stack::new(Limits::default(), [1; 16]);
    let out = add(&mut stack, 1, vec![]);
    let own = InterfaceConfig {
        addresses: vec![(IpAddr::from([10, 0, 1, 1]), 24), (ip("fd00::1"), 64)],
        routes: vec![],
    };
    stack.obtain_addresses(0, AddressSource::Static(own.clone())).unwrap();
    stack.turn(Duration::ZERO);
    assert!(out.borrow().is_empty(), "only who wants to announces");
    stack.announce_addresses(0).unwrap();
    let start = Duration::from_secs(1);
    let mut times = Vec::new();
    for tenths in 0..100 {
        let now = start + Duration::from_millis(100) * tenths;
        stack.turn(now);
        let frames: Vec<Vec<u8>> = out.borrow_mut().drain(..).collect();
        if frames.is_empty() {
            continue;
        }
        times.push(now - start);
        let [arp, advertisement] = &frames[..] else { panic!("{frames:?}") };
        // To everybody: a request whose sender and target are the own address (RFC 5227, section 2.3).
        assert_eq!(
            (&arp[..6], &arp[12..14], &arp[20..22]),
            (&[0xff; 6][..], &[8, 6][..], &[0, 1][..])
        );
        assert_eq!((&arp[22..28], &arp[28..32]), (&[2, 0, 0, 0, 1, 1][..], &[10, 0, 1, 1][..]));
        assert_eq!(&arp[38..42], [10, 0, 1, 1]);
        // To all nodes: an advertisement that overrides, with the hardware address (RFC 4861, section 7.2.6).
        assert_eq!(&advertisement[..6], [0x33, 0x33, 0, 0, 0, 1]);
        assert_eq!((advertisement[54], advertisement[58] & 0xe0), (136, 0x20));
        assert_eq!(
            IpAddr::from(<[u8; 16]>::try_from(&advertisement[62..78]).unwrap()),
            ip("fd00::1")
        );
        assert_eq!(advertisement[78..], [2, 1, 2, 0, 0, 0, 1, 1]);
    }
    assert_eq!(times, [Duration::ZERO, Duration::from_secs(2)]);
    // A new address is announced, an old one not again.
    let mut more = own;
    more.addresses.push((IpAddr::from([10, 0, 1, 9]), 24));
    stack.obtain_addresses(0, AddressSource::Static(more)).unwrap();
    stack.turn(start + Duration::from_secs(20));
    let frames: Vec<Vec<u8>> = out.borrow_mut().drain(..).collect();
    assert_eq!(frames.len(), 1);
    assert_eq!(&frames[0][38..42], [10, 0, 1, 9]);
    assert_eq!(stack.announce_addresses(7), Err(ConfigError::NoInterface(7)));
}
