//! The administrator's key at start: given, read from its file, or made.

use config_proto::key::Key;
use control_port::administrator::{self, AdministratorError};
use zeroize::Zeroizing;

use crate::options::Options;

/// Why there is no administrator's key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// It is no key.
    #[error("the administrator's key ({from}) cannot be used: {error}")]
    Unusable {
        /// Where it is from.
        from: String,
        /// Why.
        error: config_proto::key::KeyError,
    },
    /// Its file, or the making of a new one.
    #[error(transparent)]
    Administrator(#[from] AdministratorError),
    /// There is no place for a new one.
    #[error(
        "there is no administrator's key, and no place for a new one next to a device: give --key or --key-file"
    )]
    NoPlace,
}

impl KeyError {
    /// Whether only other options can help: wrong usage, for an exit code.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::NoPlace => true,
            Self::Unusable { from, .. } => from == OPTION,
            Self::Administrator(_) => false,
        }
    }
}

/// What comes of `--key`, `--key-file` and `--control-v1`.
pub(super) struct AdministratorKeys {
    /// For v2; none when the key given is one that only v1 can use.
    pub(super) key: Option<Key>,
    /// For v1, when it is on.
    pub(super) v1: Option<Zeroizing<Vec<u8>>>,
}

/// Finds or makes the key.
///
/// # Errors
/// [`KeyError`].
pub(super) fn administrator(options: &Options) -> Result<AdministratorKeys, KeyError> {
    let with_v1 = options.control.control_v1;
    let (text, from) = match (&options.control.key, options.key_path()) {
        (Some(key), _) => (Zeroizing::new(key.text().to_owned()), OPTION.to_owned()),
        (None, Some(path)) => {
            (administrator::read_or_make_text(&path)?, path.display().to_string())
        }
        (None, None) if options.storage.storage.is_none() => {
            let text = administrator::generate()?.to_file_text();
            // Not through the log, which may go elsewhere; it is worth something only while this process runs.
            eprint!("The administrator's key of this run: {}", *text);
            (text, "made for this run".to_owned())
        }
        (None, None) => return Err(KeyError::NoPlace),
    };
    let v1 = with_v1.then(|| Zeroizing::new(v1_text(&text).as_bytes().to_vec()));
    match Key::from_file_text(&text) {
        Ok(key) => Ok(AdministratorKeys { key: Some(key), v1 }),
        Err(error) if with_v1 => {
            tracing::warn!(%error, "the key is good for protocol v1 only; tlstunnel-ctl cannot use it");
            Ok(AdministratorKeys { key: None, v1 })
        }
        Err(error) => Err(KeyError::Unusable { from, error }),
    }
}

/// The text that the original's client is given as `--key`: the secret without the id.
fn v1_text(text: &str) -> &str {
    let line = text
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty() && !line.starts_with('#'))
        .unwrap_or_default();
    line.split_once(':').map_or(line, |(_, secret)| secret.trim())
}

/// A key that is given as it is.
const OPTION: &str = "--key";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v1_uses_the_text_as_it_is() {
        assert_eq!(
            v1_text("9Fe92fogykIAPBJZU4FUsmpRsAy6YDajIkdSRs650zM="),
            "9Fe92fogykIAPBJZU4FUsmpRsAy6YDajIkdSRs650zM="
        );
        assert_eq!(v1_text("# mine\nadmin:c2VjcmV0\n"), "c2VjcmV0");
    }

    #[test]
    fn a_new_key_goes_into_a_private_file_and_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut options = Options::defaults();
        options.storage.storage = Some(folder.path().join("store"));
        let made = administrator(&options).unwrap().key.unwrap();
        let path = folder.path().join("store.key");
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &std::fs::metadata(&path).unwrap().permissions(),
        );
        assert_eq!(mode & 0o777, 0o600);
        let found = administrator(&options).unwrap().key.unwrap();
        assert_eq!(made.secret(), found.secret());
    }

    #[test]
    fn a_short_key_is_refused_unless_only_v1_uses_it() {
        let mut options = Options::defaults();
        options.control.key = Some("short".into());
        assert!(matches!(administrator(&options), Err(KeyError::Unusable { .. })));
        options.control.control_v1 = true;
        let keys = administrator(&options).unwrap();
        assert!(keys.key.is_none());
        assert_eq!(keys.v1.unwrap().as_slice(), b"short");
        options.control.key = None;
        options.storage.storage = Some("/dev/storage".into());
        assert!(matches!(administrator(&options), Err(KeyError::NoPlace)));
    }
}
