//! A TCP/IP stack for unikernels that serve many connections.
//!
//! smoltcp gives the wire formats, ARP, neighbour discovery and ICMP; the rest is made so that an
//! internet-facing server can stand on it: the cost of a packet does not grow with the number of connections,
//! listeners have real backlogs and survive floods, closed connections leave nothing behind but a
//! stub, and what a blind attacker sends does not reach a connection.
//!
//! # The way of a packet
//!
//! A [`Device`] gives a frame → the demultiplexer (`stack/input`) finds the connection of its flow
//! by a keyed hash → its engine (`tcp`) refuses what does not fit and takes the rest → the connection
//! is marked dirty. At the end of the turn dirty connections send (`stack/output`), and their next
//! deadline goes to one heap.
//! A SYN to a listener meets no engine: `half_open` answers it and remembers some forty octets, or
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
//! reassembles IP fragments; datagrams fit one packet. There is no ECN, no urgent data (it is read
//! as data), no pacing, and no search for routers that drop what is too long without a word
//! (RFC 4821).
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod config;
mod connection;
mod control;
mod counters;
mod device;
mod error;
mod flow;
pub mod fuzz;
mod half_open;
mod icmp;
mod interface;
mod neighbor;
mod packet;
mod path_mtu;
mod readiness;
mod slaac;
mod stack;
mod tcp;
mod time_wait;
mod timers;
mod udp;

pub use config::{ADDRESSES_MAX, AddressSource, InterfaceConfig, KeepAlive, Limits, Route};
pub use counters::{Census, Counters, DropReason};
pub use device::{
    Capabilities, Device, FrameOffload, MTU_MAX, MTU_MIN, Offload, PartialChecksum, Segmentation,
};
pub use error::{ConfigError, SocketError};
pub use interface::{Capture, Direction};
pub use readiness::{Readiness, SocketId};
pub use stack::{Close, Shutdown, Stack};
