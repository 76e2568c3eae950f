//! The options for keys that secrets are encrypted with where they are stored, the same in every program that uses this room.

use std::path::{Path, PathBuf};

use clap::Args;
use zeroize::Zeroizing;

use super::Secret;
use crate::vault::{StoreKeys, Vault, VaultError};

/// What secrets are encrypted with in the storage. Without a key they lie there in the clear.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Storage")]
pub struct VaultOptions {
    /// A file with the key that private keys and control keys are encrypted with in the storage: at least 32 random
    /// bytes, as `openssl rand -base64 32` makes them. The first start with it encrypts what is there
    #[arg(long, value_name = "FILE", requires = "storage")]
    pub storage_key_file: Option<PathBuf>,

    /// The same key itself, where there are no files; other users of this machine can see it here
    #[arg(
        long,
        hide_env_values = true,
        value_name = "TEXT",
        requires = "storage",
        conflicts_with = "storage_key_file"
    )]
    pub storage_key: Option<Secret>,

    /// The file with the key before, to change the key: a start with both encrypts everything anew, and needs the old
    /// one no more afterwards
    #[arg(long, value_name = "FILE")]
    pub storage_key_file_old: Option<PathBuf>,

    /// The same key itself, where there are no files; other users of this machine can see it here
    #[arg(
        long,
        hide_env_values = true,
        value_name = "TEXT",
        conflicts_with = "storage_key_file_old"
    )]
    pub storage_key_old: Option<Secret>,
}

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VaultOptionsError {
    /// It is no key.
    #[error("the storage key{} cannot be used: {error}", path.as_deref().map_or(String::new(), within))]
    Key {
        /// Its file, if it is from one.
        path: Option<PathBuf>,
        /// Why.
        error: VaultError,
    },
    /// Its file.
    #[error("the storage key file {} cannot be read: {error}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// An old key alone changes nothing.
    #[error(
        "the storage's old key is there to be changed: give the new one with --storage-key-file"
    )]
    OldAlone,
}

impl VaultOptionsError {
    /// Whether only other options can help: wrong usage, for an exit code.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::OldAlone)
    }
}

fn within(path: &Path) -> String {
    format!(" in {}", path.display())
}

impl VaultOptions {
    /// The keys, if there is one. Reads their files.
    ///
    /// # Errors
    /// When a file cannot be read, a key is too short, or an old key is given without a new one.
    pub fn keys(&self) -> Result<Option<StoreKeys>, VaultOptionsError> {
        let (file, text) = (self.storage_key_file.as_deref(), self.storage_key.as_ref());
        let old_file = self.storage_key_file_old.as_deref();
        let old_text = self.storage_key_old.as_ref();
        if file.is_none() && text.is_none() && (old_file.is_some() || old_text.is_some()) {
            return Err(VaultOptionsError::OldAlone);
        }
        let Some(current) = vault(file, text)? else { return Ok(None) };
        Ok(Some(StoreKeys { current, previous: vault(old_file, old_text)? }))
    }
}

fn vault(file: Option<&Path>, secret: Option<&Secret>) -> Result<Option<Vault>, VaultOptionsError> {
    match (file, secret) {
        (Some(file), _) => vault_of_file(file).map(Some),
        (None, Some(secret)) => {
            let vault = Vault::from_text(secret.text());
            vault.map(Some).map_err(|error| VaultOptionsError::Key { path: None, error })
        }
        (None, None) => Ok(None),
    }
}

/// The vault of the key in `file`.
///
/// # Errors
/// When the file cannot be read, or its key is too short.
pub fn vault_of_file(file: &Path) -> Result<Vault, VaultOptionsError> {
    let path = file.to_owned();
    let text = std::fs::read(file).map(Zeroizing::new);
    let text = text.map_err(|error| VaultOptionsError::Read { path: path.clone(), error })?;
    // A key of random bytes need not be text.
    Vault::new(text.trim_ascii())
        .map_err(|error| VaultOptionsError::Key { path: Some(path), error })
}
