//! Waiting for the devices, a request of the host, or the end of a time.

use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use hvt_abi::extension::POLL_SHUTDOWN;

use crate::device::Devices;
use crate::shutdown::{self, Shutdown};

/// What a guest waits for: bits `1 << handle`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// Devices with a frame to read.
    pub(super) readable: u64,
    /// Devices that take frames.
    pub(super) writable: u64,
}

/// The shortest look that is worth it.
const LOOK_LEAST: Duration = Duration::from_micros(10);

/// How long to look again and again before sleeping. Falling asleep and being woken takes longer than most answers of a
/// neighbour on the same host; a look in vain costs the processor. So looks grow while waits end within the most that a
/// look may take, and stop after a wait that took longer: an idle guest costs nothing.
#[derive(Debug)]
struct Look {
    most: Duration,
    length: Duration,
}

impl Look {
    fn learn(&mut self, waited: Duration) {
        if waited > self.most {
            self.length = Duration::ZERO;
        } else if waited > self.length {
            self.length = (2 * self.length).max(LOOK_LEAST).min(self.most);
        }
    }
}

/// One entry for each network device, by `handles`, and one for the host's event at the end.
#[derive(Debug)]
pub(super) struct Waiter {
    handles: Vec<usize>,
    set: Vec<libc::pollfd>,
    look: Look,
}

impl Waiter {
    pub(super) fn new(devices: &Devices, requests: &Shutdown) -> Self {
        let watch = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let handles = devices.nets().map(|(handle, _)| handle).collect();
        let mut set: Vec<_> =
            devices.nets().map(|(_, net)| watch(net.as_fd().as_raw_fd())).collect();
        set.push(watch(requests.as_fd().as_raw_fd()));
        let look = Look { most: Duration::ZERO, length: Duration::ZERO };
        Self { handles, set, look }
    }

    /// Looks for at most so long before sleeping.
    pub(super) fn look_for(&mut self, most: Duration) {
        self.look = Look { most, length: Duration::ZERO };
    }

    /// Waits; the answer has a bit for each readable device that is wanted, and [`POLL_SHUTDOWN`] when the guest is to be
    /// told (`tells`) of a request. It is empty after the time, when a device has become writable, and when the machine's
    /// loop has something to look at.
    pub(super) fn wait(
        &mut self,
        devices: &Devices,
        requests: &mut Shutdown,
        wanted: Wanted,
        timeout: Duration,
        tells: bool,
    ) -> u64 {
        let start = Instant::now();
        loop {
            let mut ready = self.prepare(devices, wanted);
            let left = match ready {
                0 => timeout.saturating_sub(start.elapsed()),
                _ => Duration::ZERO,
            };
            let events = self.poll(left);
            let (found, writable) = self.evaluate(devices, wanted);
            ready |= found;
            if self.set.last().is_some_and(|event| event.revents != 0) {
                requests.acknowledge();
            }
            if tells && requests.take() {
                ready |= POLL_SHUTDOWN;
            }
            let end = Shutdown::must_end(tells).is_some()
                || shutdown::is_interrupted()
                || shutdown::are_counters_wanted();
            if ready != 0 || writable || end || events == 0 && start.elapsed() >= timeout {
                return ready;
            }
        }
    }

    /// Waits for events, awake at first.
    fn poll(&mut self, timeout: Duration) -> i32 {
        if timeout.is_zero() || self.look.most.is_zero() {
            return ppoll(&mut self.set, timeout);
        }
        let start = Instant::now();
        let awake = self.look.length.min(timeout);
        let mut events = 0;
        while events == 0 && start.elapsed() < awake {
            events = ppoll(&mut self.set, Duration::ZERO);
        }
        if events == 0 {
            events = ppoll(&mut self.set, timeout.saturating_sub(start.elapsed()));
        }
        self.look.learn(start.elapsed());
        events
    }

    /// Says what to wait for. The answer has a bit for each device whose frame is here already.
    fn prepare(&mut self, devices: &Devices, wanted: Wanted) -> u64 {
        let mut here = 0;
        for (slot, handle) in self.set.iter_mut().zip(&self.handles) {
            let Some(net) = devices.net(*handle as u64) else { continue };
            let bit = 1 << handle;
            slot.events = 0;
            if wanted.readable & bit != 0 {
                slot.events |= libc::POLLIN;
                here |= if net.has_frame() { bit } else { 0 };
            }
            if wanted.writable & bit != 0 || net.has_unsent() {
                slot.events |= libc::POLLOUT;
            }
            // The kernel skips an entry whose descriptor is negative.
            let idle = slot.events == 0 || net.is_gone();
            slot.fd = if idle { -1 } else { net.as_fd().as_raw_fd() };
        }
        here
    }

    /// What the poll found: readable devices, and whether one that is wanted takes frames.
    fn evaluate(&self, devices: &Devices, wanted: Wanted) -> (u64, bool) {
        let (mut readable, mut writable) = (0, false);
        for (slot, handle) in self.set.iter().zip(&self.handles) {
            let Some(net) = devices.net(*handle as u64).filter(|_| slot.revents != 0) else {
                continue;
            };
            let bit = 1 << handle;
            if slot.revents & libc::POLLOUT != 0 {
                net.flush();
                writable |= wanted.writable & bit != 0;
            }
            if slot.revents & libc::POLLIN != 0 {
                readable |= if net.has_frame_to_read() { bit } else { 0 };
            } else if slot.revents & !libc::POLLOUT != 0 {
                net.mark_gone();
            }
        }
        (readable, writable)
    }
}

/// How many entries have something; zero after the time, and also after a signal.
fn ppoll(set: &mut [libc::pollfd], timeout: Duration) -> i32 {
    let time = libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    for slot in set.iter_mut() {
        slot.revents = 0;
    }
    let len = set.len() as libc::nfds_t;
    // SAFETY: the pointer and the length are those of one slice that is borrowed for the call; the time lives as long.
    unsafe { libc::ppoll(set.as_mut_ptr(), len, &raw const time, std::ptr::null()) }.max(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_grow_while_they_pay_and_end_with_a_long_wait() {
        let micros = Duration::from_micros;
        let mut look = Look { most: micros(50), length: Duration::ZERO };
        let mut lengths = Vec::new();
        for waited in [30, 30, 30, 45, 45, 45, 51, 51, 8] {
            look.learn(micros(waited));
            lengths.push(look.length.as_micros());
        }
        assert_eq!(lengths, [10, 20, 40, 50, 50, 50, 0, 0, 10]);
        let mut off = Look { most: Duration::ZERO, length: Duration::ZERO };
        off.learn(micros(1));
        assert!(off.length.is_zero());
    }
}
