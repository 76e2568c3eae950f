//! Copies both ways.
