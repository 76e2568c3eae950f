//! The administrator's key at start: given, read from its file, or made.

use std::io::Write;
use std::path::{Path, PathBuf};

use config_proto::key::{DEFAULT_KEY_ID, GENERATED_SECRET_LEN, Key};
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
    /// There is no place for a new one.
    #[error(
        "there is no administrator's key, and no place for a new one next to a device: give --key or --key-file"
    )]
    NoPlace,
    /// There is no randomness.
    #[error("a key cannot be made: {0}")]
    Random(getrandom::Error),
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
        (Some(text), _) => (Zeroizing::new(text.clone()), "--key".to_owned()),
        (None, Some(path)) => match std::fs::read_to_string(&path) {
            Ok(text) => {
                warn_if_others_read(&path);
                (Zeroizing::new(text), path.display().to_string())
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let text = generate()?;
                write(&path, &text)
                    .map_err(|error| KeyError::Write { path: path.clone(), error })?;
                tracing::warn!(
                    "a new administrator's key was made: tlstunnel-ctl --key-file {}",
                    quoted(&path)
                );
                (text, path.display().to_string())
            }
            Err(error) => return Err(KeyError::Read { path, error }),
        },
        (None, None) if options.storage.storage.is_none() => {
            let text = generate()?;
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

fn generate() -> Result<Zeroizing<String>, KeyError> {
    let mut secret = Zeroizing::new([0; GENERATED_SECRET_LEN]);
    getrandom::fill(secret.as_mut_slice()).map_err(KeyError::Random)?;
    let id = DEFAULT_KEY_ID
        .parse()
        .map_err(|error| KeyError::Unusable { from: "made for this run".to_owned(), error })?;
    Ok(Key::generate(id, &secret).to_file_text())
}

fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = daemon::files::create_private(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
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

fn warn_if_others_read(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    if let Ok(metadata) = std::fs::metadata(path)
        && metadata.permissions().mode() & 0o077 != 0
    {
        tracing::warn!("others can read the key file: chmod 600 {}", quoted(path));
    }
}

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
    fn a_path_is_one_word_for_the_shell() {
        assert_eq!(quoted(Path::new("/var/lib/gateway_1.key")), "/var/lib/gateway_1.key");
        assert_eq!(quoted(Path::new("my keys/a$b")), "'my keys/a$b'");
        assert_eq!(quoted(Path::new("it's")), r"'it'\''s'");
    }

    #[test]
    fn a_short_key_is_refused_unless_only_v1_uses_it() {
        let mut options = Options::defaults();
        options.control.key = Some("short".to_owned());
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
