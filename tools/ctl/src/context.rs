//! Which gateway is meant, and with which key: flags, environment and named contexts in one order of precedence.
//!
//! A context that a flag names wins over the environment, because who types `--context lab` means the lab, whatever the
//! shell has exported. A context from `TLSTUNNEL_CONTEXT` or the file's default comes last.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::files;
use crate::options::{self, ConnectionOptions};

/// The control port when nothing says otherwise.
pub(crate) const DEFAULT_REMOTE: &str = "127.0.0.1:1234";
/// Most bytes of the configuration file.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The configuration file `$XDG_CONFIG_HOME/tlstunnel/ctl.toml`.
///
/// ```toml
/// default = "home"
/// [contexts.home]
/// remote = "192.0.2.1:1234"
/// key-file = "/etc/tlstunnel/home.key"
/// key-id = "admin"
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct ContextFile {
    /// The context that is used when none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) default: Option<String>,
    /// Every context by its name.
    #[serde(default)]
    pub(crate) contexts: BTreeMap<String, Context>,
}

/// One named gateway; what is absent comes from elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Context {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) remote: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key_id: Option<String>,
}

impl ContextFile {
    /// Where the file lies: below `XDG_CONFIG_HOME`, or `~/.config` when that is unset or relative (as the XDG base
    /// directory specification demands).
    ///
    /// # Errors
    /// There is no home directory either.
    pub(crate) fn path(environment: &dyn Fn(&str) -> Option<String>) -> Result<PathBuf, Failure> {
        let folder = |variable: &str| {
            environment(variable).map(PathBuf::from).filter(|folder| folder.is_absolute())
        };
        folder("XDG_CONFIG_HOME")
            .or_else(|| folder("HOME").map(|home| home.join(".config")))
            .map(|folder| folder.join("tlstunnel").join("ctl.toml"))
            .ok_or_else(|| Failure::usage("neither XDG_CONFIG_HOME nor HOME is set", None))
    }

    /// Reads the file; a file that does not exist is an empty one.
    ///
    /// # Errors
    /// The file cannot be read or is not valid.
    pub(crate) fn load(path: &Path) -> Result<Self, Failure> {
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = files::read_text(path, MAX_FILE_BYTES)?;
        toml::from_str(&text).map_err(|error| {
            Failure::usage(format!("{} is not valid: {}", path.display(), error), None)
        })
    }

    /// Writes the file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn save(&self, path: &Path) -> Result<(), Failure> {
        let text = toml::to_string(self)
            .map_err(|error| Failure::usage(format!("cannot write contexts: {error}"), None))?;
        files::replace(path, &text)
    }

    /// The context of this name.
    ///
    /// # Errors
    /// There is none; says which there are.
    pub(crate) fn get(&self, name: &str) -> Result<&Context, Failure> {
        self.contexts.get(name).ok_or_else(|| {
            let names: Vec<&str> = self.contexts.keys().map(String::as_str).collect();
            let hint = if names.is_empty() {
                format!(
                    "make it: tlstunnel-ctl context set {name} --remote HOST:PORT --key-file FILE"
                )
            } else {
                format!("there are: {}", names.join(", "))
            };
            Failure::Usage { message: format!("there is no context {name:?}"), hint: Some(hint) }
        })
    }
}

/// A gateway and the key for it, decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// `HOST:PORT` of the control port.
    pub(crate) remote: String,
    /// Where the key is; `None` when nothing says so, which only matters once a key is needed.
    pub(crate) key_file: Option<PathBuf>,
    /// The key's id, where it is not the one that the key file names.
    pub(crate) key_id: Option<String>,
    /// Longest wait for connecting, and for each answer.
    pub(crate) timeout: Duration,
}

impl Target {
    /// Decides from flags, environment and the file of contexts.
    ///
    /// # Errors
    /// A named context does not exist, the file is not valid, or the remote is no `HOST:PORT`.
    pub(crate) fn resolve(
        flags: &ConnectionOptions,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Failure> {
        let variable = |name: &str| environment(name).filter(|value| !value.is_empty());
        let named_by_flag = flags.context.is_some();
        let context = match flags.context.clone().or_else(|| variable("TLSTUNNEL_CONTEXT")) {
            Some(name) => ContextFile::load(&ContextFile::path(environment)?)?.get(&name)?.clone(),
            None => match ContextFile::path(environment) {
                Ok(path) => {
                    let file = ContextFile::load(&path)?;
                    file.default.as_deref().map(|name| file.get(name).cloned()).transpose()?
                }
                // Without a home there are no contexts, and nobody asked for one.
                Err(_) => None,
            }
            .unwrap_or_default(),
        };
        let shell = Context {
            remote: variable("TLSTUNNEL_REMOTE"),
            key_file: variable("TLSTUNNEL_KEY_FILE").map(PathBuf::from),
            key_id: variable("TLSTUNNEL_KEY_ID"),
        };
        let [second, third] = if named_by_flag { [context, shell] } else { [shell, context] };
        let remote = flags.remote.clone().or(second.remote).or(third.remote);
        let remote =
            options::remote(remote.as_deref().unwrap_or(DEFAULT_REMOTE)).map_err(|error| {
                Failure::usage(format!("the remote is not HOST:PORT: {error}"), None)
            })?;
        Ok(Self {
            remote,
            key_file: flags.key_file.clone().or(second.key_file).or(third.key_file),
            key_id: flags.key_id.clone().or(second.key_id).or(third.key_id),
            timeout: flags.timeout,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const FILE: &str = "default = 'home'
        [contexts.home]
        remote = 'home:1'
        key-file = '/home.key'
        key-id = 'home-id'
        [contexts.lab]
        remote = 'lab:2'";

    fn resolve(flags: ConnectionOptions, shell: &[(&str, &str)]) -> Result<Target, Failure> {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().to_str().unwrap().to_owned();
        std::fs::create_dir(folder.path().join("tlstunnel")).unwrap();
        std::fs::write(folder.path().join("tlstunnel/ctl.toml"), FILE).unwrap();
        Target::resolve(&flags, &|name| match name {
            "XDG_CONFIG_HOME" => Some(config.clone()),
            _ => shell.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()),
        })
    }

    fn parts(target: &Target) -> (&str, Option<&str>, Option<&str>) {
        let key_file = target.key_file.as_deref().and_then(Path::to_str);
        (&target.remote, key_file, target.key_id.as_deref())
    }

    #[test]
    fn the_default_context_comes_last() {
        let target = resolve(ConnectionOptions::default(), &[]).unwrap();
        assert_eq!(parts(&target), ("home:1", Some("/home.key"), Some("home-id")));
        let shell = [("TLSTUNNEL_REMOTE", "shell:3"), ("TLSTUNNEL_KEY_ID", "shell-id")];
        let target = resolve(ConnectionOptions::default(), &shell).unwrap();
        assert_eq!(parts(&target), ("shell:3", Some("/home.key"), Some("shell-id")));
        let flags =
            ConnectionOptions { remote: Some("flag:4".to_owned()), ..ConnectionOptions::default() };
        let target = resolve(flags, &shell).unwrap();
        assert_eq!(parts(&target), ("flag:4", Some("/home.key"), Some("shell-id")));
    }

    #[test]
    fn a_context_named_by_flag_wins_over_the_environment() {
        let shell = [("TLSTUNNEL_REMOTE", "shell:3"), ("TLSTUNNEL_KEY_FILE", "/shell.key")];
        let lab = |context: &str| ConnectionOptions {
            context: Some(context.to_owned()),
            ..ConnectionOptions::default()
        };
        let target = resolve(lab("lab"), &shell).unwrap();
        assert_eq!(parts(&target), ("lab:2", Some("/shell.key"), None));
        let error = resolve(lab("moon"), &shell).unwrap_err();
        assert_eq!(error.hint(), Some("there are: home, lab"));
    }

    #[test]
    fn a_context_named_by_the_environment_replaces_the_default_one() {
        let target =
            resolve(ConnectionOptions::default(), &[("TLSTUNNEL_CONTEXT", "lab")]).unwrap();
        assert_eq!(parts(&target), ("lab:2", None, None));
    }

    #[test]
    fn without_anything_there_are_defaults() {
        let target = Target::resolve(&ConnectionOptions::default(), &|_| None).unwrap();
        assert_eq!(parts(&target), (DEFAULT_REMOTE, None, None));
    }

    #[test]
    fn a_misspelt_field_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ctl.toml");
        std::fs::write(&path, "[contexts.a]\nkeyfile = 'x'\n").unwrap();
        let error = ContextFile::load(&path).unwrap_err();
        assert!(error.to_string().contains("keyfile"), "{error}");
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/folder/ctl.toml");
        let file: ContextFile = toml::from_str(FILE).unwrap();
        file.save(&path).unwrap();
        assert_eq!(ContextFile::load(&path).unwrap(), file);
        assert!(!files::open_to_others(&path));
    }
}
