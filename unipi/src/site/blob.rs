//! The content of a file, with its compressed variants: made once, in the background, and shared by every generation
//! that holds the same blob.

use std::io::Write;
use std::sync::OnceLock;

use bytes::Bytes;
use http::HeaderValue;

/// Content, known by its git blob id.
#[derive(Debug)]
pub struct Blob {
    id: String,
    identity: Representation,
    gzip: OnceLock<Option<Representation>>,
    brotli: OnceLock<Option<Representation>>,
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
}

impl Coding {
    /// The name in Content-Encoding; none for identity.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::Identity => None,
            Self::Gzip => Some("gzip"),
            Self::Brotli => Some("br"),
        }
    }
}

/// Smaller files are not compressed: headers outweigh what is saved.
pub const MIN_COMPRESSED: usize = 256;
/// Larger files are not compressed: they would hold a core for seconds.
pub const MAX_COMPRESSED: usize = 16 << 20;

/// Bytes that are compressed between two yields.
const STEP: usize = 16 << 10;
const GZIP_LEVEL: u32 = 7;
const BROTLI_LEVEL: u32 = 7;
const BROTLI_WINDOW_BITS: u32 = 20;

impl Blob {
    /// Content by its blob id, in hexadecimal.
    pub fn new(id: String, data: Bytes) -> Self {
        let identity = Representation { data, etag: etag(&id, "") };
        Self { id, identity, gzip: OnceLock::new(), brotli: OnceLock::new() }
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
    pub fn representation(&self, coding: Coding) -> Option<&Representation> {
        match coding {
            Coding::Identity => Some(&self.identity),
            Coding::Gzip => self.gzip.get()?.as_ref(),
            Coding::Brotli => self.brotli.get()?.as_ref(),
        }
    }

    /// Makes the variants that are missing, and lets others run every few kilobytes.
    pub async fn compress(&self) {
        let data = self.data();
        if !(MIN_COMPRESSED..=MAX_COMPRESSED).contains(&data.len()) {
            return;
        }
        if self.gzip.get().is_none() {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(GZIP_LEVEL));
            feed(&mut encoder, data).await;
            // Both write to memory, which takes everything.
            let variant = encoder.finish().ok().and_then(|made| self.variant(made, "-gz"));
            let _ = self.gzip.set(variant);
        }
        if self.brotli.get().is_none() {
            let made = Vec::new();
            let mut encoder =
                brotli::CompressorWriter::new(made, STEP, BROTLI_LEVEL, BROTLI_WINDOW_BITS);
            feed(&mut encoder, data).await;
            let variant = self.variant(encoder.into_inner(), "-br");
            let _ = self.brotli.set(variant);
        }
    }

    /// Bytes that this holds in memory.
    pub fn size(&self) -> usize {
        [Coding::Identity, Coding::Gzip, Coding::Brotli]
            .into_iter()
            .filter_map(|coding| self.representation(coding))
            .map(|representation| representation.data.len())
            .sum()
    }

    /// A variant that does not save a twentieth is not worth a second entry in every cache.
    fn variant(&self, made: Vec<u8>, suffix: &str) -> Option<Representation> {
        let worth_it = made.len() < self.data().len() - self.data().len() / 20;
        worth_it.then(|| Representation { data: made.into(), etag: etag(&self.id, suffix) })
    }
}

async fn feed(encoder: &mut impl Write, data: &[u8]) {
    for chunk in data.chunks(STEP) {
        // Memory takes everything.
        let _ = encoder.write_all(chunk);
        tokio::task::yield_now().await;
    }
}

fn etag(id: &str, suffix: &str) -> HeaderValue {
    // An id is hexadecimal.
    HeaderValue::from_str(&format!("\"{id}{suffix}\""))
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
        blob.compress().await;
        let gzip = blob.representation(Coding::Gzip).unwrap();
        assert_eq!(gzip.etag, "\"ab12-gz\"");
        let mut plain = String::new();
        flate2::read::GzDecoder::new(&gzip.data[..]).read_to_string(&mut plain).unwrap();
        assert_eq!(plain, text);
        let brotli = blob.representation(Coding::Brotli).unwrap();
        assert_eq!(brotli.etag, "\"ab12-br\"");
        let mut plain = String::new();
        brotli::Decompressor::new(&brotli.data[..], 4096).read_to_string(&mut plain).unwrap();
        assert_eq!(plain, text);
        assert_eq!(blob.size(), text.len() + gzip.data.len() + brotli.data.len());
    }

    #[tokio::test]
    async fn what_is_small_or_dense_stays_as_it_is() {
        for data in [vec![b'a'; MIN_COMPRESSED - 1], noise(10_000)] {
            let blob = Blob::new("00".to_owned(), data.into());
            blob.compress().await;
            assert!(blob.representation(Coding::Gzip).is_none());
            assert!(blob.representation(Coding::Brotli).is_none());
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
