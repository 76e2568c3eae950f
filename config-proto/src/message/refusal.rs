//! Why a request is not carried out.

use serde::{Deserialize, Serialize};

/// Longest text of a refusal on the wire, in bytes; a longer one ends in `…`.
pub const MAX_REFUSAL_TEXT: usize = 1024;

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The kind, for programs.
    pub code: RefusalCode,
    /// One sentence for people.
    pub message: String,
    /// What to try next, when there is something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Refusal {
    /// The same refusal with texts of at most [`MAX_REFUSAL_TEXT`] bytes. Messages quote what the client sent, which can
    /// be as long as a frame, and a refusal must always fit into one.
    #[must_use]
    pub fn shortened(&self) -> Self {
        Self {
            code: self.code,
            message: shortened(&self.message),
            hint: self.hint.as_deref().map(shortened),
        }
    }
}

fn shortened(text: &str) -> String {
    if text.len() <= MAX_REFUSAL_TEXT {
        return text.to_owned();
    }
    let room = MAX_REFUSAL_TEXT - '…'.len_utf8();
    let fits = |(start, c): &(usize, char)| start + c.len_utf8() <= room;
    text.char_indices().take_while(fits).map(|(_, c)| c).chain(['…']).collect()
}

/// The kinds of refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum RefusalCode {
    /// The request is not understood: wrong JSON, unknown operation or field.
    Malformed,
    /// A value in it is not valid.
    Invalid,
    /// The key's role does not allow it.
    Forbidden,
    /// There is no such route, generation, key or certificate.
    NotFound,
    /// It exists already, and replacing it was not asked for.
    Exists,
    /// The store is full.
    Full,
    /// A change that waits for confirmation is in the way.
    Pending,
    /// The gateway failed; it is not the client's fault.
    Internal,
}
