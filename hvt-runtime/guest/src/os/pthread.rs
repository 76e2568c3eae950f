//! POSIX threads, as far as `std` and the crypto library use them: creation, keys, and locks in the caller's memory.
//!
//! A lock is one word, zero when free, as all static initialisers leave it; waiting is on the word's address.

use alloc::vec::Vec;
use core::ffi::{c_char, c_int, c_uint, c_void};
use core::ptr::null_mut;

use libc::timespec;

use crate::sched::{Channel, Wake};

use super::single::Single;
use super::thread::{self, Body, CHANNEL_JOIN, Thread};
use super::{string, time};

type Destructor = unsafe extern "C" fn(*mut c_void);

/// The default stack in bytes where an attribute names none, as glibc's.
const DEFAULT_STACK: usize = 8 << 20;

/// What `pthread_attr_t` (56 bytes) holds here.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Attributes {
    stack_size: usize,
    stack_start: usize,
    detached: c_int,
}

const _: () = assert!(size_of::<Attributes>() <= size_of::<libc::pthread_attr_t>());

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_create(
    out: *mut *mut Thread,
    attributes: *const Attributes,
    body: Body,
    argument: *mut c_void,
) -> c_int {
    // SAFETY: the caller's promise.
    let (size, detached) =
        unsafe { attributes.as_ref().map_or((DEFAULT_STACK, 0), |a| (a.stack_size, a.detached)) };
    let Ok(new) = thread::spawn(body, argument, size) else { return libc::EAGAIN };
    // SAFETY: the thread was just made and has not run; `out` is the caller's promise.
    unsafe {
        (*new).detached = detached == libc::PTHREAD_CREATE_DETACHED;
        *out = new;
    }
    0
}

/// # Safety
/// As in C: the thread is joinable, and nobody else joins it.
#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_join(target: *mut Thread, out: *mut *mut c_void) -> c_int {
    if target == thread::current() {
        return libc::EDEADLK;
    }
    // SAFETY: the thread lives until it is joined.
    unsafe {
        while !(&raw const (*target).ended).read_volatile() {
            thread::block(CHANNEL_JOIN | Channel::from(thread::id(target)), None);
        }
        if let Some(out) = out.as_mut() {
            *out = (*target).result;
        }
    }
    thread::free_joined(target);
    0
}

/// # Safety
/// As in C: the thread is joinable.
#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_detach(target: *mut Thread) -> c_int {
    // SAFETY: the thread lives until it is joined or detached.
    if unsafe { (*target).ended } {
        thread::free_joined(target);
    } else {
        // SAFETY: as above.
        unsafe { (*target).detached = true };
    }
    0
}

#[unsafe(no_mangle)]
extern "C" fn pthread_self() -> *mut Thread {
    thread::current()
}

#[unsafe(no_mangle)]
extern "C" fn pthread_equal(a: *mut Thread, b: *mut Thread) -> c_int {
    c_int::from(a == b)
}

#[unsafe(no_mangle)]
extern "C" fn pthread_exit(result: *mut c_void) -> ! {
    thread::exit(result)
}

#[unsafe(no_mangle)]
extern "C" fn sched_yield() -> c_int {
    thread::yield_now();
    0
}

/// The name is not kept: reports name threads by number.
#[unsafe(no_mangle)]
extern "C" fn pthread_setname_np(_thread: *mut Thread, _name: *const c_char) -> c_int {
    0
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_getname_np(_: *mut Thread, out: *mut c_char, len: usize) -> c_int {
    // SAFETY: the caller's promise.
    if unsafe { string::put("", out, len) } { 0 } else { libc::ERANGE }
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_attr_init(attributes: *mut Attributes) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        attributes.write(Attributes { stack_size: DEFAULT_STACK, stack_start: 0, detached: 0 })
    };
    0
}

#[unsafe(no_mangle)]
extern "C" fn pthread_attr_destroy(_attributes: *mut Attributes) -> c_int {
    0
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_attr_setstacksize(attributes: *mut Attributes, size: usize) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { (*attributes).stack_size = size };
    0
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_attr_setdetachstate(
    attributes: *mut Attributes,
    state: c_int,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { (*attributes).detached = state };
    0
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_getattr_np(target: *mut Thread, attributes: *mut Attributes) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        let (stack_start, stack_size) = (*target).stack_range;
        attributes.write(Attributes { stack_size, stack_start, detached: 0 });
    }
    0
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_attr_getstack(
    attributes: *const Attributes,
    start: *mut *mut c_void,
    size: *mut usize,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        *start = (*attributes).stack_start as *mut c_void;
        *size = (*attributes).stack_size;
    }
    0
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_attr_getguardsize(_: *const Attributes, size: *mut usize) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { *size = 4096 };
    0
}

// === Keys ===

#[derive(Clone, Copy, Debug)]
enum Key {
    Unused,
    Used(Option<Destructor>),
}

/// Index 0 is never given out: `std` takes the key 0 for none.
static KEYS: Single<Vec<Key>> = Single::new(Vec::new());

/// How often destructors run again for values that they set (`PTHREAD_DESTRUCTOR_ITERATIONS`).
const ROUNDS: usize = 4;

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_key_create(out: *mut c_uint, destructor: Option<Destructor>) -> c_int {
    let index = KEYS.with(|keys| {
        if keys.is_empty() {
            keys.push(Key::Used(None));
        }
        let free = keys.iter().position(|key| matches!(key, Key::Unused));
        let index = free.unwrap_or(keys.len());
        if index == keys.len() {
            keys.push(Key::Unused);
        }
        keys[index] = Key::Used(destructor);
        index
    });
    let Ok(index) = c_uint::try_from(index) else { return libc::EAGAIN };
    // SAFETY: the caller's promise.
    unsafe { *out = index };
    0
}

#[unsafe(no_mangle)]
extern "C" fn pthread_key_delete(key: c_uint) -> c_int {
    KEYS.with(|keys| match keys.get_mut(key as usize) {
        Some(slot) => {
            *slot = Key::Unused;
            0
        }
        None => libc::EINVAL,
    })
}

#[unsafe(no_mangle)]
extern "C" fn pthread_getspecific(key: c_uint) -> *mut c_void {
    // SAFETY: the running thread lives, and nobody else touches its values.
    let values = unsafe { &(*thread::current()).values };
    values.get(key as usize).copied().unwrap_or(null_mut())
}

#[unsafe(no_mangle)]
extern "C" fn pthread_setspecific(key: c_uint, value: *const c_void) -> c_int {
    let slot = key as usize;
    if KEYS.with(|keys| !matches!(keys.get(slot), Some(Key::Used(_)))) {
        return libc::EINVAL;
    }
    // SAFETY: as for `pthread_getspecific`.
    let values = unsafe { &mut (*thread::current()).values };
    if values.len() <= slot {
        values.resize(slot + 1, null_mut());
    }
    values[slot] = value.cast_mut();
    0
}

/// Registers the destructor of a thread-local value (`std` and C++).
#[unsafe(no_mangle)]
extern "C" fn __cxa_thread_atexit_impl(
    destructor: Destructor,
    object: *mut c_void,
    _library: *mut c_void,
) -> c_int {
    // SAFETY: the running thread lives, and nobody else touches its list.
    let destructors = unsafe { &mut (*thread::current()).destructors };
    destructors.push((destructor, object));
    0
}

/// Runs the running thread's destructors, which may register more.
pub(super) fn run_destructors() {
    let me = thread::current();
    let pop = || {
        // SAFETY: the running thread lives; the borrow ends before the destructor runs.
        let destructors = unsafe { &mut (*me).destructors };
        destructors.pop()
    };
    while let Some((destructor, object)) = pop() {
        // SAFETY: registered for this object, and taken off the list.
        unsafe { destructor(object) };
    }
    for _ in 0..ROUNDS {
        // SAFETY: as above.
        let values = core::mem::take(unsafe { &mut (*me).values });
        let mut any = false;
        for (slot, value) in values.into_iter().enumerate().filter(|(_, value)| !value.is_null()) {
            let key = KEYS.with(|keys| keys.get(slot).copied());
            if let Some(Key::Used(Some(destructor))) = key {
                any = true;
                // SAFETY: the key's destructor, for the value that this thread stored under it.
                unsafe { destructor(value) };
            }
        }
        if !any {
            break;
        }
    }
}

// === Locks ===

/// The word of a mutex or condition variable.
type Word = *mut u32;

/// # Safety
/// `word` is the lock's first word.
unsafe fn wait_while(word: Word, busy: impl Fn(u32) -> bool) {
    // SAFETY: the caller's promise; no other thread runs between the look and the wait.
    while busy(unsafe { word.read_volatile() }) {
        thread::block(word as Channel, None);
    }
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_mutex_init(lock: Word, _attributes: *const c_void) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { lock.write(0) };
    0
}

#[unsafe(no_mangle)]
extern "C" fn pthread_mutex_destroy(_lock: Word) -> c_int {
    0
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_mutex_lock(lock: Word) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        wait_while(lock, |state| state != 0);
        lock.write(1);
    }
    0
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_mutex_trylock(lock: Word) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        if lock.read() != 0 {
            return libc::EBUSY;
        }
        lock.write(1);
    }
    0
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_mutex_unlock(lock: Word) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { lock.write(0) };
    thread::wake(lock as Channel, 1);
    0
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_cond_init(condition: Word, _attributes: *const c_void) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { condition.write(0) };
    0
}

#[unsafe(no_mangle)]
extern "C" fn pthread_cond_destroy(_condition: Word) -> c_int {
    0
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_cond_wait(condition: Word, lock: Word) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { pthread_mutex_unlock(lock) };
    thread::block(condition as Channel, None);
    // SAFETY: as above.
    unsafe { pthread_mutex_lock(lock) }
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_cond_timedwait(
    condition: Word,
    lock: Word,
    limit: *const timespec,
) -> c_int {
    // SAFETY: the caller's promise.
    let at = time::nanoseconds(unsafe { &*limit });
    let deadline = match at.and_then(|at| time::deadline(libc::CLOCK_REALTIME, at)) {
        Ok(deadline) => deadline,
        Err(error) => return error.0,
    };
    // SAFETY: the caller's promise.
    unsafe { pthread_mutex_unlock(lock) };
    let wake = thread::block(condition as Channel, Some(deadline));
    // SAFETY: as above.
    unsafe { pthread_mutex_lock(lock) };
    if wake == Wake::TimedOut { libc::ETIMEDOUT } else { 0 }
}

#[unsafe(no_mangle)]
extern "C" fn pthread_cond_signal(condition: Word) -> c_int {
    thread::wake(condition as Channel, 1);
    0
}

#[unsafe(no_mangle)]
extern "C" fn pthread_cond_broadcast(condition: Word) -> c_int {
    thread::wake(condition as Channel, usize::MAX);
    0
}

/// A writer holds the lock; otherwise the word counts the readers.
const WRITER: u32 = u32::MAX;

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_rwlock_init(lock: Word, _attributes: *const c_void) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { lock.write(0) };
    0
}

#[unsafe(no_mangle)]
extern "C" fn pthread_rwlock_destroy(_lock: Word) -> c_int {
    0
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_rwlock_rdlock(lock: Word) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        wait_while(lock, |state| state == WRITER);
        lock.write(lock.read() + 1);
    }
    0
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_rwlock_wrlock(lock: Word) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        wait_while(lock, |state| state != 0);
        lock.write(WRITER);
    }
    0
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_rwlock_unlock(lock: Word) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        let state = lock.read();
        lock.write(if state == WRITER { 0 } else { state.saturating_sub(1) });
        if lock.read() == 0 {
            thread::wake(lock as Channel, usize::MAX);
        }
    }
    0
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_once(once: Word, body: unsafe extern "C" fn()) -> c_int {
    const RUNNING: u32 = 1;
    const DONE: u32 = 2;
    // SAFETY: the caller's promise.
    unsafe {
        wait_while(once, |state| state == RUNNING);
        if once.read() != DONE {
            once.write(RUNNING);
            body();
            once.write(DONE);
            thread::wake(once as Channel, usize::MAX);
        }
    }
    0
}
