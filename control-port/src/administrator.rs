//! The administrator's key at start: read from its file, or made there.

use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use config_proto::key::{DEFAULT_KEY_ID, GENERATED_SECRET_LEN, Key};
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
    let unusable = |error| AdministratorError::Unusable { path: path.to_owned(), error };
    match std::fs::read_to_string(path).map(Zeroizing::new) {
        Ok(text) => {
            if std::fs::metadata(path).is_ok_and(|data| data.permissions().mode() & 0o077 != 0) {
                tracing::warn!(path = %path.display(), "others than its owner may read the key file");
            }
            Key::from_file_text(&text).map_err(unusable)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let mut secret = Zeroizing::new([0; GENERATED_SECRET_LEN]);
            getrandom::fill(secret.as_mut_slice()).map_err(AdministratorError::Random)?;
            let key = Key::generate(DEFAULT_KEY_ID.parse().map_err(unusable)?, &secret);
            write(path, &key)
                .map_err(|error| AdministratorError::Write { path: path.to_owned(), error })?;
            tracing::warn!(path = %path.display(), "a new administrator's key was made");
            Ok(key)
        }
        Err(error) => Err(AdministratorError::Read { path: path.to_owned(), error }),
    }
}

fn write(path: &Path, key: &Key) -> std::io::Result<()> {
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(key.to_file_text().as_bytes())?;
    file.sync_all()
}
