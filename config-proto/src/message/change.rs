//! Changes of the configuration: one made, the log of them, and the difference between two of its generations.

use serde::{Deserialize, Serialize};

use crate::model::{Route, RouteName};

/// A change was made durable and is in effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Changed {
    /// The current generation.
    pub generation: u64,
    /// One sentence: what changed.
    pub message: String,
    /// The name in full, where the change was about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What the user may want to know: legal, and perhaps not meant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// A change that is undone unless it is confirmed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Pending {
    /// The generation that waits.
    pub generation: u64,
    /// Seconds until it is undone.
    pub seconds_left: u64,
}

/// A page of generations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct History {
    /// Newest first.
    pub generations: Vec<Generation>,
    /// Whether there are older ones.
    pub more: bool,
}

/// One generation of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Generation {
    /// Its number; each change adds one.
    pub number: u64,
    /// When it was made, seconds since 1970.
    pub time: i64,
    /// The id of the key that made it, or `start`, `migration`, `v1`, `automatic-rollback`.
    pub author: String,
    /// One sentence: what was done.
    pub summary: String,
}

/// What changed between two generations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Diff {
    /// The older generation.
    pub from: u64,
    /// The newer generation.
    pub to: u64,
    /// In order of the names, at most [`MAX_PAGE`](super::MAX_PAGE).
    pub changes: Vec<RouteChange>,
    /// Whether changes were left out.
    pub more: bool,
}

/// The change of one route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RouteChange {
    /// Which route.
    pub name: RouteName,
    /// Before; absent when it was added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Route>,
    /// After; absent when it was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Route>,
}

/// What `apply` did or would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Applied {
    /// The current generation.
    pub generation: u64,
    /// Whether anything was changed (not with `dry_run`, not when all was as wanted).
    pub applied: bool,
    /// What changed or would change.
    pub diff: Diff,
    /// Live connections on routes that are changed or removed; they go on undisturbed.
    pub connections: u64,
    /// Seconds until the change is undone unless confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_seconds: Option<u32>,
    /// What the user may want to know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}
