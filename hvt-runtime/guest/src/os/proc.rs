//! The files under `/proc` in which programs look up what they hold themselves: memory and threads in
//! `/proc/self/status`, all memory in `/proc/meminfo`, sockets in `/proc/net/sockstat`, in the form that Linux gives them (proc(5)). What is counted here
//! and not on Linux stands in a section of its own, which other readers skip.
//!
//! A file says what was so when it was opened.

use alloc::format;
use alloc::vec::Vec;

use super::{file, memory, net, thread};

/// Octets in which Linux counts the memory of sockets.
const PAGE: usize = 4096;

/// The content of a file; none if there is no file of this name.
pub(super) fn content(path: &[u8]) -> Option<Vec<u8>> {
    match path {
        b"/proc/self/status" => Some(status()),
        b"/proc/meminfo" => Some(whole_memory()),
        b"/proc/net/sockstat" => Some(sockets()),
        _ => None,
    }
}

fn status() -> Vec<u8> {
    let usage = memory::usage();
    let (threads, stacks) = thread::census();
    format!(
        "FDSize:\t{}\nVmSize:\t{} kB\nVmHWM:\t{} kB\nVmRSS:\t{} kB\nVmData:\t{} kB\nVmStk:\t{} kB\nThreads:\t{threads}\n",
        file::descriptors(),
        usage.capacity / 1024,
        usage.held_peak / 1024,
        usage.touched / 1024,
        usage.held / 1024,
        stacks / 1024,
    )
    .into_bytes()
}

/// The heap is all that the program can have.
fn whole_memory() -> Vec<u8> {
    let usage = memory::usage();
    let free = usage.capacity - usage.held.min(usage.capacity);
    format!("MemTotal:\t{} kB\nMemFree:\t{} kB\n", usage.capacity / 1024, free / 1024).into_bytes()
}

fn sockets() -> Vec<u8> {
    let (used, datagrams) = file::sockets();
    let (census, timers) = net::census();
    let streams = used - datagrams + census.orphans;
    format!(
        "sockets: used {used}\n\
         TCP: inuse {streams} orphan {} tw {} alloc {streams} mem {}\n\
         UDP: inuse {datagrams}\n\
         NETSTACK: half_open {} connecting {} established {} closed_by_peer {} closed_here {} buffers {} timers {timers}\n",
        census.orphans,
        census.time_wait,
        census.buffers.div_ceil(PAGE),
        census.half_open,
        census.connecting,
        census.established,
        census.closed_by_peer,
        census.closed_here,
        census.buffers,
    )
    .into_bytes()
}
