//! Options for a process in the form that a guest takes them: in it there are no files but devices, so what a file holds is
//! given as it is, out of the sight of process lists.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::peer::run;
use crate::programs::program;

/// What a unikernel is told, and what is made for it on this side.
#[derive(Clone, Debug)]
pub struct GuestOptions {
    /// Where the files of options are, and the one with secrets is written.
    folder: PathBuf,
    arguments: Vec<String>,
    secrets: Vec<String>,
    storage_size: Option<u64>,
}

impl GuestOptions {
    /// None yet; names of files are relative to `folder`.
    pub fn new(folder: &Path) -> Self {
        let folder = folder.to_owned();
        Self { folder, arguments: Vec::new(), secrets: Vec::new(), storage_size: None }
    }

    /// Adds `option`, with those after it that are its values, as a guest can follow it.
    ///
    /// # Panics
    /// If a file cannot be read.
    pub fn add<'a>(&mut self, option: &str, rest: &mut impl Iterator<Item = &'a str>) {
        let mut value = || rest.next().expect("a value");
        match option {
            "--acme-ca" | "--remote-ca" | "--cert" | "--cert-key" => {
                let pem = self.read(value()).replace('\n', " ");
                self.add_secret(&format!("{option}-pem"), &pem);
            }
            "--allowed-signers" => {
                let text = self.read(value());
                text.lines().for_each(|line| self.add_secret("--allowed-signer", line));
            }
            "--storage-size" => self.storage_size = Some(bytes(value())),
            // There is nothing to look at again.
            "--cert-poll" => drop(value()),
            "--storage-key-file-old" => {
                let text = self.read(value());
                self.add_secret("--storage-key-old", text.trim_end());
            }
            _ => match option.strip_suffix("-file") {
                Some(by_value) => {
                    let text = self.read(value());
                    self.add_secret(by_value, text.trim_end());
                }
                None => self.arguments.push(option.to_owned()),
            },
        }
    }

    /// Adds an option that stays as it is.
    pub fn add_plain(&mut self, option: &str, value: &str) {
        self.arguments.extend([option, value].map(str::to_owned));
    }

    /// Adds an option whose value is for nobody to see.
    pub fn add_secret(&mut self, option: &str, value: &str) {
        self.secrets.push(format!("{option}={value}"));
    }

    /// The program's command line, without secrets.
    pub fn arguments(&self) -> &[String] {
        &self.arguments
    }

    /// The tender's option for the secrets.
    ///
    /// # Panics
    /// If they cannot be written.
    pub fn secrets(&self) -> String {
        let file = self.folder.join("arguments");
        std::fs::write(&file, self.secrets.join("\n")).expect("arguments");
        format!("--args-file={}", file.display())
    }

    /// Makes the block device of the size that was asked for; the tender's default is another.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn make_storage(&self, storage: &Path) {
        if let Some(size) = self.storage_size.filter(|_| !storage.exists()) {
            File::create(storage).expect("storage").set_len(size).expect("room");
        }
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.folder.join(file)).expect("an option's file")
    }
}

/// The key in `file`; makes one where a process would make its administrator's itself.
///
/// # Panics
/// If `tlstunnel-ctl` cannot.
pub fn administrator_key(file: &Path) -> String {
    if !file.exists() {
        let mut command = Command::new(program("tlstunnel-ctl"));
        command.args(["key", "generate", "--out"]).arg(file);
        let made = run(&mut command, b"", Duration::from_secs(30));
        assert!(made.status.success(), "a new key: {made:?}");
    }
    std::fs::read_to_string(file).expect("key file").trim().to_owned()
}

/// A size as options take it, such as 4MiB.
fn bytes(size: &str) -> u64 {
    let (number, unit) = size.split_at(size.find(char::is_alphabetic).unwrap_or(size.len()));
    let unit = match unit {
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => panic!("{size}: KiB, MiB or GiB"),
    };
    number.parse::<u64>().expect("a number") * unit
}
