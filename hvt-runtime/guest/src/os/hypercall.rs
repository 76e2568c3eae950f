//! Calls to the tender. The only module that leaves the virtual machine.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use hvt_abi::exchange::Exchange;
use hvt_abi::extension::{self, BlockCommit, BlockFlush, BlockWrite, MemoryRelease, ProcessCall};
use hvt_abi::hypercall::{self as abi, BlockIo, Halt, NetIo, Poll, Puts, Walltime};
use hvt_abi::ring;

use super::slot;

/// Address of the tender's function where there is no virtual machine; zero under KVM.
static PROCESS_CALL: AtomicUsize = AtomicUsize::new(0);
static CALLS: AtomicU64 = AtomicU64::new(0);

/// From now on calls go to this function instead of a port.
pub(super) fn use_process_call(address: usize) {
    PROCESS_CALL.store(address, Ordering::Relaxed);
}

/// How many calls there were.
pub(super) fn count() -> u64 {
    CALLS.load(Ordering::Relaxed)
}

/// A call without a structure. Only under KVM.
pub(super) fn signal(number: u16) {
    // SAFETY: what a call in the slot lets the tender read and write was made sure of when it was put there.
    unsafe { asm!("out dx, eax", in("dx") abi::port(number), in("eax") 0, options(nostack)) };
}

/// # Safety
/// `T` is the structure of hypercall `number`, and the addresses in it are valid for what the call does.
pub(super) unsafe fn call<T>(number: u16, argument: &mut T) {
    CALLS.fetch_add(1, Ordering::Relaxed);
    let address = core::ptr::from_mut(argument) as u64;
    let process_call = PROCESS_CALL.load(Ordering::Relaxed);
    if process_call == 0 {
        #[expect(clippy::cast_possible_truncation, reason = "a guest's memory ends at 4 GiB")]
        let eax = address as u32;
        // SAFETY: the tender reads and writes the structure while the processor waits here.
        unsafe { asm!("out dx, eax", in("dx") abi::port(number), in("eax") eax, options(nostack)) };
    } else {
        // SAFETY: the tender gave the address of such a function.
        let function = unsafe { core::mem::transmute::<usize, ProcessCall>(process_call) };
        function(u64::from(number), address);
    }
}

/// Writes to the console.
pub(super) fn puts(text: &[u8]) {
    if text.is_empty() {
        return;
    }
    let mut puts = Puts { data: text.as_ptr() as u64, len: text.len() as u64 };
    // SAFETY: the text is readable.
    unsafe { call(abi::PUTS, &mut puts) };
}

/// Nanoseconds since 1970.
pub(super) fn walltime() -> u64 {
    let mut walltime = Walltime::default();
    // SAFETY: the structure is the call's.
    unsafe { call(abi::WALLTIME, &mut walltime) };
    walltime.nsecs
}

/// Waits for an event, at most so many nanoseconds; the set of ready devices and [`extension::POLL_SHUTDOWN`].
pub(super) fn poll(timeout: u64) -> u64 {
    let mut poll = Poll { timeout_nsecs: timeout, ..Poll::default() };
    // SAFETY: the structure is the call's.
    unsafe { call(abi::POLL, &mut poll) };
    poll.ready_set
}

/// Reads whole blocks; false when the tender refuses or fails.
pub(super) fn block_read(handle: u64, offset: u64, buffer: &mut [u8]) -> bool {
    let (data, len) = (buffer.as_mut_ptr() as u64, buffer.len() as u64);
    let mut io = BlockIo { handle, offset, data, len, ..BlockIo::default() };
    // SAFETY: the buffer is writable.
    unsafe { slot::call(abi::BLOCK_READ, &mut io) };
    io.ret == abi::RESULT_OK
}

/// Writes whole blocks; false when the tender refuses or fails.
pub(super) fn block_write(handle: u64, offset: u64, data: &[u8]) -> bool {
    let (address, len) = (data.as_ptr() as u64, data.len() as u64);
    let mut io = BlockIo { handle, offset, data: address, len, ..BlockIo::default() };
    // SAFETY: the data is readable.
    unsafe { slot::call(abi::BLOCK_WRITE, &mut io) };
    io.ret == abi::RESULT_OK
}

/// Makes what was written durable; false when the tender fails. Only with [`extension::FEATURE_BLOCK_FLUSH`].
pub(super) fn block_flush(handle: u64) -> bool {
    let mut flush = BlockFlush { handle, ..BlockFlush::default() };
    // SAFETY: the structure is the call's.
    unsafe { slot::call(extension::BLOCK_FLUSH, &mut flush) };
    flush.ret == abi::RESULT_OK
}

/// Wakes the thread that serves the ring, without leaving the machine. Only with a ring.
pub(super) fn kick() {
    // SAFETY: the tender takes any value at this port and touches no memory for it.
    unsafe { asm!("out dx, eax", in("dx") ring::KICK_PORT, in("eax") 0, options(nostack)) };
}

/// Sends one frame; a result code of the call.
pub(super) fn net_write(handle: u64, frame: &[u8]) -> i32 {
    let (data, len) = (frame.as_ptr() as u64, frame.len() as u64);
    let mut io = NetIo { handle, data, len, ..NetIo::default() };
    // SAFETY: the frame is readable.
    unsafe { call(abi::NET_WRITE, &mut io) };
    io.ret
}

/// Receives one frame and says how long it is; none when there is none.
pub(super) fn net_read(handle: u64, buffer: &mut [u8]) -> Option<usize> {
    let (data, len) = (buffer.as_mut_ptr() as u64, buffer.len() as u64);
    let mut io = NetIo { handle, data, len, ..NetIo::default() };
    // SAFETY: the buffer is writable.
    unsafe { call(abi::NET_READ, &mut io) };
    let len = usize::try_from(io.len).unwrap_or(usize::MAX).min(buffer.len());
    (io.ret == abi::RESULT_OK).then_some(len)
}

/// Sends frames, waits, receives frames. Only with [`extension::FEATURE_EXCHANGE`].
///
/// # Safety
/// The lists are as long as they are said to be; frames are readable and rooms writable.
pub(super) unsafe fn exchange(argument: &mut Exchange) {
    // SAFETY: the caller's promise.
    unsafe { call(extension::EXCHANGE, argument) };
}

/// Writes whole blocks, in order, and then flushes if asked to; false when the tender refuses or fails. Only with
/// [`extension::FEATURE_BLOCK_COMMIT`], and at most [`extension::BLOCK_COMMIT_MAX`] writes.
///
/// # Safety
/// The addresses and lengths of the writes are those of readable memory.
pub(super) unsafe fn block_commit(handle: u64, writes: &[BlockWrite], flush: bool) -> bool {
    let mut commit = BlockCommit {
        handle,
        writes: writes.as_ptr() as u64,
        count: u32::try_from(writes.len()).unwrap_or(u32::MAX),
        flush: u32::from(flush),
        ..BlockCommit::default()
    };
    // SAFETY: the structure is the call's, the list is readable, and the caller vouches for what it names.
    unsafe { slot::call(extension::BLOCK_COMMIT, &mut commit) };
    commit.ret == abi::RESULT_OK
}

/// Gives whole pages back, which read as zero afterwards; false when the tender refuses. Only with
/// [`extension::FEATURE_MEMORY_RELEASE`].
///
/// # Safety
/// Nobody needs what is in the pages.
pub(super) unsafe fn memory_release(start: *mut u8, len: usize) -> bool {
    let (address, len) = (start as u64, len as u64);
    let mut release = MemoryRelease { address, len, ..MemoryRelease::default() };
    // SAFETY: the structure is the call's, and the caller gives the pages up.
    unsafe { call(extension::MEMORY_RELEASE, &mut release) };
    release.ret == abi::RESULT_OK
}

/// Ends the program.
pub(super) fn halt(status: i32) -> ! {
    let mut halt = Halt { exit_status: status, ..Halt::default() };
    loop {
        // SAFETY: the structure is the call's, without a cookie.
        unsafe { call(abi::HALT, &mut halt) };
    }
}
