//! What the long-running programs are to their operator: lines in a log ([`log`]), files that others wait for or must not
//! read ([`files`]), and a warning of secrets that others can read ([`secrets`]).
//!
//! Both programs are set up and watched the same way, so this is here once. It must not know what either of them does:
//! what is logged comes through `tracing`, what is written comes as bytes.
#![forbid(unsafe_code)]

pub mod files;
pub mod log;
pub mod secrets;
