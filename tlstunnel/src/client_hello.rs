//! Reads a ClientHello of bounded size in bounded time.
