//! Copy buffers of a thread: taken while bytes are moving, given back when they have moved.
//!
//! A connection that waits holds no buffer. A poll is synchronous, so one or two buffers per thread serve all
//! connections that are not held up by a slow receiver.

use std::cell::RefCell;

/// Buffers that a thread keeps for reuse; more are freed.
const KEPT_BUFFERS: usize = 16;

thread_local! {
    static POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer of exactly `len` bytes, with any content.
pub(super) fn take(len: usize) -> Vec<u8> {
    POOL.with_borrow_mut(|pool| {
        pool.iter().rposition(|buffer| buffer.len() == len).map(|at| pool.swap_remove(at))
    })
    .unwrap_or_else(|| vec![0; len])
}

/// Gives a buffer to this thread, wherever it was taken.
pub(super) fn give_back(buffer: Vec<u8>) {
    POOL.with_borrow_mut(|pool| {
        if pool.len() < KEPT_BUFFERS {
            pool.push(buffer);
        }
    });
}
