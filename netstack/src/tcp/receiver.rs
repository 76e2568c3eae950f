//! The receiving half: the order of data, the window that is offered, and how it grows.

use core::time::Duration;

use super::queue::Queue;
use super::reassembly::{Islands, Kept, Range};
use super::sequence::{Numbers, Position, START, length};

/// The window before the application has shown that it reads: as large as a SYN can say.
const LIMIT_INITIAL: usize = 65_535;
/// How long a round trip is taken to be while it is unknown.
const TRIP_UNKNOWN: Duration = Duration::from_millis(50);

/// What became of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It continued the stream; with `gap`, others lie ahead or were reached.
    InOrder { gap: bool },
    /// It lies ahead of a gap, was known already, or there was no room: the peer must hear of it
    /// at once (RFC 5681 §4.2).
    OutOfOrder,
}

/// The receiving half of a connection.
#[derive(Debug)]
pub(crate) struct Receiver {
    pub(crate) numbers: Numbers,
    /// The next position expected.
    pub(crate) next: Position,
    /// The last position acknowledged to the peer.
    pub(crate) acknowledged: Position,
    /// A duplicate to report (RFC 2883).
    pub(crate) duplicate: Option<Range>,
    /// The shift of the window field.
    pub(crate) scale: u8,
    /// What arrives is acknowledged and thrown away.
    discard: bool,
    queue: Queue,
    islands: Islands,
    fin: Option<Position>,
    /// The end of the window, as the peer knows it. It never retreats (RFC 9293 §3.8.6).
    right: Position,
    /// The buffer that is offered, and how large it may grow.
    limit: usize,
    most: usize,
    /// The segment size offered, and the largest segment seen.
    offered_segment: usize,
    segment: usize,
    tuned_at: Duration,
    tuned_from: Position,
}

impl Receiver {
    /// A receiver that offers at most `most` octets, in segments of `segment`.
    pub(crate) fn new(most: usize, segment: usize) -> Self {
        let first = START + 1;
        let limit = most.min(LIMIT_INITIAL);
        Self {
            numbers: Numbers { initial: 0 },
            next: first,
            acknowledged: first,
            duplicate: None,
            scale: scale_for(most),
            discard: false,
            queue: Queue::new(first),
            islands: Islands::default(),
            fin: None,
            right: first + limit as u64,
            limit,
            most,
            offered_segment: segment,
            segment: segment.min(536),
            tuned_at: Duration::ZERO,
            tuned_from: first,
        }
    }

    /// The peer's SYN came; without `scaled` the window cannot be larger than its field.
    pub(crate) fn open(&mut self, initial: u32, scaled: bool, now: Duration) {
        self.numbers = Numbers { initial };
        self.tuned_at = now;
        if !scaled {
            self.scale = 0;
            self.most = self.most.min(LIMIT_INITIAL);
        }
    }

    /// Octets that the application can read.
    pub(crate) fn readable(&self) -> usize {
        self.queue.len()
    }

    /// Whether the peer's FIN and all before it arrived.
    pub(crate) fn ended(&self) -> bool {
        self.fin.is_some_and(|fin| self.next > fin)
    }

    /// The end of the window.
    pub(crate) fn right(&self) -> Position {
        self.right
    }

    /// How many octets may arrive before they are acknowledged at once: two segments (RFC 5681
    /// §4.2), and no more than half of what the window could ever be.
    pub(crate) fn patience(&self) -> u64 {
        (2 * self.segment as u64).min(self.limit as u64 / 2)
    }

    /// Memory in octets.
    pub(crate) fn held(&self) -> usize {
        self.queue.held() + self.islands.held()
    }

    /// Ahead of gaps: what a selective acknowledgement reports.
    pub(crate) fn blocks(&self) -> [Option<Range>; 3] {
        if self.duplicate.is_none() && self.islands.is_empty() {
            return [None; 3];
        }
        self.islands.blocks(self.duplicate)
    }

    /// Reads no more.
    pub(crate) fn discard(&mut self) {
        self.discard = true;
        self.queue.release(self.queue.end());
    }

    /// Takes data and the FIN after it, of which no part lies beyond the window. At most `room`
    /// octets are kept.
    pub(crate) fn take(
        &mut self,
        mut start: Position,
        mut data: &[u8],
        mut fin: bool,
        room: usize,
    ) -> Taken {
        self.segment = self.segment.max(data.len().min(self.offered_segment));
        // Nothing follows the end of a stream, and nothing passes the window.
        let until = self.fin.unwrap_or(Position::MAX).min(self.right);
        let end = start + data.len() as u64;
        if end > until {
            data = &data[..data.len().saturating_sub(length(end - until))];
            fin = false;
        }
        if start < self.next {
            let known = data.len().min(length(self.next - start));
            if known > 0 {
                self.duplicate = Some((start, start + known as u64));
            }
            data = &data[known..];
            start = self.next.min(start + known as u64);
        }
        let end = start + data.len() as u64;
        if fin && self.fin.is_none() && end >= self.next {
            self.fin = Some(end);
        }
        if end < self.next || (data.is_empty() && self.fin != Some(self.next)) {
            return Taken::OutOfOrder;
        }
        if start > self.next {
            if room < data.len() {
                // Memory is short: what is ahead of gaps can be asked for again (RFC 2018 §8).
                self.islands.clear();
            } else if let Kept::Yes { duplicate: Some(range) } = self.islands.insert(start, data) {
                self.duplicate = Some(range);
            }
            return Taken::OutOfOrder;
        }
        if room < data.len() {
            return Taken::OutOfOrder;
        }
        let gap = !self.islands.is_empty();
        self.append(data);
        while let Some(octets) = self.islands.follow(self.next) {
            self.append(&octets);
        }
        if self.fin == Some(self.next) {
            self.next += 1;
            self.islands.clear();
        }
        Taken::InOrder { gap }
    }

    fn append(&mut self, data: &[u8]) {
        self.next += data.len() as u64;
        if self.discard {
            self.queue.skip_to(self.next);
        } else {
            self.queue.push(data);
        }
    }

    /// Copies octets for the application, from the oldest on.
    pub(crate) fn peek(&self, target: &mut [u8]) -> usize {
        self.queue.copy(self.queue.start(), target)
    }

    /// Gives octets to the application. The buffer that is offered grows to several times what is
    /// read in a round trip, as long as that `may_grow`.
    pub(crate) fn read(
        &mut self,
        target: &mut [u8],
        trip: Option<Duration>,
        may_grow: bool,
        now: Duration,
    ) -> usize {
        let count = self.peek(target);
        self.queue.release(self.queue.start() + count as u64);
        if now >= self.tuned_at + trip.unwrap_or(TRIP_UNKNOWN) {
            // The sender may double its flight per round trip, and the window has to be ahead of it.
            let wanted = length((self.queue.start() - self.tuned_from).saturating_mul(4));
            if may_grow && wanted > self.limit {
                self.limit = wanted.min(self.most);
            }
            (self.tuned_at, self.tuned_from) = (now, self.queue.start());
        }
        count
    }

    /// Whether the window has grown so much since the peer heard of it that it should be told: it
    /// has at least doubled, and by a segment (RFC 9293 §3.8.6.2.2).
    pub(crate) fn update_due(&self) -> bool {
        let told = self.right.saturating_sub(self.next);
        let free = self.free();
        !self.ended() && free / 2 >= told && self.worthwhile(free - told.min(free))
    }

    /// The window field of a segment that is sent now.
    pub(crate) fn offer(&mut self) -> u16 {
        let told = self.right.saturating_sub(self.next);
        let free = self.free();
        let window = if free > told && self.worthwhile(free - told) { free } else { told };
        let mut field = window >> self.scale;
        if field << self.scale < told {
            field += 1;
        }
        let field = u16::try_from(field).unwrap_or(u16::MAX);
        self.right = self.right.max(self.next + (u64::from(field) << self.scale));
        self.acknowledged = self.next;
        self.duplicate = None;
        field
    }

    /// The window field of a SYN, which has no shift.
    pub(crate) fn offer_unscaled(&mut self) -> u16 {
        self.acknowledged = self.next;
        u16::try_from(self.limit).unwrap_or(u16::MAX)
    }

    fn free(&self) -> u64 {
        self.limit.saturating_sub(self.queue.len()) as u64
    }

    /// Whether the window should be said to have grown by this much: by what a segment fills, and
    /// by what its field can say.
    fn worthwhile(&self, growth: u64) -> bool {
        growth >= (self.offered_segment as u64).min(self.limit as u64 / 2).max(1 << self.scale)
    }
}

/// The shift of the window field with which a window of this size can be said (RFC 7323 §2.2).
pub(crate) fn scale_for(window: usize) -> u8 {
    (0..14).find(|&shift| window >> shift <= LIMIT_INITIAL).unwrap_or(14)
}

/// The window field of a SYN that offers a buffer of at most `most`.
pub(crate) fn first_window(most: usize) -> u16 {
    u16::try_from(most).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Position = START + 1;

    #[test]
    fn the_window_never_retreats_and_moves_in_good_steps() {
        let mut receiver = Receiver::new(1 << 20, 1000);
        assert_eq!(receiver.scale, 5);
        let right = receiver.right();
        assert_eq!(receiver.take(FIRST, &[1; 1000], false, 1 << 20), Taken::InOrder { gap: false });
        assert_eq!(receiver.offer(), 64_535u16.div_ceil(32), "rounded up, not down");
        assert!(receiver.right() >= right);
        let mut buffer = [0; 900];
        receiver.read(&mut buffer, None, true, Duration::ZERO);
        assert!(!receiver.update_due());
        let before = receiver.right();
        receiver.offer();
        assert_eq!(receiver.right(), before, "900 octets are not worth it");
        let mut next = FIRST + 1000;
        while next < receiver.right() {
            let count = (receiver.right() - next).min(1000);
            receiver.take(next, &vec![2; length(count)], false, 1 << 20);
            next += count;
        }
        assert_eq!(receiver.offer(), 0);
        let mut buffer = vec![0; 40_000];
        receiver.read(&mut buffer, None, true, Duration::ZERO);
        assert!(receiver.update_due());
        assert!(receiver.offer() > 30_000 / 32);
        assert!(!receiver.update_due());
    }

    /// A field whose unit is larger than a segment: an update that could not be said is not sent.
    #[test]
    fn updates_end_whatever_the_shift() {
        for most in [1, 3, 2000, 65_535, 1 << 20, 64 << 20, 1 << 30] {
            let mut receiver = Receiver::new(most, 1000);
            let mut buffer = vec![0; 700];
            for _ in 0..500 {
                let count = (receiver.right() - receiver.next).min(1000);
                receiver.take(receiver.next, &vec![2; length(count)], false, 1 << 30);
                receiver.read(&mut buffer, None, true, Duration::ZERO);
                if receiver.update_due() {
                    let before = receiver.right();
                    receiver.offer();
                    assert!(receiver.right() > before, "{most}");
                    assert!(!receiver.update_due(), "{most}");
                }
            }
        }
    }

    #[test]
    fn a_reader_that_keeps_up_is_offered_more() {
        let mut receiver = Receiver::new(1 << 20, 1000);
        let mut now = Duration::ZERO;
        let mut buffer = vec![0; 1 << 20];
        for _ in 0..10 {
            while receiver.next < receiver.right() {
                let count = length(receiver.right() - receiver.next);
                receiver.take(receiver.next, &vec![3; count], false, 1 << 30);
            }
            now += Duration::from_millis(100);
            receiver.read(&mut buffer, Some(Duration::from_millis(100)), true, now);
            receiver.offer();
        }
        assert!(receiver.right() - receiver.next > 1_000_000);
        assert_eq!(receiver.held(), 0);
    }

    #[test]
    fn the_end_comes_after_all_data_whatever_the_order() {
        let mut receiver = Receiver::new(1 << 16, 1000);
        assert_eq!(receiver.take(FIRST + 3, b"def", true, 99), Taken::OutOfOrder);
        assert!(!receiver.ended());
        assert_eq!(receiver.take(FIRST + 9, b"beyond", false, 99), Taken::OutOfOrder);
        assert_eq!(receiver.take(FIRST, b"abc", false, 99), Taken::InOrder { gap: true });
        assert!(receiver.ended());
        let mut buffer = [0; 9];
        assert_eq!(receiver.peek(&mut buffer), 6);
        assert_eq!(&buffer[..6], b"abcdef");
        assert_eq!(receiver.next, FIRST + 7);
        assert_eq!(receiver.take(FIRST + 3, b"def", true, 99), Taken::OutOfOrder, "once more");
    }
}
