//! The ELF notes that make a file an image (Solo5's `elf_abi.h` and `mft_abi.h`), and our own.
//!
//! A stock tender looks only at the first note of each `PT_NOTE`, so [`Abi1Note`] and [`Mft1Note`] need a program header
//! each. Our [`GuestNote`] is found anywhere in any `PT_NOTE`: it may stand alone or directly behind [`Abi1Note`].

use core::mem::{offset_of, size_of};

use crate::manifest;

/// The name in Solo5's notes, with its final zero byte and padding.
pub const SOLO5_NAME: [u8; 8] = *b"Solo5\0\0\0";
/// The type of the note that tells the ABI (`ABI1_NOTE_TYPE`).
pub const ABI1: u32 = 0x3149_4241;
/// The type of the note that holds the manifest (`MFT1_NOTE_TYPE`).
pub const MFT1: u32 = 0x3154_464d;
/// `abi_target` of an hvt image (`HVT_ABI_TARGET`).
pub const TARGET_HVT: u32 = 1;

/// The sections in which Solo5's tools look for the notes.
pub const ABI1_SECTION: &str = ".note.solo5.abi";
/// See [`ABI1_SECTION`].
pub const MFT1_SECTION: &str = ".note.solo5.manifest";
/// The section of [`GuestNote`].
pub const GUEST_SECTION: &str = ".note.hvt.guest";

/// The interpreter that an image names, so that a Linux kernel refuses to run it as a program (`DECLARE_ELF_INTERP`).
pub const INTERPRETER: &[u8; 24] = b"/nonexistent/solo5/\0\0\0\0\0";

/// The header of a Solo5 note with its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Solo5Header {
    /// Length of the name with its zero byte: 6.
    pub name_len: u32,
    /// Length of the descriptor in bytes.
    pub desc_len: u32,
    /// [`ABI1`] or [`MFT1`].
    pub kind: u32,
    /// [`SOLO5_NAME`].
    pub name: [u8; 8],
}

/// The note that tells the ABI (`struct abi1_note`). Belongs into [`ABI1_SECTION`], aligned to 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Abi1Note {
    /// Header with `desc_len` 16.
    pub header: Solo5Header,
    /// [`TARGET_HVT`].
    pub target: u32,
    /// [`crate::ABI_VERSION`].
    pub version: u32,
    /// Always zero.
    pub reserved: [u32; 2],
}

impl Abi1Note {
    /// The note of an hvt image of this ABI.
    pub const HVT: Self = Self {
        header: Solo5Header { name_len: 6, desc_len: 16, kind: ABI1, name: SOLO5_NAME },
        target: TARGET_HVT,
        version: crate::ABI_VERSION,
        reserved: [0; 2],
    };
}

/// The note that holds the manifest (`struct mft1_note`). Belongs into [`MFT1_SECTION`]. `N` counts the reserved entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Mft1Note<const N: usize> {
    /// Header with `desc_len` 12 + 104 × N: the padding below counts.
    pub header: Solo5Header,
    /// Brings the manifest to a multiple of eight. Zero.
    pub pad: u32,
    /// Version and number of entries.
    pub manifest: manifest::Header,
    /// The entries; the first is [`manifest::Entry::RESERVED_FIRST`].
    pub entries: [manifest::Entry; N],
}

impl<const N: usize> Mft1Note<N> {
    /// The note for these entries.
    ///
    /// # Panics
    /// When there are none or more than [`manifest::MAX_ENTRIES`], or when the first is not the reserved one: at compile
    /// time, in a `static`.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "N is at most 64, asserted here")]
    pub const fn new(entries: [manifest::Entry; N]) -> Self {
        assert!(N >= 1 && N <= manifest::MAX_ENTRIES as usize);
        assert!(entries[0].kind == manifest::RESERVED_FIRST);
        Self {
            header: Solo5Header {
                name_len: 6,
                desc_len: 12 + 104 * N as u32,
                kind: MFT1,
                name: SOLO5_NAME,
            },
            pad: 0,
            manifest: manifest::Header { version: manifest::VERSION, entries: N as u32 },
            entries,
        }
    }
}

/// The largest descriptor of an [`MFT1`] note in bytes (`MFT1_NOTE_MAX_SIZE`).
pub const MFT1_MAX_DESC: u32 = 12 + 104 * manifest::MAX_ENTRIES;

/// The name in our own note, with its zero byte.
pub const GUEST_NAME: [u8; 4] = *b"hvt\0";
/// The type of our own note.
pub const GUEST: u32 = 1;
/// The version of [`GuestNote`]'s descriptor.
pub const GUEST_VERSION: u32 = 1;

/// Our note: what the guest accepts beyond Solo5's ABI. An image without it is a stock image and starts at ring 0.
///
/// Belongs into [`GUEST_SECTION`], aligned to 4. A tender reads the fields that [`GuestNote::desc_len`] covers and takes zero
/// for the others, so the descriptor may grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct GuestNote {
    /// Length of the name with its zero byte: 4.
    pub name_len: u32,
    /// Length of the descriptor in bytes: 24.
    pub desc_len: u32,
    /// [`GUEST`].
    pub kind: u32,
    /// [`GUEST_NAME`].
    pub name: [u8; 4],
    /// [`GUEST_VERSION`].
    pub version: u32,
    /// The bits of [`crate::extension`] that the guest understands, and [`crate::boot::FEATURE_RING_IO`] when it uses the
    /// ring: a tender offers the ring to a stock image always, to an image with this note only when asked, because it
    /// costs a thread.
    /// [`crate::extension::FEATURE_RING3`] among them asks for ring 3.
    pub features: u32,
    /// Bytes of the first stack, rounded up to pages; 0 leaves it to the tender
    /// ([`crate::extension::DEFAULT_STACK_SIZE`]). Ring 3 and process only.
    pub stack_size: u32,
    /// Bytes of each thread stack, rounded up to pages, without its guard page. Ring 3 and process only.
    pub thread_stack_size: u32,
    /// How many thread stacks with guard pages to set aside below the first stack; see
    /// [`crate::boot::BootExtension::thread_stacks`].
    pub thread_stack_count: u32,
    /// Always zero.
    pub reserved: u32,
}

impl GuestNote {
    /// The note of a guest that understands `features`, with the tender's choice of stack and no thread stacks.
    #[must_use]
    pub const fn new(features: u32) -> Self {
        Self {
            name_len: 4,
            desc_len: 24,
            kind: GUEST,
            name: GUEST_NAME,
            version: GUEST_VERSION,
            features,
            stack_size: 0,
            thread_stack_size: 0,
            thread_stack_count: 0,
            reserved: 0,
        }
    }
}

const _: () = {
    assert!(size_of::<Solo5Header>() == 20);
    assert!(size_of::<Abi1Note>() == 36);
    assert!(offset_of!(Abi1Note, target) == 20);
    assert!(size_of::<Mft1Note<1>>() == 24 + 8 + 104);
    assert!(offset_of!(Mft1Note<1>, manifest) == 24);
    assert!(offset_of!(Mft1Note<1>, entries) == 32);
    assert!(size_of::<GuestNote>() == 16 + 24);
    assert!(offset_of!(GuestNote, version) == 16);
    assert!(MFT1_MAX_DESC == 6668);
};
