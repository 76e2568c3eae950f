//! From the text of an option to its value.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::HeaderValue;
use ipnet::IpNet;

use crate::git::{FetchError, HostKeyPin, Remote};
use crate::site::SitePath;

pub(super) fn remote(text: &str) -> Result<Remote, FetchError> {
    Remote::parse(text)
}

pub(super) fn authenticator(text: &str) -> Result<HostKeyPin, String> {
    text.parse()
}

/// A path as clients ask for it, compared as it stands.
pub(super) fn url_path(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    match text.len() > 1 && text.starts_with('/') && text.bytes().all(plain) {
        true => Ok(text.to_owned()),
        false => Err("write a path such as /hook, of letters, digits and -._~/".to_owned()),
    }
}

pub(super) fn site_path(text: &str) -> Result<SitePath, String> {
    SitePath::parse(text.as_bytes()).map_err(|error| error.to_string())
}

pub(super) fn mime_type(text: &str) -> Result<(String, HeaderValue), String> {
    let (extension, kind) =
        text.split_once(':').ok_or("write EXTENSION:TYPE, as in wasm:application/wasm")?;
    let extension = extension.trim_start_matches('.').to_ascii_lowercase();
    Ok((extension, header_value(kind)?))
}

pub(super) fn header_value(text: &str) -> Result<HeaderValue, String> {
    let value = HeaderValue::from_str(text).map_err(|error| error.to_string())?;
    match text.split_once('/') {
        Some((kind, sub)) if !kind.is_empty() && !sub.is_empty() => Ok(value),
        _ => Err("a media type looks like text/html".to_owned()),
    }
}

/// `10s`, `500ms`, `5m`, `1h`, `1d`, or a plain number of seconds.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let milliseconds: u64 = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(format!("{unit:?} is not a unit of time: use ms, s, m, h or d")),
    };
    let number: u64 = number.parse().map_err(|_| "write a number and a unit, as in 10s")?;
    let time = number.checked_mul(milliseconds).filter(|ms| *ms <= 365 * 86_400_000);
    time.map(Duration::from_millis).ok_or_else(|| "longer than 365 days".to_owned())
}

/// `64MiB`, `32KiB`, `1GiB` (also `64M`, `32k`, `1G`: powers of 1024), or a plain number of bytes.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        _ => return Err(format!("{unit:?} is not a unit of size: use KiB, MiB or GiB")),
    };
    let number: u64 = number.parse().map_err(|_| "write a number and a unit, as in 64MiB")?;
    number.checked_mul(1 << shift).ok_or_else(|| "too large".to_owned())
}

/// As [`size`], from 1 KiB to 64 MiB.
pub(super) fn buffer_size(text: &str) -> Result<usize, String> {
    let bytes = usize::try_from(size(text)?).ok();
    bytes
        .filter(|bytes| (1 << 10..=64 << 20).contains(bytes))
        .ok_or_else(|| "must be from 1KiB to 64MiB".to_owned())
}

/// A name that clients ask for, as it is compared: lower case, no final dot.
pub(super) fn host_name(text: &str) -> Result<String, String> {
    config_proto::model::normalize_host(text).map_err(|error| error.to_string())
}

/// An address of a DNS server; the port is 53 unless it says otherwise.
pub(super) fn name_server(text: &str) -> Result<SocketAddr, String> {
    text.parse::<SocketAddr>()
        .or_else(|_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53)))
        .map_err(|_| "write an IP address, as in 9.9.9.9 or [2620:fe::fe]:53".to_owned())
}

/// `192.0.2.0/24`, or an address alone.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    text.parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| "write an address or a network, as in 192.0.2.0/24".to_owned())
}
