//! Values as people write them on a command line: durations, sizes, name servers.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;

/// Parses `10s`, `500ms`, `5m`, `1h`, `1d`, or a plain number of seconds.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split_unit(text);
    let milliseconds_per_unit = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => {
            return Err(format!("{unit:?} is not a unit of time: use ms, s, m, h or d, as in 10s"));
        }
    };
    let number: u64 = number
        .parse()
        .map_err(|_| "write a whole number and a unit, as in 10s or 500ms".to_owned())?;
    number
        .checked_mul(milliseconds_per_unit)
        .filter(|&ms| ms <= MAX_DURATION_MS)
        .map(Duration::from_millis)
        .ok_or_else(|| "longer than 365 days".to_owned())
}

/// Parses `64MiB`, `32KiB`, `1GiB`, `4k`, `64M`, `1G` (all powers of 1024), or a plain number of bytes.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = split_unit(text);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        _ => {
            return Err(format!(
                "{unit:?} is not a unit of size: use KiB, MiB or GiB, as in 64MiB"
            ));
        }
    };
    let number: u64 =
        number.parse().map_err(|_| "write a whole number and a unit, as in 64MiB".to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| "too large".to_owned())
}

/// As [`size`], for buffers: 1 KiB to 16 MiB.
pub(super) fn buffer_size(text: &str) -> Result<usize, String> {
    let bytes = size(text)?;
    usize::try_from(bytes)
        .ok()
        .filter(|bytes| (1 << 10..=16 << 20).contains(bytes))
        .ok_or_else(|| "must be from 1KiB to 16MiB".to_owned())
}

/// Parses `ADDRESS` or `ADDRESS:PORT`; the port of DNS is 53.
pub(super) fn name_server(text: &str) -> Result<SocketAddr, String> {
    text.parse::<SocketAddr>()
        .or_else(|_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53)))
        .map_err(|_| "write an IP address, as in 9.9.9.9 or [2620:fe::fe]:53".to_owned())
}

/// Parses `ADDRESS:PORT`; a name would have to be looked up, and might have several addresses.
pub(super) fn listen_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "write an IP address and a port, as in 192.0.2.1:443, 0.0.0.0:443 or [::]:443".to_owned()
    })
}

/// Parses `10.0.0.0/8`, `2001:db8::/32`, or one address.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    text.parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| "write an address or a network, as in 10.0.0.0/8".to_owned())
}

fn split_unit(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim())
}

const MAX_DURATION_MS: u64 = 365 * 86_400_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("10"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2 h"), Ok(Duration::from_secs(7200)));
        for bad in ["", "s", "-1s", "1.5s", "3 fortnights", "99999999999999999999d", "400d"] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(size("512"), Ok(512));
        assert_eq!(size("64MiB"), Ok(64 << 20));
        assert_eq!(size("4k"), Ok(4096));
        for bad in ["", "MiB", "-1", "1.5G", "99999999999TiB", "7 stones"] {
            assert!(size(bad).is_err(), "{bad:?}");
        }
        assert!(buffer_size("10").is_err());
        assert_eq!(buffer_size("32KiB"), Ok(32 << 10));
    }

    #[test]
    fn name_servers() {
        assert_eq!(name_server("9.9.9.9").unwrap().port(), 53);
        assert_eq!(name_server("[::1]:5353").unwrap().port(), 5353);
        assert!(name_server("dns.example.org").is_err());
    }

    #[test]
    fn listeners_have_addresses_and_not_names() {
        assert_eq!(listen_address("[::]:443").unwrap().port(), 443);
        for bad in ["localhost:443", "443", "0.0.0.0", "::443"] {
            assert!(listen_address(bad).unwrap_err().contains("IP address"), "{bad}");
        }
    }
}
