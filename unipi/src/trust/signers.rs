//! The list of allowed signers: the file format of ssh-keygen(1), section ALLOWED SIGNERS.
//!
//! ```text
//! principals [options] keytype base64-key [comment]
//! ```
//!
//! Options are `namespaces="git,file"`, `valid-after="TIME"` and `valid-before="TIME"`, times as
//! `YYYYMMDD[HHMM[SS]][Z]`; they are taken as UTC, with `Z` or without. Certificates (`cert-authority`) are refused
//! where they stand, not ignored: a line that nobody honours would look like protection.

use russh::keys::Algorithm;
use russh::keys::ssh_key::PublicKey;

/// Keys that may sign.
#[derive(Clone, Debug)]
pub struct AllowedSigners {
    signers: Vec<Signer>,
}

#[derive(Clone, Debug)]
struct Signer {
    principals: String,
    namespaces: Option<Vec<String>>,
    valid_after: Option<u64>,
    valid_before: Option<u64>,
    key: PublicKey,
}

/// Why a text is no list of allowed signers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignersError {
    /// A line cannot be used.
    #[error("line {line} of the allowed signers: {why}")]
    Line {
        /// From 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// There is no key in it: nothing could ever go live.
    #[error("the allowed signers have no key: nothing could go live")]
    Empty,
    /// More lines than are looked through for each commit.
    #[error("the allowed signers have more than {MAX_SIGNERS} keys")]
    TooMany,
}

/// Keys in one list.
pub const MAX_SIGNERS: usize = 10_000;
/// The smallest RSA key, in bits, as OpenSSH has it.
const MIN_RSA_BITS: u32 = 1024;

impl AllowedSigners {
    /// Reads a list.
    ///
    /// # Errors
    /// [`SignersError`]: a list with a line that cannot be honoured is refused as a whole.
    pub fn parse(text: &str) -> Result<Self, SignersError> {
        let mut signers = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let signer =
                signer(line).map_err(|why| SignersError::Line { line: number + 1, why })?;
            signers.push(signer);
            if signers.len() > MAX_SIGNERS {
                return Err(SignersError::TooMany);
            }
        }
        if signers.is_empty() { Err(SignersError::Empty) } else { Ok(Self { signers }) }
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.signers.len()
    }

    /// Whether there are none, which [`AllowedSigners::parse`] refuses.
    pub fn is_empty(&self) -> bool {
        self.signers.is_empty()
    }

    /// The principals that `key` stands for when it signs for `namespace` at `made` (and is valid `now`), or why it
    /// stands for nobody.
    pub(super) fn principal(
        &self,
        key: &PublicKey,
        namespace: &str,
        made: u64,
        now: Option<u64>,
    ) -> Result<String, String> {
        let mut why = "it is not among the allowed signers".to_owned();
        for signer in self.signers.iter().filter(|s| s.key.key_data() == key.key_data()) {
            match signer.applies(namespace, made).and_then(|()| match now {
                Some(now) => signer.applies(namespace, now),
                None => Ok(()),
            }) {
                Ok(()) => return Ok(signer.principals.clone()),
                Err(text) => why = text,
            }
        }
        Err(why)
    }
}

impl Signer {
    fn applies(&self, namespace: &str, time: u64) -> Result<(), String> {
        let fits = |patterns: &Vec<String>| patterns.iter().any(|p| matches(p, namespace));
        if self.namespaces.as_ref().is_some_and(|patterns| !fits(patterns)) {
            return Err(format!("its line allows it for other namespaces than {namespace:?}"));
        }
        if self.valid_after.is_some_and(|after| time < after) {
            return Err("it was not valid yet (valid-after)".to_owned());
        }
        if self.valid_before.is_some_and(|before| time > before) {
            return Err("it is not valid any more (valid-before)".to_owned());
        }
        Ok(())
    }
}

fn signer(line: &str) -> Result<Signer, String> {
    let (principals, rest) = word(line)?;
    if principals.is_empty() {
        return Err("it names no principal".to_owned());
    }
    let (options, key) = match key(rest) {
        Ok(key) => (Vec::new(), key),
        Err(why) => {
            // Options stand before the key; no key's type looks like one.
            let (options, after) = word(rest)?;
            if !options.contains('=') && !is_flag(options) {
                return Err(why);
            }
            (split_options(options)?, self::key(after)?)
        }
    };
    let mut signer = Signer {
        principals: principals.replace('"', ""),
        namespaces: None,
        valid_after: None,
        valid_before: None,
        key,
    };
    options.iter().try_for_each(|option| signer.set(option))?;
    Ok(signer)
}

impl Signer {
    fn set(&mut self, option: &str) -> Result<(), String> {
        if is_flag(option) {
            return Err(
                "cert-authority is not supported: list the keys themselves instead".to_owned()
            );
        }
        let (name, value) =
            option.split_once('=').ok_or_else(|| format!("the option {option:?} is not known"))?;
        let value = value
            .strip_prefix('"')
            .and_then(|value| value.strip_suffix('"'))
            .ok_or_else(|| format!("the value of {name} must stand in double quotes"))?;
        let once = |is_set: bool| match is_set {
            true => Err(format!("the option {name} is there twice")),
            false => Ok(()),
        };
        match name.to_ascii_lowercase().as_str() {
            "namespaces" => {
                once(self.namespaces.is_some())?;
                self.namespaces = Some(value.split(',').map(|n| n.trim().to_owned()).collect());
            }
            "valid-after" => {
                once(self.valid_after.is_some())?;
                self.valid_after = Some(time(value)?);
            }
            "valid-before" => {
                once(self.valid_before.is_some())?;
                self.valid_before = Some(time(value)?);
            }
            _ => return Err(format!("the option {name} is not known")),
        }
        if let (Some(after), Some(before)) = (self.valid_after, self.valid_before)
            && after >= before
        {
            return Err("valid-after is not before valid-before".to_owned());
        }
        Ok(())
    }
}

fn is_flag(option: &str) -> bool {
    option.split(',').any(|one| one.eq_ignore_ascii_case("cert-authority"))
}

fn key(text: &str) -> Result<PublicKey, String> {
    let text = text.trim_start();
    let key = PublicKey::from_openssh(text)
        .map_err(|error| format!("there is no public key where one should be ({error})"))?;
    match key.algorithm() {
        Algorithm::Ed25519 | Algorithm::Ecdsa { .. } => Ok(key),
        Algorithm::Rsa { .. } => {
            let bits = key.key_data().rsa().map_or(0, |rsa| rsa.key_size());
            match bits >= MIN_RSA_BITS {
                true => Ok(key),
                false => {
                    Err(format!("its RSA key has {bits} bits, and {MIN_RSA_BITS} is the least"))
                }
            }
        }
        other => Err(format!("keys of the type {other} cannot be verified here")),
    }
}

/// The first word, which may have quoted parts with blanks in them, and what follows it.
fn word(text: &str) -> Result<(&str, &str), String> {
    let text = text.trim_start();
    let mut quoted = false;
    for (at, c) in text.char_indices() {
        match c {
            '"' => quoted = !quoted,
            ' ' | '\t' if !quoted => return Ok((&text[..at], text[at..].trim_start())),
            _ => {}
        }
    }
    if quoted { Err("a quote is not closed".to_owned()) } else { Ok((text, "")) }
}

/// Splits at commas outside quotes.
fn split_options(text: &str) -> Result<Vec<String>, String> {
    let mut options = vec![String::new()];
    let mut quoted = false;
    for c in text.chars() {
        match c {
            ',' if !quoted => options.push(String::new()),
            c => {
                quoted ^= c == '"';
                if let Some(option) = options.last_mut() {
                    option.push(c);
                }
            }
        }
    }
    match options.iter().any(String::is_empty) {
        true => Err("an option is empty".to_owned()),
        false => Ok(options),
    }
}

/// Whether a pattern fits: `*` stands for any characters, `?` for one.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t, mut star, mut mark) = (0, 0, None, 0);
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some(p);
                mark = t;
                p += 1;
            }
            Some(&c) if c == b'?' || c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some(at) = star else { return false };
                p = at + 1;
                mark += 1;
                t = mark;
            }
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

/// `YYYYMMDD[HHMM[SS]][Z]` as seconds since 1970, UTC.
fn time(text: &str) -> Result<u64, String> {
    let wrong =
        || format!("{text:?} is no time: write YYYYMMDD or YYYYMMDDHHMM[SS], as in 20270131Z");
    let digits = text.strip_suffix('Z').unwrap_or(text);
    if ![8, 12, 14].contains(&digits.len()) || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    let part = |from: usize, to: usize| -> u64 {
        digits.get(from..to).and_then(|part| part.parse().ok()).unwrap_or(0)
    };
    let (year, month, day) = (part(0, 4), part(4, 6), part(6, 8));
    let (hour, minute, second) = (part(8, 10), part(10, 12), part(12, 14));
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let days_of = |month: u64| match month {
        2 if leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    let legal = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=days_of(month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    if !legal {
        return Err(wrong());
    }
    let years: u64 = (1970..year).map(|year| if leap(year) { 366 } else { 365 }).sum();
    let days = years + (1..month).map(days_of).sum::<u64>() + day - 1;
    Ok(days * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqt";

    fn parse(line: &str) -> Result<AllowedSigners, SignersError> {
        AllowedSigners::parse(line)
    }

    #[test]
    fn lines_as_ssh_keygen_has_them() {
        for line in [
            format!("ann@example.org {KEY}"),
            format!("ann@example.org,*@example.net {KEY} a comment"),
            format!("ann@example.org namespaces=\"git\" {KEY}"),
            format!("\"Ann, with blanks\" namespaces=\"file,git\",valid-after=\"20200101\" {KEY}"),
            format!("# comment\n\n  ann\tvalid-before=\"20300101123000Z\"\t{KEY}"),
        ] {
            assert_eq!(parse(&line).unwrap().len(), 1, "{line}");
        }
    }

    #[test]
    fn what_cannot_be_honoured_is_refused() {
        for (line, why) in [
            (format!("ann cert-authority {KEY}"), "cert-authority"),
            (format!("ann namespaces=\"git\",cert-authority {KEY}"), "cert-authority"),
            (format!("ann colour=\"red\" {KEY}"), "not known"),
            (format!("ann namespaces=git {KEY}"), "double quotes"),
            (format!("ann valid-after=\"tomorrow\" {KEY}"), "no time"),
            (format!("ann valid-after=\"20200101\",valid-before=\"20190101\" {KEY}"), "before"),
            (format!("ann namespaces=\"git\",namespaces=\"x\" {KEY}"), "twice"),
            ("ann".to_owned(), "no public key"),
            (KEY.to_owned(), "no public key"),
            ("ann ssh-ed25519 AAAA".to_owned(), "no public key"),
            (format!("\"ann {KEY}"), "quote"),
        ] {
            let error = parse(&line).unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("line 1"), "{line}: {error}");
        }
        assert_eq!(parse("# nobody\n").unwrap_err(), SignersError::Empty);
    }

    #[test]
    fn a_key_counts_in_its_time_and_namespace() {
        let list = format!(
            "old valid-before=\"20200101\" {KEY}\nmail namespaces=\"file\" {KEY}\n\
             new namespaces=\"g?t\",valid-after=\"20220101\",valid-before=\"20240101\" {KEY}"
        );
        let signers = parse(&list).unwrap();
        let key = PublicKey::from_openssh(KEY).unwrap();
        let at = |text: &str| time(text).unwrap();
        let ask = |made: &str, now| signers.principal(&key, "git", at(made), now);
        assert_eq!(ask("20190101", None).as_deref(), Ok("old"));
        assert_eq!(ask("20230101", Some(at("20230601"))).as_deref(), Ok("new"));
        assert!(ask("20210101", None).is_err());
        assert!(ask("20190101", Some(at("20250101"))).is_err(), "a date of the past helps nobody");
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        for (text, seconds) in [
            ("19700101", 0),
            ("20000229Z", 951_782_400),
            ("20260724120000", 1_784_894_400),
            ("202607241200", 1_784_894_400),
        ] {
            assert_eq!(time(text), Ok(seconds), "{text}");
        }
        for bad in
            ["", "2026", "20260230", "20261301", "202601012400", "2026010112000", "20260101z"]
        {
            assert!(time(bad).is_err(), "{bad}");
        }
    }
}
