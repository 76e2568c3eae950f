//! The image: an ELF file as Solo5 wants it, checked before any of it is used.
//!
//! The file may be hostile. Everything that is read from it is bounded by the limits here, and every number in it is
//! checked before it is used: what comes out is an [`Image`] whose segments lie in order, apart from each other, inside
//! the guest's memory, each with one of the rights of [`Rights`].

mod elf;
mod notes;

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

pub use elf::MAX_PROGRAM_HEADERS;
use hvt_abi::note::GuestNote;

use crate::manifest::{Manifest, ManifestError};

/// A file that can be run.
#[derive(Debug)]
pub struct Image {
    /// The open file, for loading and for symbols.
    pub file: File,
    /// Its name, for messages.
    pub path: PathBuf,
    /// Where the guest starts.
    pub entry: u64,
    /// What to load, ascending.
    pub segments: Vec<Segment>,
    /// The end of the highest segment with bytes in the file, rounded up to its alignment (`kernel_end`).
    pub kernel_end: u64,
    /// The end of everything, with segments that have no bytes in the file, rounded up to pages.
    pub end: u64,
    /// The devices that it asks for.
    pub manifest: Manifest,
    /// What it accepts beyond Solo5's ABI; `None` in a stock image.
    pub guest: Option<GuestNote>,
}

/// What the guest may do with the pages of a segment. Writing and executing exclude each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// No access at all.
    None,
    /// Reading.
    Read,
    /// Reading and writing.
    Write,
    /// Reading and executing.
    Execute,
}

/// A stretch of memory that the image fills.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The pages it occupies, whole.
    pub pages: Range<u64>,
    /// Where the file's bytes go.
    pub address: u64,
    /// Where they are in the file.
    pub offset: u64,
    /// How many there are. Zero for a segment that a stock tender does not look at.
    pub file_len: u64,
    /// What the guest may do there.
    pub rights: Rights,
}

/// Why a file is not an image that can be run. Whoever built it has to change it.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file can't be opened.
    #[error("{path}: {source}")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the host says.
        source: std::io::Error,
    },
    /// The file ends early or can't be read.
    #[error("{what} can't be read: {source}")]
    Read {
        /// What was being read.
        what: &'static str,
        /// What the host says.
        source: std::io::Error,
    },
    /// It is not an ELF file of the right kind.
    #[error("not a Solo5 image for x86-64: {0}")]
    NotAnImage(&'static str),
    /// A program header is not acceptable.
    #[error("program header {index}: {why}")]
    BadSegment {
        /// Which one, from zero.
        index: usize,
        /// What is wrong.
        why: String,
    },
    /// The entry point is outside memory.
    #[error("the entry point {entry:#x} is not in the guest's memory of {mem:#x} bytes")]
    BadEntry {
        /// The entry point.
        entry: u64,
        /// End of memory.
        mem: u64,
    },
    /// A note is missing.
    #[error("not a Solo5 image: it has no {0} note")]
    NoNote(&'static str),
    /// A note is not acceptable.
    #[error("the {note} note is not valid: {why}")]
    BadNote {
        /// Which note.
        note: &'static str,
        /// What is wrong.
        why: String,
    },
    /// It is made for another tender.
    #[error(
        "the image is built for {target}, version {version}; this tender runs hvt, version 2: build it for hvt"
    )]
    WrongTarget {
        /// `abi_target` in words.
        target: &'static str,
        /// `abi_version`.
        version: u32,
    },
    /// The manifest is not valid.
    #[error("the manifest is not valid: {0}")]
    Manifest(#[from] ManifestError),
}

impl Image {
    /// Opens a file and checks all of its headers against `memory` bytes of guest memory.
    ///
    /// # Errors
    /// See [`ImageError`].
    pub fn open(path: &Path, memory: u64) -> Result<Self, ImageError> {
        let open = |source| ImageError::Open { path: path.into(), source };
        let file = File::open(path).map_err(open)?;
        let meta = file.metadata().map_err(open)?;
        if !meta.is_file() {
            return Err(ImageError::NotAnImage("it is not a regular file"));
        }
        Self::check(file, path.into(), memory)
    }

    /// Checks all headers of an open file.
    ///
    /// # Errors
    /// See [`ImageError`].
    pub fn check(file: File, path: PathBuf, memory: u64) -> Result<Self, ImageError> {
        let header = elf::Header::read(&file)?;
        let programs = elf::program_headers(&file, &header)?;
        // First whether it is an image at all, so that another program is told to be one.
        let notes = notes::Notes::read(&file, &programs)?;
        let manifest = Manifest::parse(&notes.manifest)?;
        let entry = header.entry(memory)?;
        let loaded = elf::segments(&programs, memory)?;
        Ok(Self {
            file,
            path,
            entry,
            segments: loaded.segments,
            kernel_end: loaded.kernel_end,
            end: loaded.end,
            manifest,
            guest: notes.guest,
        })
    }
}
