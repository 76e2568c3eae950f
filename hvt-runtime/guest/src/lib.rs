//! What `std` asks of an operating system, for a program that is alone in a virtual machine.
//!
//! `std` for `x86_64-unknown-linux-gnu` and the C code in the crypto library are linked against the C library's symbols.
//! This crate is that library for a guest of Solo5's hvt interface: built as a static library with `--cfg hvt_guest` it
//! exports the symbols and the entry point, and `hvt-image` links it in place of libc, so that no program knows of it.
//!
//! It must not know what program it carries, nor what the tender does with a hypercall. What it does not implement answers
//! `ENOSYS` and is counted (`os`, module `stubs`), never silently done wrong.
//!
//! # What is where
//!
//! - [`heap`]: the allocator; [`sched`]: who runs next; [`copy`]: copying, filling and comparing memory;
//!   [`command_line`]: arguments; [`sectors`]: any range of bytes on a device of blocks, [`behind`] and [`read_cache`]: what
//!   of it does not leave the machine at once, [`call_way`]: what does not leave it at all; [`files`]: descriptors and
//!   readiness; [`net`]: sockets over the network stack; [`ring`]: frames by Solo5's ring; [`printf`]: formatted text;
//!   [`host_random`]: the host's part of random words;
//!   [`processor`]: what the processor has. These are pure and are tested on any host.
//! - `os`, only in a guest: the C symbols, one module per concern, over the pure ones and the hypercalls.
//!
//! # Threads
//!
//! There is one processor and no interrupt: threads switch only where they wait, and now and then where they allocate or
//! ask for the time. So nothing here needs a lock, but no borrow of shared state may be held across a switch.
#![cfg_attr(hvt_guest, no_std)]

extern crate alloc;

pub mod behind;
pub mod call_way;
pub mod command_line;
pub mod copy;
pub mod files;
pub mod heap;
pub mod host_random;
pub mod net;
#[cfg(hvt_guest)]
mod os;
pub mod printf;
pub mod processor;
pub mod read_cache;
pub mod ring;
pub mod sched;
pub mod sectors;

use hvt_abi::{boot, extension};

/// What this guest understands beyond Solo5's plain calls, for the note in its image.
pub const FEATURES: u32 = boot::FEATURE_RING_IO
    | extension::FEATURE_RING3
    | extension::FEATURE_BOOT_EXTENSION
    | extension::FEATURE_BLOCK_FLUSH
    | extension::FEATURE_SHUTDOWN
    | extension::FEATURE_EXCHANGE
    | extension::FEATURE_PROCESS
    | extension::FEATURE_MEMORY_RELEASE
    | extension::FEATURE_BLOCK_COMMIT
    | extension::FEATURE_BLOCK_SLOT;
