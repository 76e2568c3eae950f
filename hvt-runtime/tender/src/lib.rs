//! `hvt`: the tender, which starts a unikernel image in a virtual machine and serves its hypercalls.
//!
//! # The way of a start
//!
//! [`options`] reads the command line → [`image`] checks the file → [`device`] attaches what the image's manifest asks
//! for → [`launch`] loads the image into [`memory`], writes what the guest finds there ([`boot`]) and makes the machine
//! ([`kvm`], or [`process`] without one) → [`sandbox`] takes away everything that is not needed from here on → the guest
//! runs; [`gdb`] and [`dump`] look into it when asked to.
//!
//! # The way of a call
//!
//! The machine stops with a port and an address → [`border`] copies the structure through [`memory::GuestSpace`], the
//! only way from a guest's claim to bytes → a device acts on it → the result is written back and the guest resumes.
//! A guest that breaks the rules is ended with a message ([`border::Misuse`]); one that crashes, with a report
//! ([`crash`]). No guest can make the tender panic or touch memory that the guest itself may not.
//!
//! The tender knows [`hvt_abi`] and nobody else in the house.
#![warn(missing_docs)]

pub mod boot;
pub mod border;
mod bytes;
pub mod counters;
pub mod crash;
pub mod device;
pub mod dump;
pub mod failure;
pub mod gdb;
pub mod image;
pub mod kvm;
pub mod launch;
pub mod layout;
pub mod manifest;
pub mod memory;
pub mod options;
pub mod process;
pub mod processors;
pub mod sandbox;
pub mod shutdown;
pub mod symbols;
