//! The guest's side of the ring against a tender that is played here and takes its steps at any moment: between any two
//! looks of the guest at the ring's memory. What must hold is asserted where the two meet: a buffer is never in two hands,
//! frames come and go once and in order, nothing sleeps on work.
#![allow(clippy::cast_possible_truncation)]

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;

use hvt_abi::boot::{BootInfo, FEATURE_RING_IO};
use hvt_abi::hypercall::{RESULT_AGAIN, RESULT_INVALID, RESULT_OK};
use hvt_abi::ring::{Commit, ENTRIES, Entry, MASK, NET_READ, NET_WRITE};
use proptest::prelude::*;

use super::driver::{Broken, Buffer, Driver, ENTRIES_MOST, Index, READS_MOST, Shared};
use super::line::{Frames, Line, READS_MOST as READS_ON_THEIR_WAY, Tender, WRITES_MOST};
use super::offered;

const ROOM: u32 = 1518;

/// A buffer is its address; what is in it is in [`World`].
#[derive(Debug, PartialEq, Eq)]
struct Room(u64);

impl Buffer for Room {
    fn address(&self) -> u64 {
        self.0
    }

    fn len(&self) -> u32 {
        ROOM
    }
}

/// A frame is a number in the first bytes of a buffer.
#[derive(Debug, Default)]
struct World {
    submitted: u32,
    consumed: u32,
    answered: u32,
    taken: u32,
    needs_kick: u32,
    entries: Vec<Entry>,
    commits: Vec<Commit>,
    /// What is in each buffer.
    memory: Vec<u32>,
    /// Buffers that the tender may touch.
    lent: BTreeSet<u64>,
    asleep: bool,
    /// Frames that wait on each device, by handle.
    wire: [VecDeque<u32>; 4],
    /// Handle and frame, in the order in which they left.
    sent: Vec<(u32, u32)>,
    kicks: u32,
    polls: u32,
    /// Unanswered reads, and the most that there were.
    reads: u32,
    reads_peak: u32,
    /// What the tender does next: how many steps at each look.
    whims: VecDeque<u8>,
}

impl World {
    fn new(start: u32, whims: Vec<u8>) -> Self {
        Self {
            submitted: start,
            consumed: start,
            answered: start,
            taken: start,
            entries: vec![Entry::default(); ENTRIES as usize],
            commits: vec![Commit::default(); ENTRIES as usize],
            whims: whims.into(),
            ..Self::default()
        }
    }

    /// One step of the tender's thread: an entry, or falling asleep when there is none.
    fn step(&mut self) {
        if self.asleep {
            return;
        }
        if self.consumed == self.submitted {
            match self.needs_kick {
                0 => self.needs_kick = 1,
                _ => self.asleep = true,
            }
            return;
        }
        self.needs_kick = 0;
        let entry = self.entries[(self.consumed & MASK) as usize];
        assert!(self.lent.contains(&entry.data), "{entry:?} names a buffer that was not lent");
        match entry.operation {
            NET_WRITE => {
                self.sent.push((entry.handle, self.memory[entry.data as usize]));
                self.lent.remove(&entry.data);
            }
            NET_READ => {
                assert!(self.answered.wrapping_sub(self.taken) < ENTRIES, "an answer is overrun");
                let frame = self.wire[entry.handle as usize].pop_front();
                let (ret, len) = match frame {
                    Some(frame) => {
                        self.memory[entry.data as usize] = frame;
                        (RESULT_OK, 60)
                    }
                    None => (RESULT_AGAIN, 0),
                };
                let slot = (self.answered & MASK) as usize;
                self.commits[slot] = Commit { id: entry.id, ret, len, reserved: 0 };
                self.lent.remove(&entry.data);
                self.answered = self.answered.wrapping_add(1);
                self.reads -= 1;
            }
            other => panic!("operation {other}"),
        }
        self.consumed = self.consumed.wrapping_add(1);
    }

    /// The guest looks at the ring: the tender may have gone on meanwhile.
    fn whim(&mut self) {
        for _ in 0..self.whims.pop_front().unwrap_or(1) {
            self.step();
        }
    }

    fn ready(&self) -> u64 {
        let wires = self.wire.iter().enumerate();
        wires.filter(|(_, wire)| !wire.is_empty()).map(|(handle, _)| 1 << handle).sum()
    }
}

fn buffer(world: &RefCell<World>) -> Room {
    let memory = &mut world.borrow_mut().memory;
    memory.push(0);
    Room(memory.len() as u64 - 1)
}

#[derive(Clone, Debug)]
struct Played(Rc<RefCell<World>>);

impl Shared for Played {
    fn load(&self, index: Index) -> u32 {
        let world = &mut *self.0.borrow_mut();
        world.whim();
        match index {
            Index::Consumed => world.consumed,
            Index::Answered => world.answered,
            Index::NeedsKick => world.needs_kick,
            Index::Submitted | Index::Taken => panic!("our own index is not looked up"),
        }
    }

    fn store(&mut self, index: Index, value: u32) {
        let world = &mut *self.0.borrow_mut();
        world.whim();
        match index {
            Index::Submitted => {
                let pending = value.wrapping_sub(world.consumed);
                assert!(pending < ENTRIES, "{pending} entries");
                world.submitted = value;
            }
            Index::Taken => world.taken = value,
            other => panic!("{other:?} is not the guest's"),
        }
        world.whim();
    }

    fn put(&mut self, slot: usize, entry: Entry) {
        let world = &mut *self.0.borrow_mut();
        world.whim();
        let busy = (world.consumed..world.submitted).any(|index| (index & MASK) as usize == slot);
        assert!(!busy, "slot {slot} is still the tender's");
        assert!(world.lent.insert(entry.data), "{entry:?}: the buffer is lent already");
        if entry.operation == NET_READ {
            world.reads += 1;
            world.reads_peak = world.reads_peak.max(world.reads);
        }
        world.entries[slot] = entry;
    }

    fn answer(&self, slot: usize) -> Commit {
        self.0.borrow().commits[slot]
    }

    fn barrier(&self) {
        self.0.borrow_mut().whim();
    }

    fn kick(&mut self) {
        let world = &mut *self.0.borrow_mut();
        world.kicks += 1;
        world.asleep = false;
        world.needs_kick = 0;
    }
}

impl Tender for Played {
    fn poll(&mut self, timeout: u64) -> u64 {
        let world = &mut *self.0.borrow_mut();
        world.polls += 1;
        // Time passes for the tender's thread as well.
        let mut steps = if timeout > 1_000_000 { u32::MAX } else { 10 };
        while steps > 0 && !world.asleep {
            world.step();
            steps -= 1;
        }
        if timeout > 1_000_000 {
            assert_eq!(world.submitted, world.consumed, "the tender sleeps on entries");
            assert_eq!(world.answered, world.taken, "the guest sleeps on answers");
        }
        world.ready()
    }

    fn pause(&mut self) {
        self.0.borrow_mut().whim();
    }
}

/// The stack's side.
#[derive(Debug)]
struct Queues {
    world: Rc<RefCell<World>>,
    to_send: VecDeque<(u32, u32)>,
    received: Vec<Vec<u32>>,
    spare: Vec<Room>,
}

impl Queues {
    fn check(&self, room: &Room) {
        assert!(!self.world.borrow().lent.contains(&room.0), "the tender still has {room:?}");
    }
}

impl Frames<Room> for Queues {
    fn has_frame(&self) -> bool {
        !self.to_send.is_empty()
    }

    fn next_frame(&mut self) -> Option<(u32, Room, u32)> {
        let (handle, frame) = self.to_send.pop_front()?;
        let room = self.room();
        self.world.borrow_mut().memory[room.0 as usize] = frame;
        Some((handle, room, 60))
    }

    fn room(&mut self) -> Room {
        let spare = self.spare.pop();
        spare.unwrap_or_else(|| buffer(&self.world))
    }

    fn received(&mut self, device: usize, buffer: Room, len: u32) {
        self.check(&buffer);
        assert_eq!(len, 60);
        self.received[device].push(self.world.borrow().memory[buffer.0 as usize]);
        self.spare.push(buffer);
    }

    fn done(&mut self, buffer: Room) {
        self.check(&buffer);
        // What the next owner finds must be what it put there.
        self.world.borrow_mut().memory[buffer.0 as usize] = u32::MAX;
        self.spare.push(buffer);
    }
}

/// What happens between two turns.
#[derive(Clone, Debug)]
enum Event {
    Send { handle: u32, count: u32 },
    Come { handle: u32, count: u32 },
    Turn { timeout: u64 },
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let handle = prop_oneof![Just(1_u32), Just(3_u32)];
    let event = prop_oneof![
        (handle.clone(), 1..600_u32).prop_map(|(handle, count)| Event::Send { handle, count }),
        (handle, 1..600_u32).prop_map(|(handle, count)| Event::Come { handle, count }),
        Just(Event::Turn { timeout: 0 }),
        Just(Event::Turn { timeout: 1_000_000_000 }),
    ];
    prop::collection::vec(event, 1..30)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn frames_pass_once_and_in_order(events in events(), whims in prop::collection::vec(0..6_u8, 0..4000)) {
        let world = Rc::new(RefCell::new(World::new(0, whims)));
        let mut line = Line::new(Played(Rc::clone(&world)), &[1, 3]);
        let received = vec![Vec::new(), Vec::new()];
        let mut queues =
            Queues { world: Rc::clone(&world), to_send: VecDeque::new(), received, spare: Vec::new() };
        let (mut out, mut into) = (Vec::new(), [Vec::new(), Vec::new()]);
        let mut number = 0;
        for event in events {
            match event {
                Event::Send { handle, count } => for _ in 0..count {
                    number += 1;
                    queues.to_send.push_back((handle, number));
                    out.push((handle, number));
                },
                Event::Come { handle, count } => for _ in 0..count {
                    number += 1;
                    world.borrow_mut().wire[handle as usize].push_back(number);
                    into[usize::from(handle == 3)].push(number);
                },
                Event::Turn { timeout } => _ = line.turn(&mut queues, timeout).unwrap(),
            }
        }
        let (mut turns, all) = (0, into.iter().map(Vec::len).sum::<usize>());
        while queues.received.iter().map(Vec::len).sum::<usize>() < all {
            line.turn(&mut queues, 1_000_000_000).unwrap();
            turns += 1;
            prop_assert!(turns < 100_000, "frames do not come");
        }
        line.turn(&mut queues, 1_000_000_000).unwrap();
        line.finish(&mut queues).unwrap();
        let world = world.borrow();
        prop_assert_eq!(&world.sent, &out);
        prop_assert_eq!(&queues.received[..], &into[..]);
        prop_assert!(world.lent.is_empty(), "{:?}", world.lent);
        prop_assert!(world.reads_peak as usize <= READS_ON_THEIR_WAY);
        // Every buffer came back, and there were no more than the limits allow.
        prop_assert_eq!(queues.spare.len(), world.memory.len());
        prop_assert!(world.memory.len() <= WRITES_MOST + READS_ON_THEIR_WAY);
    }
}

/// A stream is read many frames at a time, and a device that is quiet costs two reads.
#[test]
fn reads_follow_the_traffic() {
    let world = Rc::new(RefCell::new(World::new(0, Vec::new())));
    let mut line = Line::new(Played(Rc::clone(&world)), &[1]);
    let received = vec![Vec::new()];
    let mut queues =
        Queues { world: Rc::clone(&world), to_send: VecDeque::new(), received, spare: Vec::new() };
    let long = 1_000_000_000;
    line.turn(&mut queues, long).unwrap();
    assert_eq!(world.borrow().reads_peak, 2);
    world.borrow_mut().wire[1].extend(0..10_000);
    let before = world.borrow().polls;
    while queues.received[0].len() < 10_000 {
        line.turn(&mut queues, long).unwrap();
    }
    assert!(world.borrow().reads_peak > 100, "{}", world.borrow().reads_peak);
    assert!(world.borrow().polls <= before + 1, "a stream needs no call");
    for _ in 0..20 {
        world.borrow_mut().wire[1].push_back(1);
        line.turn(&mut queues, long).unwrap();
    }
    world.borrow_mut().reads_peak = 0;
    world.borrow_mut().wire[1].push_back(1);
    line.turn(&mut queues, long).unwrap();
    assert!(world.borrow().reads_peak <= 2);
    let counters = line.counters();
    assert_eq!((counters.received, counters.refused), (10_021, 0));
}

/// The index goes round at 2³² as anywhere else, and the slots at their number.
#[test]
fn indices_and_slots_go_round() {
    let start = u32::MAX - 2500;
    let world = Rc::new(RefCell::new(World::new(start, Vec::new())));
    let mut driver = Driver::starting_at(Played(Rc::clone(&world)), start);
    for round in 0..5000 {
        let (frame, room) = (buffer(&world), buffer(&world));
        driver.write(1, frame, 60).unwrap();
        world.borrow_mut().wire[1].push_back(round);
        driver.read(1, room).unwrap();
        driver.publish();
        let mut answer = None;
        let mut back = 0;
        while answer.is_none() || back == 0 {
            driver.reclaim(|_| back += 1).unwrap();
            answer = answer.or_else(|| driver.answer().unwrap());
        }
        let answer = answer.unwrap();
        assert_eq!((answer.handle, answer.result, answer.len), (1, RESULT_OK, 60));
        assert_eq!(world.borrow().memory[answer.buffer.0 as usize], round);
    }
}

/// Full is full: nothing is overwritten, and the buffer comes back to the caller.
#[test]
fn there_are_never_more_entries_than_slots() {
    let world = Rc::new(RefCell::new(World::new(0, vec![0; 1 << 20])));
    let mut driver = Driver::new(Played(Rc::clone(&world)));
    for number in 0..ENTRIES_MOST as u64 {
        let room = buffer(&world);
        match number % 2 {
            0 => driver.write(1, room, 60).unwrap(),
            _ => driver.read(1, room).unwrap(),
        }
    }
    let room = buffer(&world);
    let address = room.0;
    assert_eq!(driver.write(1, room, 60), Err(Room(address)));
    assert_eq!(driver.read(1, Room(address)), Err(Room(address)));
    driver.publish();
    world.borrow_mut().whims.clear();
    while driver.writes() > 0 {
        driver.reclaim(drop).unwrap();
    }
    // The answers are not taken, so reads stay limited although slots are free.
    let mut free = ENTRIES_MOST / 2;
    while driver.read(1, buffer(&world)).is_ok() {
        driver.publish();
        driver.reclaim(drop).unwrap();
        free += 1;
    }
    assert_eq!((free, driver.reads()), (READS_MOST, READS_MOST));
}

/// The tender's thread is woken when it sleeps, and only then.
#[test]
fn a_sleeping_tender_is_kicked() {
    let world = Rc::new(RefCell::new(World::new(0, vec![0; 1 << 16])));
    let mut driver = Driver::new(Played(Rc::clone(&world)));
    let send = |driver: &mut Driver<Played, Room>| {
        let room = buffer(&world);
        driver.write(1, room, 60).unwrap();
        driver.publish();
        world.borrow().kicks
    };
    assert_eq!(send(&mut driver), 0, "it is awake");
    for _ in 0..3 {
        world.borrow_mut().step();
    }
    assert!(world.borrow().asleep);
    assert_eq!(send(&mut driver), 1);
    assert_eq!(send(&mut driver), 1, "it is awake again");
    driver.publish();
    assert_eq!(world.borrow().kicks, 1, "nothing new");
}

#[test]
fn a_tender_that_makes_no_sense_is_noticed() {
    let broken = |spoil: &dyn Fn(&mut World)| {
        let world = Rc::new(RefCell::new(World::new(0, vec![0; 1 << 16])));
        let mut driver = Driver::new(Played(Rc::clone(&world)));
        for _ in 0..3 {
            let (frame, room) = (buffer(&world), buffer(&world));
            driver.write(1, frame, 60).unwrap();
            driver.read(1, room).unwrap();
        }
        driver.publish();
        // Written, but the tender was not told of it.
        driver.write(1, buffer(&world), 60).unwrap();
        spoil(&mut world.borrow_mut());
        let consumed = driver.reclaim(drop).err();
        consumed.or_else(|| driver.answer().err()).map(|broken| broken.to_string())
    };
    assert_eq!(broken(&|_| {}), None);
    assert_eq!(broken(&|world| world.consumed = 6), None);
    assert_eq!(broken(&|world| world.consumed = 7), Some(Broken::Consumed(7).to_string()));
    let back = Broken::Consumed(u32::MAX).to_string();
    assert_eq!(broken(&|world| world.consumed = u32::MAX), Some(back));
    assert_eq!(broken(&|world| world.answered = 4), Some(Broken::Answered(4).to_string()));
    let strange = |world: &mut World| {
        world.answered = 1;
        world.commits[0] = Commit { id: 99, ret: RESULT_INVALID, len: 0, reserved: 0 };
    };
    assert_eq!(broken(&strange), Some(Broken::Answer(99).to_string()));
    // Longer than the room.
    let world = Rc::new(RefCell::new(World::new(0, vec![0; 1 << 16])));
    let mut driver = Driver::new(Played(Rc::clone(&world)));
    driver.read(1, buffer(&world)).unwrap();
    driver.publish();
    world.borrow_mut().answered = 1;
    world.borrow_mut().commits[0] = Commit { id: 0, ret: RESULT_OK, len: u32::MAX, reserved: 0 };
    assert_eq!(driver.answer().unwrap().unwrap().len, ROOM);
}

/// What an old tender leaves where the bit and the address are now.
#[test]
fn both_the_bit_and_the_address_are_asked() {
    let info = |host_features, net_ring| BootInfo { host_features, net_ring, ..Default::default() };
    assert_eq!(offered(&info(FEATURE_RING_IO, 0x200_0000)), Some(0x200_0000));
    assert_eq!(offered(&info(FEATURE_RING_IO, 0)), None);
    assert_eq!(offered(&info(0, 0x200_0000)), None);
}
