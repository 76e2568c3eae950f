//! What one fetch or push may cost. Each limit has a name that the operator sees when it is met.

use std::time::Duration;

use crate::size::in_units;

/// Bounds of one fetch or push. The defaults suit sites up to 256 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Time for the whole operation, from the first byte to the verified generation.
    pub total_time: Duration,
    /// Longest time during which the remote may send nothing (or take nothing).
    pub idle_time: Duration,
    /// Bytes of the compressed pack.
    pub pack_bytes: u64,
    /// Sum of the sizes of all objects after decompression, deltas included, in bytes. Bounds the memory of a fetch.
    pub unpacked_bytes: u64,
    /// Number of objects in the pack.
    pub objects: u32,
    /// Number of entries of the tip's tree, directories included.
    pub entries: usize,
    /// Directories above a file.
    pub path_depth: usize,
    /// Bytes of one path.
    pub path_bytes: usize,
    /// References that a remote may list. Protocol version 2 lists what was asked for; older servers list everything.
    pub references: usize,
    /// Redirects that are followed over HTTP.
    pub redirects: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            total_time: Duration::from_secs(600),
            idle_time: Duration::from_secs(30),
            pack_bytes: 256 << 20,
            unpacked_bytes: 256 << 20,
            objects: 1_000_000,
            entries: 1_000_000,
            path_depth: 64,
            path_bytes: 4096,
            references: 100_000,
            redirects: 4,
        }
    }
}

/// What is said when a limit is met: its name, and what to do about it.
pub(super) fn exceeded(name: &str, limit: u64) -> String {
    match name {
        "pack_bytes" | "unpacked_bytes" => format!(
            "the site has more than {} ({name}): allow more with --max-site-size, for a site of its own with \
             --max-size too, or make it smaller",
            in_units(limit)
        ),
        _ => format!("limit {name} ({limit}) exceeded"),
    }
}
