//! What a file is, judged by its name: media type, whether it is worth compressing, how long it may be cached.

use std::collections::HashMap;

use http::HeaderValue;

/// Media types beside those that extensions commonly have.
#[derive(Clone, Debug)]
pub struct ContentTypes {
    /// By extension, in lower case and without the dot; go before the common ones.
    pub by_extension: HashMap<String, HeaderValue>,
    /// For files whose extension says nothing.
    pub default: HeaderValue,
}

impl Default for ContentTypes {
    fn default() -> Self {
        let default = HeaderValue::from_static("application/octet-stream");
        Self { by_extension: HashMap::new(), default }
    }
}

/// How caches may keep a file when the site does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Ask each time; the validator makes that cheap.
    Revalidate,
    /// The name holds a fingerprint of the content: it never changes.
    Immutable,
}

impl ContentTypes {
    /// The media type of the file at `path`; text is said to be UTF-8.
    pub fn of(&self, path: &[u8]) -> HeaderValue {
        let Some(extension) = extension(path) else { return self.default.clone() };
        if let Some(given) = self.by_extension.get(&extension) {
            return given.clone();
        }
        let Some(kind) = mime_guess::from_ext(&extension).first_raw() else {
            return self.default.clone();
        };
        match kind.starts_with("text/") {
            true => HeaderValue::from_str(&format!("{kind}; charset=utf-8"))
                .unwrap_or_else(|_| self.default.clone()),
            false => HeaderValue::from_static(kind),
        }
    }
}

/// The extension in lower case.
fn extension(path: &[u8]) -> Option<String> {
    let name = path.rsplit(|&byte| byte == b'/').next()?;
    let dot = name.iter().rposition(|&byte| byte == b'.')?;
    let extension = std::str::from_utf8(&name[dot + 1..]).ok()?;
    (!extension.is_empty()).then(|| extension.to_ascii_lowercase())
}

/// Whether a media type is one that compression makes smaller.
pub(super) fn is_compressible(kind: &HeaderValue) -> bool {
    const OTHERS: [&str; 12] = [
        "application/javascript",
        "application/json",
        "application/ld+json",
        "application/manifest+json",
        "application/wasm",
        "application/xml",
        "application/rtf",
        "application/vnd.ms-fontobject",
        "font/otf",
        "font/ttf",
        "image/bmp",
        "image/x-icon",
    ];
    let kind = kind.to_str().unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    kind.starts_with("text/")
        || kind.ends_with("+xml")
        || kind.ends_with("+json")
        || OTHERS.contains(&kind)
}

/// How long the file at `path` may be cached: what build tools name after a hash stays for ever, and all else is asked
/// for again. A wrong guess would keep an old page for a year, so that dates and words must not look like hashes.
pub(super) fn freshness(path: &[u8], kind: &HeaderValue) -> Freshness {
    if kind.to_str().unwrap_or_default().starts_with("text/html") {
        return Freshness::Revalidate;
    }
    let mut segments = path.rsplit(|&byte| byte == b'/');
    let name = segments.next().unwrap_or_default();
    let in_assets = segments.any(|folder| [&b"assets"[..], b"_astro", b"_app"].contains(&folder));
    let mut parts: Vec<&[u8]> = name.split(|byte| b".-_".contains(byte)).collect();
    // Neither the extension nor the name itself is a fingerprint.
    let extension = parts.pop();
    let hex = extension.is_some() && parts.iter().skip(1).any(|part| is_hex_hash(part));
    match hex || (in_assets && has_bundler_hash(name)) {
        true => Freshness::Immutable,
        false => Freshness::Revalidate,
    }
}

/// Eight or more hexadecimal digits, letters and figures both: no date, no word.
fn is_hex_hash(part: &[u8]) -> bool {
    (8..=64).contains(&part.len())
        && part.iter().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte))
        && part.iter().any(u8::is_ascii_digit)
        && part.iter().any(u8::is_ascii_lowercase)
}

/// `name-XXXXXXXX.ext` with eight base64url digits of all three kinds, as common bundlers write into `assets`.
fn has_bundler_hash(name: &[u8]) -> bool {
    let Some(dot) = name.iter().position(|&byte| byte == b'.') else { return false };
    let Some((dash, hash)) =
        name[..dot].split_last_chunk::<8>().map(|(head, hash)| (head.last(), hash))
    else {
        return false;
    };
    matches!(dash, Some(b'-' | b'.'))
        && hash.iter().all(|&byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        && hash.iter().any(u8::is_ascii_digit)
        && hash.iter().any(u8::is_ascii_lowercase)
        && hash.iter().any(u8::is_ascii_uppercase)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_by_extension() {
        let mut types = ContentTypes::default();
        types.by_extension.insert("x".to_owned(), HeaderValue::from_static("text/x"));
        for (path, wanted) in [
            ("index.html", "text/html; charset=utf-8"),
            ("A/B.HTML", "text/html; charset=utf-8"),
            ("a.css", "text/css; charset=utf-8"),
            ("a.js", "text/javascript; charset=utf-8"),
            ("a.json", "application/json"),
            ("a.svg", "image/svg+xml"),
            ("a.png", "image/png"),
            ("a.woff2", "font/woff2"),
            ("a.wasm", "application/wasm"),
            ("a.x", "text/x"),
            ("a.unheardof", "application/octet-stream"),
            ("dir.d/LICENSE", "application/octet-stream"),
            ("a.", "application/octet-stream"),
        ] {
            assert_eq!(types.of(path.as_bytes()), wanted, "{path}");
        }
    }

    #[test]
    fn only_fingerprints_are_immutable() {
        let types = ContentTypes::default();
        for (path, immutable) in [
            ("app.3f2a9b1c.js", true),
            ("static/main.2d9e1f0a.chunk.css", true),
            ("img/logo-0123456789abcdef.png", true),
            ("assets/index-BxT3k9aZ.js", true),
            ("index-BxT3k9aZ.js", false),
            ("app.js", false),
            ("report-20240101.pdf", false),
            ("cafebabe.js", false),
            ("x-facadeff.js", false),
            ("3f2a9b1c.js", false),
            ("app.3f2a9b1c.html", false),
            ("assets/the-Overview.js", false),
            ("é-\u{7f}.js", false),
        ] {
            let kind = types.of(path.as_bytes());
            let wanted = if immutable { Freshness::Immutable } else { Freshness::Revalidate };
            assert_eq!(freshness(path.as_bytes(), &kind), wanted, "{path}");
        }
    }
}
