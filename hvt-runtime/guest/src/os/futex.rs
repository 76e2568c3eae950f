//! `futex(2)`, on which `std`'s locks and parking are built. The channel is the word's address.

use core::ffi::c_int;

use libc::timespec;

use crate::files::Errno;
use crate::sched::{Channel, Wake};

use super::{thread, time};

/// The arguments of the call, in its order.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) word: *const u32,
    pub(super) operation: c_int,
    pub(super) value: u32,
    /// A time for waits, a second count for requeues.
    pub(super) fourth: usize,
    pub(super) second_word: *const u32,
    pub(super) third_value: u32,
}

/// Does one futex operation. Bits of a bitset operation are not told apart: a waiter may wake for no reason, which the
/// call allows.
///
/// # Safety
/// The pointers are as `futex(2)` asks.
pub(super) unsafe fn futex(call: &Call) -> Result<c_int, Errno> {
    let channel = call.word as Channel;
    let clock = if call.operation & libc::FUTEX_CLOCK_REALTIME != 0 {
        libc::CLOCK_REALTIME
    } else {
        libc::CLOCK_MONOTONIC
    };
    match call.operation & libc::FUTEX_CMD_MASK {
        operation @ (libc::FUTEX_WAIT | libc::FUTEX_WAIT_BITSET) => {
            // SAFETY: the caller's promise.
            if unsafe { call.word.read_volatile() } != call.value {
                return Err(Errno::AGAIN);
            }
            let limit = call.fourth as *const timespec;
            let deadline = if limit.is_null() {
                None
            } else {
                // SAFETY: the caller's promise.
                let at = time::nanoseconds(unsafe { &*limit })?;
                Some(if operation == libc::FUTEX_WAIT {
                    time::now().saturating_add(at)
                } else {
                    time::deadline(clock, at)?
                })
            };
            match thread::block(channel, deadline) {
                Wake::Woken => Ok(0),
                Wake::TimedOut => Err(Errno(libc::ETIMEDOUT)),
            }
        }
        libc::FUTEX_WAKE | libc::FUTEX_WAKE_BITSET => {
            Ok(to_int(thread::wake(channel, limit(call.value))))
        }
        operation @ (libc::FUTEX_REQUEUE | libc::FUTEX_CMP_REQUEUE) => {
            // SAFETY: the caller's promise.
            let current = unsafe { call.word.read_volatile() };
            if operation == libc::FUTEX_CMP_REQUEUE && current != call.third_value {
                return Err(Errno::AGAIN);
            }
            let woken = thread::wake(channel, limit(call.value));
            let moved = thread::requeue(channel, call.second_word as Channel, call.fourth);
            Ok(to_int(woken + moved))
        }
        _ => Err(Errno(libc::ENOSYS)),
    }
}

/// How many to wake; `INT_MAX` means all.
fn limit(value: u32) -> usize {
    value.cast_signed().max(0).unsigned_abs() as usize
}

fn to_int(count: usize) -> c_int {
    c_int::try_from(count).unwrap_or(c_int::MAX)
}
