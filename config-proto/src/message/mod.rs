//! What client and server say to each other in protocol v2: one [`Request`], one [`Reply`], both JSON.
//!
//! Every request names its operation in the field `op`. A reply is either `{"ok": …}` with the operation's own result or
//! `{"error": …}` with who is to blame and what to do. Lists are paged, so that a frame stays bounded however many
//! routes there are. `PROTOCOL.md` is the specification for other languages.
//!
//! [`Request`] is every operation; the results stand with what they are about, one module each.

mod advice;
mod certificate;
mod change;
mod key;
mod refusal;
mod request;
mod sealed;
mod state;

use serde::{Deserialize, Serialize};

pub use advice::{Check, Finding, Severity, Why};
pub use certificate::{
    CertificateChain, CertificateCursor, CertificateInfo, CertificateList, RevocationReason,
};
pub use change::{Applied, Changed, Diff, Generation, History, Pending, RouteChange};
pub use key::{KeyAdded, KeyInfo, KeyList, Role, RoleError};
pub use refusal::{MAX_REFUSAL_TEXT, Refusal, RefusalCode};
pub use request::Request;
pub use sealed::Sealed;
pub use state::{
    BackendState, ConnectionInfo, RouteActivity, RouteDetail, RouteList, RouteMemory, Status,
    StorageState, Top,
};

/// Most entries of one page of a list.
pub const MAX_PAGE: u32 = 1000;

/// What a server answers: the result of the operation, or why there is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply<T> {
    /// It was done.
    Ok(T),
    /// It was refused; nothing changed.
    Error(Refusal),
}
