//! PROXY protocol v1 and v2, parsing and writing.
