//! What cargo knows about the workspace, and what a package says about its image.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use hvt_abi::manifest;
use serde::Deserialize;

/// The workspace that the command runs in.
#[derive(Debug, Deserialize)]
pub struct Project {
    packages: Vec<Package>,
    /// The workspace's folder.
    pub workspace_root: PathBuf,
    target_directory: PathBuf,
}

#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    targets: Vec<Target>,
    metadata: Option<Metadata>,
}

#[derive(Debug, Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    hvt: Option<Settings>,
}

/// `[package.metadata.hvt]`: what an image needs that the program's source does not say.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Settings {
    /// The devices, in the order of their handles.
    pub devices: Vec<Device>,
    /// KiB of the first stack. The default is ample for a `main` that starts tokio.
    pub stack_kib: u32,
    /// KiB of each thread stack with a guard page. A thread that asks for more gets a stack without one.
    pub thread_stack_kib: u32,
    /// How many thread stacks with guard pages to set aside; further threads get stacks without.
    pub thread_stacks: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { devices: Vec::new(), stack_kib: 1024, thread_stack_kib: 512, thread_stacks: 16 }
    }
}

/// A device that an image asks for.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// Letters and digits, at most 67. A block device is the file `/dev/NAME`.
    pub name: String,
    /// What it is.
    #[serde(rename = "type")]
    pub kind: DeviceKind,
}

/// Kinds of devices.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// A block device.
    Block,
    /// A network device.
    Net,
}

/// What to build of a package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The program of this name, or the only one.
    Program(Option<String>),
    /// The example of this name.
    Example(String),
}

/// What was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The target's name, and the image's.
    pub name: String,
    /// `--bin` or `--example`.
    pub option: &'static str,
    /// The package's settings.
    pub settings: Settings,
}

impl Project {
    /// Asks cargo about the workspace around the current folder.
    ///
    /// # Errors
    /// When there is none, or when some package's settings make no sense.
    pub fn read() -> Result<Self> {
        let output = Command::new(cargo())
            .args(["metadata", "--format-version=1", "--no-deps"])
            .output()
            .context("cannot start cargo")?;
        if !output.status.success() {
            bail!("cargo metadata failed:\n{}", String::from_utf8_lossy(&output.stderr));
        }
        serde_json::from_slice(&output.stdout).context("what cargo metadata says")
    }

    /// Finds a package's program or example.
    ///
    /// # Errors
    /// When there is none of that name, or several to choose from, or when the settings make no sense.
    pub fn choose(&self, package: &str, wanted: &Wanted) -> Result<Choice> {
        let Some(found) = self.packages.iter().find(|candidate| candidate.name == package) else {
            let mut names: Vec<_> = self.packages.iter().map(|p| p.name.as_str()).collect();
            names.sort_unstable();
            bail!(
                "there is no package {package} in this workspace; there are {}",
                names.join(", ")
            );
        };
        let (kind, option, name) = match wanted {
            Wanted::Program(name) => ("bin", "--bin", name.as_deref()),
            Wanted::Example(name) => ("example", "--example", Some(name.as_str())),
        };
        let of_kind = found.targets.iter().filter(|target| target.kind.iter().any(|k| k == kind));
        let names: Vec<_> = of_kind.map(|target| target.name.as_str()).collect();
        let name = match (name, names.as_slice()) {
            (Some(name), all) if all.contains(&name) => name,
            (Some(name), all) => {
                bail!("{package} has no {kind} {name}; it has: {}", all.join(", "));
            }
            (None, [only]) => only,
            (None, []) => bail!("{package} has no program"),
            (None, all) => bail!("{package} has several programs; say --bin {}", all.join(" or ")),
        };
        let settings = found.metadata.as_ref().and_then(|metadata| metadata.hvt.clone());
        let settings = settings.unwrap_or_default();
        settings.check().with_context(|| format!("[package.metadata.hvt] of {package}"))?;
        Ok(Choice { name: name.to_owned(), option, settings })
    }

    /// Where images and what they are made of go.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.target_directory.join("hvt")
    }
}

impl Settings {
    fn check(&self) -> Result<()> {
        let most = usize::try_from(manifest::MAX_ENTRIES).unwrap_or(0) - 1;
        if self.devices.len() > most {
            bail!("{} devices; an image can have {most}", self.devices.len());
        }
        for (index, device) in self.devices.iter().enumerate() {
            let name = &device.name;
            let usual = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
            if !usual || name.len() >= manifest::NAME_SIZE {
                bail!("device name {name:?}: it must be of 1 to 67 letters and digits");
            }
            if self.devices[..index].iter().any(|other| other.name == *name) {
                bail!("two devices are called {name}");
            }
        }
        let thread_stacks = u64::from(self.thread_stack_kib) * u64::from(self.thread_stacks);
        if !(64..=65_536).contains(&self.stack_kib) || thread_stacks > 1 << 20 {
            bail!("stacks: stack-kib must be 64 to 65536, and all thread stacks at most 1 GiB");
        }
        Ok(())
    }
}

/// The cargo that runs this command, or the one in the path.
pub(crate) fn cargo() -> PathBuf {
    env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn project() -> Project {
        let text = r#"{
            "workspace_root": "/w", "target_directory": "/w/target",
            "packages": [
                { "name": "one", "targets": [
                    { "name": "one", "kind": ["lib"] }, { "name": "tool", "kind": ["bin"] },
                    { "name": "demo", "kind": ["example"] } ],
                  "metadata": { "other": 1, "hvt": { "devices": [ { "name": "storage", "type": "block" } ],
                                          "thread-stacks": 4 } } },
                { "name": "two", "targets": [
                    { "name": "a", "kind": ["bin"] }, { "name": "b", "kind": ["bin"] } ],
                  "metadata": null }
            ]}"#;
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn the_only_program_needs_no_name() {
        let choice = project().choose("one", &Wanted::Program(None)).unwrap();
        assert_eq!((choice.name.as_str(), choice.option), ("tool", "--bin"));
        assert_eq!(choice.settings.thread_stacks, 4);
        assert_eq!(choice.settings.thread_stack_kib, 512);
        let storage = Device { name: "storage".to_owned(), kind: DeviceKind::Block };
        assert_eq!(choice.settings.devices, [storage]);
    }

    #[test]
    fn a_wrong_name_is_answered_with_the_right_ones() {
        let error =
            |package: &str, wanted| project().choose(package, &wanted).unwrap_err().to_string();
        assert!(error("three", Wanted::Program(None)).contains("one, two"));
        assert!(error("two", Wanted::Program(None)).contains("a or b"));
        assert!(error("one", Wanted::Example("x".to_owned())).contains("demo"));
    }

    #[test]
    fn settings_that_make_no_sense_are_refused() {
        let device = |name: &str| Device { name: name.to_owned(), kind: DeviceKind::Net };
        let with = |devices| Settings { devices, ..Settings::default() };
        assert!(with(vec![device("a"), device("a")]).check().is_err());
        assert!(with(vec![device("with space")]).check().is_err());
        assert!(with(vec![device(&"x".repeat(68))]).check().is_err());
        assert!(with((0..64).map(|i| device(&format!("n{i}"))).collect()).check().is_err());
        assert!(with((0..63).map(|i| device(&format!("n{i}"))).collect()).check().is_ok());
        assert!(Settings { stack_kib: 1, ..Settings::default() }.check().is_err());
    }
}
