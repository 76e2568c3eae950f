//! The administrator's key at start: read from its file, or made there.

use std::path::{Path, PathBuf};

use config_proto::key::{GENERATED_SECRET_LEN, Key, KeyId};
use daemon::files::{open_to_others, write_private};
use zeroize::Zeroizing;

/// Why there is no administrator's key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdministratorError {
    /// It is no key.
    #[error("the administrator's key in {} cannot be used: {error}", path.display())]
    Unusable {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: config_proto::key::KeyError,
    },
    /// Its file cannot be read.
    #[error("the key file {} cannot be read: {error}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// Its file cannot be written.
    #[error("the new key file {} cannot be written: {error}; name another with --key-file", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// There is no randomness.
    #[error("a key cannot be made: {0}")]
    Random(getrandom::Error),
}

/// Reads the key, or makes it, readable by its owner alone.
///
/// # Errors
/// [`AdministratorError`].
pub fn read_or_make(path: &Path) -> Result<Key, AdministratorError> {
    Key::from_file_text(&read_or_make_text(path)?)
        .map_err(|error| AdministratorError::Unusable { path: path.to_owned(), error })
}

/// Reads the text of a key file, whatever it is, or makes a key there, readable by its owner alone. For who takes other
/// keys than those of protocol v2.
///
/// # Errors
/// All of [`AdministratorError`] but [`AdministratorError::Unusable`].
pub fn read_or_make_text(path: &Path) -> Result<Zeroizing<String>, AdministratorError> {
    match std::fs::read_to_string(path).map(Zeroizing::new) {
        Ok(text) => {
            if open_to_others(path) {
                tracing::warn!("others can read the key file: chmod 600 {}", quoted(path));
            }
            Ok(text)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let text = generate()?.to_file_text();
            write_private(path, text.as_bytes())
                .map_err(|error| AdministratorError::Write { path: path.to_owned(), error })?;
            tracing::warn!(
                "a new administrator's key was made: tlstunnel-ctl --key-file {}",
                quoted(path)
            );
            Ok(text)
        }
        Err(error) => Err(AdministratorError::Read { path: path.to_owned(), error }),
    }
}

/// A new key of the default id.
///
/// # Errors
/// [`AdministratorError::Random`].
pub fn generate() -> Result<Key, AdministratorError> {
    let mut secret = Zeroizing::new([0; GENERATED_SECRET_LEN]);
    getrandom::fill(secret.as_mut_slice()).map_err(AdministratorError::Random)?;
    Ok(Key::generate(KeyId::default(), &secret))
}

/// The path as one word of a shell's command line, so that a command in the log can be copied.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:,@%".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_new_key_goes_into_a_private_file_and_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.key");
        let made = read_or_make(&path).unwrap();
        assert!(!open_to_others(&path));
        let found = read_or_make(&path).unwrap();
        assert_eq!((made.id(), made.secret()), (found.id(), found.secret()));
    }

    #[test]
    fn what_cannot_be_used_read_or_written_is_said_and_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.key");
        std::fs::write(&path, "short").unwrap();
        assert!(matches!(read_or_make(&path), Err(AdministratorError::Unusable { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), b"short");
        assert!(matches!(read_or_make(folder.path()), Err(AdministratorError::Read { .. })));
        let nowhere = folder.path().join("none").join("store.key");
        assert!(matches!(read_or_make(&nowhere), Err(AdministratorError::Write { .. })));
    }

    #[test]
    fn a_path_is_one_word_for_the_shell() {
        assert_eq!(quoted(Path::new("/var/lib/gateway_1.key")), "/var/lib/gateway_1.key");
        assert_eq!(quoted(Path::new("my keys/a$b")), "'my keys/a$b'");
        assert_eq!(quoted(Path::new("it's")), r"'it'\''s'");
    }
}
