//! Configuration and its generations.
