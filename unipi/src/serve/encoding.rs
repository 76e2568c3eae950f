//! Which content coding a client gets (RFC 9110 section 12.5.3).

use http::HeaderMap;
use http::header::ACCEPT_ENCODING;

use crate::site::{Blob, Coding, Representation};

/// The representation with the highest weight that exists; among equals the smallest. When a client takes none of them,
/// it gets the content as it is.
pub fn negotiate(headers: &HeaderMap, blob: &Blob) -> (Coding, Representation) {
    let weights = Weights::read(headers);
    let mut best: Option<(u16, usize, Coding)> = None;
    for coding in Coding::ALL {
        let weight = weights.of(coding);
        if weight == 0 {
            continue;
        }
        let Some(length) = blob.length(coding) else { continue };
        let better = |(most, least, _): &(u16, usize, Coding)| {
            weight > *most || (weight == *most && length < *least)
        };
        if best.as_ref().is_none_or(better) {
            best = Some((weight, length, coding));
        }
    }
    let coding = best.map_or(Coding::Identity, |(_, _, coding)| coding);
    match blob.representation(coding) {
        Some(representation) => (coding, representation),
        None => (Coding::Identity, blob.identity().clone()),
    }
}

/// Weights in thousandths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Weights {
    brotli: Option<u16>,
    gzip: Option<u16>,
    zstd: Option<u16>,
    identity: Option<u16>,
    others: Option<u16>,
}

impl Weights {
    fn read(headers: &HeaderMap) -> Self {
        let mut weights = Self::default();
        for value in headers.get_all(ACCEPT_ENCODING) {
            for item in value.to_str().unwrap_or_default().split(',') {
                let mut parts = item.split(';').map(str::trim);
                let coding = parts.next().unwrap_or_default();
                let q = parts.find_map(|part| part.strip_prefix(['q', 'Q'])?.strip_prefix('='));
                let Some(weight) = q.map_or(Some(1000), weight) else { continue };
                if let Some(slot) = weights.slot(coding) {
                    *slot = Some(weight);
                }
            }
        }
        weights
    }

    fn slot(&mut self, coding: &str) -> Option<&mut Option<u16>> {
        let is = |name: &str| coding.eq_ignore_ascii_case(name);
        match coding {
            "*" => Some(&mut self.others),
            _ if is("br") => Some(&mut self.brotli),
            _ if is("gzip") || is("x-gzip") => Some(&mut self.gzip),
            _ if is("zstd") => Some(&mut self.zstd),
            _ if is("identity") => Some(&mut self.identity),
            _ => None,
        }
    }

    /// Identity need not be named to be acceptable, and then comes last.
    fn of(self, coding: Coding) -> u16 {
        match coding {
            Coding::Brotli => self.brotli.or(self.others).unwrap_or(0),
            Coding::Gzip => self.gzip.or(self.others).unwrap_or(0),
            Coding::Zstd => self.zstd.or(self.others).unwrap_or(0),
            Coding::Identity => self.identity.or(self.others).unwrap_or(1),
        }
    }
}

/// `1`, `0.5`, `0.123`: at most three decimals (section 12.4.2).
fn weight(text: &str) -> Option<u16> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    if decimals.len() > 3 || !decimals.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let thousandths: u16 = format!("{decimals:0<3}").parse().ok()?;
    match (whole, thousandths) {
        ("0", thousandths) => Some(thousandths),
        ("1", 0) => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use http::HeaderValue;

    use super::*;
    use crate::site::Scratch;

    #[tokio::test]
    async fn weights_decide_and_then_size() {
        let blob = Blob::new("1".to_owned(), "abc ".repeat(1000).into());
        let coding = |header: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            if let Some(header) = header {
                headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(header));
            }
            negotiate(&headers, &blob).0
        };
        assert_eq!(coding(Some("br, gzip")), Coding::Identity);
        blob.compress(&mut Scratch::default()).await;
        for (header, wanted) in [
            (None, Coding::Identity),
            (Some(""), Coding::Identity),
            (Some("gzip, deflate, br, zstd"), Coding::Brotli),
            (Some("gzip"), Coding::Gzip),
            (Some("GZip"), Coding::Gzip),
            (Some("x-gzip"), Coding::Gzip),
            (Some("br;q=0.5, gzip;q=0.8"), Coding::Gzip),
            (Some("br; q=0, gzip;q=0"), Coding::Identity),
            (Some("*"), Coding::Brotli),
            (Some("*;q=0"), Coding::Identity),
            (Some("br;q=0, *"), Coding::Zstd),
            (Some("zstd"), Coding::Zstd),
            (Some("gzip, zstd"), Coding::Zstd),
            (Some("zstd;q=0, gzip"), Coding::Gzip),
            (Some("gzip;q=0.5, identity"), Coding::Identity),
            (Some("gzip;q=0.002"), Coding::Gzip),
            (Some("gzip;q=2"), Coding::Identity),
            (Some("gzip;q=0.1234"), Coding::Identity),
            (Some("deflate"), Coding::Identity),
            (Some("identity;q=0"), Coding::Identity),
            (Some("identity;q=0, gzip;q=0.2"), Coding::Gzip),
        ] {
            assert_eq!(coding(header), wanted, "{header:?}");
        }
    }
}
