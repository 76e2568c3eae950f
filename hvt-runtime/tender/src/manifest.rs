//! The manifest that an image carries, and its match with the devices of the command line.

use hvt_abi::manifest::{self, Entry, Header, MAX_ENTRIES, NAME_SIZE};

use crate::bytes::u32_at;
use crate::options::Options;

/// A valid manifest. The handle of a device is its index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    entries: Vec<Entry>,
}

/// What kind of device an entry asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `--block:NAME=`
    Block,
    /// `--net:NAME=`
    Net,
}

/// Why a manifest is not valid. Whoever built the image has to change it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Its size and its count of entries disagree, or it has none or too many.
    #[error("{len} bytes do not hold {entries} entries (1 to 64 are allowed)")]
    Size {
        /// Bytes.
        len: usize,
        /// What the header says.
        entries: u32,
    },
    /// Another layout.
    #[error("its version is {0}, not 1")]
    Version(u32),
    /// Entry 0 is a device.
    #[error("its first entry is not the reserved one")]
    NoReservedFirst,
    /// An entry is not acceptable.
    #[error("entry {index}: {why}")]
    Entry {
        /// Which one.
        index: usize,
        /// What is wrong.
        why: &'static str,
    },
}

/// How the devices of the command line differ from those of the manifest. Whoever typed it has to change it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MismatchError {
    /// The image asks for devices that are not attached.
    #[error("the image needs {}: attach with {}", list(.0), hints(.0))]
    Missing(Vec<(Kind, String)>),
    /// The command line attaches devices that the image does not know.
    #[error("the image has no {}; {}", list(.0), declared(.1))]
    Extra(Vec<(Kind, String)>, Vec<(Kind, String)>),
}

impl Manifest {
    /// Parses what the note holds.
    ///
    /// # Errors
    /// See [`ManifestError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        const HEADER: usize = size_of::<Header>();
        const ENTRY: usize = size_of::<Entry>();
        let len = bytes.len();
        let (version, count) = (u32_at(bytes, 0), u32_at(bytes, 4));
        let fits = (1..=MAX_ENTRIES).contains(&count)
            && usize::try_from(count).is_ok_and(|count| len == HEADER + count * ENTRY);
        if !fits {
            return Err(ManifestError::Size { len, entries: count });
        }
        if version != manifest::VERSION {
            return Err(ManifestError::Version(version));
        }
        let mut entries = Vec::new();
        for (index, e) in bytes[HEADER..].chunks_exact(ENTRY).enumerate() {
            let entry = parse_entry(e, index)?;
            let named = |other: &Entry| other.name == entry.name;
            if entries.iter().any(named) {
                return Err(ManifestError::Entry { index, why: "its name is taken" });
            }
            entries.push(entry);
        }
        Ok(Self { entries })
    }

    /// The devices: handle, kind and name.
    pub fn devices(&self) -> impl Iterator<Item = (usize, Kind, &str)> {
        self.entries.iter().enumerate().filter_map(|(handle, entry)| {
            let kind = match entry.kind {
                manifest::BLOCK_BASIC => Kind::Block,
                manifest::NET_BASIC => Kind::Net,
                _ => return None,
            };
            Some((handle, kind, name_of(entry)))
        })
    }

    /// All entries, the reserved one first, to be filled in and copied to the guest.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Makes sure that exactly the devices of the manifest are attached.
    ///
    /// # Errors
    /// Names what is missing or too much, and what to type.
    pub fn check_attached(&self, options: &Options) -> Result<(), MismatchError> {
        let wanted: Vec<_> =
            self.devices().map(|(_, kind, name)| (kind, name.to_owned())).collect();
        let nets = options.nets.keys().map(|name| (Kind::Net, name.clone()));
        let given: Vec<_> =
            nets.chain(options.blocks.keys().map(|name| (Kind::Block, name.clone()))).collect();
        let extra: Vec<_> = given.iter().filter(|d| !wanted.contains(d)).cloned().collect();
        let missing: Vec<_> = wanted.iter().filter(|d| !given.contains(d)).cloned().collect();
        match (extra.is_empty(), missing.is_empty()) {
            (true, true) => Ok(()),
            (false, _) => Err(MismatchError::Extra(extra, wanted)),
            (true, false) => Err(MismatchError::Missing(missing)),
        }
    }
}

fn parse_entry(e: &[u8], index: usize) -> Result<Entry, ManifestError> {
    let bad = |why| ManifestError::Entry { index, why };
    let mut name = [0; NAME_SIZE];
    name.copy_from_slice(&e[..NAME_SIZE]);
    let kind = u32_at(e, std::mem::offset_of!(Entry, kind));
    let attached = e[std::mem::offset_of!(Entry, attached)];
    let len = name.iter().position(|b| *b == 0).ok_or_else(|| bad("its name does not end"))?;
    if index == 0 {
        return match (kind, len) {
            (manifest::RESERVED_FIRST, 0) => Ok(Entry::RESERVED_FIRST),
            _ => Err(ManifestError::NoReservedFirst),
        };
    }
    if kind != manifest::BLOCK_BASIC && kind != manifest::NET_BASIC {
        return Err(bad("its type is neither a block nor a network device"));
    }
    if len == 0 || !name[..len].iter().all(u8::is_ascii_alphanumeric) {
        return Err(bad("its name is not letters and digits"));
    }
    if attached != 0 {
        return Err(bad("it is marked as attached"));
    }
    name[len..].fill(0);
    Ok(Entry { name, kind, ..Entry::RESERVED_FIRST })
}

fn name_of(entry: &Entry) -> &str {
    let len = entry.name.iter().position(|b| *b == 0).unwrap_or(NAME_SIZE);
    std::str::from_utf8(&entry.name[..len]).unwrap_or_default()
}

fn list(devices: &[(Kind, String)]) -> String {
    let one = |(kind, name): &(Kind, String)| match kind {
        Kind::Block => format!("block device {name}"),
        Kind::Net => format!("network device {name}"),
    };
    devices.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn hints(devices: &[(Kind, String)]) -> String {
    let one = |(kind, name): &(Kind, String)| match kind {
        Kind::Block => format!("--block:{name}=FILE"),
        Kind::Net => format!("--net:{name}=INTERFACE"),
    };
    devices.iter().map(one).collect::<Vec<_>>().join(" ")
}

fn declared(devices: &[(Kind, String)]) -> String {
    match devices {
        [] => "it uses no devices at all".into(),
        _ => format!("it has {}", list(devices)),
    }
}
