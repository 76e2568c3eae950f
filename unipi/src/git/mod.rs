//! Git as a source of a site: fetches one branch or tag into memory and verifies it; accepts a push the same way.
//!
//! # How data passes through
//!
//! [`fetch`] opens a connection that [`Remote`] describes (`transport`), asks with protocol version 2 what the reference
//! points at (`protocol`), and stops there when the known [`Generation`] is that commit already. Otherwise it asks for
//! the commit at depth 1, and the pack goes through [`pack::Unpacker`] piece by piece as it arrives: every object is
//! inflated, its deltas are resolved, and its id is computed from its content. [`Generation::assemble`] walks the tip's
//! tree, takes what it reaches and drops the rest. Blobs that the known generation has are shared, not kept twice.
//!
//! # What this room must not know
//!
//! Sites, HTTP serving, persistence. It opens no file and starts no thread: host names are resolved over tokio's sockets,
//! and long work gives way to other tasks after every [`pace::SLICE`] bytes.
//!
//! # Memory
//!
//! While a fetch runs, the known generation and the new objects are held, each object once: what the server sends again
//! is dropped for the known copy. The pack itself is never held. The new objects are within
//! [`Limits::unpacked_bytes`].
//!
//! # What a hostile remote can do
//!
//! Waste what [`Limits`] allows and then get a [`FetchError`] that says so. Time and memory are linear in what it sent
//! plus what that unpacks to, and both are limited. The commit that the result shows hashes to the id that the
//! remote announced; nothing else of what it says is trusted.

mod error;
mod fetch;
mod generation;
mod identity;
mod limits;
pub mod pace;
pub mod pack;
pub mod pkt_line;
mod protocol;
pub mod receive;
mod remote;
mod transport;
mod tree;

pub use error::FetchError;
pub use fetch::{fetch, fetch_unless};
pub use generation::{Commit, Fetched, Generation, Object, Objects, Tag, Transfer};
pub use gix_hash::{Kind as HashKind, ObjectId};
pub use gix_object::Kind as ObjectKind;
pub use identity::private_key;
pub use limits::Limits;
pub(crate) use remote::is_reference;
pub use remote::{Credentials, HostKeyPin, Progress, ProgressSink, Remote, RemoteUrl, SshIdentity};
pub use tree::{EntryKind, Notice, TreeEntry, TreeError};
