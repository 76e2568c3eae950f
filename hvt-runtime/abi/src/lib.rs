//! The border between a guest and its tender: the Solo5 hvt ABI, version 2, for x86-64, and our extensions.
//!
//! This room holds types, numbers and their meaning, and no logic. It must not know how either side is made: the guest
//! (`hvt-guest`) and the tender (`hvt-tender`) both depend on it, and so does the image builder (`hvt-image`).
//!
//! # What is where
//!
//! - [`boot`]: what the guest finds when it starts: registers, the boot information page, the extension to it.
//! - [`hypercall`]: the calls, their ports and their structures.
//! - [`ring`]: the shared ring of Solo5 0.11 and later.
//! - [`manifest`]: the devices that an image asks for.
//! - [`note`]: the ELF notes that make a file an image.
//! - [`extension`]: what we add, each piece behind a feature bit that both sides must know.
//! - [`exchange`]: the largest of these pieces, frames in both directions in one call.
//! - [`slot`]: another of them, calls for block devices that a thread of the tender serves.
//!
//! # Compatibility
//!
//! Everything outside [`extension`], [`exchange`], [`slot`] and [`boot::BootExtension`] is Solo5's, byte for byte: an image made of it starts
//! under a stock `solo5-hvt`, and our tender starts a stock image. The source of each item is named by the Solo5 header
//! that defines it (release 0.12.1). Sizes and offsets are checked when this crate is compiled.
//!
//! All structures are free of implicit padding and valid for any bytes, so both sides may copy them as plain memory.
#![no_std]
#![forbid(unsafe_code)]

pub mod boot;
pub mod exchange;
pub mod extension;
pub mod hypercall;
pub mod manifest;
pub mod note;
pub mod ring;
pub mod slot;

/// The version of the hvt ABI that this crate describes (`HVT_ABI_VERSION` in Solo5's `hvt_abi.h`).
pub const ABI_VERSION: u32 = 2;

/// The page size that all alignments in this ABI are about, in bytes.
pub const PAGE_SIZE: u64 = 4096;
