//! The files of a commit: a walk of its tree, bounded, with unsafe names refused.

use std::collections::HashSet;

use bytes::Bytes;
use gix_object::TreeRefIter;
use gix_object::tree::EntryKind as GitKind;

use super::generation::{Object, Objects};
use super::pace::Pace;
use super::{Limits, ObjectId, ObjectKind};

/// What a path of the tree is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// A plain file.
    File,
    /// A file with the executable bit.
    Executable,
    /// A symbolic link; the blob is its target.
    Symlink,
    /// Another repository's commit. It has no content here.
    Submodule,
}

/// One file, link or submodule of the tip's tree. Directories are not listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeEntry {
    /// The path from the root, components separated by `/`, without a leading one. Any bytes but NUL; no component is
    /// empty, `.`, `..` or `.git`.
    pub path: Bytes,
    /// What it is.
    pub kind: EntryKind,
    /// The blob's id (a submodule's: the commit it names).
    pub id: ObjectId,
    /// The content, shared between generations. Empty for a submodule.
    pub blob: Bytes,
}

impl TreeEntry {
    /// Whether this is a Git LFS pointer instead of the file it stands for (the LFS specification's first line).
    #[must_use]
    pub fn is_lfs_pointer(&self) -> bool {
        // A pointer is at most 1024 bytes long by the specification.
        self.kind != EntryKind::Submodule
            && self.blob.len() <= 1024
            && self.blob.starts_with(b"version https://git-lfs.github.com/spec/")
    }
}

/// Something in the tree that the site's author should hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A submodule: its files are not fetched.
    Submodule {
        /// Where it is.
        path: Bytes,
    },
    /// A Git LFS pointer: the file that it stands for is not in the repository.
    LfsPointer {
        /// Where it is.
        path: Bytes,
    },
}

impl std::fmt::Display for Notice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (path, text) = match self {
            Self::Submodule { path } => (path, "is a submodule; its files are not fetched"),
            Self::LfsPointer { path } => {
                (path, "is a Git LFS pointer; the file itself is not in the repository")
            }
        };
        write!(f, "{} {text}", path.escape_ascii())
    }
}

/// Why a commit's content is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TreeError {
    /// The commit object cannot be parsed.
    #[error("the commit {0} is malformed")]
    Commit(ObjectId),
    /// A tree object cannot be parsed.
    #[error("the tree {0} is malformed")]
    Tree(ObjectId),
    /// An object that the tip needs did not come.
    #[error("the {kind} {id} is missing")]
    Missing {
        /// What it should be.
        kind: ObjectKind,
        /// Its id.
        id: ObjectId,
    },
    /// An object is of another type than the tree says.
    #[error("the object {id} is no {expected}")]
    WrongKind {
        /// What it should be.
        expected: ObjectKind,
        /// Its id.
        id: ObjectId,
    },
    /// A name that no well-behaved client writes: empty, `.`, `..`, `.git`, with a slash, or twice in one directory.
    #[error("the tree {tree} has the unsafe name {name:?}")]
    UnsafeName {
        /// The tree object.
        tree: ObjectId,
        /// The name, escaped.
        name: String,
    },
    /// A limit of [`Limits`] was met.
    #[error("{}", super::limits::exceeded(name, *limit))]
    Limit {
        /// The limit's name, as the field of [`Limits`].
        name: &'static str,
        /// Its value.
        limit: u64,
    },
}

fn limit(name: &'static str, limit: usize) -> TreeError {
    TreeError::Limit { name, limit: limit as u64 }
}

/// What the walk found: the files in path order of the trees, notices, and every object that is reachable.
pub(super) struct Walk {
    pub(super) entries: Vec<TreeEntry>,
    pub(super) notices: Vec<Notice>,
    pub(super) reachable: Objects,
}

struct Directory {
    path: Vec<u8>,
    depth: usize,
    id: ObjectId,
}

/// Walks the tree `root` in `objects` (what came) and then `known` (what was there).
pub(super) async fn walk(
    root: ObjectId,
    objects: &Objects,
    known: Option<&Objects>,
    limits: &Limits,
) -> Result<Walk, TreeError> {
    let find = |id: &ObjectId, kind: ObjectKind| -> Result<Object, TreeError> {
        let found = known.and_then(|known| known.get(id)).or_else(|| objects.get(id));
        let object = found.ok_or(TreeError::Missing { kind, id: *id })?;
        if object.kind != kind {
            return Err(TreeError::WrongKind { expected: kind, id: *id });
        }
        Ok(object.clone())
    };
    let mut walk = Walk { entries: Vec::new(), notices: Vec::new(), reachable: Objects::new() };
    let mut pace = Pace::default();
    let mut count = 0_usize;
    // The same tree may stand in many places: objects are few then, but paths are not. They count as memory too.
    let mut path_bytes = 0_u64;
    let mut pending = vec![Directory { path: Vec::new(), depth: 0, id: root }];
    while let Some(directory) = pending.pop() {
        let tree = find(&directory.id, ObjectKind::Tree)?;
        pace.spend(tree.data.len()).await;
        let mut names = HashSet::new();
        let mut below = Vec::new();
        for entry in TreeRefIter::from_bytes(&tree.data, directory.id.kind()) {
            let entry = entry.map_err(|_| TreeError::Tree(directory.id))?;
            count += 1;
            if count > limits.entries {
                return Err(limit("entries", limits.entries));
            }
            if !is_safe(entry.filename) || !names.insert(entry.filename) {
                let name = entry.filename.escape_ascii().to_string();
                return Err(TreeError::UnsafeName { tree: directory.id, name });
            }
            let mut path = directory.path.clone();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(entry.filename);
            if path.len() > limits.path_bytes {
                return Err(limit("path_bytes", limits.path_bytes));
            }
            path_bytes += path.len() as u64;
            if path_bytes > limits.unpacked_bytes {
                return Err(TreeError::Limit {
                    name: "unpacked_bytes",
                    limit: limits.unpacked_bytes,
                });
            }
            pace.spend(path.len() + 64).await;
            let id = entry.oid.to_owned();
            let kind = match entry.mode.kind() {
                GitKind::Tree => {
                    let depth = directory.depth + 1;
                    if depth > limits.path_depth {
                        return Err(limit("path_depth", limits.path_depth));
                    }
                    below.push(Directory { path, depth, id });
                    continue;
                }
                GitKind::Blob => EntryKind::File,
                GitKind::BlobExecutable => EntryKind::Executable,
                GitKind::Link => EntryKind::Symlink,
                GitKind::Commit => EntryKind::Submodule,
            };
            let blob = if kind == EntryKind::Submodule {
                Bytes::new()
            } else {
                let object = find(&id, ObjectKind::Blob)?;
                let data = object.data.clone();
                walk.reachable.insert(id, object);
                data
            };
            let entry = TreeEntry { path: path.into(), kind, id, blob };
            if kind == EntryKind::Submodule {
                walk.notices.push(Notice::Submodule { path: entry.path.clone() });
            } else if entry.is_lfs_pointer() {
                walk.notices.push(Notice::LfsPointer { path: entry.path.clone() });
            }
            walk.entries.push(entry);
        }
        drop(names);
        walk.reachable.insert(directory.id, tree);
        // Reversed, so that the stack gives directories in their order.
        pending.extend(below.into_iter().rev());
    }
    Ok(walk)
}

fn is_safe(name: &[u8]) -> bool {
    !name.is_empty()
        && name != b"."
        && name != b".."
        && !name.eq_ignore_ascii_case(b".git")
        && !name.contains(&b'/')
}
