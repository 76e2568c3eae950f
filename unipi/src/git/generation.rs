//! A verified state of a repository's branch or tag, held in memory: one commit, its files, and their objects.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use gix_object::{CommitRef, TagRef};

use super::tree::{self, Notice, TreeEntry, TreeError};
use super::{Limits, ObjectId, ObjectKind};

/// An object of a repository whose id was computed from its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Commit, tree, blob or tag.
    pub kind: ObjectKind,
    /// The content, without git's header.
    pub data: Bytes,
}

/// Verified objects by their id.
pub type Objects = HashMap<ObjectId, Object>;

/// The commit that a generation shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Its id.
    pub id: ObjectId,
    /// The tree of its files.
    pub tree: ObjectId,
    /// Its parents. They are not fetched.
    pub parents: Vec<ObjectId>,
    /// Seconds since 1970 at which it was committed, as the committer's clock said. May be any value.
    pub time: i64,
    /// The author line: `Name <mail> seconds zone`, as bytes because nothing says which encoding it has.
    pub author: Bytes,
    /// The committer line, likewise.
    pub committer: Bytes,
    /// The message.
    pub message: Bytes,
    /// The `gpgsig` header (`gpgsig-sha256` in a SHA-256 repository), unfolded: an armored OpenPGP or SSH signature.
    pub signature: Option<Bytes>,
    /// The whole object. What was signed is this without the signature's header.
    pub raw: Bytes,
}

impl Commit {
    /// Reads a commit object of this id.
    ///
    /// # Errors
    ///
    /// [`TreeError::Commit`] when it is malformed.
    pub fn parse(id: ObjectId, raw: Bytes) -> Result<Self, TreeError> {
        let malformed = |_| TreeError::Commit(id);
        let parsed = CommitRef::from_bytes(&raw, id.kind()).map_err(malformed)?;
        let header = gix_object::commit::signature_field_name(id.kind());
        let signature = parsed
            .extra_headers
            .iter()
            .find(|(name, _)| *name == header)
            .map(|(_, value)| Bytes::copy_from_slice(value));
        Ok(Self {
            id,
            tree: parsed.tree(),
            parents: parsed.parents().collect(),
            time: seconds(parsed.committer),
            author: raw.slice_ref(parsed.author),
            committer: raw.slice_ref(parsed.committer),
            message: raw.slice_ref(parsed.message),
            signature,
            raw: raw.clone(),
        })
    }

    /// What a signature of this commit covers: the object without the signature's header and its continuation lines.
    #[must_use]
    pub fn signed_payload(&self) -> Vec<u8> {
        let name = gix_object::commit::signature_field_name(self.id.kind()).as_bytes();
        let mut payload = Vec::with_capacity(self.raw.len());
        let mut in_headers = true;
        let mut in_signature = false;
        for line in self.raw.split_inclusive(|byte| *byte == b'\n') {
            if in_headers {
                in_headers = line != b"\n";
                let starts = line.strip_prefix(name).is_some_and(|rest| rest.starts_with(b" "));
                in_signature = starts || (in_signature && line.starts_with(b" "));
            }
            if !in_signature {
                payload.extend_from_slice(line);
            }
        }
        payload
    }
}

/// The seconds of a `Name <mail> seconds zone` line; 0 when it has none.
fn seconds(line: &[u8]) -> i64 {
    let text = line.rsplit(|byte| *byte == b'>').next().unwrap_or_default();
    let text = std::str::from_utf8(text).unwrap_or_default();
    text.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// The tag object that a reference points at, before its commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    /// Its id.
    pub id: ObjectId,
    /// When it was made, in seconds since 1970, as the tagger's clock said; 0 without a tagger.
    pub time: i64,
    /// The whole object; a signature stands at its end.
    pub raw: Bytes,
}

/// Tags of tags that are followed.
const MAX_TAGS: usize = 5;

/// A verified state of one branch or tag. It shares blobs with the generation it was fetched on top of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// The full name of the reference, such as `refs/heads/main`.
    pub reference: String,
    /// The tag object that names the commit, where the reference is an annotated tag.
    pub tag: Option<Tag>,
    /// The commit.
    pub commit: Commit,
    /// Its files, links and submodules.
    pub entries: Vec<TreeEntry>,
    /// What the site's author should hear of.
    pub notices: Vec<Notice>,
    /// The tag, the commit, its trees and its blobs, and nothing else.
    pub objects: Objects,
}

impl Generation {
    /// Makes a generation of the commit or tag `tip` from `objects` and, for what is not among them, of `known`.
    ///
    /// # Errors
    ///
    /// When an object is missing or malformed, a name is unsafe, or the tree exceeds `limits`.
    pub async fn assemble(
        reference: String,
        tip: ObjectId,
        objects: &Objects,
        known: Option<&Objects>,
        limits: &Limits,
    ) -> Result<Self, TreeError> {
        let find = |id: ObjectId| {
            let missing = TreeError::Missing { kind: ObjectKind::Commit, id };
            objects.get(&id).or_else(|| known?.get(&id)).cloned().ok_or(missing)
        };
        let (mut id, mut object, mut tags) = (tip, find(tip)?, Vec::new());
        while object.kind == ObjectKind::Tag && tags.len() < MAX_TAGS {
            let malformed = TreeError::Commit(id);
            let Ok(parsed) = TagRef::from_bytes(&object.data, id.kind()) else {
                return Err(malformed);
            };
            let (target, time) = (parsed.target(), parsed.tagger.map_or(0, |line| seconds(line)));
            tags.push((Tag { id, time, raw: object.data.clone() }, object));
            (id, object) = (target, find(target)?);
        }
        if object.kind != ObjectKind::Commit {
            return Err(TreeError::WrongKind { expected: ObjectKind::Commit, id });
        }
        let commit = Commit::parse(id, object.data.clone())?;
        let mut walk = tree::walk(commit.tree, objects, known, limits).await?;
        walk.reachable.insert(id, object);
        let tag = tags.first().map(|(tag, _)| tag.clone());
        walk.reachable.extend(tags.into_iter().map(|(tag, object)| (tag.id, object)));
        Ok(Self {
            reference,
            tag,
            commit,
            entries: walk.entries,
            notices: walk.notices,
            objects: walk.reachable,
        })
    }

    /// What the reference points at: the tag, or else the commit.
    #[must_use]
    pub fn tip(&self) -> ObjectId {
        self.tag.as_ref().map_or(self.commit.id, |tag| tag.id)
    }

    /// Sum of the sizes of the objects, in bytes: the memory that this generation holds.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.objects.values().map(|object| object.data.len() as u64).sum()
    }
}

/// What a fetch moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transfer {
    /// Bytes of the pack.
    pub pack_bytes: u64,
    /// Objects in the pack.
    pub objects: u32,
}

/// The result of a fetch.
#[derive(Clone, Debug)]
pub enum Fetched {
    /// The reference still points at the commit of the known generation.
    Unchanged,
    /// The reference points at the commit that is not wanted.
    Unwanted,
    /// There is a new state.
    New {
        /// The new state, complete and verified.
        generation: Arc<Generation>,
        /// What it took.
        transfer: Transfer,
    },
}
