//! The content of a file, with its compressed variants: made once, in the background, and shared by every generation
//! that holds the same blob.
//!
//! Entity tags are strong, so they must change with the bytes (RFC 9110, section 8.8.1), and differ between codings
//! (section 8.8.3.3). The content's is its blob id. That of a variant names the coding and the variant's own digest
//! besides: a later version of a compressor makes other bytes of the same blob, and a range of the one must never be
//! joined to a range of the other.

use std::io::Write;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use flate2::{Compress, FlushCompress, Status};
use http::HeaderValue;
use sha2::{Digest, Sha256};

/// Content, known by its git blob id.
#[derive(Debug)]
pub struct Blob {
    id: String,
    identity: Representation,
    /// Those that are made, and for which it was found that they save nothing.
    variants: ArcSwapOption<Variants>,
}

#[derive(Debug, Default)]
struct Variants {
    gzip: OnceLock<Option<Representation>>,
    brotli: OnceLock<Option<Representation>>,
    zstd: OnceLock<Option<Representation>>,
}

/// Bytes as they go over the wire, with their strong validator (RFC 9110 section 8.8.3).
#[derive(Clone, Debug)]
pub struct Representation {
    /// The bytes.
    pub data: Bytes,
    /// The quoted entity tag.
    pub etag: HeaderValue,
}

/// A content coding (RFC 9110 section 8.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// As it is.
    Identity,
    /// gzip (RFC 1952).
    Gzip,
    /// Brotli (RFC 7932).
    Brotli,
    /// Zstandard (RFC 8878).
    Zstd,
}

impl Coding {
    /// Every one. Of two that are as small, the one that stands first is sent.
    pub const ALL: [Self; 4] = [Self::Brotli, Self::Zstd, Self::Gzip, Self::Identity];

    /// The name in Content-Encoding; none for identity.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::Identity => None,
            Self::Gzip => Some("gzip"),
            Self::Brotli => Some("br"),
            Self::Zstd => Some("zstd"),
        }
    }
}

/// Smaller files are not compressed: headers outweigh what is saved.
pub const MIN_COMPRESSED: usize = 256;
/// Larger files are not compressed: they would hold a core for seconds.
pub const MAX_COMPRESSED: usize = 16 << 20;

/// Bytes that are compressed between two yields.
const STEP: usize = 16 << 10;
const GZIP_LEVEL: u32 = 6;
const GZIP_WINDOW_BITS: u8 = 15;
/// Higher levels take tables of megabytes for each page, and save a hundredth.
const BROTLI_LEVEL: u32 = 5;
const BROTLI_WINDOW_BITS: u32 = 20;
/// A block of 128 KiB is compressed in one go: higher levels take several times as long for it, for about the same size.
const ZSTD_LEVEL: i32 = 6;
/// Browsers take windows up to 8 MiB (RFC 9659); less keeps the compressor's memory small.
const ZSTD_WINDOW_BITS: u32 = 20;

impl Blob {
    /// Content by its blob id, in hexadecimal.
    pub fn new(id: String, data: Bytes) -> Self {
        let identity = Representation { data, etag: quoted(&id) };
        Self { id, identity, variants: ArcSwapOption::empty() }
    }

    /// The blob id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The content itself.
    pub fn data(&self) -> &Bytes {
        &self.identity.data
    }

    /// The content as it is, with its tag.
    pub fn identity(&self) -> &Representation {
        &self.identity
    }

    /// The content in a coding, if it exists in it by now.
    pub fn representation(&self, coding: Coding) -> Option<Representation> {
        match coding {
            Coding::Identity => Some(self.identity.clone()),
            coding => self.variants.load().as_ref()?.of(coding).cloned(),
        }
    }

    /// The length of the content in a coding, if it exists in it by now.
    pub fn length(&self, coding: Coding) -> Option<usize> {
        match coding {
            Coding::Identity => Some(self.data().len()),
            coding => Some(self.variants.load().as_ref()?.of(coding)?.data.len()),
        }
    }

    /// Lets go of all variants: of content that nobody asks for, they can be made again.
    pub fn forget_variants(&self) {
        self.variants.store(None);
    }

    /// Lets go of one variant, which can be made again.
    pub fn forget(&self, coding: Coding) {
        let Some(variants) = &*self.variants.load() else { return };
        let rest = Variants::default();
        for other in Coding::ALL.into_iter().filter(|other| *other != coding) {
            if let (Some(slot), Some(made)) = (rest.slot(other), variants.slot(other)) {
                made.get().inspect(|made| drop(slot.set((*made).clone())));
            }
        }
        self.variants.store(Some(Arc::new(rest)));
    }

    /// Makes the variants that are missing, one after the other.
    pub async fn compress(&self, scratch: &mut Scratch) {
        for coding in Coding::ALL {
            self.compress_as(coding, scratch).await;
        }
    }

    /// Makes a variant if it is missing, and lets others run every few kilobytes. The scratch is for any blob; it grows to
    /// the size of the largest.
    pub async fn compress_as(&self, coding: Coding, scratch: &mut Scratch) {
        let data = self.data();
        if !(MIN_COMPRESSED..=MAX_COMPRESSED).contains(&data.len()) {
            return;
        }
        let variants = match self.variants.load_full() {
            Some(variants) => variants,
            None => {
                let variants = Arc::<Variants>::default();
                self.variants.store(Some(Arc::clone(&variants)));
                variants
            }
        };
        let Some(slot) = variants.slot(coding).filter(|slot| slot.get().is_none()) else { return };
        let mut room = Room::new(&mut scratch.bytes, data.len());
        let (fits, name) = match coding {
            Coding::Identity => return,
            Coding::Gzip => (gzip_into(&mut room, &mut scratch.gzip, data).await, "gz"),
            Coding::Brotli => {
                let (level, window) = (BROTLI_LEVEL, BROTLI_WINDOW_BITS);
                let mut encoder = brotli::CompressorWriter::new(&mut room, STEP, level, window);
                // Its end is written when it is dropped.
                (feed(&mut encoder, data).await, "br")
            }
            Coding::Zstd => (zstd_into(&mut room, data).await.is_ok(), "zst"),
        };
        let _ = slot.set(self.variant(fits, room, name));
    }

    /// Bytes that this holds in memory.
    pub fn size(&self) -> usize {
        Coding::ALL.into_iter().filter_map(|coding| self.length(coding)).sum()
    }

    /// Takes a copy of exactly its size, once the compressor's memory is free again.
    fn variant(&self, fits: bool, room: Room<'_>, coding: &str) -> Option<Representation> {
        if !fits || room.full {
            return None;
        }
        let data = Bytes::copy_from_slice(room.bytes);
        let digest = hex::encode(Sha256::digest(&data).get(..6)?);
        Some(Representation { data, etag: quoted(&format!("{}-{coding}-{digest}", self.id)) })
    }
}

impl Variants {
    fn slot(&self, coding: Coding) -> Option<&OnceLock<Option<Representation>>> {
        match coding {
            Coding::Identity => None,
            Coding::Gzip => Some(&self.gzip),
            Coding::Brotli => Some(&self.brotli),
            Coding::Zstd => Some(&self.zstd),
        }
    }

    fn of(&self, coding: Coding) -> Option<&Representation> {
        self.slot(coding)?.get()?.as_ref()
    }
}

/// What compressors need for one blob after the other.
///
/// What stays must not be allocated while a compressor holds its tables: it would lie in the middle of what becomes free
/// behind it. And gzip's tables, which ask for an alignment, are kept: the C library's allocator makes room for each such
/// request anew, at the end of the heap, until pages have grown to 20 times their size.
#[derive(Debug)]
pub struct Scratch {
    bytes: Vec<u8>,
    gzip: Compress,
}

impl Default for Scratch {
    fn default() -> Self {
        let gzip = Compress::new_gzip(flate2::Compression::new(GZIP_LEVEL), GZIP_WINDOW_BITS);
        Self { bytes: Vec::new(), gzip }
    }
}

/// Room for a variant that saves a twentieth: one that saves less is not worth a second entry in every cache.
struct Room<'a> {
    bytes: &'a mut Vec<u8>,
    limit: usize,
    full: bool,
}

impl<'a> Room<'a> {
    fn new(bytes: &'a mut Vec<u8>, whole: usize) -> Self {
        let limit = whole - whole / 20;
        bytes.clear();
        bytes.reserve(limit);
        Self { bytes, limit, full: false }
    }
}

impl Write for Room<'_> {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.full |= self.bytes.len() + data.len() > self.limit;
        if self.full {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        self.bytes.extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

async fn gzip_into(room: &mut Room<'_>, gzip: &mut Compress, data: &[u8]) -> bool {
    gzip.reset();
    let mut rest = data;
    loop {
        let (step, flush) = match rest.get(..STEP) {
            Some(step) => (step, FlushCompress::None),
            None => (rest, FlushCompress::Finish),
        };
        let (taken, made) = (gzip.total_in(), gzip.total_out());
        let Ok(status) = gzip.compress_vec(step, room.bytes, flush) else { return false };
        if status == Status::StreamEnd {
            return room.bytes.len() <= room.limit;
        }
        let taken = gzip.total_in() - taken;
        if room.bytes.len() > room.limit || taken == 0 && gzip.total_out() == made {
            return false;
        }
        rest = usize::try_from(taken).ok().and_then(|taken| rest.get(taken..)).unwrap_or_default();
        tokio::task::yield_now().await;
    }
}

async fn zstd_into(room: &mut Room<'_>, data: &[u8]) -> std::io::Result<()> {
    let mut encoder = zstd::stream::write::Encoder::new(room, ZSTD_LEVEL)?;
    // A small file needs small tables only.
    encoder.set_pledged_src_size(Some(data.len() as u64))?;
    encoder.window_log(ZSTD_WINDOW_BITS)?;
    encoder.include_contentsize(true)?;
    match feed(&mut encoder, data).await {
        true => encoder.finish().map(|_| ()),
        false => Err(std::io::ErrorKind::WriteZero.into()),
    }
}

/// Whether the encoder took all of it.
async fn feed(encoder: &mut impl Write, data: &[u8]) -> bool {
    for chunk in data.chunks(STEP) {
        if encoder.write_all(chunk).is_err() {
            return false;
        }
        tokio::task::yield_now().await;
    }
    true
}

fn quoted(tag: &str) -> HeaderValue {
    // An id is hexadecimal.
    HeaderValue::from_str(&format!("\"{tag}\""))
        .unwrap_or_else(|_| HeaderValue::from_static("\"\""))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Read;

    use super::*;

    #[tokio::test]
    async fn variants_hold_the_same_content_and_have_their_own_tags() {
        let text = "All work and no play makes a dull page. ".repeat(2_000);
        let blob = Blob::new("ab12".to_owned(), text.clone().into());
        assert!(blob.representation(Coding::Gzip).is_none());
        blob.compress(&mut Scratch::default()).await;
        let gzip = blob.representation(Coding::Gzip).unwrap();
        let digest = hex::encode(&Sha256::digest(&gzip.data)[..6]);
        assert_eq!(gzip.etag, format!("\"ab12-gz-{digest}\""));
        let mut plain = String::new();
        flate2::read::GzDecoder::new(&gzip.data[..]).read_to_string(&mut plain).unwrap();
        assert_eq!(plain, text);
        let brotli = blob.representation(Coding::Brotli).unwrap();
        assert!(brotli.etag.to_str().unwrap().starts_with("\"ab12-br-"));
        let mut plain = String::new();
        brotli::Decompressor::new(&brotli.data[..], 4096).read_to_string(&mut plain).unwrap();
        assert_eq!(plain, text);
        let zstd = blob.representation(Coding::Zstd).unwrap();
        assert!(zstd.etag.to_str().unwrap().starts_with("\"ab12-zst-"));
        assert_eq!(zstd::decode_all(&zstd.data[..]).unwrap(), text.as_bytes());
        let variants = gzip.data.len() + brotli.data.len() + zstd.data.len();
        assert_eq!(blob.size(), text.len() + variants);
        // One goes, the others stay; it comes back the same.
        blob.forget(Coding::Gzip);
        assert!(blob.representation(Coding::Gzip).is_none());
        assert_eq!(blob.representation(Coding::Brotli).unwrap().etag, brotli.etag);
        blob.compress(&mut Scratch::default()).await;
        assert_eq!(blob.representation(Coding::Gzip).unwrap().etag, gzip.etag);
        blob.forget_variants();
        assert_eq!(blob.size(), text.len());
    }

    #[tokio::test]
    async fn what_is_small_or_dense_stays_as_it_is() {
        for data in [vec![b'a'; MIN_COMPRESSED - 1], noise(10_000)] {
            let blob = Blob::new("00".to_owned(), data.into());
            blob.compress(&mut Scratch::default()).await;
            assert_eq!(blob.size(), blob.data().len());
        }
    }

    fn noise(length: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            state.to_be_bytes()[0]
        };
        (0..length).map(|_| next()).collect()
    }
}
