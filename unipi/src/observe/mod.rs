//! What the operator sees: logs and metrics.

pub mod log;
mod metrics;

pub(crate) use metrics::Metrics;
