//! Sockets over a stack whose only interface is the loopback.
#![allow(clippy::unwrap_used, clippy::panic)]

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use netstack::{Capabilities, Device, InterfaceConfig, Limits, Shutdown, Stack};

use super::{Family, Network, Socket, Transport, Value};
use crate::files::{Control, Epoll, Errno, Files, HANGUP, IN, Kind, OUT, READ_HANGUP};

/// Gives back what it is given.
#[derive(Default)]
struct Loop(VecDeque<Vec<u8>>);

impl Device for Loop {
    type Frame = Vec<u8>;

    fn receive(&mut self) -> Option<Vec<u8>> {
        self.0.pop_front()
    }

    fn can_transmit(&self) -> bool {
        self.0.len() < 64
    }

    fn transmit<F: FnOnce(&mut [u8])>(&mut self, length: usize, fill: F) {
        let mut frame = vec![0; length];
        fill(&mut frame);
        self.0.push_back(frame);
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { hardware_address: [2, 0, 0, 0, 0, 1], mtu: 1500, trusted_checksums: true }
    }
}

struct World {
    files: Files,
    network: Network<Loop>,
    now: Duration,
}

impl World {
    fn new() -> Self {
        let mut stack = Stack::new(Limits::default(), [7; 16]);
        stack.add_interface(Loop::default(), InterfaceConfig::loopback()).unwrap();
        let own = [("10.0.0.2".parse().unwrap(), 24)].to_vec();
        let config = InterfaceConfig { addresses: own, ..InterfaceConfig::default() };
        // Nobody is there, and nothing that is for this host may go that way.
        stack.add_interface(Loop(VecDeque::from([const { Vec::new() }; 64])), config).unwrap();
        Self { files: Files::new(), network: Network::new(stack, 1), now: Duration::ZERO }
    }

    fn open(&mut self, transport: Transport) -> i32 {
        let socket = Kind::Socket(Box::new(Socket::new(Family::V4, transport)));
        self.files.open(socket, libc::O_RDWR, true).unwrap()
    }

    fn on<R>(
        &mut self,
        fd: i32,
        body: impl FnOnce(&mut Network<Loop>, u32, &mut Socket) -> R,
    ) -> R {
        let id = self.files.id(fd).unwrap();
        body(&mut self.network, id, self.files.socket(id).unwrap())
    }

    /// Turns until nothing moves.
    fn settle(&mut self) {
        for _ in 0..20 {
            self.now += Duration::from_millis(1);
            self.network.stack().turn(self.now);
            self.network.deliver(&mut self.files);
        }
    }

    fn close(&mut self, fd: i32) {
        self.files.close(fd).unwrap();
        while let Some((id, socket)) = self.files.take_closed() {
            self.network.close(id, &socket);
        }
        while self.files.take_wakes().is_some() {}
    }

    fn ready(&self, fd: i32) -> u32 {
        self.files.readiness(self.files.id(fd).unwrap())
    }

    fn listener(&mut self) -> (i32, SocketAddr) {
        let fd = self.open(Transport::Stream);
        let any = "127.0.0.1:0".parse().unwrap();
        self.on(fd, |n, id, s| n.bind(id, s, any)).unwrap();
        self.on(fd, |n, id, s| n.listen(id, s, 5)).unwrap();
        (fd, self.on(fd, |n, _, s| n.local_address(s)).unwrap())
    }

    fn pair(&mut self) -> (i32, i32) {
        let near = self.open(Transport::Stream);
        (near, self.connect(near))
    }

    /// Connects a socket; the far one.
    fn connect(&mut self, near: i32) -> i32 {
        let (listener, at) = self.listener();
        let now = self.now;
        let begun = self.on(near, |n, id, s| n.connect(id, s, at, now));
        assert_eq!(begun, Err(Errno(libc::EINPROGRESS)));
        self.settle();
        assert_eq!(self.on(near, |n, _, s| n.connected(s)), Ok(()));
        let (socket, _) = self.on(listener, |n, _, s| n.accept(s)).unwrap();
        let far = self.files.open(Kind::Socket(Box::new(socket)), libc::O_RDWR, true).unwrap();
        self.on(far, |n, id, s| n.adopt(id, s));
        self.close(listener);
        far
    }
}

#[test]
fn every_arrival_is_an_edge_even_on_data_that_was_left() {
    let mut world = World::new();
    let (near, far) = world.pair();
    let epoll = world.files.open(Kind::Epoll(Epoll::default()), libc::O_RDWR, true).unwrap();
    let epoll = world.files.id(epoll).unwrap();
    let edge = (libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLET).cast_unsigned();
    world.files.epoll_control(epoll, far, Control::Add { events: edge, data: 9 }).unwrap();
    assert!(world.files.epoll_take(epoll, 9).unwrap().is_empty());
    for _ in 0..3 {
        assert_eq!(world.on(near, |n, _, s| n.send(s, b"some")), Ok(4));
        world.settle();
        let news = world.files.epoll_take(epoll, 9).unwrap();
        assert_eq!((news[0].events, news[0].data), (IN, 9));
        assert!(world.files.epoll_take(epoll, 9).unwrap().is_empty(), "once for each arrival");
    }
    let mut buffer = [0; 64];
    assert_eq!(world.on(far, |n, _, s| n.receive(s, &mut buffer, true)), Ok(12));
    assert_eq!(world.on(far, |n, _, s| n.receive(s, &mut buffer, false)), Ok(12));
    assert_eq!(world.ready(far) & IN, 0);
    world.close(near);
    world.settle();
    let news = world.files.epoll_take(epoll, 9).unwrap();
    assert_eq!(news[0].events & (IN | READ_HANGUP), IN | READ_HANGUP);
}

#[test]
fn a_full_connection_is_writable_again_when_the_peer_has_read() {
    let mut world = World::new();
    let (near, far) = world.pair();
    let mut sent = 0;
    loop {
        match world.on(near, |n, _, s| n.send(s, &[1; 10_000])) {
            Ok(count) => sent += count,
            Err(error) => {
                assert_eq!(error, Errno::AGAIN);
                let before = sent;
                world.settle();
                if world.ready(near) & OUT == 0 && before == sent {
                    break;
                }
            }
        }
    }
    let (mut received, mut buffer) = (0, vec![0; 50_000]);
    while received < sent {
        match world.on(far, |n, _, s| n.receive(s, &mut buffer, false)) {
            Ok(count) => received += count,
            Err(_) => world.settle(),
        }
    }
    world.settle();
    assert_ne!(world.ready(near) & OUT, 0);
}

#[test]
fn a_refused_socket_says_so_once_and_can_try_again() {
    let mut world = World::new();
    let (listener, at) = world.listener();
    world.close(listener);
    let fd = world.open(Transport::Stream);
    assert_eq!(world.ready(fd), OUT | HANGUP);
    let now = world.now;
    let _ = world.on(fd, |n, id, s| n.connect(id, s, at, now));
    world.settle();
    assert_ne!(world.ready(fd) & libc::EPOLLERR.cast_unsigned(), 0);
    let refused = Some(Errno(libc::ECONNREFUSED));
    assert_eq!(world.on(fd, |n, _, s| n.take_error(s)), refused);
    assert_eq!(world.on(fd, |n, _, s| n.take_error(s)), None);
    let told = world.on(fd, |n, id, s| n.connect(id, s, at, now));
    assert_eq!(told, Err(Errno(libc::ECONNABORTED)));
    let again = world.on(fd, |n, id, s| n.connect(id, s, at, now));
    assert_eq!(again, Err(Errno(libc::EINPROGRESS)));
}

#[test]
fn a_closed_socket_leaves_its_port_and_its_number_behind() {
    let mut world = World::new();
    for _ in 0..3 {
        let (near, far) = world.pair();
        world.close(near);
        world.close(far);
        world.settle();
    }
    let census = world.network.stack().census();
    assert_eq!((census.established, census.orphans), (0, 0));
    let (first, at) = world.listener();
    let second = world.open(Transport::Stream);
    let taken = world.on(second, |n, id, s| n.bind(id, s, at));
    assert_eq!(taken, Err(Errno(libc::EADDRINUSE)));
    world.close(first);
    assert_eq!(world.on(second, |n, id, s| n.bind(id, s, at)), Ok(()));
}

#[test]
fn a_port_that_a_connection_had_lately_is_not_chosen() {
    // Worlds that are alike choose alike.
    let mut world = World::new();
    world.listener();
    let second = world.listener().1;

    let mut world = World::new();
    let near = world.open(Transport::Stream);
    world.on(near, |n, id, s| n.bind(id, s, second)).unwrap();
    let far = world.connect(near);
    world.close(near);
    world.settle();
    world.close(far);
    world.settle();
    assert_ne!(world.listener().1, second);
}

#[test]
fn a_listener_that_is_shut_down_gives_no_more() {
    let mut world = World::new();
    let (fd, _) = world.listener();
    assert_eq!(world.on(fd, |n, _, s| n.accept(s)).map(|_| ()), Err(Errno::AGAIN));
    world.on(fd, |n, id, s| n.shutdown(id, s, Shutdown::Both)).unwrap();
    assert_eq!(world.on(fd, |n, _, s| n.accept(s)).map(|_| ()), Err(Errno::INVALID));
}

#[test]
fn values_of_options_have_the_form_of_c() {
    let linger = [1_i32.to_ne_bytes(), 3_i32.to_ne_bytes()].concat();
    let value = Value::parse(libc::SOL_SOCKET, libc::SO_LINGER, &linger).unwrap();
    assert_eq!((value.clone(), value.bytes()), (Value::Linger(Some(3)), linger));
    let time = [2_i64.to_ne_bytes(), 500_000_i64.to_ne_bytes()].concat();
    let value = Value::parse(libc::SOL_SOCKET, libc::SO_RCVTIMEO, &time).unwrap();
    let expected = Value::Time(Some(Duration::from_millis(2500)));
    assert_eq!((value.clone(), value.bytes()), (expected, time));
    let impossible = [0_i64.to_ne_bytes(), 1_000_000_i64.to_ne_bytes()].concat();
    let refused = Value::parse(libc::SOL_SOCKET, libc::SO_RCVTIMEO, &impossible);
    assert_eq!(refused, Err(Errno(libc::EDOM)));
    assert_eq!(Value::parse(0, 0, &[1, 2]), Err(Errno::INVALID));
}

#[test]
fn own_addresses_are_reached_without_the_network() {
    let mut world = World::new();
    let fd = world.open(Transport::Stream);
    let at = "10.0.0.2:0".parse().unwrap();
    world.on(fd, |n, id, s| n.bind(id, s, at)).unwrap();
    world.on(fd, |n, id, s| n.listen(id, s, 5)).unwrap();
    let at = world.on(fd, |n, _, s| n.local_address(s)).unwrap();
    for (closed, expected) in [(false, Ok(())), (true, Err(Errno(libc::ECONNREFUSED)))] {
        if closed {
            world.close(fd);
        }
        let near = world.open(Transport::Stream);
        let now = world.now;
        let _ = world.on(near, |n, id, s| n.connect(id, s, at, now));
        world.settle();
        assert_eq!(world.on(near, |n, _, s| n.connected(s)), expected);
    }
}
