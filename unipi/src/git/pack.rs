//! Packs.

/// Why a pack is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PackError {}
