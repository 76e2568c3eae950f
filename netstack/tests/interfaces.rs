//! Several interfaces: routes choose among them, addresses belong to theirs, and a capture sees all.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

mod support;

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use netstack::{Direction, InterfaceConfig, Limits, Route, SocketError, Stack};
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
