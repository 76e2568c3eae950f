//! Which way a call for a block device goes: out of the machine, or by the slot to the tender's thread ([`hvt_abi::slot`]).
//!
//! How long each way takes depends on the machine (leaving one under hardware takes two microseconds, under software fifty),
//! on the disk, and on what else the host's processors do: a thread that gets none is worse than leaving. So the calls are
//! timed, the way that was clearly faster lately is taken, and the other one is tried now and then. Only calls that follow
//! each other closely count: any other leaves the machine, since the tender's thread sleeps then.
//!
//! It must not know how a call is made.

/// A way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// An exit of the machine.
    Exit,
    /// The same, after waking the tender's thread for the next call.
    Wake,
    /// The slot.
    Slot,
}

/// Durations that are remembered of each way.
const SAMPLES: usize = 5;
/// Calls of a trial: [`SAMPLES`] and a few by which the thread gets awake.
const TRIAL: u32 = 9;
/// Calls between trials: at first, and at most. Each trial that changes nothing doubles the distance.
const FIRST_INTERVAL: u32 = 8;
const MOST_INTERVAL: u32 = 1024;
/// The same after calls that were late: what kept them may pass, and a short trial costs little.
const LATE_INTERVAL: u32 = 256;
/// The thread is woken after so many calls that followed each other closely.
const STREAK: u32 = 4;
/// The slot keeps two processors busy, so it must be faster by one part of this many.
const MARGIN: u64 = 16;
/// So many late calls, one after the other, end a trial of the slot, and its use.
const MOST_LATE: u32 = 2;
/// For how long to look for an answer in the slot, at least and at most, in nanoseconds: what takes longer gains little
/// from staying in the machine.
const LEAST_PATIENCE: u64 = 50_000;
const MOST_PATIENCE: u64 = 500_000;

/// The durations of one way in nanoseconds, of which the median counts: a disk is late now and then.
#[derive(Clone, Copy, Debug)]
struct Samples {
    last: [u64; SAMPLES],
    count: usize,
}

impl Samples {
    const fn new() -> Self {
        Self { last: [0; SAMPLES], count: 0 }
    }

    fn add(&mut self, nanoseconds: u64) {
        self.last[self.count % SAMPLES] = nanoseconds;
        // Stays a count of at least SAMPLES once it was one.
        self.count = if self.count + 1 < 2 * SAMPLES { self.count + 1 } else { SAMPLES };
    }

    fn median(&self) -> Option<u64> {
        let mut sorted = self.last;
        let known = &mut sorted[..self.count.min(SAMPLES)];
        known.sort_unstable();
        known.get(known.len() / 2).copied()
    }
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// The usual way, for so many calls.
    Usual(u32),
    /// The other one, for so many calls.
    Trial(u32),
}

/// Chooses the way of each call.
#[derive(Debug)]
pub struct CallWay {
    /// For how long the tender's thread looks for the next call, in nanoseconds; zero without a slot.
    look: u64,
    /// When the last call ended.
    last_end: Option<u64>,
    exit: Samples,
    slot: Samples,
    /// Whether the slot is the usual way.
    by_slot: bool,
    phase: Phase,
    /// Calls from one trial to the next.
    interval: u32,
    /// Calls that were late, one after the other.
    late: u32,
    /// Calls that followed each other closely.
    streak: u32,
}

impl CallWay {
    /// Every call leaves the machine.
    #[must_use]
    pub const fn exit_only() -> Self {
        Self::with_slot(0)
    }

    /// There is a slot, and the thread behind it looks for the next call for so many nanoseconds.
    #[must_use]
    pub const fn with_slot(look: u64) -> Self {
        Self {
            look,
            last_end: None,
            exit: Samples::new(),
            slot: Samples::new(),
            by_slot: false,
            phase: Phase::Usual(FIRST_INTERVAL),
            interval: FIRST_INTERVAL,
            late: 0,
            streak: 0,
        }
    }

    /// The way of a call that is made now; `awake` tells whether the tender's thread looks at the slot at this moment.
    pub fn choose(&mut self, now: u64, awake: impl FnOnce() -> bool) -> Way {
        if !self.follows(now) {
            self.streak = 0;
            return Way::Exit;
        }
        self.streak = self.streak.saturating_add(1);
        let by_slot = match self.phase {
            Phase::Usual(0) => {
                self.phase = Phase::Trial(TRIAL - 1);
                // What was true at the last trial says nothing now.
                *self.samples(!self.by_slot) = Samples::new();
                !self.by_slot
            }
            Phase::Usual(left) => {
                self.phase = Phase::Usual(left - 1);
                self.by_slot
            }
            Phase::Trial(left) => {
                self.phase = Phase::Trial(left.saturating_sub(1));
                !self.by_slot
            }
        };
        if !by_slot {
            Way::Exit
        } else if awake() {
            Way::Slot
        } else if self.streak >= STREAK {
            Way::Wake
        } else {
            Way::Exit
        }
    }

    /// For how long to look for the answer to a call in the slot, in nanoseconds.
    #[must_use]
    pub fn patience(&self) -> u64 {
        let most = self.exit.median().map_or(MOST_PATIENCE, |exit| exit.saturating_mul(3));
        most.clamp(LEAST_PATIENCE, MOST_PATIENCE)
    }

    /// A call that [`CallWay::choose`] has sent this way ended. `late`: the patience was over, and it left the machine in
    /// the end.
    pub fn ended(&mut self, way: Way, start: u64, end: u64, late: bool) {
        if self.look == 0 {
            return;
        }
        let follows = self.follows(start);
        self.last_end = Some(end);
        if !follows {
            return;
        }
        if way != Way::Wake {
            self.samples(way == Way::Slot).add(end.saturating_sub(start));
        }
        if way == Way::Slot {
            self.late = if late { self.late + 1 } else { 0 };
        }
        if self.late >= MOST_LATE {
            self.settle(false, LATE_INTERVAL);
        } else if matches!(self.phase, Phase::Trial(0)) {
            let (slot, exit) = (self.slot.median(), self.exit.median());
            let faster = slot.zip(exit).is_some_and(|(slot, exit)| slot + slot / MARGIN < exit);
            self.settle(faster, MOST_INTERVAL);
        }
    }

    fn samples(&mut self, slot: bool) -> &mut Samples {
        if slot { &mut self.slot } else { &mut self.exit }
    }

    fn follows(&self, now: u64) -> bool {
        self.last_end.is_some_and(|end| now.saturating_sub(end) < self.look)
    }

    /// Takes this way until the next trial.
    fn settle(&mut self, by_slot: bool, most: u32) {
        let next = if by_slot == self.by_slot { 2 * self.interval } else { FIRST_INTERVAL };
        self.interval = next.min(most);
        self.by_slot = by_slot;
        self.phase = Phase::Usual(self.interval);
        self.late = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK: u64 = 200_000;

    /// A machine and its host.
    struct Play {
        way: CallWay,
        now: u64,
        awake_until: u64,
        calls: u32,
        by_slot: u32,
        wakes: u32,
    }

    impl Play {
        fn new(way: CallWay) -> Self {
            Self { way, now: 0, awake_until: 0, calls: 0, by_slot: 0, wakes: 0 }
        }

        /// Makes calls that follow each other by `gap`; how many of them went by the slot. `cost` is that of a call, by
        /// way and number.
        fn calls(&mut self, count: u32, gap: u64, cost: impl Fn(Way, u32) -> u64) -> u32 {
            let before = self.by_slot;
            for _ in 0..count {
                self.now += gap;
                let start = self.now;
                let way = self.way.choose(start, || start < self.awake_until);
                let patience = self.way.patience();
                let cost = cost(way, self.calls);
                self.now += cost;
                self.calls += 1;
                self.by_slot += u32::from(way == Way::Slot);
                self.wakes += u32::from(way == Way::Wake);
                if way != Way::Exit {
                    self.awake_until = self.now + LOOK;
                }
                self.way.ended(way, start, self.now, way == Way::Slot && cost > patience);
            }
            self.by_slot - before
        }
    }

    fn dear(way: Way, call: u32) -> u64 {
        let late = if call.is_multiple_of(7) { 4_000_000 } else { 0 };
        late + if way == Way::Slot { 105_000 } else { 150_000 }
    }

    #[test]
    fn the_slot_is_taken_where_leaving_is_dear_and_given_up_when_it_is_not() {
        let mut play = Play::new(CallWay::with_slot(LOOK));
        assert!(play.calls(1000, 50_000, dear) > 800);
        // The thread gets no processor any more.
        let busy = |way, _| if way == Way::Slot { 2_000_000 } else { 150_000 };
        play.calls(100, 50_000, busy);
        let by_slot = play.calls(5000, 50_000, busy);
        assert!(by_slot < 60, "{by_slot}");
        // And again it does.
        play.calls(2000, 50_000, dear);
        assert!(play.calls(1000, 50_000, dear) > 800);
    }

    #[test]
    fn it_is_not_taken_where_it_is_hardly_faster() {
        let mut play = Play::new(CallWay::with_slot(LOOK));
        let hardly = |way, _| if way == Way::Slot { 100_000 } else { 102_000 };
        let by_slot = play.calls(10_000, 50_000, hardly);
        assert!(by_slot < 200, "{by_slot} trials");
    }

    #[test]
    fn a_thread_that_never_gets_awake_is_asked_less_and_less() {
        let mut way = CallWay::with_slot(LOOK);
        let (mut now, mut wakes) = (0, 0);
        for _ in 0..10_000 {
            let chosen = way.choose(now, || false);
            assert_ne!(chosen, Way::Slot);
            wakes += u32::from(chosen == Way::Wake);
            way.ended(chosen, now, now + 150_000, false);
            now += 200_000;
        }
        assert!((1..200).contains(&wakes), "{wakes}");
    }

    #[test]
    fn calls_far_apart_in_short_rows_and_without_a_slot_leave_the_machine_and_wake_nobody() {
        let mut play = Play::new(CallWay::with_slot(LOOK));
        assert_eq!(play.calls(1000, LOOK, dear), 0);
        let mut none = Play::new(CallWay::exit_only());
        assert_eq!(none.calls(1000, 1, dear), 0);
        assert_eq!(play.wakes + none.wakes, 0);
        // Where the slot is the usual way, a short row is still not worth it.
        play.calls(1000, 50_000, dear);
        let wakes = play.wakes;
        for _ in 0..100 {
            play.calls(1, 10 * LOOK, dear);
            play.calls(2, 50_000, dear);
        }
        assert_eq!(play.wakes, wakes);
    }
}
