//! Local files: read with a bound, secrets written so that only their owner reads them.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use config_proto::key::Key;

use crate::failure::Failure;

/// Most bytes of a file of routes. A request holds less, but TOML with comments is longer than what is sent.
pub(crate) const MAX_DOCUMENT_BYTES: u64 = 1 << 25;
/// Most bytes of a certificate, private key or bundle of authorities.
pub(crate) const MAX_PEM_BYTES: u64 = 1 << 20;
/// Most bytes of a control key.
pub(crate) const MAX_KEY_BYTES: u64 = 4096;

/// Reads a text file of at most `limit` bytes; `-` is standard input.
///
/// # Errors
/// The file cannot be read, is longer, or is no UTF-8 text.
pub(crate) fn read_text(path: &Path, limit: u64) -> Result<String, Failure> {
    let shown = if path == Path::new("-") {
        "standard input".to_owned()
    } else {
        path.display().to_string()
    };
    let failed =
        |error: std::io::Error| Failure::usage(format!("cannot read {shown}: {error}"), None);
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        std::io::stdin().lock().take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
    } else {
        let file = File::open(path).map_err(failed)?;
        file.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
    }
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > limit {
        return Err(Failure::usage(format!("{shown} is longer than {limit} bytes"), None));
    }
    String::from_utf8(bytes)
        .map_err(|_| Failure::usage(format!("{shown} is not a text file"), None))
}

/// Reads a PEM file and makes sure that it has a section whose label ends with `label`, so that a certificate and its
/// key given the wrong way round are noticed before a private key goes anywhere.
///
/// # Errors
/// As [`read_text`], or there is no such section.
pub(crate) fn read_pem(path: &Path, label: &str) -> Result<String, Failure> {
    let text = read_text(path, MAX_PEM_BYTES)?;
    let sections: Vec<&str> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("-----BEGIN ")?.strip_suffix("-----"))
        .collect();
    if sections.iter().any(|section| section.ends_with(label)) {
        return Ok(text);
    }
    let found = match sections.first() {
        Some(section) => format!("it has {section}"),
        None => "it has no -----BEGIN ...----- line".to_owned(),
    };
    Err(Failure::usage(
        format!("{} is no PEM file with a {label}: {found}", path.display()),
        Some(
            "--cert takes the certificate, --key the private key, --client-ca and --backend-ca certificates",
        ),
    ))
}

/// A file that will hold a secret: made before the secret exists, so that no secret is lost for want of a place, and
/// removed again unless [`SecretFile::finish`] succeeds.
#[derive(Debug)]
pub(crate) struct SecretFile {
    path: PathBuf,
    file: File,
    finished: bool,
}

impl SecretFile {
    /// Makes the file with mode 0600.
    ///
    /// # Errors
    /// It exists already, or cannot be made.
    pub(crate) fn create(path: &Path) -> Result<Self, Failure> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        match file {
            Ok(file) => Ok(Self { path: path.to_owned(), file, finished: false }),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(Failure::usage(
                format!("{} exists already and may hold a key in use", path.display()),
                Some("choose another --out, or remove the file first"),
            )),
            Err(error) => {
                Err(Failure::usage(format!("cannot make {}: {error}", path.display()), None))
            }
        }
    }

    /// Writes the key, durably.
    ///
    /// # Errors
    /// The file cannot be written; it is then removed.
    pub(crate) fn finish(mut self, key: &Key) -> Result<(), Failure> {
        let text = key.to_file_text();
        self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_all()).map_err(
            |error| Failure::usage(format!("cannot write {}: {error}", self.path.display()), None),
        )?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for SecretFile {
    fn drop(&mut self) {
        if !self.finished {
            // Nothing to report to: the command already fails for another reason.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Whether users other than the owner may read or write the file.
pub(crate) fn open_to_others(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0)
}

/// Replaces the file's content in one step, so that a crash leaves the old or the new one. Directories are made.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn replace(path: &Path, content: &str) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::usage(format!("cannot write {}: {error}", path.display()), None)
    };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let aside = path.with_extension(format!("toml.{}", std::process::id()));
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&aside)
        .and_then(|mut file| file.write_all(content.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&aside, path));
    written.map_err(|error| {
        let _ = std::fs::remove_file(&aside);
        failed(error)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_secret_file_is_private_and_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.key");
        let key: Key = "ops:AAECAwQFBgcICQoLDA0ODw==".parse().unwrap();
        SecretFile::create(&path).unwrap().finish(&key).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "ops:AAECAwQFBgcICQoLDA0ODw==\n");
        assert!(!open_to_others(&path));
        assert!(SecretFile::create(&path).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }

    #[test]
    fn an_unfinished_secret_file_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.key");
        drop(SecretFile::create(&path).unwrap());
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_is_too_long_or_no_text_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "12345").unwrap();
        assert_eq!(read_text(&path, 5).unwrap(), "12345");
        assert!(read_text(&path, 4).is_err());
        std::fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(read_text(&path, 5).is_err());
    }

    #[test]
    fn a_key_in_the_place_of_a_certificate_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pem");
        std::fs::write(
            &path,
            "-----BEGIN EC PRIVATE KEY-----\nAA==\n-----END EC PRIVATE KEY-----\n",
        )
        .unwrap();
        assert!(read_pem(&path, "PRIVATE KEY").is_ok());
        let error = read_pem(&path, "CERTIFICATE").unwrap_err();
        assert!(error.to_string().contains("it has EC PRIVATE KEY"), "{error}");
    }
}
