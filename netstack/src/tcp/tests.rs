//! Two engines and the wire between them.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

mod properties;
mod scripts;

use std::collections::BTreeMap;
use std::time::Duration;

use smoltcp::wire::TcpRepr;

use super::*;

/// One side: an engine, its flow, and what it read.
pub(super) struct Side {
    pub(super) tcp: Tcp,
    pub(super) key: FlowKey,
    pub(super) read: Vec<u8>,
    pub(super) super_segment: usize,
}

/// A segment on the wire.
#[derive(Clone)]
pub(super) struct Flying {
    pub(super) header: TcpRepr<'static>,
    pub(super) data: Vec<u8>,
}

/// What the wire does; fractions are of 1,000.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Weather {
    pub(super) loss: u64,
    pub(super) duplication: u64,
    pub(super) reordering: u64,
    pub(super) delay: Duration,
}

pub(super) struct Pair {
    pub(super) sides: [Side; 2],
    pub(super) weather: Weather,
    pub(super) now: Duration,
    flying: BTreeMap<(Duration, u64), (usize, Flying)>,
    count: u64,
    dice: u64,
    steps: u64,
}

pub(super) fn settings() -> Settings {
    Settings {
        receive_buffer: 1 << 20,
        send_buffer: 1 << 20,
        user_timeout: Duration::from_secs(1200),
        link_segment: 1460,
        path_segment: 1460,
        stamp_offset: 77,
    }
}

/// Both sides' numbers begin here, close to where they wrap around.
pub(super) const NEAR_WRAP: u32 = u32::MAX - 3000;

impl Pair {
    /// An active side; the passive one comes to be when its SYN arrives, as from a listener.
    pub(super) fn new(seed: u64, weather: Weather, settings: [Settings; 2]) -> Self {
        let flow = |own: u8, peer: u8| FlowKey {
            local: ([10, 0, 0, own], 1000).into(),
            remote: ([10, 0, 0, peer], 1000).into(),
        };
        let side = |tcp, key| Side { tcp, key, read: Vec::new(), super_segment: 0 };
        let now = Duration::from_secs(10);
        let syn = Syn {
            sequence: NEAR_WRAP,
            segment_size: settings[0].link_segment as u16,
            window_scale: Some(scale_for(settings[0].receive_buffer)),
            sack: true,
            window: first_window(settings[0].receive_buffer),
            timestamp: Some(stamp(settings[0].stamp_offset, now)),
        };
        let mut a = Tcp::connect(&settings[0], NEAR_WRAP);
        let b = Tcp::accept(&settings[1], &syn, NEAR_WRAP, Some(weather.delay * 2), now);
        // The SYN is sent, and its answer is what a half-open table would say.
        let key = flow(1, 2);
        a.next_segment(&key, 0, now).unwrap();
        let peer = flow(2, 1);
        let mut answer = bare_segment(
            &peer,
            TcpControl::Syn,
            NEAR_WRAP,
            Some(NEAR_WRAP.wrapping_add(1)),
            first_window(settings[1].receive_buffer),
        );
        answer.max_seg_size = Some(settings[1].link_segment as u16);
        answer.window_scale = Some(scale_for(settings[1].receive_buffer));
        answer.sack_permitted = true;
        let tsval = stamp(settings[1].stamp_offset, now);
        answer.timestamp = Some(smoltcp::wire::TcpTimestampRepr { tsval, tsecr: 0 });
        a.receive(&answer, 1 << 30, now + weather.delay).unwrap();
        Self {
            sides: [side(a, key), side(b, peer)],
            weather,
            now: now + weather.delay,
            flying: BTreeMap::new(),
            count: 0,
            dice: seed | 1,
            steps: 0,
        }
    }

    pub(super) fn calm() -> Self {
        let weather = Weather { delay: Duration::from_millis(10), ..Weather::default() };
        Self::new(1, weather, [settings(); 2])
    }

    fn roll(&mut self, sides: u64) -> u64 {
        self.dice ^= self.dice >> 12;
        self.dice ^= self.dice << 25;
        self.dice ^= self.dice >> 27;
        (self.dice.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % sides
    }

    /// Both sides send what they have.
    pub(super) fn send(&mut self) {
        for index in 0..2 {
            let side = &mut self.sides[index];
            side.tcp.on_time(self.now);
            let mut segments = Vec::new();
            while let Some(segment) = side.tcp.next_segment(&side.key, side.super_segment, self.now)
            {
                let mut data = vec![0; segment.octets];
                side.tcp.copy_data(&segment, &mut data);
                assert!(segments.len() < 100_000, "no end of segments");
                segments.extend(cut(&segment, &data));
            }
            for segment in segments {
                self.fly(1 - index, segment);
            }
        }
    }

    fn fly(&mut self, to: usize, segment: Flying) {
        let weather = self.weather;
        if self.roll(1000) < weather.loss {
            return;
        }
        let copies = if self.roll(1000) < weather.duplication { 2 } else { 1 };
        for _ in 0..copies {
            let mut delay = weather.delay;
            if self.roll(1000) < weather.reordering {
                delay += Duration::from_micros(self.roll(4000));
            }
            self.count += 1;
            self.flying.insert((self.now + delay, self.count), (to, segment.clone()));
        }
    }

    /// Lets the next thing happen; false if nothing ever will.
    pub(super) fn step(&mut self) -> bool {
        self.steps += 1;
        assert!(
            self.steps < 3_000_000,
            "no end at {:?}: {:?}",
            self.now,
            self.sides.each_ref().map(|s| &s.tcp)
        );
        self.send();
        let landing = self.flying.keys().next().map(|(at, _)| *at);
        let due = [landing, self.sides[0].tcp.deadline(), self.sides[1].tcp.deadline()];
        let Some(next) = due.into_iter().flatten().min() else { return false };
        self.now = self.now.max(next);
        while let Some(entry) = self.flying.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let (to, segment) = entry.remove();
            let header = TcpRepr { payload: &segment.data, ..segment.header };
            let side = &mut self.sides[to];
            if side.tcp.state() == State::TimeWait {
                // As the stub that the stack keeps does.
                let header = side.tcp.challenge(&side.key, self.now);
                self.fly(1 - to, Flying { header, data: Vec::new() });
                continue;
            }
            // What does not fit is refused, as late duplicates are.
            let _ = side.tcp.receive(&header, 1 << 30, self.now);
        }
        true
    }

    /// Reads all that a side can read.
    pub(super) fn read(&mut self, index: usize, most: usize) {
        let side = &mut self.sides[index];
        let mut buffer = vec![0; most.min(side.tcp.readable())];
        let count = side.tcp.read(&mut buffer, true, self.now);
        side.read.extend_from_slice(&buffer[..count]);
    }

    /// Runs until nothing more happens within `span`.
    pub(super) fn run(&mut self, span: Duration) {
        let end = self.now + span;
        while self.step() && self.now < end {}
    }

    /// Moves octets both ways at once and ends; panics unless all arrive.
    pub(super) fn exchange(&mut self, lengths: [usize; 2], read_at_once: usize) -> Duration {
        let start = self.now;
        let data = [0, 1].map(|side| stream(side, lengths[side]));
        let mut written = [0, 0];
        let is_over = |side: &Side| matches!(side.tcp.state(), State::Closed | State::TimeWait);
        loop {
            for index in 0..2 {
                let tcp = &mut self.sides[index].tcp;
                written[index] += tcp.write(&data[index][written[index]..], usize::MAX);
                if written[index] == data[index].len() {
                    tcp.close();
                }
                self.read(index, read_at_once);
            }
            let unread = self.sides.iter().any(|side| side.tcp.readable() > 0);
            if self.sides.iter().all(is_over) && !unread {
                break;
            }
            if !self.step() {
                assert!(unread, "stuck: {:?}", self.sides.each_ref().map(|s| &s.tcp));
            }
        }
        for index in 0..2 {
            let side = &mut self.sides[index];
            assert_eq!(side.tcp.take_failure(), None, "{:?}", side.tcp);
            assert!(side.read == data[1 - index], "side {index} read something else");
            assert_eq!(side.tcp.held(), 0);
        }
        self.now - start
    }
}

/// The octets of a side's stream.
pub(super) fn stream(side: usize, length: usize) -> Vec<u8> {
    (0..length).map(|n| ((n * 31 + (n >> 8) * 7 + (n >> 16) * 3) ^ side) as u8).collect()
}

/// What a device makes of a segment that it shall cut.
fn cut(segment: &Outgoing, data: &[u8]) -> Vec<Flying> {
    let size = segment.segment_size.unwrap_or_else(|| data.len().max(1));
    if data.is_empty() {
        return vec![Flying { header: segment.header, data: Vec::new() }];
    }
    let count = data.len().div_ceil(size);
    let pieces = data.chunks(size).enumerate().map(|(index, piece)| {
        let mut header = segment.header;
        header.seq_number += index * size;
        if index + 1 < count {
            header.control = TcpControl::None;
        }
        Flying { header, data: piece.to_vec() }
    });
    pieces.collect()
}
