//! Who a client is, and whether it came by TLS: as its connection says, or as proxies say that are trusted.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use ipnet::IpNet;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Whoever sent a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// Its address. The port is unknown (0) where only a proxy's header tells of the client.
    pub address: SocketAddr,
    /// Whether it speaks TLS, to us or to a proxy that says so.
    pub secure: bool,
}

impl Client {
    /// Who is behind the proxies of a request. Each proxy appends to X-Forwarded-For whom it was connected to by; so the
    /// list is read from its end, for as long as whoever wrote the entry is trusted. X-Forwarded-Proto is believed when
    /// the connection is a trusted proxy's.
    pub(super) fn behind_proxies(self, headers: &HeaderMap, trusted: &[IpNet]) -> Self {
        let is_trusted = |ip: IpAddr| trusted.iter().any(|net| net.contains(&ip.to_canonical()));
        if trusted.is_empty() || !is_trusted(self.address.ip()) {
            return self;
        }
        let mut client = self;
        let values: Vec<&str> = headers
            .get_all(FORWARDED_FOR)
            .iter()
            .flat_map(|value| value.to_str().unwrap_or_default().split(','))
            .collect();
        for value in values.iter().rev() {
            // What cannot be read ends the chain: what stands before it came through an unknown hand.
            let Some(ip) = address(value.trim()) else { break };
            client.address = SocketAddr::new(ip, 0);
            if !is_trusted(ip) {
                break;
            }
        }
        if let Some(proto) = headers.get_all(FORWARDED_PROTO).iter().next_back().and_then(last) {
            client.secure = proto.eq_ignore_ascii_case("https");
        }
        client
    }
}

fn last(value: &HeaderValue) -> Option<&str> {
    value.to_str().ok()?.rsplit(',').next().map(str::trim)
}

/// `192.0.2.1`, `2001:db8::1`, and both with a port, as some proxies write them.
fn address(text: &str) -> Option<IpAddr> {
    let ip = text
        .parse::<IpAddr>()
        .or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip()))
        .or_else(|_| text.trim_start_matches('[').trim_end_matches(']').parse());
    ip.ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn behind(peer: &str, headers: &[(HeaderName, &'static str)]) -> (String, bool) {
        let trusted = ["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, HeaderValue::from_static(value));
        }
        let client = Client { address: SocketAddr::new(peer.parse().unwrap(), 1), secure: false };
        let client = client.behind_proxies(&map, &trusted);
        (client.address.ip().to_string(), client.secure)
    }

    #[test]
    fn only_what_trusted_proxies_wrote_counts() {
        let told = |text| [(FORWARDED_FOR, text)];
        for (peer, list, wanted) in [
            ("192.0.2.9", "198.51.100.1", "192.0.2.9"),
            ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
            ("::ffff:10.0.0.1", "198.51.100.1", "198.51.100.1"),
            ("10.0.0.1", "6.6.6.6, 198.51.100.1, 10.0.0.2", "198.51.100.1"),
            ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
            ("::1", "[2001:db8::7]:443", "2001:db8::7"),
            ("::1", "192.0.2.5:1234", "192.0.2.5"),
            ("10.0.0.1", "6.6.6.6, nonsense, 10.0.0.2", "10.0.0.2"),
            ("10.0.0.1", "unknown", "10.0.0.1"),
            ("10.0.0.1", "", "10.0.0.1"),
        ] {
            assert_eq!(behind(peer, &told(list)).0, wanted, "{peer} {list}");
        }
        let two = [(FORWARDED_FOR, "6.6.6.6"), (FORWARDED_FOR, "198.51.100.1")];
        assert_eq!(behind("10.0.0.1", &two).0, "198.51.100.1");
    }

    #[test]
    fn the_scheme_is_the_last_proxys_word() {
        let told = |text| [(FORWARDED_PROTO, text)];
        for (peer, text, wanted) in [
            ("10.0.0.1", "https", true),
            ("10.0.0.1", "http, HTTPS", true),
            ("10.0.0.1", "https, http", false),
            ("192.0.2.9", "https", false),
        ] {
            assert_eq!(behind(peer, &told(text)).1, wanted, "{peer} {text}");
        }
    }
}
