//! What was sent and is not acknowledged: when each stretch was sent last, and whether it arrived,
//! is lost, or is still on its way (RFC 6675 §3, with the times that RFC 8985 needs).

use alloc::collections::VecDeque;
use core::time::Duration;

use super::sequence::Position;

/// A stretch that was sent in one go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) start: Position,
    pub(crate) end: Position,
    /// When it was sent last.
    pub(crate) sent_at: Duration,
    /// It was sent more than once.
    pub(crate) again: bool,
    /// The peer has it, ahead of a gap.
    pub(crate) sacked: bool,
    /// It is believed lost and was not sent since.
    pub(crate) lost: bool,
}

impl Record {
    fn octets(&self) -> u64 {
        self.end - self.start
    }

    /// Whether it was sent before another: by time, then by place (RFC 8985 §6.2 step 2).
    pub(crate) fn sent_before(&self, (at, end): (Duration, Position)) -> bool {
        (self.sent_at, self.end) < (at, end)
    }
}

/// All stretches between the oldest unacknowledged octet and the newest sent one, without gaps.
#[derive(Debug, Default)]
pub(crate) struct Scoreboard {
    records: VecDeque<Record>,
    in_flight: u64,
    lost: u64,
    sacked: u64,
    /// No record before this position is lost.
    lost_from: Position,
}

impl Scoreboard {
    /// Octets that are believed to be on their way ("pipe").
    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// Octets to be sent again.
    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }

    /// Octets that the peer has ahead of a gap.
    pub(crate) fn sacked(&self) -> u64 {
        self.sacked
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Memory in octets.
    pub(crate) fn held(&self) -> usize {
        self.records.capacity() * size_of::<Record>()
    }

    /// Notes data that is sent for the first time.
    pub(crate) fn sent(&mut self, start: Position, end: Position, now: Duration) {
        let record = Record { start, end, sent_at: now, again: false, sacked: false, lost: false };
        self.in_flight += record.octets();
        self.records.push_back(record);
    }

    /// Notes that data is sent again. It lies within one record.
    pub(crate) fn sent_again(&mut self, start: Position, end: Position, now: Duration) {
        let index = self.split(start);
        self.split(end);
        if let Some(mut record) = self.records.get(index).copied() {
            self.forget(&record);
            (record.sent_at, record.again, record.lost) = (now, true, false);
            self.count(&record);
            self.records[index] = record;
        }
    }

    /// Takes a cumulative acknowledgement; `delivered` sees each record that was not known to have
    /// arrived.
    pub(crate) fn acknowledge(&mut self, to: Position, mut delivered: impl FnMut(&Record)) {
        self.split(to);
        while let Some(&record) = self.records.front()
            && record.end <= to
        {
            self.records.pop_front();
            self.forget(&record);
            if !record.sacked {
                delivered(&record);
            }
        }
        if self.records.is_empty() {
            self.records = VecDeque::new();
        }
    }

    /// Takes a selective acknowledgement.
    pub(crate) fn sack(
        &mut self,
        (from, to): (Position, Position),
        mut delivered: impl FnMut(&Record),
    ) {
        let mut index = self.split(from);
        self.split(to);
        while let Some(mut record) = self.records.get(index).copied()
            && record.end <= to
        {
            if !record.sacked {
                delivered(&record);
                self.forget(&record);
                (record.sacked, record.lost) = (true, false);
                self.count(&record);
                self.records[index] = record;
            }
            index += 1;
        }
    }

    /// Marks as lost what `judge` says of the records on their way; true if there was any.
    pub(crate) fn lose(&mut self, mut judge: impl FnMut(&Record) -> bool) -> bool {
        let mut any = false;
        for index in 0..self.records.len() {
            let mut record = self.records[index];
            if record.sacked || record.lost || !judge(&record) {
                continue;
            }
            any = true;
            self.forget(&record);
            record.lost = true;
            self.count(&record);
            self.records[index] = record;
        }
        any
    }

    /// Marks the first octets as lost, at most `most`.
    pub(crate) fn lose_first(&mut self, most: u64) {
        let Some(first) = self.records.front().copied() else { return };
        let end = first.end.min(first.start + most);
        self.split(end);
        self.lose(|record| record.end <= end);
    }

    /// After a timeout: the peer may have thrown away what it acknowledged selectively if it did so
    /// with the very first octets (RFC 2018 §8).
    pub(crate) fn lose_all(&mut self) {
        if self.records.front().is_some_and(|first| first.sacked) {
            for record in &mut self.records {
                record.sacked = false;
            }
            self.in_flight += self.sacked;
            self.sacked = 0;
        }
        self.lose(|_| true);
    }

    /// Takes back that anything is lost.
    pub(crate) fn find_lost(&mut self) {
        for record in &mut self.records {
            record.lost = false;
        }
        self.in_flight += self.lost;
        self.lost = 0;
    }

    /// The first stretch to be sent again.
    pub(crate) fn first_lost(&mut self) -> Option<(Position, Position)> {
        if self.lost == 0 {
            return None;
        }
        let from = self.records.partition_point(|record| record.end <= self.lost_from);
        let found = self.records.range(from..).find(|record| record.lost)?;
        self.lost_from = found.start;
        Some((found.start, found.end))
    }

    /// The newest stretch.
    pub(crate) fn last(&self) -> Option<&Record> {
        self.records.back()
    }

    /// Splits the record around a position; the index of the record that begins there, or of the
    /// first after it.
    fn split(&mut self, at: Position) -> usize {
        let index = self.records.partition_point(|record| record.end <= at);
        let Some(record) = self.records.get(index).copied().filter(|record| record.start < at)
        else {
            return index;
        };
        self.records[index].start = at;
        self.records.insert(index, Record { end: at, ..record });
        index + 1
    }

    fn count(&mut self, record: &Record) {
        *self.sum_of(record) += record.octets();
        if record.lost {
            self.lost_from = self.lost_from.min(record.start);
        }
    }

    fn forget(&mut self, record: &Record) {
        *self.sum_of(record) -= record.octets();
    }

    fn sum_of(&mut self, record: &Record) -> &mut u64 {
        match (record.sacked, record.lost) {
            (true, _) => &mut self.sacked,
            (_, true) => &mut self.lost,
            _ => &mut self.in_flight,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn at(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn delivered(board: &mut Scoreboard, to: Position) -> Vec<(Position, Position)> {
        let mut seen = Vec::new();
        board.acknowledge(to, |record| seen.push((record.start, record.end)));
        seen
    }

    #[test]
    fn partial_acknowledgements_split_and_nothing_is_delivered_twice() {
        let mut board = Scoreboard::default();
        board.sent(0, 1000, at(1));
        board.sent(1000, 2000, at(2));
        let mut sacked = 0;
        board.sack((500, 1500), |record| sacked += record.octets());
        board.sack((400, 1500), |record| sacked += record.octets());
        assert_eq!((sacked, board.sacked(), board.in_flight()), (1100, 1100, 900));
        assert_eq!(delivered(&mut board, 700), [(0, 400)]);
        assert!(board.lose(|record| record.sent_before((at(9), 0))));
        assert_eq!(board.first_lost(), Some((1500, 2000)));
        board.sent_again(1500, 1600, at(3));
        assert_eq!((board.lost(), board.in_flight()), (400, 100));
        assert_eq!(board.first_lost(), Some((1600, 2000)));
        assert_eq!(delivered(&mut board, 2000), [(1500, 1600), (1600, 2000)]);
        assert_eq!((board.in_flight(), board.lost(), board.sacked()), (0, 0, 0));
        assert_eq!(board.held(), 0);
    }

    #[test]
    fn what_the_peer_threw_away_is_lost_after_a_timeout() {
        let mut board = Scoreboard::default();
        board.sent(0, 10, at(1));
        board.sent(10, 20, at(1));
        board.sack((0, 20), |_| {});
        assert_eq!(board.in_flight(), 0);
        board.lose_all();
        assert_eq!((board.lost(), board.first_lost()), (20, Some((0, 10))));
        board.find_lost();
        assert_eq!((board.lost(), board.in_flight()), (0, 20));
    }

    proptest! {
        #[test]
        fn the_sums_are_those_of_the_records(
            steps in proptest::collection::vec((0u8..6, 0u64..3000, 1u64..2000), 1..100)
        ) {
            let mut board = Scoreboard::default();
            let (mut una, mut next) = (0, 0);
            for (n, (step, from, count)) in steps.into_iter().enumerate() {
                let place = una + from.min(next - una);
                let end = (place + count).min(next);
                match step {
                    0 | 1 => {
                        board.sent(next, next + count, at(n as u64));
                        next += count;
                    }
                    2 => {
                        board.acknowledge(place, |_| {});
                        una = place;
                    }
                    3 if end > place => board.sack((place, end), |_| {}),
                    4 => {
                        board.lose(|record| record.start < place);
                    }
                    _ => {
                        if let Some((start, end)) = board.first_lost() {
                            board.sent_again(start, end.min(start + count), at(n as u64));
                        }
                    }
                }
                let sum = |pick: fn(&Record) -> bool| -> u64 {
                    board.records.iter().filter(|r| pick(r)).map(Record::octets).sum()
                };
                prop_assert_eq!(board.sacked, sum(|r| r.sacked));
                prop_assert_eq!(board.lost, sum(|r| r.lost));
                prop_assert_eq!(board.in_flight, sum(|r| !r.sacked && !r.lost));
                prop_assert_eq!(board.in_flight + board.lost + board.sacked, next - una);
                let lost = board.records.iter().find(|r| r.lost).map(|r| r.start);
                prop_assert_eq!(board.first_lost().map(|(start, _)| start), lost);
            }
        }
    }
}
