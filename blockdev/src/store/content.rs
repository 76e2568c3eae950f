//! What a device holds, found out before anything is written to it.

use super::header::{Found, Header, State};
use crate::device::{BlockDevice, DeviceError};
use crate::v1::{self, V1Error};

/// What a device seems to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Zeros only, or a store whose formatting was interrupted before its first commit.
    Blank,
    /// A store of this crate.
    Store,
    /// The original tlstunnel's layout, also when a migration from it was interrupted.
    V1,
    /// Something else, in words.
    Foreign(String),
}

/// What the words for the original's layout are, where it is refused.
pub(super) const V1_WORDS: &str = "the original tlstunnel's v1 layout";

/// Of large devices, this much at each end is searched for anything but zeros, and a sample of the rest.
const BLANK_ENDS: u64 = 64 << 20;
const SAMPLE_EVERY: u64 = 16 << 20;
const SAMPLE: u64 = 64 << 10;
/// Signatures lie in this much of the beginning.
const HEAD: u64 = 128 << 10;

/// Name, offset and bytes of what is commonly found on disks; the first match wins.
const SIGNATURES: &[(&str, usize, &[u8])] = &[
    ("a disk with a GPT partition table", 512, b"EFI PART"),
    ("a disk with a GPT partition table", 4096, b"EFI PART"),
    ("a LUKS encrypted volume", 0, b"LUKS\xba\xbe"),
    ("an LVM physical volume", 512, b"LABELONE"),
    ("an LVM physical volume", 0, b"LABELONE"),
    ("an ext2, ext3 or ext4 file system", 1080, &[0x53, 0xef]),
    ("an XFS file system", 0, b"XFSB"),
    ("a btrfs file system", 65_600, b"_BHRfS_M"),
    ("an F2FS file system", 1024, &[0x10, 0x20, 0xf5, 0xf2]),
    ("a member of a Linux RAID array", 4096, &[0xfc, 0x4e, 0x2b, 0xa9]),
    ("a member of a Linux RAID array", 0, &[0xfc, 0x4e, 0x2b, 0xa9]),
    ("Linux swap space", 4086, b"SWAPSPACE2"),
    ("a squashfs file system", 0, b"hsqs"),
    ("an EROFS file system", 1024, &[0xe2, 0xe1, 0xf5, 0xe0]),
    ("an ISO 9660 image", 32_769, b"CD001"),
    ("an NTFS file system", 3, b"NTFS    "),
    ("an exFAT file system", 3, b"EXFAT   "),
    ("a FAT file system", 82, b"FAT32   "),
    ("a FAT file system", 54, b"FAT1"),
    ("a qcow2 disk image: convert it to a raw one", 0, b"QFI\xfb"),
    ("a VMDK disk image: convert it to a raw one", 0, b"KDMV"),
    ("a SQLite database", 0, b"SQLite format 3\0"),
    ("a redb database", 0, b"redb\x1a\x0a"),
    ("a program (ELF)", 0, b"\x7fELF"),
    ("gzip data", 0, &[0x1f, 0x8b]),
    ("xz data", 0, b"\xfd7zXZ\0"),
    ("zstd data", 0, &[0x28, 0xb5, 0x2f, 0xfd]),
    ("bzip2 data", 0, b"BZh"),
    ("a zip archive", 0, b"PK\x03\x04"),
    ("a tar archive", 257, b"ustar"),
    ("a PDF document", 0, b"%PDF-"),
    ("a disk with an MBR partition table or boot sector", 510, &[0x55, 0xaa]),
];

/// Looks at what `device` holds. Never writes.
///
/// # Errors
/// What the device answers.
pub(super) fn look(device: &dyn BlockDevice) -> Result<Content, DeviceError> {
    match Header::find(device)? {
        Found::Valid(Header { state: State::Ready, .. }) | Found::Newer(_) => Ok(Content::Store),
        Found::Valid(Header { state: State::Creating, .. }) => Ok(match v1_probe(device)? {
            true => Content::V1,
            false => Content::Blank,
        }),
        found => {
            if v1_probe(device)? {
                return Ok(Content::V1);
            }
            let head = read_head(device)?;
            Ok(match (found, signature(&head)) {
                (Found::Damaged, _) => {
                    Content::Foreign("a store of this program with both headers damaged".to_owned())
                }
                (_, Some(name)) => Content::Foreign(name.to_owned()),
                _ if is_blank(device)? => Content::Blank,
                _ => Content::Foreign(describe(&head).to_owned()),
            })
        }
    }
}

fn v1_probe(device: &dyn BlockDevice) -> Result<bool, DeviceError> {
    match v1::probe(device) {
        Ok(found) => Ok(found),
        Err(V1Error::Device(error)) => Err(error),
        Err(_) => Ok(false),
    }
}

fn read_head(device: &dyn BlockDevice) -> Result<Vec<u8>, DeviceError> {
    let length = device.capacity().min(HEAD);
    let mut head = vec![0; usize::try_from(length).unwrap_or(0)];
    device.read(0, &mut head)?;
    Ok(head)
}

fn signature(head: &[u8]) -> Option<&'static str> {
    let matches = |at: usize, bytes: &[u8]| head.get(at..at + bytes.len()) == Some(bytes);
    SIGNATURES.iter().find(|(_, at, bytes)| matches(*at, bytes)).map(|(name, ..)| *name)
}

/// Content without a signature.
fn describe(head: &[u8]) -> &'static str {
    let text = head.iter().rposition(|byte| *byte != 0).map_or(&[][..], |last| &head[..=last]);
    // A character may be cut at the end of what was read.
    let valid = match std::str::from_utf8(text) {
        Ok(text) => text,
        Err(e) if e.error_len().is_none() => {
            std::str::from_utf8(&text[..e.valid_up_to()]).unwrap_or("")
        }
        Err(_) => "",
    };
    let printable = |c: char| !c.is_control() || matches!(c, '\n' | '\r' | '\t' | '\x0c');
    match text.first_chunk::<2>() {
        _ if valid.starts_with("-----BEGIN ") => "a PEM file (certificates or keys)",
        _ if !valid.is_empty() && valid.chars().all(printable) => "text",
        Some([0, 1]) => "the original tlstunnel's v1 layout with both superblocks damaged",
        _ => "data of an unknown kind",
    }
}

fn is_blank(device: &dyn BlockDevice) -> Result<bool, DeviceError> {
    let capacity = device.capacity();
    if capacity <= 4 * BLANK_ENDS {
        return zeros(device, 0, capacity);
    }
    let sector = u64::from(device.sector_size());
    let tail = capacity - BLANK_ENDS;
    let tail = tail - tail % sector;
    if !zeros(device, 0, BLANK_ENDS)? || !zeros(device, tail, capacity)? {
        return Ok(false);
    }
    let step = SAMPLE_EVERY.max(capacity / 4096).next_multiple_of(sector);
    let mut at = BLANK_ENDS;
    while at < tail {
        if !zeros(device, at, (at + SAMPLE).min(capacity))? {
            return Ok(false);
        }
        at += step;
    }
    Ok(true)
}

fn zeros(device: &dyn BlockDevice, from: u64, to: u64) -> Result<bool, DeviceError> {
    const STEP: u64 = 1 << 20;
    let length = usize::try_from((to - from).min(STEP)).unwrap_or(0);
    let mut buffer = vec![0; length];
    let mut at = from;
    while at < to {
        let piece = usize::try_from(to - at).unwrap_or(length).min(length);
        device.read(at, &mut buffer[..piece])?;
        if buffer[..piece].iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        at += piece as u64;
    }
    Ok(true)
}
