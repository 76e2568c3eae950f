//! Clocks: the monotonic one is the time stamp counter, the wall clock is that plus an offset which the tender is asked
//! for again every few seconds, so that it does not drift from the host's.

use core::ffi::{c_int, c_long};

use libc::{clockid_t, timespec, timeval};

use crate::files::Errno;

use super::single::Single;
use super::{cpu, error, hypercall, thread};

const SECOND: u64 = 1_000_000_000;

/// How old the offset of the wall clock may be, in nanoseconds.
const WALL_CLOCK_AGE: u64 = 5 * SECOND;

#[derive(Debug)]
struct Clock {
    /// Counter at the start.
    origin: u64,
    /// Nanoseconds per tick, times 2³².
    scale: u64,
    /// Wall clock minus monotonic clock, and when it was asked for.
    offset: u64,
    asked: u64,
}

static CLOCK: Single<Clock> = Single::new(Clock { origin: 0, scale: 0, offset: 0, asked: 0 });

/// Starts the clocks with a counter of `frequency` Hz.
pub(super) fn start(frequency: u64) {
    let origin = cpu::ticks();
    // A frequency of less than 2³² ns/tick, which every processor has, fits.
    let scale = (u128::from(SECOND) << 32) / u128::from(frequency.max(1));
    let scale = u64::try_from(scale).unwrap_or(u64::MAX);
    CLOCK.with(|clock| *clock = Clock { origin, scale, offset: hypercall::walltime(), asked: 0 });
}

/// Nanoseconds since the start.
#[inline]
pub(super) fn now() -> u64 {
    CLOCK.with(|clock| clock.monotonic())
}

/// Nanoseconds since 1970.
pub(super) fn wall() -> u64 {
    CLOCK.with(|clock| {
        let now = clock.monotonic();
        if now - clock.asked > WALL_CLOCK_AGE {
            clock.offset = hypercall::walltime().wrapping_sub(now);
            clock.asked = now;
        }
        now.wrapping_add(clock.offset)
    })
}

impl Clock {
    #[inline]
    fn monotonic(&self) -> u64 {
        let ticks = cpu::ticks().wrapping_sub(self.origin);
        let product = u128::from(ticks) * u128::from(self.scale);
        #[expect(clippy::cast_possible_truncation, reason = "584 years of nanoseconds")]
        let nanoseconds = (product >> 32) as u64;
        nanoseconds
    }
}

/// What a clock shows, in nanoseconds.
fn read(clock: clockid_t) -> Result<u64, Errno> {
    match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE => Ok(wall()),
        libc::CLOCK_MONOTONIC
        | libc::CLOCK_MONOTONIC_RAW
        | libc::CLOCK_MONOTONIC_COARSE
        | libc::CLOCK_BOOTTIME
        | libc::CLOCK_PROCESS_CPUTIME_ID
        | libc::CLOCK_THREAD_CPUTIME_ID => Ok(now()),
        _ => Err(Errno::INVALID),
    }
}

/// The nanoseconds of a C time; an error for a negative or unnormalised one.
pub(super) fn nanoseconds(time: &timespec) -> Result<u64, Errno> {
    let seconds = u64::try_from(time.tv_sec).map_err(|_| Errno::INVALID)?;
    let rest = u64::try_from(time.tv_nsec).map_err(|_| Errno::INVALID)?;
    if rest >= SECOND {
        return Err(Errno::INVALID);
    }
    Ok(seconds.saturating_mul(SECOND).saturating_add(rest))
}

fn to_timespec(nanoseconds: u64) -> timespec {
    let part = |value: u64| c_long::try_from(value).unwrap_or(c_long::MAX);
    timespec { tv_sec: part(nanoseconds / SECOND), tv_nsec: part(nanoseconds % SECOND) }
}

/// The moment of the monotonic clock that a deadline on `clock` means.
pub(super) fn deadline(clock: clockid_t, at: u64) -> Result<u64, Errno> {
    Ok(now().saturating_add(at.saturating_sub(read(clock)?)))
}

/// # Safety
/// `out` is writable.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: clockid_t, out: *mut timespec) -> c_int {
    thread::relax();
    match read(clock) {
        Ok(nanoseconds) => {
            // SAFETY: the caller's promise.
            unsafe { out.write(to_timespec(nanoseconds)) };
            0
        }
        Err(error) => error::fail(error),
    }
}

/// # Safety
/// `out` is null or writable.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_getres(clock: clockid_t, out: *mut timespec) -> c_int {
    if let Err(error) = read(clock) {
        return error::fail(error);
    }
    if !out.is_null() {
        // SAFETY: the caller's promise.
        unsafe { out.write(to_timespec(1)) };
    }
    0
}

/// # Safety
/// `out` is writable.
#[unsafe(no_mangle)]
unsafe extern "C" fn gettimeofday(out: *mut timeval, _zone: *mut core::ffi::c_void) -> c_int {
    let now = to_timespec(wall());
    // SAFETY: the caller's promise.
    unsafe { out.write(timeval { tv_sec: now.tv_sec, tv_usec: now.tv_nsec / 1000 }) };
    0
}

/// # Safety
/// `out` is null or writable.
#[unsafe(no_mangle)]
unsafe extern "C" fn time(out: *mut i64) -> i64 {
    let now = to_timespec(wall()).tv_sec;
    if !out.is_null() {
        // SAFETY: the caller's promise.
        unsafe { out.write(now) };
    }
    now
}

/// # Safety
/// `wanted` is readable.
#[unsafe(no_mangle)]
unsafe extern "C" fn nanosleep(wanted: *const timespec, _left: *mut timespec) -> c_int {
    // SAFETY: the caller's promise.
    match nanoseconds(unsafe { &*wanted }) {
        Ok(length) => {
            thread::sleep_until(now().saturating_add(length));
            0
        }
        Err(error) => error::fail(error),
    }
}

/// # Safety
/// `wanted` is readable.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_nanosleep(
    clock: clockid_t,
    flags: c_int,
    wanted: *const timespec,
    _left: *mut timespec,
) -> c_int {
    // SAFETY: the caller's promise.
    let until = nanoseconds(unsafe { &*wanted }).and_then(|wanted| {
        if flags & libc::TIMER_ABSTIME != 0 {
            deadline(clock, wanted)
        } else {
            Ok(now().saturating_add(wanted))
        }
    });
    match until {
        Ok(until) => {
            thread::sleep_until(until);
            0
        }
        Err(error) => error.0,
    }
}

#[unsafe(no_mangle)]
extern "C" fn usleep(microseconds: u32) -> c_int {
    thread::sleep_until(now().saturating_add(u64::from(microseconds) * 1000));
    0
}
