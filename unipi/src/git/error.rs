//! Why a fetch or a push did not succeed, and who has to act.

use super::ObjectId;
use super::pack::PackError;
use super::tree::TreeError;

/// Why a fetch failed. The known generation is untouched in every case.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The operator's configuration does not work: the text says what to change.
    #[error("the remote's configuration does not work: {0}")]
    Configuration(String),
    /// The remote cannot be reached; trying again later may help.
    #[error("the remote cannot be reached: {0}")]
    Unreachable(String),
    /// The remote wants other credentials, or its host key or certificate is not the expected one.
    #[error("the remote refuses access, or is not who it should be: {0}")]
    Refused(String),
    /// The remote has no repository there, or does not serve it.
    #[error("the remote does not serve this repository: {0}")]
    NoRepository(String),
    /// The repository has no commit at all yet.
    #[error("the repository is empty: push a commit to it")]
    Empty,
    /// The repository has no such branch or tag.
    #[error("the repository has no branch or tag {0:?}")]
    MissingReference(String),
    /// The tag points at something that has no tree of files.
    #[error("{reference:?} points at {id}, which is not a commit")]
    NotACommit {
        /// The reference that was asked for.
        reference: String,
        /// What it points at.
        id: ObjectId,
    },
    /// The remote reported an error of its own.
    #[error("the remote reports: {0}")]
    Remote(String),
    /// The remote does not keep to the protocol.
    #[error("the remote violates the git protocol: {0}")]
    Protocol(String),
    /// The connection ended in the middle.
    #[error("the connection to the remote broke: {0}")]
    Connection(String),
    /// The remote sent a pack that is damaged or hostile.
    #[error("the remote sent a bad pack: {0}")]
    Pack(#[from] PackError),
    /// The commit or its tree is malformed or unsafe.
    #[error("the repository's content is refused: {0}")]
    Content(#[from] TreeError),
    /// A limit of [`super::Limits`] was met; raise it when the site is meant to be this large.
    #[error("{}", super::limits::exceeded(name, *limit))]
    Limit {
        /// The limit's name, as the field of [`super::Limits`].
        name: &'static str,
        /// Its value, in the field's unit.
        limit: u64,
    },
    /// The remote was silent for longer than [`super::Limits::idle_time`].
    #[error("the remote was silent for {0:?}")]
    Idle(std::time::Duration),
    /// The operation took longer than [`super::Limits::total_time`].
    #[error("the fetch took longer than {0:?}")]
    TooLong(std::time::Duration),
}
