//! A site server: static web sites straight out of a git repository, held in memory.
//!
//! # The way of a change
//!
//! [`webhook`] (or a poll, or a push) says that something may be new → [`git`] asks the remote, fetches what is missing
//! into memory, verifies every object → [`site`] makes a new site value of it off to one side → one pointer is swapped.
//!
//! # The way of a request
//!
//! [`serve`] reads it, looks the path up in the current site value and answers. A request keeps the site value that it
//! started with.
//!
//! This room must not know where it runs: it uses tokio's sockets and one block device, and works on a single thread.
#![forbid(unsafe_code)]

pub mod git;
pub mod listen;
pub mod observe;
pub mod options;
pub mod refresh;
pub mod resolve;
pub mod run;
pub mod serve;
pub mod site;
pub mod storage;
pub mod tls;
pub mod webhook;
