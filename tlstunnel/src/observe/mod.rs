//! What people and programs see of a running gateway: logs, syslog, metrics, health.
//!
//! Data only flows out of here. Connections write counters and `tracing` events and know nothing of this room.

pub mod http;
pub mod log;
pub mod metrics;
pub mod syslog;
mod system;
