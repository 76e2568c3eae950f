//! Makes a [`Site`] of the files of a commit.
//!
//! Nothing in a tree makes it fail but its size: what cannot be served is left out and reported.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::HeaderValue;

use super::blob::Blob;
use super::content_type::{ContentTypes, freshness, is_compressible};
use super::headers::{self, HeaderRules};
use super::links::Links;
use super::problem::Problems;
use super::redirects::{self, Redirects};
use super::{CommitInfo, Page, Problem, Site, SitePath, at_second};
use crate::size::in_units;

/// What a site is made of.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// The commit.
    pub commit: CommitInfo,
    /// Its files and links.
    pub entries: Vec<Entry>,
    /// What is known to be wrong with it already.
    pub notices: Vec<Problem>,
}

/// A file or link of a commit's tree, with its full path.
#[derive(Clone, Debug)]
pub struct Entry {
    /// From the root of the tree, without a leading slash.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// The object id in hexadecimal.
    pub id: String,
    /// The content; for a link, where it leads.
    pub data: Bytes,
}

/// What an entry of a tree is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A file.
    File,
    /// A symbolic link.
    Link,
}

/// What a site is built with.
#[derive(Clone, Debug)]
pub struct BuildOptions {
    /// Media types.
    pub types: ContentTypes,
    /// Bytes that the blobs of a site may have together.
    pub max_size: u64,
    /// Where requests for what is not there are sent, unless the site has a page for that.
    pub default: Option<SitePath>,
}

/// Why there is no site.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// Larger than allowed.
    #[error(
        "the site has more than {}: allow more with --max-site-size, or make it smaller",
        in_units(*.0)
    )]
    TooLarge(u64),
}

/// Entries between two yields.
const STEP: usize = 256;

/// Builds a site of `source`. Blobs that a site of `before` holds are shared with it, variants and all. `now` and the
/// generations before keep Last-Modified from going back or into the future (RFC 9110 section 8.8.2.1).
///
/// # Errors
/// [`BuildError`].
pub async fn build(
    source: Source,
    options: &BuildOptions,
    before: &[Arc<Site>],
    now: u64,
) -> Result<Site, BuildError> {
    let mut known: HashMap<String, Arc<Blob>> = HashMap::new();
    for page in before.iter().flat_map(|site| site.pages.values()) {
        known.entry(page.blob.id().to_owned()).or_insert_with(|| Arc::clone(&page.blob));
    }
    let Source { commit, entries, notices } = source;
    let mut problems = Problems::from(notices);
    let mut site = Site {
        last_modified: last_modified(
            commit.time,
            before.iter().map(|site| site.last_modified.0).max(),
            now,
        ),
        commit,
        pages: HashMap::new(),
        directories: HashSet::new(),
        links: Links::default(),
        redirects: Redirects::default(),
        headers: HeaderRules::default(),
        problems: Vec::new(),
        size: 0,
        default: options.default.clone(),
    };
    let mut counted = HashSet::new();
    for (number, entry) in entries.into_iter().enumerate() {
        if number % STEP == STEP - 1 {
            tokio::task::yield_now().await;
        }
        match (entry.kind, entry.path.as_slice()) {
            (_, path) if is_git_metadata(path) => {}
            (EntryKind::Link, path) => match site.links.add(path, &entry.data) {
                Ok(()) => add_parents(&mut site.directories, path),
                Err(error) => problems.add(path, None, error.to_string()),
            },
            (EntryKind::File, path) => {
                if counted.insert(entry.id.clone()) {
                    site.size = site.size.saturating_add(entry.data.len() as u64);
                    if site.size > options.max_size {
                        return Err(BuildError::TooLarge(options.max_size));
                    }
                }
                if path == redirects::FILE.as_bytes() {
                    site.redirects = Redirects::parse(&entry.data, &mut problems);
                } else if path == headers::FILE.as_bytes() {
                    site.headers = HeaderRules::parse(&entry.data, &mut problems);
                } else {
                    add_parents(&mut site.directories, path);
                    let page = page(&entry, &mut known, &options.types);
                    site.pages.insert(entry.path, Arc::new(page));
                }
            }
        }
    }
    let (pages, directories) = (&site.pages, &site.directories);
    let exists = |path: &[u8]| pages.contains_key(path) || directories.contains(path);
    for (path, error) in site.links.check(exists) {
        problems.add(&path, None, error.to_string());
    }
    site.problems = problems.into_list();
    Ok(site)
}

fn page(entry: &Entry, known: &mut HashMap<String, Arc<Blob>>, types: &ContentTypes) -> Page {
    let blob = known
        .entry(entry.id.clone())
        .or_insert_with(|| Arc::new(Blob::new(entry.id.clone(), entry.data.clone())));
    let content_type = types.of(&entry.path);
    let size = super::blob::MIN_COMPRESSED..=super::blob::MAX_COMPRESSED;
    Page {
        compressible: is_compressible(&content_type) && size.contains(&entry.data.len()),
        freshness: freshness(&entry.path, &content_type),
        blob: Arc::clone(blob),
        content_type,
    }
}

/// `.gitignore`, `.gitattributes`, `.github/` and the like tell git and forges something, not readers.
fn is_git_metadata(path: &[u8]) -> bool {
    path.split(|&byte| byte == b'/').any(|segment| segment.starts_with(b".git"))
}

fn add_parents(directories: &mut HashSet<Vec<u8>>, path: &[u8]) {
    let mut path = path;
    while let Some(slash) = path.iter().rposition(|&byte| byte == b'/') {
        path = &path[..slash];
        if !directories.insert(path.to_vec()) {
            return;
        }
    }
    directories.insert(Vec::new());
}

/// The commit's time where it can be told to clients: not in the future, and later than what they have seen, since a
/// force-push or a rollback may put an older commit in the place of a newer one.
pub(super) fn last_modified(
    committed: u64,
    newest: Option<SystemTime>,
    now: u64,
) -> (SystemTime, HeaderValue) {
    let mut time = at_second(committed.min(now));
    if newest.is_some_and(|newest| time <= newest) {
        time = at_second(now);
    }
    let text = httpdate::fmt_http_date(time);
    (time, HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("")))
}
