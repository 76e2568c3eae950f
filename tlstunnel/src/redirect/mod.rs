//! Port 80.

/// Answers to ACME http-01 challenges by token.
#[derive(Debug, Default)]
pub struct Challenges {}
