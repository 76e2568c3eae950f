//! The manifest: the devices that an image asks for (Solo5's `mft_abi.h`).
//!
//! In the image it is the descriptor of the note [`crate::note::MFT1`]; the tender puts a copy with the properties of the
//! attached devices behind the boot information. A device's handle is its index; entry 0 is always
//! [`Entry::RESERVED_FIRST`], so the first device has handle 1.

use core::mem::{offset_of, size_of};

/// The version of this layout (`MFT_VERSION`).
pub const VERSION: u32 = 1;
/// The most entries a manifest can have, the reserved one included (`MFT_MAX_ENTRIES`).
pub const MAX_ENTRIES: u32 = 64;
/// Bytes for a name, with at least one final zero byte (`MFT_NAME_SIZE`).
pub const NAME_SIZE: usize = 68;

/// A block device (`MFT_DEV_BLOCK_BASIC`).
pub const BLOCK_BASIC: u32 = 1;
/// A network device (`MFT_DEV_NET_BASIC`).
pub const NET_BASIC: u32 = 2;
/// The type of entry 0 (`MFT_RESERVED_FIRST`).
pub const RESERVED_FIRST: u32 = 1 << 30;

/// The start of a manifest (`struct mft` without its entries); `entries` times [`Entry`] follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Header {
    /// [`VERSION`].
    pub version: u32,
    /// How many entries follow, 1 to [`MAX_ENTRIES`].
    pub entries: u32,
}

/// One device (`struct mft_entry`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Entry {
    /// Letters and digits, filled up with zero bytes.
    pub name: [u8; NAME_SIZE],
    /// [`BLOCK_BASIC`], [`NET_BASIC`] or [`RESERVED_FIRST`].
    pub kind: u32,
    /// Properties, filled in by the tender: [`Entry::block`] or [`Entry::net`] by `kind`.
    pub properties: [u8; 16],
    /// For the tender's own use; the guest must not look at it. Ours leaves zero.
    pub backing: u64,
    /// 1 once the tender has attached a device. Zero in the image.
    pub attached: u8,
    /// Always zero.
    pub pad: [u8; 7],
}

/// What a guest learns of a block device (`struct mft_block_basic`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockProperties {
    /// Size of the device in bytes, a multiple of `block_size`.
    pub capacity: u64,
    /// Size of a block in bytes, a power of two from 512.
    pub block_size: u16,
}

/// What a guest learns of a network device (`struct mft_net_basic`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetProperties {
    /// The hardware address that the guest shall use.
    pub mac: [u8; 6],
    /// The largest payload of a frame in bytes, without the Ethernet header.
    pub mtu: u16,
}

impl Entry {
    /// Entry 0 of every manifest.
    pub const RESERVED_FIRST: Self = Self {
        name: [0; NAME_SIZE],
        kind: RESERVED_FIRST,
        properties: [0; 16],
        backing: 0,
        attached: 0,
        pad: [0; 7],
    };

    /// An entry as it stands in an image: a device of `kind` called `name`. A name longer than 67 bytes is cut.
    #[must_use]
    pub const fn declare(name: &str, kind: u32) -> Self {
        let mut entry = Self { kind, ..Self::RESERVED_FIRST };
        let bytes = name.as_bytes();
        let mut i = 0;
        while i < bytes.len() && i < NAME_SIZE - 1 {
            entry.name[i] = bytes[i];
            i += 1;
        }
        entry
    }

    /// The properties of a block device: capacity at offset 0, block size at 8.
    #[must_use]
    pub const fn block(&self) -> BlockProperties {
        let p = &self.properties;
        BlockProperties {
            capacity: u64::from_le_bytes([p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7]]),
            block_size: u16::from_le_bytes([p[8], p[9]]),
        }
    }

    /// The properties of a network device: hardware address at offset 0, MTU at 6.
    #[must_use]
    pub const fn net(&self) -> NetProperties {
        let p = &self.properties;
        NetProperties {
            mac: [p[0], p[1], p[2], p[3], p[4], p[5]],
            mtu: u16::from_le_bytes([p[6], p[7]]),
        }
    }

    /// Puts the properties of a block device into the entry.
    pub fn set_block(&mut self, block: BlockProperties) {
        self.properties = [0; 16];
        self.properties[..8].copy_from_slice(&block.capacity.to_le_bytes());
        self.properties[8..10].copy_from_slice(&block.block_size.to_le_bytes());
    }

    /// Puts the properties of a network device into the entry.
    pub fn set_net(&mut self, net: NetProperties) {
        self.properties = [0; 16];
        self.properties[..6].copy_from_slice(&net.mac);
        self.properties[6..8].copy_from_slice(&net.mtu.to_le_bytes());
    }
}

impl Default for Entry {
    fn default() -> Self {
        Self::RESERVED_FIRST
    }
}

const _: () = {
    assert!(size_of::<Header>() == 8);
    assert!(size_of::<Entry>() == 104);
    assert!(offset_of!(Entry, kind) == 68);
    assert!(offset_of!(Entry, properties) == 72);
    assert!(offset_of!(Entry, backing) == 88);
    assert!(offset_of!(Entry, attached) == 96);
};
