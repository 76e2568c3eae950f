//! Shared state of a program with one processor.

use core::cell::{Cell, UnsafeCell};

use super::console;

/// A value that everybody may use, one at a time.
///
/// Threads switch only in `thread::block` and `thread::relax`, so a use that calls neither is never interleaved with
/// another. A second use inside of the first would break this; it is noticed and ends the program.
#[derive(Debug)]
pub(super) struct Single<T> {
    value: UnsafeCell<T>,
    in_use: Cell<bool>,
}

// SAFETY: there is one processor, no interrupt, and `with` refuses a use inside of a use.
unsafe impl<T> Sync for Single<T> {}

impl<T> Single<T> {
    pub(super) const fn new(value: T) -> Self {
        Self { value: UnsafeCell::new(value), in_use: Cell::new(false) }
    }

    /// Uses the value. `body` must not switch threads.
    #[inline]
    pub(super) fn with<R>(&self, body: impl FnOnce(&mut T) -> R) -> R {
        if self.in_use.replace(true) {
            console::fatal(format_args!("runtime state is used inside of its own use"));
        }
        // SAFETY: `in_use` was false, so there is no other reference.
        let result = body(unsafe { &mut *self.value.get() });
        self.in_use.set(false);
        result
    }
}
