//! Two stacks, and a wire of which the input decides what becomes of each frame.

use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use super::{Memory, OWN, PEER};
use crate::{Close, InterfaceConfig, Limits, SocketError, SocketId, Stack};

/// Octets that each side sends.
const LENGTH: usize = 20_000;

struct Side {
    stack: Stack<Memory>,
    device: Memory,
    socket: Option<SocketId>,
    sent: usize,
    read: usize,
    ended: bool,
}

impl Side {
    fn new(number: u8) -> Option<Self> {
        let hardware = if number == 1 { OWN } else { PEER };
        let device = Memory { hardware, ..Memory::default() };
        let limits = Limits { user_timeout: Duration::from_secs(100_000), ..Limits::default() };
        let mut stack = Stack::new(limits, [number; 16]);
        let config =
            InterfaceConfig { addresses: vec![([10, 0, 0, number].into(), 24)], routes: vec![] };
        stack.add_interface(device.clone(), config).ok()?;
        Some(Self { stack, device, socket: None, sent: 0, read: 0, ended: false })
    }

    /// Writes and reads, at most so much at once.
    fn act(&mut self, most: usize) {
        let Some(socket) = self.socket else { return };
        let data: Vec<u8> = (self.sent..LENGTH.min(self.sent + most)).map(octet).collect();
        if !data.is_empty()
            && let Ok(count) = self.stack.send(socket, &data)
        {
            self.sent += count;
            if self.sent == LENGTH {
                assert!(self.stack.shutdown(socket, crate::Shutdown::Write).is_ok());
            }
        }
        let mut buffer = vec![0; most];
        match self.stack.recv(socket, &mut buffer) {
            Ok(0) if most > 0 => self.ended = true,
            Ok(count) => {
                let expected = (self.read..self.read + count).map(octet);
                assert!(expected.eq(buffer[..count].iter().copied()), "other octets arrived");
                self.read += count;
            }
            Err(error) => assert_eq!(error, SocketError::WouldBlock),
        }
    }
}

/// Streams in both directions at once. Two octets of `input` per step: what becomes of the next
/// frame, and how much time passes and how much is read. When the input is used up the wire is
/// perfect; by then, or soon after, exactly what was sent must have arrived, and both must rest.
pub fn streams(input: &[u8]) {
    let (Some(mut a), Some(mut b)) = (Side::new(1), Side::new(2)) else { return };
    let mut now = Duration::from_secs(5);
    let Ok(listener) = b.stack.listen(([10, 0, 0, 2], 80).into(), false, 4) else { return };
    a.socket = a.stack.connect(None, ([10, 0, 0, 2], 80).into(), now).ok();
    let mut wire: Vec<(bool, Vec<u8>)> = Vec::new();
    let mut steps = input.chunks_exact(2);
    for count in 0.. {
        assert!(count < 200_000, "no end: {} of {LENGTH}, {} of {LENGTH}", a.read, b.read);
        let (fate, pace) = steps.next().map_or((0, 255), |step| (step[0], step[1]));
        let most = usize::from(pace >> 4) * 400;
        a.act(most);
        b.act(most);
        b.socket = b.socket.or_else(|| b.stack.accept(listener).ok().map(|(socket, _)| socket));
        for (to_b, side) in [(true, &mut a), (false, &mut b)] {
            side.stack.turn(now);
            while side.stack.next_event().is_some() {}
            wire.extend(side.device.outbox.borrow_mut().drain(..).map(|frame| (to_b, frame)));
        }
        if !wire.is_empty() {
            // The handshake's wire is perfect: a connection that never stood proves nothing.
            let fate = if a.sent == 0 { 0 } else { fate };
            let place = usize::from(fate >> 3) % wire.len().min(8);
            let (to_b, mut frame) = wire.remove(place);
            let target = if to_b { &b } else { &a };
            let last = frame.len() - 1;
            match fate & 7 {
                0..=3 => target.device.inbox.borrow_mut().push_back(frame),
                4 => target.device.inbox.borrow_mut().extend([frame.clone(), frame]),
                // Its lengths tell. (Checksums tell nothing here: a build for fuzzing ignores them.)
                5 => {
                    frame.truncate(usize::from(pace).min(last));
                    target.device.inbox.borrow_mut().push_back(frame);
                }
                6 => wire.push((to_b, frame)),
                _ => {}
            }
            now += Duration::from_millis(u64::from(pace & 15));
            continue;
        }
        if a.ended && b.ended {
            break;
        }
        let due = [a.stack.next_deadline(), b.stack.next_deadline()];
        let next = due.into_iter().flatten().min();
        now = next.map_or(now, |next| next.max(now)) + Duration::from_millis(1);
    }
    assert_eq!((a.read, b.read), (LENGTH, LENGTH));
    for side in [&mut a, &mut b] {
        if let Some(socket) = side.socket.take() {
            assert!(side.stack.close(socket, Close::Graceful).is_ok());
        }
    }
    // What is still to be said is said, and then both rest.
    for _ in 0..10_000 {
        let inboxes = [b.device.clone(), a.device.clone()];
        for (from, to) in [&mut a, &mut b].into_iter().zip(&inboxes) {
            from.stack.turn(now);
            to.inbox.borrow_mut().extend(from.device.outbox.borrow_mut().drain(..));
        }
        if !a.device.inbox.borrow().is_empty() || !b.device.inbox.borrow().is_empty() {
            continue;
        }
        let due = [a.stack.next_deadline(), b.stack.next_deadline()];
        let Some(next) = due.into_iter().flatten().min() else { break };
        now = next.max(now) + Duration::from_millis(1);
    }
    for side in [&mut a, &mut b] {
        assert_eq!(side.stack.census(), Default::default());
        assert_eq!(side.stack.next_deadline(), None);
    }
}

/// The octet at a place of both streams.
fn octet(place: usize) -> u8 {
    u8::try_from((place * 31 + (place >> 8) * 7) & 0xff).unwrap_or(0)
}
