//! The site as a value: what a commit's tree means as a web site. Built aside, never changed, swapped as a whole.
//!
//! [`build()`] takes the files of a commit and makes a [`Site`]; [`generations`] holds the current one and those before;
//! [`Site::find`] says what a path stands for. [`blob`] holds content with its compressed variants, which generations
//! share by blob id.
//!
//! It must not know where the files come from, nor how answers are sent.

pub mod blob;
pub mod build;
pub mod content_type;
pub mod generations;
pub mod headers;
pub mod links;
pub mod path;
mod pattern;
pub mod problem;
pub mod redirects;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue};

pub use blob::{Blob, Coding, Representation, Scratch};
pub use build::{BuildError, BuildOptions, Entry, EntryKind, Source, build};
pub use content_type::{ContentTypes, Freshness};
pub use generations::Generations;
pub use path::{PathError, SitePath};
pub use problem::Problem;

use headers::HeaderRules;
use links::Links;
use redirects::{Redirects, Verdict};

/// The commit that a site was made of.
#[derive(Clone, Debug, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct CommitInfo {
    /// The commit's id, in hexadecimal.
    pub id: String,
    /// When it was committed, in seconds since 1970.
    pub time: u64,
    /// Who committed it.
    pub author: String,
    /// The first line of its message.
    pub subject: String,
}

/// A web site. Clones share the pages.
#[derive(Clone, Debug)]
pub struct Site {
    commit: CommitInfo,
    pages: HashMap<Vec<u8>, Arc<Page>>,
    /// Every directory that holds something, without the slash at the end.
    directories: HashSet<Vec<u8>>,
    links: Links,
    redirects: Redirects,
    headers: HeaderRules,
    problems: Vec<Problem>,
    last_modified: (SystemTime, HeaderValue),
    size: u64,
    default: Option<SitePath>,
}

/// A file of a site.
#[derive(Debug)]
pub struct Page {
    /// The content.
    pub blob: Arc<Blob>,
    /// The media type.
    pub content_type: HeaderValue,
    /// Whether there are, or will be, compressed variants.
    pub compressible: bool,
    /// How long caches may keep it.
    pub freshness: Freshness,
}

/// What a path of a request stands for.
#[derive(Debug)]
pub enum Found<'s> {
    /// This page; the status is 200 unless a rule says otherwise.
    Page {
        /// 200, 404, 410 or 451.
        status: u16,
        /// The page.
        page: &'s Arc<Page>,
    },
    /// Another address.
    Redirect {
        /// 301, 302, 303, 307 or 308.
        status: u16,
        /// The value of Location.
        location: String,
    },
    /// Nothing; the site may have a page that says so.
    Missing(Option<&'s Arc<Page>>),
}

/// What a path is by itself, before rules.
enum Direct<'s> {
    Page(&'s Arc<Page>),
    /// The same with a slash at the end, or without.
    Moved(SitePath),
}

const INDEX: &[u8] = b"index.html";
const NOT_FOUND: &[u8] = b"404.html";

impl Site {
    /// The commit that it was made of.
    pub fn commit(&self) -> &CommitInfo {
        &self.commit
    }

    /// What is wrong with it.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Bytes of all files, each blob once, without variants.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The number of files.
    pub fn len(&self) -> usize {
        self.pages.len()
    }

    /// Whether it has no files.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// When it last changed, and the same as a header. Whole seconds; later generations have later ones, even when
    /// their commits are older.
    pub fn last_modified(&self) -> (SystemTime, &HeaderValue) {
        (self.last_modified.0, &self.last_modified.1)
    }

    /// Every file with its path.
    pub fn pages(&self) -> impl Iterator<Item = (&[u8], &Arc<Page>)> {
        self.pages.iter().map(|(path, page)| (path.as_slice(), page))
    }

    /// Applies `_headers` to the headers of an answer.
    pub fn apply_headers(&self, path: &SitePath, headers: &mut HeaderMap) {
        self.headers.apply(path, headers);
    }

    /// What `path` stands for: forced rules, then files, then the other rules, then the nearest `404.html`.
    pub fn find(&self, path: &SitePath, query: Option<&str>) -> Found<'_> {
        let direct = self.direct(path);
        for verdict in self.redirects.verdicts(path, query, direct.is_none()) {
            match verdict {
                Verdict::Redirect { status, location } => {
                    return Found::Redirect { status, location };
                }
                Verdict::Rewrite { status, path } => {
                    // A rule that leads to no page is none.
                    if let Some(page) = self.page_at(&path) {
                        return Found::Page { status, page };
                    }
                }
            }
        }
        match direct {
            Some(Direct::Page(page)) => Found::Page { status: 200, page },
            Some(Direct::Moved(path)) => {
                let location = path.to_url();
                let location = match query {
                    Some(query) => redirects::with_query(location, query),
                    None => location,
                };
                Found::Redirect { status: 301, location }
            }
            None => match (self.nearest_404(path), &self.default) {
                (None, Some(default)) if default != path => {
                    Found::Redirect { status: 302, location: default.to_url() }
                }
                (page, _) => Found::Missing(page),
            },
        }
    }

    /// The same site as of `now`, later than `newest` where the clock allows.
    fn restamped(&self, newest: Option<SystemTime>, now: u64) -> Self {
        Self { last_modified: build::last_modified(now, newest, now), ..self.clone() }
    }

    /// The same site, last modified at this second since 1970.
    fn stamped(&self, seconds: u64) -> Self {
        Self { last_modified: build::last_modified(seconds, None, seconds), ..self.clone() }
    }

    fn direct(&self, path: &SitePath) -> Option<Direct<'_>> {
        let name = path.name();
        if path.is_directory() {
            if let Some(index) = self.page(&below(name, INDEX)) {
                return Some(Direct::Page(index));
            }
            let html = !name.is_empty() && self.page(&[name, b".html"].concat()).is_some();
            return html.then(|| Direct::Moved(path.clone().without_slash()));
        }
        if let Some(page) = self.page(name).or_else(|| self.page(&[name, b".html"].concat())) {
            return Some(Direct::Page(page));
        }
        let index = self.page(&below(name, INDEX)).is_some();
        index.then(|| Direct::Moved(path.clone().with_slash()))
    }

    /// The page that a rewrite leads to: no second redirect on the way.
    fn page_at(&self, path: &SitePath) -> Option<&Arc<Page>> {
        let name = path.name();
        self.page(name)
            .or_else(|| self.page(&below(name, INDEX)))
            .or_else(|| self.page(&[name, b".html"].concat()))
    }

    fn page(&self, path: &[u8]) -> Option<&Arc<Page>> {
        self.pages.get(path).or_else(|| match self.links.is_empty() {
            true => None,
            false => self.pages.get(&self.links.follow(path).ok()?),
        })
    }

    fn nearest_404(&self, path: &SitePath) -> Option<&Arc<Page>> {
        let mut folder = path.name();
        loop {
            folder = match folder.iter().rposition(|&byte| byte == b'/') {
                Some(slash) => &folder[..slash],
                None => return self.page(NOT_FOUND),
            };
            // Deep paths that do not exist cost one look each.
            if (self.directories.contains(folder) || !self.links.is_empty())
                && let Some(page) = self.page(&below(folder, NOT_FOUND))
            {
                return Some(page);
            }
        }
    }
}

fn below(folder: &[u8], name: &[u8]) -> Vec<u8> {
    match folder.is_empty() {
        true => name.to_vec(),
        false => [folder, name].join(&b'/'),
    }
}

/// Whole seconds since 1970 as a time.
fn at_second(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}
