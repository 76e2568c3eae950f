//! Symbolic links inside a site: followed when they stay inside, refused and reported when they do not.

use std::collections::HashMap;

/// Links one after the other that are followed for one path.
pub const MAX_HOPS: usize = 16;
/// Bytes of a link's text.
pub const MAX_TEXT: usize = 4096;

/// The links of a site: where each leads, as a path from the root without a slash at the end.
#[derive(Clone, Debug, Default)]
pub(super) struct Links(HashMap<Vec<u8>, Vec<u8>>);

/// Why a link is not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum LinkError {
    #[error("the link leads out of the site: not served")]
    Escape,
    #[error("the link is absolute: not served")]
    Absolute,
    #[error("the link is empty or longer than {MAX_TEXT} bytes: not served")]
    Length,
    #[error("the link turns in a circle or leads over more than {MAX_HOPS} others: not served")]
    Loop,
    #[error("the link leads to nothing: not served")]
    Dangling,
}

impl Links {
    /// Adds the link at `path` with what it says.
    pub(super) fn add(&mut self, path: &[u8], text: &[u8]) -> Result<(), LinkError> {
        if text.is_empty() || text.len() > MAX_TEXT {
            return Err(LinkError::Length);
        }
        if text.starts_with(b"/") {
            return Err(LinkError::Absolute);
        }
        let mut segments: Vec<&[u8]> = path.split(|&byte| byte == b'/').collect();
        segments.pop();
        for segment in text.split(|&byte| byte == b'/') {
            match segment {
                b"" | b"." => {}
                b".." => {
                    segments.pop().ok_or(LinkError::Escape)?;
                }
                name => segments.push(name),
            }
        }
        self.0.insert(path.to_vec(), segments.join(&b'/'));
        Ok(())
    }

    /// Takes away the links that lead to nothing that `exists`, and says why of each.
    pub(super) fn check(&mut self, exists: impl Fn(&[u8]) -> bool) -> Vec<(Vec<u8>, LinkError)> {
        let mut bad: Vec<_> = self
            .0
            .keys()
            .filter_map(|path| match self.follow(path) {
                Err(error) => Some((path.clone(), error)),
                Ok(end) if !exists(&end) => Some((path.clone(), LinkError::Dangling)),
                Ok(_) => None,
            })
            .collect();
        bad.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        for (path, _) in &bad {
            self.0.remove(path);
        }
        bad
    }

    /// Whether there is any.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Where `path` (without a slash at its end) leads; itself, when no part of it is a link.
    pub(super) fn follow(&self, path: &[u8]) -> Result<Vec<u8>, LinkError> {
        let mut path = path.to_vec();
        for _ in 0..=MAX_HOPS {
            let ends = path.iter().enumerate().filter(|&(_, &byte)| byte == b'/').map(|(at, _)| at);
            let link = ends
                .chain([path.len()])
                .find_map(|end| self.0.get(&path[..end]).map(|target| (end, target)));
            let Some((end, target)) = link else { return Ok(path) };
            let rest = path.get(end + 1..).unwrap_or_default();
            path = match (target.is_empty(), rest.is_empty()) {
                (true, _) => rest.to_vec(),
                (false, true) => target.clone(),
                (false, false) => [target, rest].join(&b'/'),
            };
        }
        Err(LinkError::Loop)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn links_are_followed_inside_and_refused_outside() {
        let mut links = Links::default();
        links.add(b"latest", b"v2").unwrap();
        links.add(b"a/up", b"../v2/page").unwrap();
        links.add(b"chain", b"latest/page").unwrap();
        links.add(b"loop", b"loop2").unwrap();
        links.add(b"loop2", b"./loop").unwrap();
        links.add(b"nothing", b"nowhere").unwrap();
        links.add(b"self", b".").unwrap();
        assert_eq!(links.add(b"out", b"../x"), Err(LinkError::Escape));
        assert_eq!(links.add(b"a/out", b"../../a/x"), Err(LinkError::Escape));
        assert_eq!(links.add(b"abs", b"/etc/passwd"), Err(LinkError::Absolute));
        assert_eq!(links.add(b"empty", b""), Err(LinkError::Length));
        assert_eq!(links.add(b"long", &[b'a'; MAX_TEXT + 1]), Err(LinkError::Length));
        let bad = links.check(|path| [&b"v2"[..], b"v2/page", b""].contains(&path));
        let names: Vec<_> = bad.iter().map(|(path, error)| (&path[..], *error)).collect();
        let wanted: [(&[u8], LinkError); 3] = [
            (b"loop", LinkError::Loop),
            (b"loop2", LinkError::Loop),
            (b"nothing", LinkError::Dangling),
        ];
        assert_eq!(names, wanted);
        for (path, end) in [
            ("latest", "v2"),
            ("latest/page", "v2/page"),
            ("a/up", "v2/page"),
            ("chain", "v2/page"),
            ("self/self/latest/page", "v2/page"),
            ("v2/page", "v2/page"),
            ("", ""),
        ] {
            assert_eq!(links.follow(path.as_bytes()).unwrap(), end.as_bytes(), "{path}");
        }
    }
}
