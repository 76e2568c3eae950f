//! A site server: static web sites straight out of a git repository, held in memory.
//!
//! # The way of a change
//!
//! [`webhook`] (or a poll) says that something may be new → [`git`] asks the remote, fetches what is missing into memory,
//! verifies every object; or it takes what [`push`] brings → [`trust`] says whether its signer may → [`site`] makes a new
//! site value of it off to one side → one pointer is swapped → [`storage`] keeps it for the next start.
//!
//! # The way of a request
//!
//! [`serve`] reads it, finds the host among the [`sites`], looks the path up in its current site value and answers. A
//! request keeps the site value that it started with.
//!
//! Two event loops: one serves, and what takes long is done by the other ([`background`]).
//!
//! This room must not know where it runs: it uses tokio's sockets and one block device.
#![forbid(unsafe_code)]

pub mod background;
pub mod control;
pub mod git;
pub mod listen;
pub mod observe;
pub mod options;
pub mod push;
pub mod refresh;
pub mod resolve;
pub mod run;
pub mod serve;
pub mod site;
pub mod sites;
mod size;
pub mod storage;
pub mod tls;
pub mod trust;
pub mod webhook;
