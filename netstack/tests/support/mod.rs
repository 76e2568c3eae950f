//! Two stacks and the cable between them, in memory and in simulated time.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation
)]

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use netstack::{Capabilities, Device, InterfaceConfig, Limits, SocketId, Stack};

/// Frames on their way.
pub type Lane = Rc<RefCell<VecDeque<Vec<u8>>>>;

/// One end of the cable.
pub struct Plug {
    pub inbox: Lane,
    pub outbox: Lane,
    pub mtu: usize,
    pub hardware: [u8; 6],
    pub room: usize,
}

impl Device for Plug {
    type Frame = Vec<u8>;
    fn receive(&mut self) -> Option<Vec<u8>> {
        self.inbox.borrow_mut().pop_front()
    }
    fn can_transmit(&self) -> bool {
        self.outbox.borrow().len() < self.room
    }
    fn transmit<F: FnOnce(&mut [u8])>(&mut self, length: usize, fill: F) {
        let mut frame = vec![0; length];
        fill(&mut frame);
        self.outbox.borrow_mut().push_back(frame);
    }
    fn capabilities(&self) -> Capabilities {
        Capabilities { hardware_address: self.hardware, mtu: self.mtu, trusted_checksums: false }
    }
}

/// What a cable does to frames. Fractions are of 1,000.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    pub loss: u64,
    pub duplication: u64,
    pub reordering: u64,
    pub delay: Duration,
}

/// xorshift64*: enough for weather.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }
    pub fn chance(&mut self, thousandths: u64) -> bool {
        self.roll() % 1000 < thousandths
    }
}

pub const A4: &str = "10.0.0.1";
pub const B4: &str = "10.0.0.2";
pub const A6: &str = "fd00::1";
pub const B6: &str = "fd00::2";

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn at(text: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip(text), port)
}

/// A stack with an address of each family, and the lanes to and from its device.
pub fn stack(number: u8, limits: Limits, mtu: usize) -> (Stack<Plug>, Lane, Lane) {
    let (inbox, outbox) = (Lane::default(), Lane::default());
    let plug = Plug {
        inbox: inbox.clone(),
        outbox: outbox.clone(),
        mtu,
        hardware: [2, 0, 0, 0, 0, number],
        room: 1 << 20,
    };
    let mut stack = Stack::new(limits, [number; 16]);
    let v4 = IpAddr::from([10, 0, 0, number]);
    let v6 = IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(number)]);
    let config = InterfaceConfig { addresses: vec![(v4, 24), (v6, 64)], routes: vec![] };
    stack.add_interface(plug, config).unwrap();
    (stack, inbox, outbox)
}

/// Two stacks, the cable, and the time.
pub struct World {
    pub a: Stack<Plug>,
    pub b: Stack<Plug>,
    lanes: [(Lane, Lane); 2],
    flying: BTreeMap<(Duration, u64), (usize, Vec<u8>)>,
    count: u64,
    pub dice: Dice,
    pub weather: Weather,
    pub now: Duration,
}

impl World {
    pub fn new(seed: u64, weather: Weather, limits: Limits, mtu: usize) -> Self {
        let (a, a_in, a_out) = stack(1, limits.clone(), mtu);
        let (b, b_in, b_out) = stack(2, limits, mtu);
        Self {
            a,
            b,
            lanes: [(a_out, b_in), (b_out, a_in)],
            flying: BTreeMap::new(),
            count: 0,
            dice: Dice(seed | 1),
            weather,
            now: Duration::from_secs(1000),
        }
    }

    /// Puts another stack at the far end.
    pub fn replace_b(&mut self, b: Stack<Plug>, inbox: Lane, outbox: Lane) {
        self.b = b;
        self.lanes[0].1 = inbox;
        self.lanes[1].0 = outbox;
    }

    pub fn calm() -> Self {
        Self::new(1, Weather::default(), Limits::default(), 1500)
    }

    /// Both stacks have their turn at this moment, and frames fly.
    pub fn turn(&mut self) {
        self.a.turn(self.now);
        self.b.turn(self.now);
        for (index, (from, _)) in self.lanes.iter().enumerate() {
            for frame in from.borrow_mut().drain(..) {
                if self.dice.chance(self.weather.loss) {
                    continue;
                }
                let copies = if self.dice.chance(self.weather.duplication) { 2 } else { 1 };
                for _ in 0..copies {
                    let mut delay = self.weather.delay;
                    if self.dice.chance(self.weather.reordering) {
                        delay += Duration::from_micros(self.dice.roll() % 3000);
                    }
                    self.count += 1;
                    self.flying.insert((self.now + delay, self.count), (index, frame.clone()));
                }
            }
        }
        self.land();
    }

    fn land(&mut self) {
        while let Some(entry) = self.flying.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let (index, frame) = entry.remove();
            self.lanes[index].1.borrow_mut().push_back(frame);
        }
    }

    /// Lets time pass until something is due: a frame lands or a timer. False if nothing ever is.
    pub fn advance(&mut self) -> bool {
        if self.lanes.iter().any(|(_, to)| !to.borrow().is_empty()) {
            return true;
        }
        let landing = self.flying.keys().next().map(|(time, _)| *time);
        let due = [landing, self.a.next_deadline(), self.b.next_deadline()];
        let Some(next) = due.into_iter().flatten().min() else { return false };
        self.now = self.now.max(next);
        self.land();
        true
    }

    /// Turns until nothing is due within `span`.
    pub fn run(&mut self, span: Duration) {
        let end = self.now + span;
        let mut turns = 0;
        loop {
            self.turn();
            turns += 1;
            assert!(turns < 2_000_000, "the stacks do not come to rest");
            if !self.advance() || self.now > end {
                self.now = end;
                return;
            }
        }
    }

    /// Runs a moment, long enough for a few round trips.
    pub fn settle(&mut self) {
        let span = self.weather.delay * 8 + Duration::from_millis(20);
        self.run(span);
    }

    /// A listener at `b` and a connection from `a`: its two ends.
    pub fn connected(&mut self, b_address: SocketAddr) -> (SocketId, SocketId, SocketId) {
        let listener = self.b.listen(b_address, false, 16).unwrap();
        let client = self.a.connect(None, b_address, self.now).unwrap();
        self.settle();
        let (server, _) = self.b.accept(listener).unwrap();
        (listener, client, server)
    }
}
