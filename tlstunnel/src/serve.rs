//! The chain of one TLS connection.
