//! Which of the host's processors a thread is on, and moving it away from one.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Where another thread was seen last.
#[derive(Debug)]
pub struct Place(AtomicUsize);

impl Default for Place {
    fn default() -> Self {
        Self(AtomicUsize::new(usize::MAX))
    }
}

impl Place {
    /// The calling thread is where it is now.
    pub fn note(&self) {
        self.0.store(current().unwrap_or(usize::MAX), Ordering::Relaxed);
    }

    /// Whether the calling thread is on the processor where the other one was seen last.
    #[must_use]
    pub fn is_here(&self) -> bool {
        current().is_some_and(|here| here == self.0.load(Ordering::Relaxed))
    }
}

/// The processors that the process may use.
#[derive(Clone, Copy, Debug)]
pub struct Processors(libc::cpu_set_t);

impl Processors {
    /// Those of the calling thread.
    ///
    /// # Errors
    /// When the host has more than the set has bits for.
    pub fn allowed() -> io::Result<Self> {
        // SAFETY: all zero is the empty set, and the call fills one of this size.
        unsafe {
            let mut set = std::mem::zeroed();
            match libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) {
                0 => Ok(Self(set)),
                _ => Err(io::Error::last_os_error()),
            }
        }
    }

    /// Moves the calling thread to one of them, but not to the one that it is on. When there is no other, or the host
    /// refuses, it stays.
    pub fn move_on(&self) {
        let Some(here) = current().filter(|here| *here < 8 * size_of::<libc::cpu_set_t>()) else {
            return;
        };
        let mut others = self.0;
        // SAFETY: the number is within the set, and the call reads a set of this size.
        unsafe {
            libc::CPU_CLR(here, &mut others);
            if libc::CPU_COUNT(&others) > 0 {
                libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const others);
            }
        }
    }
}

/// The processor that the calling thread is on.
fn current() -> Option<usize> {
    // SAFETY: the call touches no memory of ours.
    usize::try_from(unsafe { libc::sched_getcpu() }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_moves_on_where_there_is_a_second_processor() {
        std::thread::spawn(|| {
            let all = Processors::allowed().unwrap();
            let place = Place::default();
            assert!(!place.is_here());
            // SAFETY: the set is whole.
            if unsafe { libc::CPU_COUNT(&all.0) } < 2 {
                return;
            }
            // Elsewhere at first, or it could have moved by itself after the note.
            all.move_on();
            let only = Processors::allowed().unwrap();
            // SAFETY: as above.
            if unsafe { libc::CPU_COUNT(&only.0) } == 1 {
                place.note();
                assert!(place.is_here());
                all.move_on();
                assert!(!place.is_here());
            }
        })
        .join()
        .unwrap();
    }
}
