//! The body of a request, piece by piece, decompressed where it came compressed: a few kilobytes are held at a time.

use std::io::Write as _;

use bytes::Bytes;
use flate2::write::GzDecoder;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

/// Compressed bytes that are taken at once. They become at most about a thousand times as many.
const STEP: usize = 1 << 10;

/// A body as it arrives.
pub(super) struct Pieces {
    body: Incoming,
    gzip: Option<Gzip>,
}

struct Gzip {
    decoder: GzDecoder<Vec<u8>>,
    /// What arrived and was not decompressed yet.
    waiting: Bytes,
}

impl Pieces {
    /// A body as it is.
    pub(super) fn plain(body: Incoming) -> Self {
        Self { body, gzip: None }
    }

    /// A body that is compressed with gzip.
    pub(super) fn gzip(body: Incoming) -> Self {
        let gzip = Gzip { decoder: GzDecoder::new(Vec::new()), waiting: Bytes::new() };
        Self { body, gzip: Some(gzip) }
    }

    /// The next bytes; none at the end.
    ///
    /// # Errors
    /// The body breaks off, or is damaged.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            if let Some(gzip) = &mut self.gzip
                && !gzip.waiting.is_empty()
            {
                let piece = gzip.waiting.split_to(gzip.waiting.len().min(STEP));
                gzip.decoder.write_all(&piece).map_err(|error| error.to_string())?;
                let made = std::mem::take(gzip.decoder.get_mut());
                if made.is_empty() {
                    continue;
                }
                return Ok(Some(made.into()));
            }
            let Some(frame) = self.body.frame().await else { return self.end() };
            let frame = frame.map_err(|error| error.to_string())?;
            // Trailers mean nothing here.
            let Ok(data) = frame.into_data() else { continue };
            match &mut self.gzip {
                Some(gzip) => gzip.waiting = data,
                None => return Ok(Some(data)),
            }
        }
    }

    fn end(&mut self) -> Result<Option<Bytes>, String> {
        let Some(mut gzip) = self.gzip.take() else { return Ok(None) };
        gzip.decoder.try_finish().map_err(|error| error.to_string())?;
        let rest = std::mem::take(gzip.decoder.get_mut());
        Ok(Some(rest.into()).filter(|rest: &Bytes| !rest.is_empty()))
    }
}
