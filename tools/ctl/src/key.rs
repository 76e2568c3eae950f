//! The control key: found, read, checked for carelessness, and made.

use std::path::{Path, PathBuf};

use config_proto::key::{DEFAULT_KEY_ID, GENERATED_SECRET_LEN, Key, KeyError, KeyId};

use crate::context::Target;
use crate::failure::Failure;
use crate::files;
use crate::output::warn;

/// What helps whoever gave a file that is no key.
const WHERE_KEYS_ARE: &str = "the administrator's key lies beside the gateway's storage, in STORAGE.key, unless the gateway was given \
                              --key-file; further keys come from `tlstunnel-ctl key add`";

/// A key, and where it is from.
#[derive(Clone, Debug)]
pub(crate) struct Credential {
    pub(crate) key: Key,
    pub(crate) file: PathBuf,
}

/// Reads the key of `target`. An id that was given replaces the one in the file.
///
/// # Errors
/// No key file is named, it cannot be read, or it holds no key.
pub(crate) fn load(target: &Target) -> Result<Credential, Failure> {
    let path = path(target)?;
    let text = read(path)?;
    let key = Key::from_file_text(&text).map_err(|error| {
        let message = format!("{} holds no control key: {error}", path.display());
        Failure::usage(message, Some(WHERE_KEYS_ARE))
    })?;
    warn_if_open(path);
    let key = match &target.key_id {
        Some(id) => Key::new(parse_id(id)?, key.secret())
            .map_err(|error| Failure::usage(error.to_string(), None))?,
        None => key,
    };
    Ok(Credential { key, file: path.to_owned() })
}

/// Reads the text that protocol v1 uses as the key, undecoded: what stands behind the id of a key file of ours, or the
/// whole line where it is none.
///
/// # Errors
/// As [`load`], but any text is a key.
pub(crate) fn load_v1(target: &Target) -> Result<Vec<u8>, Failure> {
    let path = path(target)?;
    let text = read(path)?;
    let line = text.trim();
    if line.is_empty() || line.lines().count() > 1 {
        let message = format!("{} holds no key: {}", path.display(), KeyError::NotOneLine);
        return Err(Failure::usage(message, None));
    }
    warn_if_open(path);
    let secret = match line.split_once(':') {
        Some((_, secret)) if line.parse::<Key>().is_ok() => secret.trim(),
        _ => line,
    };
    Ok(secret.as_bytes().to_vec())
}

/// Makes a key from the operating system's randomness, with the given id or the usual one.
///
/// # Errors
/// The id is none, or the operating system has no randomness.
pub(crate) fn generate(id: Option<&str>) -> Result<Key, Failure> {
    let mut random = [0; GENERATED_SECRET_LEN];
    getrandom::fill(&mut random).map_err(no_randomness)?;
    Ok(Key::generate(parse_id(id.unwrap_or(DEFAULT_KEY_ID))?, &random))
}

/// The operating system gives no randomness.
pub(crate) fn no_randomness(error: getrandom::Error) -> Failure {
    Failure::usage(format!("the operating system gives no randomness: {error}"), None)
}

fn parse_id(id: &str) -> Result<KeyId, Failure> {
    id.parse().map_err(|error: KeyError| Failure::usage(format!("{id:?}: {error}"), None))
}

/// The text of a key file; whoever names another file hears where keys are.
fn read(path: &Path) -> Result<String, Failure> {
    files::read_text(path, files::MAX_KEY_BYTES).map_err(|failure| match failure {
        Failure::Usage { message, hint: None } => Failure::usage(message, Some(WHERE_KEYS_ARE)),
        other => other,
    })
}

fn path(target: &Target) -> Result<&Path, Failure> {
    target.key_file.as_deref().ok_or_else(|| {
        Failure::usage(
            "no key file is named",
            Some(
                "give --key-file FILE (or TLSTUNNEL_KEY_FILE, or a context); the gateway names its key file when it makes it",
            ),
        )
    })
}

fn warn_if_open(path: &Path) {
    if files::open_to_others(path) {
        let path = path.display();
        warn(&format!("{path} can be used by other users of this machine: chmod 600 {path}"));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;

    fn with_file<T>(text: &str, key_id: Option<&str>, test: impl Fn(&Target) -> T) -> T {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.key");
        std::fs::write(&path, text).unwrap();
        test(&Target {
            remote: "127.0.0.1:1".to_owned(),
            key_file: Some(path),
            key_id: key_id.map(str::to_owned),
            timeout: Duration::from_secs(1),
        })
    }

    #[test]
    fn an_id_that_was_given_replaces_the_files() {
        let text = "ops:AAECAwQFBgcICQoLDA0ODw==\n";
        assert_eq!(with_file(text, None, load).unwrap().key.id().as_str(), "ops");
        assert_eq!(with_file(text, Some("other"), load).unwrap().key.id().as_str(), "other");
        assert!(with_file(text, Some("no id"), load).is_err());
    }

    #[test]
    fn a_v1_key_is_the_text_without_our_id() {
        let secret = "AAECAwQFBgcICQoLDA0ODw==";
        for (text, expected) in [
            (format!("ops:{secret}\n"), secret),
            (secret.to_owned(), secret),
            ("a:b\n".to_owned(), "a:b"),
        ] {
            assert_eq!(with_file(&text, None, load_v1).unwrap(), expected.as_bytes());
        }
        assert!(with_file(" \n", None, load_v1).is_err());
    }

    #[test]
    fn generated_keys_differ_and_are_read_again() {
        let (one, two) = (generate(None).unwrap(), generate(None).unwrap());
        assert_ne!(one.secret(), two.secret());
        let again = with_file(&one.to_file_text(), None, load).unwrap().key;
        assert_eq!((again.id().as_str(), again.secret()), ("admin", one.secret()));
    }
}
