//! Threads as coroutines: each has a stack, a block of thread-local storage and its saved registers. The running one
//! gives the processor away where it waits ([`block`]) and, when it has had it for long, where it allocates or asks for
//! the time ([`relax`]).
//!
//! When nobody can run, the tender is asked to wait for the next deadline or event.

use alloc::alloc::{Layout, alloc_zeroed, dealloc};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::arch::naked_asm;
use core::ffi::{c_int, c_void};
use core::ptr::{self, NonNull, null_mut};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};

use hvt_abi::extension::POLL_SHUTDOWN;

use crate::sched::{Channel, Scheduler, ThreadId, Wake};

use super::single::Single;
use super::{block, console, cpu, entropy, memory, net, process, time};

/// How long a thread may keep the processor while others could run, in nanoseconds.
const SLICE: u64 = 10_000_000;
/// How often [`relax`] looks at the clock: once in so many calls.
const RELAX_EVERY: u32 = 256;
/// How often the tender is asked for events while threads keep the processor busy, in nanoseconds.
const POLL_INTERVAL: u64 = 50_000_000;
/// The same where there are network devices: a frame should not wait longer for a busy program.
const NET_INTERVAL: u64 = 1_000_000;
/// How long to wait when there is no deadline, in nanoseconds.
const LONG: u64 = 3_600_000_000_000;
/// The smallest stack, in bytes.
const MIN_STACK: usize = 64 * 1024;
/// Written at the lowest words of a stack without a guard page, and looked at when the thread stops running.
const SENTINEL: u64 = 0x5AFE_57AC_0BAD_C0DE;

/// Channels that are not the address of a futex, which is below 4 GiB.
pub(super) const CHANNEL_JOIN: Channel = 1 << 32;
pub(super) const CHANNEL_FILE: Channel = 2 << 32;
const CHANNEL_SLEEP: Channel = 3 << 32;

/// What the C ABI finds at the FS base (x86-64 psABI, thread-local storage variant II).
#[derive(Debug)]
#[repr(C)]
struct ControlBlock {
    /// Its own address.
    itself: *const Self,
    reserved: [u64; 4],
    /// What the C compiler's stack protector compares.
    canary: u64,
    reserved2: [u64; 2],
}

const _: () = assert!(core::mem::offset_of!(ControlBlock, canary) == 0x28);

/// The image's thread-local data, copied for each thread.
#[derive(Clone, Copy, Debug)]
pub(super) struct Template {
    /// The initialised part.
    pub(super) data: &'static [u8],
    /// Bytes with the part that starts as zero.
    pub(super) size: usize,
    /// A power of two.
    pub(super) align: usize,
}

/// Where stacks with guard pages are, if the tender set some aside.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StackArea {
    /// Lowest address, that of the first guard page.
    pub(super) start: usize,
    /// Bytes from one to the next, with the guard page.
    pub(super) stride: usize,
    /// How many.
    pub(super) count: usize,
}

#[derive(Clone, Copy, Debug)]
enum Stack {
    /// The first thread's, by the tender or at the top of memory.
    First,
    /// One of the stack area, with a guard page below.
    Guarded(usize),
    /// From the heap.
    Heap(*mut u8, Layout),
}

/// One thread.
#[derive(Debug)]
pub(super) struct Thread {
    id: ThreadId,
    stack_pointer: usize,
    control: *mut ControlBlock,
    storage: (*mut u8, Layout),
    stack: Stack,
    /// The lowest byte of the stack, and its size.
    pub(super) stack_range: (usize, usize),
    sentinel: Option<*mut u64>,
    errno: c_int,
    wake: Wake,
    body: Option<(Body, *mut c_void)>,
    /// What the body returned.
    pub(super) result: *mut c_void,
    /// It has ended, and waits to be joined unless it is detached.
    pub(super) ended: bool,
    /// Nobody will join it.
    pub(super) detached: bool,
    /// Values of `pthread_setspecific`.
    pub(super) values: Vec<*mut c_void>,
    /// Destructors of thread-local values, the last registered runs first.
    pub(super) destructors: Vec<(unsafe extern "C" fn(*mut c_void), *mut c_void)>,
}

/// What a thread runs.
pub(super) type Body = unsafe extern "C" fn(*mut c_void) -> *mut c_void;

/// Why there can't be another thread: no memory for its stack.
#[derive(Clone, Copy, Debug)]
pub(super) struct NoRoom;

#[derive(Debug)]
struct Machine {
    scheduler: Scheduler,
    threads: Vec<*mut Thread>,
    template: Template,
    canary: u64,
    stacks: StackArea,
    free_stacks: Vec<usize>,
    /// A thread that has ended but whose stack was in use until the switch away from it.
    dead: Option<NonNull<Thread>>,
    slice_end: u64,
    next_poll: u64,
}

static MACHINE: Single<Machine> = Single::new(Machine {
    scheduler: Scheduler::new(),
    threads: Vec::new(),
    template: Template { data: &[], size: 0, align: 1 },
    canary: 0,
    stacks: StackArea { start: 0, stride: 0, count: 0 },
    free_stacks: Vec::new(),
    dead: None,
    slice_end: 0,
    next_poll: 0,
});
static CURRENT: AtomicPtr<Thread> = AtomicPtr::new(null_mut());
static BY_INSTRUCTION: AtomicBool = AtomicBool::new(false);
static RELAX: AtomicU32 = AtomicU32::new(0);

/// Makes the running code the first thread.
pub(super) fn start(template: Template, stacks: StackArea, first: (usize, usize), guarded: bool) {
    BY_INSTRUCTION.store(cpu::fs_base_by_instruction(), Ordering::Relaxed);
    MACHINE.with(|machine| {
        machine.template = template;
        // The lowest byte is zero, so that an overrun string can't read the canary.
        machine.canary = entropy::word() << 8;
        machine.stacks = stacks;
        machine.free_stacks = (0..stacks.count).rev().collect();
    });
    let Ok(thread) = create(Stack::First, first, guarded, None) else {
        console::fatal(format_args!("not enough memory for the first thread"))
    };
    // SAFETY: just created and never freed: the first thread's end is the program's.
    unsafe {
        cpu::set_fs_base((*thread).control as u64, BY_INSTRUCTION.load(Ordering::Relaxed));
    }
    CURRENT.store(thread, Ordering::Relaxed);
}

/// Bytes of a stack with a guard page, if there are any.
pub(super) fn guarded_stack_size() -> Option<usize> {
    MACHINE.with(|machine| (machine.stacks.count > 0).then(|| machine.stacks.stride - 4096))
}

/// How many threads there are, and how many bytes of stacks they have.
pub(super) fn census() -> (usize, usize) {
    MACHINE.with(|machine| {
        let alive = machine.threads.iter().filter(|thread| !thread.is_null());
        alive.fold((0, 0), |(count, bytes), &thread| {
            // SAFETY: who is in the table lives.
            (count + 1, bytes + unsafe { (*thread).stack_range.1 })
        })
    })
}

/// The running thread.
#[inline]
pub(super) fn current() -> *mut Thread {
    CURRENT.load(Ordering::Relaxed)
}

/// The running thread's `errno`.
#[inline]
pub(super) fn errno() -> *mut c_int {
    // SAFETY: the running thread lives.
    unsafe { &raw mut (*current()).errno }
}

/// The running thread's number.
pub(super) fn id(thread: *const Thread) -> ThreadId {
    // SAFETY: callers pass threads that live.
    unsafe { (*thread).id }
}

/// Starts a thread with a stack of at least `stack_size` bytes.
pub(super) fn spawn(
    body: Body,
    argument: *mut c_void,
    stack_size: usize,
) -> Result<*mut Thread, NoRoom> {
    let size = stack_size.max(MIN_STACK).checked_next_multiple_of(4096).ok_or(NoRoom)?;
    let guarded = MACHINE.with(|machine| {
        let fits = machine.stacks.stride >= size + 4096;
        let slot = if fits { machine.free_stacks.pop() } else { None }?;
        Some((
            slot,
            machine.stacks.start + slot * machine.stacks.stride + 4096,
            machine.stacks.stride - 4096,
        ))
    });
    let thread = match guarded {
        Some((slot, start, len)) => {
            let created = create(Stack::Guarded(slot), (start, len), true, Some((body, argument)));
            if created.is_err() {
                MACHINE.with(|machine| machine.free_stacks.push(slot));
            }
            created?
        }
        None => {
            let layout = Layout::from_size_align(size, 4096).map_err(|_| NoRoom)?;
            // SAFETY: the layout is not empty.
            let start = unsafe { alloc::alloc::alloc(layout) };
            if start.is_null() {
                return Err(NoRoom);
            }
            let range = (start as usize, size);
            create(Stack::Heap(start, layout), range, false, Some((body, argument))).inspect_err(
                |_| {
                    // SAFETY: allocated above with this layout, used by nobody.
                    unsafe { dealloc(start, layout) };
                },
            )?
        }
    };
    // SAFETY: the thread is new, and its stack is this function's to prepare.
    unsafe {
        // As after a call of `first_steps`: the return address would be eight below a multiple of 16.
        let top = ((*thread).stack_range.0 + (*thread).stack_range.1) & !15;
        let frame = (top - 8 * 8) as *mut usize;
        frame.write_bytes(0, 8);
        // Six saved registers, then the address to return to, then a zero that ends backtraces.
        frame.add(6).write(first_steps as *const () as usize);
        (*thread).stack_pointer = frame as usize;
        MACHINE.with(|machine| machine.scheduler.make_ready((*thread).id));
    }
    Ok(thread)
}

fn create(
    stack: Stack,
    stack_range: (usize, usize),
    guarded: bool,
    body: Option<(Body, *mut c_void)>,
) -> Result<*mut Thread, NoRoom> {
    MACHINE.with(|machine| {
        let (control, storage) = machine.new_storage()?;
        let sentinel = (!guarded).then_some(stack_range.0 as *mut u64);
        if let Some(sentinel) = sentinel {
            // SAFETY: the lowest words of a stack that nobody has used yet, or of which the top is in use.
            unsafe {
                sentinel.write(SENTINEL);
                sentinel.add(1).write(SENTINEL);
            }
        }
        let id = machine.scheduler.add();
        let thread = Box::into_raw(Box::new(Thread {
            id,
            stack_pointer: 0,
            control,
            storage,
            stack,
            stack_range,
            sentinel,
            errno: 0,
            wake: Wake::Woken,
            body,
            result: null_mut(),
            ended: false,
            detached: false,
            values: Vec::new(),
            destructors: Vec::new(),
        }));
        let slot = id as usize;
        if machine.threads.len() <= slot {
            machine.threads.resize(slot + 1, null_mut());
        }
        machine.threads[slot] = thread;
        Ok(thread)
    })
}

impl Machine {
    /// A thread-local block: the image's data ends where the control block starts.
    fn new_storage(&self) -> Result<(*mut ControlBlock, (*mut u8, Layout)), NoRoom> {
        let Template { data, size, align } = self.template;
        let align = align.max(64);
        let before = size.checked_next_multiple_of(align).ok_or(NoRoom)?;
        let layout = Layout::from_size_align(before + size_of::<ControlBlock>(), align);
        let layout = layout.map_err(|_| NoRoom)?;
        // SAFETY: the layout is not empty.
        let start = unsafe { alloc_zeroed(layout) };
        if start.is_null() {
            return Err(NoRoom);
        }
        // The compiler counts offsets down from the control block by the size rounded up to the segment's alignment.
        let rounded = size.next_multiple_of(self.template.align);
        // SAFETY: the block has `before` bytes, at least `rounded`, and the control block behind them.
        unsafe {
            let control = start.add(before).cast::<ControlBlock>();
            let to = start.add(before - rounded);
            ptr::copy_nonoverlapping(data.as_ptr(), to, data.len());
            control.write(ControlBlock {
                itself: control,
                reserved: [0; 4],
                canary: self.canary,
                reserved2: [0; 2],
            });
            Ok((control, (start, layout)))
        }
    }
}

/// The running thread waits on a channel, until a moment of the monotonic clock if there is one.
pub(super) fn block(channel: Channel, deadline: Option<u64>) -> Wake {
    let me = current();
    // SAFETY: the running thread lives.
    let id = unsafe { (*me).id };
    MACHINE.with(|machine| machine.scheduler.wait(id, channel, deadline));
    run_next();
    // SAFETY: as above; it runs again.
    unsafe { (*me).wake }
}

/// Wakes up to `limit` waiters.
pub(super) fn wake(channel: Channel, limit: usize) -> usize {
    MACHINE.with(|machine| machine.scheduler.wake(channel, limit))
}

/// Moves up to `limit` waiters to another channel.
pub(super) fn requeue(from: Channel, to: Channel, limit: usize) -> usize {
    MACHINE.with(|machine| machine.scheduler.requeue(from, to, limit))
}

/// Waits until a moment of the monotonic clock.
pub(super) fn sleep_until(deadline: u64) {
    // Nobody wakes this channel, so it ends by time.
    block(CHANNEL_SLEEP, Some(deadline));
}

/// Lets everybody else who is ready run first.
pub(super) fn yield_now() {
    let id = id(current());
    MACHINE.with(|machine| machine.scheduler.make_ready(id));
    run_next();
}

/// Called where a program asks for something often: now and then it looks whether this thread has had the processor for
/// long enough.
#[inline]
pub(super) fn relax() {
    let calls = RELAX.load(Ordering::Relaxed).wrapping_add(1);
    RELAX.store(calls, Ordering::Relaxed);
    if calls.is_multiple_of(RELAX_EVERY) {
        relax_slowly();
    }
}

#[cold]
fn relax_slowly() {
    if current().is_null() {
        return;
    }
    let now = time::now();
    let over = MACHINE.with(|machine| {
        machine.scheduler.expire(now);
        (now >= machine.slice_end && machine.scheduler.has_ready()) || now >= machine.next_poll
    });
    if over {
        yield_now();
    }
}

/// Gives the processor to the next thread that can run, which may be this one again.
fn run_next() {
    let me = current();
    check_stack(me);
    let next = loop {
        let now = time::now();
        if MACHINE.with(|machine| {
            machine.scheduler.expire(now);
            now >= machine.next_poll
        }) {
            look_outside(0, now);
        }
        let next = MACHINE.with(|machine| {
            let (id, wake) = machine.scheduler.take_next()?;
            machine.slice_end = now + SLICE;
            let thread = machine.threads[id as usize];
            // SAFETY: a number that the scheduler knows belongs to a thread that lives.
            unsafe { (*thread).wake = wake };
            Some(thread)
        });
        match next {
            Some(thread) => break thread,
            None => {
                let deadline = MACHINE.with(|machine| machine.scheduler.next_deadline());
                look_outside(deadline.map_or(LONG, |at| at.saturating_sub(now)), now);
            }
        }
    };
    if next == me {
        return;
    }
    CURRENT.store(next, Ordering::Relaxed);
    // SAFETY: both threads live; `next` stopped in this function or was prepared by `spawn`.
    unsafe {
        cpu::set_fs_base((*next).control as u64, BY_INSTRUCTION.load(Ordering::Relaxed));
        switch(&raw mut (*me).stack_pointer, (*next).stack_pointer);
    }
    bury();
}

/// Lets the network work, and waits for an event up to `timeout` nanoseconds.
fn look_outside(timeout: u64, now: u64) {
    if timeout > 0 {
        block::write_out();
    }
    let timeout = memory::return_idle(timeout, now);
    let ready = net::turn(timeout, now);
    let interval = if net::has_devices() { NET_INTERVAL } else { POLL_INTERVAL };
    let now = if timeout > 0 { time::now() } else { now };
    MACHINE.with(|machine| machine.next_poll = now + interval);
    if ready & POLL_SHUTDOWN != 0 {
        process::asked_to_stop();
    }
}

/// Ends the program when a thread has run over the end of a stack without a guard page.
fn check_stack(thread: *const Thread) {
    // SAFETY: the running thread lives, and its sentinel is in its stack.
    let intact = unsafe {
        (*thread).sentinel.is_none_or(|at| at.read() == SENTINEL && at.add(1).read() == SENTINEL)
    };
    if !intact {
        // SAFETY: as above.
        let (id, (start, len)) = unsafe { ((*thread).id, (*thread).stack_range) };
        console::fatal(format_args!(
            "stack overflow: thread {id} has run below its stack of {} KiB at {start:#x}; see RUST_MIN_STACK",
            len / 1024
        ));
    }
}

/// Where a new thread starts, on its own stack.
unsafe extern "C" fn first_steps() -> ! {
    bury();
    let me = current();
    // SAFETY: the running thread lives, and `spawn` gave it a body.
    let result = unsafe {
        match (*me).body.take() {
            Some((body, argument)) => body(argument),
            None => null_mut(),
        }
    };
    exit(result)
}

/// Ends the running thread.
pub(super) fn exit(result: *mut c_void) -> ! {
    super::pthread::run_destructors();
    let me = current();
    // SAFETY: the running thread lives until `bury`.
    let (id, detached) = unsafe {
        (*me).result = result;
        (*me).ended = true;
        ((*me).id, (*me).detached)
    };
    wake(CHANNEL_JOIN | Channel::from(id), usize::MAX);
    MACHINE.with(|machine| {
        if detached {
            machine.dead = NonNull::new(me);
            machine.scheduler.remove(id);
            machine.threads[id as usize] = null_mut();
        } else {
            // It stays until somebody joins it.
            machine.scheduler.wait(id, CHANNEL_SLEEP, None);
        }
    });
    loop {
        run_next();
    }
}

/// Frees a thread that has ended and been joined.
pub(super) fn free_joined(thread: *mut Thread) {
    let id = id(thread);
    MACHINE.with(|machine| {
        machine.scheduler.forget(id);
        machine.scheduler.remove(id);
        machine.threads[id as usize] = null_mut();
    });
    free(thread);
}

/// Frees the thread that ended before the last switch.
fn bury() {
    if let Some(dead) = MACHINE.with(|machine| machine.dead.take()) {
        free(dead.as_ptr());
    }
}

fn free(thread: *mut Thread) {
    // SAFETY: nobody knows the thread any more, and its stack is not the one in use.
    unsafe {
        let thread = Box::from_raw(thread);
        dealloc(thread.storage.0, thread.storage.1);
        match thread.stack {
            Stack::First => {}
            Stack::Guarded(slot) => MACHINE.with(|machine| machine.free_stacks.push(slot)),
            Stack::Heap(start, layout) => dealloc(start, layout),
        }
    }
}

/// Saves the running thread's registers on its stack and its stack pointer in `from`, and goes on where `to` stopped.
/// What the C ABI lets a function change need not be saved; the control words of x87 and SSE are the same everywhere.
#[unsafe(naked)]
unsafe extern "C" fn switch(from: *mut usize, to: usize) {
    naked_asm!(
        ".cfi_startproc",
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov [rdi], rsp",
        "mov rsp, rsi",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
        ".cfi_endproc",
    )
}
