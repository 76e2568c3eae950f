//! What the operator's monitoring sees.

mod metrics;

pub(crate) use metrics::Metrics;
