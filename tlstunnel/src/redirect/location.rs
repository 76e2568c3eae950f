//! The address that a redirect names. Every part of it comes from the client, so every part is checked or encoded.

use std::net::{IpAddr, Ipv6Addr};

use config_proto::model::{NameError, normalize_host};

/// `https://HOST[:PORT]PATH` for a request's target and Host field; `None` when they name no place to go.
pub(super) fn location(target: &str, host: Option<&str>, https_port: u16) -> Option<String> {
    let (authority, path) = match split_absolute(target) {
        // The target's own authority overrides the Host field (RFC 9112, section 3.2.2).
        Some((authority, path)) => (authority, path),
        None if target.starts_with('/') => (host?, target),
        None if target == "*" => (host?, "/"),
        None => return None,
    };
    let host = host_of(authority)?;
    let mut location = format!("https://{host}");
    if https_port != 443 {
        location.push_str(&format!(":{https_port}"));
    }
    if !path.starts_with('/') {
        location.push('/');
    }
    for byte in path.bytes() {
        // Visible ASCII stands in a header field as it is; the rest is percent-encoded (RFC 3986, section 2.1).
        if byte.is_ascii_graphic() {
            location.push(char::from(byte));
        } else {
            location.push_str(&format!("%{byte:02X}"));
        }
    }
    Some(location)
}

/// Authority and the rest of a target in absolute form.
fn split_absolute(target: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = target.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return None;
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    Some(rest.split_at(end))
}

/// The host of an authority without its port, as it may stand in an address. User information (`user@host`) is refused:
/// it would make the address look like another place's.
pub(super) fn host_of(authority: &str) -> Option<String> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        let address: Ipv6Addr = address.parse().ok()?;
        return is_port_suffix(port).then(|| format!("[{address}]"));
    }
    let colon = authority.find(':').unwrap_or(authority.len());
    let (host, port) = authority.split_at(colon);
    if !is_port_suffix(port) {
        return None;
    }
    match normalize_host(host) {
        Ok(host) => Some(host),
        Err(NameError::IpAddress(address)) => match address.parse() {
            Ok(IpAddr::V4(address)) => Some(address.to_string()),
            _ => None,
        },
        Err(_) => None,
    }
}

/// Nothing, or a colon and a port, which may be empty (RFC 3986, section 3.2.3).
fn is_port_suffix(text: &str) -> bool {
    match text.strip_prefix(':') {
        None => text.is_empty(),
        Some("") => true,
        Some(port) => port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(target: &str, host: &str) -> Option<String> {
        location(target, Some(host), 443)
    }

    #[test]
    fn names_the_same_host_and_path() {
        assert_eq!(to("/", "example.org").unwrap(), "https://example.org/");
        assert_eq!(to("/a?b=c", "Example.ORG.:8080").unwrap(), "https://example.org/a?b=c");
        assert_eq!(to("/", "192.0.2.1:80").unwrap(), "https://192.0.2.1/");
        assert_eq!(to("/x", "[2001:DB8::1]:80").unwrap(), "https://[2001:db8::1]/x");
        assert_eq!(to("*", "example.org").unwrap(), "https://example.org/");
        assert_eq!(to("//elsewhere/", "a.example").unwrap(), "https://a.example//elsewhere/");
        assert_eq!(to("/ä", "a.example").unwrap(), "https://a.example/%C3%A4");
        assert_eq!(location("/", Some("a.example"), 8443).unwrap(), "https://a.example:8443/");
    }

    #[test]
    fn an_absolute_target_overrides_the_host() {
        assert_eq!(to("http://b.example/p", "a.example").unwrap(), "https://b.example/p");
        assert_eq!(to("HTTP://b.example?q", "a.example").unwrap(), "https://b.example/?q");
        assert_eq!(location("http://b.example", None, 443).unwrap(), "https://b.example/");
        assert_eq!(to("ftp://b.example/", "a.example"), None);
    }

    #[test]
    fn refuses_what_names_no_host() {
        for host in [
            "",
            "a b",
            "user@host",
            "a.example:x",
            "a.example:99999",
            "[::1",
            "[::1]x",
            "[v1.x]",
            "::1",
            "a\r\nX: y",
            "a/b",
            "-a.example",
            "a..b",
            "ä.example",
            "a:80:80",
        ] {
            assert_eq!(to("/", host), None, "{host:?}");
        }
        assert_eq!(to("http://user@b.example/", "a.example"), None);
        assert_eq!(location("/", None, 443), None);
        assert_eq!(to("example.org:443", "a.example"), None);
    }
}
