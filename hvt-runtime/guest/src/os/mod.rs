//! The C library's symbols over hypercalls, one module per concern.
//!
//! Everything here relies on there being one processor without interrupts: see [`single`].

mod block;
mod console;
mod cpu;
mod entropy;
mod epoll;
mod error;
mod file;
mod futex;
mod hypercall;
mod math;
mod memory;
mod net;
mod proc;
mod process;
mod pthread;
mod single;
mod slot;
mod start;
mod stdio;
mod string;
mod stubs;
mod symbols;
mod sysconf;
mod thread;
mod time;
mod unwind;
