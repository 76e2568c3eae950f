//! What is wrong with a site and does not keep it from being served.

use serde::{Deserialize, Serialize};

/// Something that whoever pushed the site should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The file, as far as it is text.
    pub path: String,
    /// The line, from 1, where the file has lines.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub line: Option<usize>,
    /// What is wrong and what becomes of it.
    pub text: String,
}

/// Problems that are kept of one site; the number of all is told by the last.
pub const MAX_PROBLEMS: usize = 100;

/// Problems as they are found.
#[derive(Debug, Default)]
pub(super) struct Problems {
    list: Vec<Problem>,
    more: usize,
}

impl From<Vec<Problem>> for Problems {
    fn from(mut list: Vec<Problem>) -> Self {
        let more = list.len().saturating_sub(MAX_PROBLEMS);
        list.truncate(MAX_PROBLEMS);
        Self { list, more }
    }
}

impl Problems {
    pub(super) fn add(&mut self, path: &[u8], line: Option<usize>, text: impl Into<String>) {
        if self.list.len() == MAX_PROBLEMS {
            self.more += 1;
            return;
        }
        let path = String::from_utf8_lossy(path).into_owned();
        self.list.push(Problem { path, line, text: text.into() });
    }

    pub(super) fn into_list(mut self) -> Vec<Problem> {
        if self.more > 0 {
            let text = format!("and {} problems more", self.more);
            self.list.push(Problem { path: String::new(), line: None, text });
        }
        self.list
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            Some(line) => write!(f, "{} line {line}: {}", self.path, self.text),
            None => write!(f, "{}: {}", self.path, self.text),
        }
    }
}
