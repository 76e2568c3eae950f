//! A TCP/IP stack for unikernels that serve many connections.
//!
//! smoltcp gives the mechanics of TCP/IP; this room arranges them so that an internet-facing
//! server can stand on them: the cost of a packet does not grow with the number of connections,
//! listeners have real backlogs and survive floods, closed connections leave nothing behind but a
//! stub, and what a blind attacker sends does not reach a connection.
//!
//! # The way of a packet
//!
//! A [`Device`] gives a frame → the demultiplexer (`stack/input`) finds the connection of its flow
//! by a keyed hash → the connection's `guard` refuses what does not fit (RFC 5961) → smoltcp's
//! socket, alone in its socket set, takes the segment → the connection is marked dirty. At the end
//! of the turn dirty connections send (`stack/output`), and their next deadline goes to one heap.
//! A SYN to a listener meets no socket: `half_open` answers it and remembers some forty octets, or
//! nothing at all (SYN cookies), until the handshake is complete.
//!
//! # The way of a call
//!
//! Sockets are handles ([`SocketId`]) for non-blocking operations of [`Stack`]; readiness comes as
//! edges ([`Stack::next_event`]) and levels ([`Stack::readiness`]), as a BSD socket layer with
//! `epoll` needs both. The caller runs the loop: [`Stack::receive`], drain events and let the
//! application run, [`Stack::transmit`], wait for a frame or until [`Stack::next_deadline`].
//!
//! # What it must not know
//!
//! Where it runs. Time, randomness and devices are arguments; there are no system calls, threads
//! or globals here.
//!
//! # Limits
//!
//! Everything that peers can make the stack hold is bounded by [`Limits`]. It neither sends nor
//! reassembles IP fragments; datagrams fit one packet. DHCP and SLAAC are not done yet. smoltcp's sender ignores selective acknowledgements and retransmits after one second
//! at the earliest; the tail-loss probe (`tail`) covers the end of a flight. Slow start from ten
//! segments (`slow_start`) is the stack's own; after the first loss smoltcp's CUBIC takes over, which
//! begins again with two.
#![forbid(unsafe_code)]

mod config;
mod connection;
mod counters;
mod device;
mod error;
mod flow;
pub mod fuzz;
mod guard;
mod half_open;
mod icmp;
mod interface;
mod neighbor;
mod packet;
mod path_mtu;
mod readiness;
mod slow_start;
mod stack;
mod tail;
#[allow(dead_code, unused_imports, reason = "the stack is not switched over yet")]
mod tcp;
mod time_wait;
mod timers;
mod udp;

pub use config::{ADDRESSES_MAX, InterfaceConfig, Limits, Route};
pub use counters::{Census, Counters, DropReason};
pub use device::{Capabilities, Device, MTU_MAX, MTU_MIN};
pub use error::{ConfigError, SocketError};
pub use interface::{Capture, Direction};
pub use readiness::{Readiness, SocketId};
pub use stack::{Close, Shutdown, Stack};
