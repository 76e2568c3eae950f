//! `--pcap`: frames in the classic capture format (draft-ietf-opsawg-pcap), with nanoseconds, for tcpdump and Wireshark.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use vm_memory::VolatileSlice;

use super::AttachError;

/// A file starts with this number when its times are in nanoseconds (section 4 of the draft).
const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;
/// LINKTYPE_ETHERNET.
const LINKTYPE_ETHERNET: u32 = 1;
/// The most bytes of a frame that are kept: all, also of the longest that offload makes. tcpdump's own limit.
const SNAP_LEN: usize = 262_144;

/// A recording.
#[derive(Debug)]
pub struct Pcap {
    file: File,
    buffer: Vec<u8>,
}

impl Pcap {
    /// Starts a recording, replacing the file.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn create(name: &str, path: &Path) -> Result<Self, AttachError> {
        let start = || -> io::Result<Self> {
            let mut file = File::create(path)?;
            let mut header = Vec::with_capacity(24);
            header.extend(MAGIC_NANOSECONDS.to_le_bytes());
            header.extend([2, 0, 4, 0]);
            header.extend([0; 8]);
            header.extend(u32::try_from(SNAP_LEN).unwrap_or(u32::MAX).to_le_bytes());
            header.extend(LINKTYPE_ETHERNET.to_le_bytes());
            file.write_all(&header)?;
            Ok(Self { file, buffer: Vec::with_capacity(2048) })
        };
        start().map_err(|e| AttachError {
            what: format!("--pcap:{name}"),
            why: format!("{}: {e}", path.display()),
        })
    }

    /// Adds a frame: the first `len` bytes of the slice.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn record(&mut self, frame: &VolatileSlice<'_>, len: usize) -> io::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let kept = len.min(frame.len()).min(SNAP_LEN);
        let number = |n: u64| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes();
        self.buffer.clear();
        self.buffer.extend(number(now.as_secs()));
        self.buffer.extend(now.subsec_nanos().to_le_bytes());
        self.buffer.extend(number(kept as u64));
        self.buffer.extend(number(len as u64));
        self.buffer.resize(16 + kept, 0);
        frame.copy_to(&mut self.buffer[16..]);
        self.file.write_all(&self.buffer)
    }

    pub(super) fn raw_fd(&self) -> i32 {
        self.file.as_raw_fd()
    }
}
