//! Numbers, times and foreign text in a form for people.

use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Text from the gateway (names that clients sent, descriptions, error texts) without anything that could move the
/// cursor, hide text or turn its direction: such characters are shown escaped.
pub(crate) fn clean(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() || turns {
            clean.extend(c.escape_unicode());
        } else {
            clean.push(c);
        }
    }
    clean
}

/// Bytes with a binary unit: `0 B`, `1.5 KiB`, `12 MiB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut shift: u32 = 10;
    let mut unit = 0;
    while count >> shift >= 1024 && unit + 1 < UNITS.len() {
        shift += 10;
        unit += 1;
    }
    let whole = count >> shift;
    let tenth = ((count >> (shift - 10)) & 1023) * 10 / 1024;
    let name = UNITS.get(unit).unwrap_or(&"");
    if whole < 10 { format!("{whole}.{tenth} {name}") } else { format!("{whole} {name}") }
}

/// A span in its two largest units: `3d 4h`, `12s`, `350ms`.
pub(crate) fn span(duration: Duration) -> String {
    let total = duration.as_secs();
    if total == 0 && !duration.is_zero() {
        return format!("{}ms", duration.as_millis());
    }
    let parts = [
        ("d", total / 86_400),
        ("h", total / 3600 % 24),
        ("m", total / 60 % 60),
        ("s", total % 60),
    ];
    let mut text = String::new();
    for (unit, value) in parts.iter().skip_while(|(_, value)| *value == 0).take(2) {
        if *value != 0 || text.is_empty() {
            let _ = write!(text, "{}{value}{unit}", if text.is_empty() { "" } else { " " });
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// A moment in seconds since 1970 as `2026-01-31 13:45:00 UTC`.
pub(crate) fn moment(seconds: i64) -> String {
    let offset = Duration::from_secs(seconds.unsigned_abs());
    let time =
        if seconds < 0 { UNIX_EPOCH.checked_sub(offset) } else { UNIX_EPOCH.checked_add(offset) };
    // humantime panics beyond the year 9999 and before 1970; a gateway may send any number.
    match time {
        Some(time) if (0..=253_402_300_799).contains(&seconds) => {
            let text = humantime::format_rfc3339_seconds(time).to_string();
            text.replace('T', " ").replace('Z', " UTC")
        }
        _ => format!("@{seconds}"),
    }
}

/// How far a moment lies from now: `in 89d 2h`, `3m 4s ago`.
pub(crate) fn distance(seconds: i64, now: i64) -> String {
    let away = span(Duration::from_secs(seconds.abs_diff(now)));
    match seconds.cmp(&now) {
        std::cmp::Ordering::Less => format!("{away} ago"),
        std::cmp::Ordering::Equal => "now".to_owned(),
        std::cmp::Ordering::Greater => format!("in {away}"),
    }
}

/// Seconds since 1970, now.
pub(crate) fn now() -> i64 {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

/// `1 route`, `2 routes`.
pub(crate) fn plural(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_a_unit() {
        let max = u64::MAX;
        for (number, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (10 * 1024, "10 KiB"),
            (1024 * 1024 - 1, "1023 KiB"),
            (5 << 30, "5.0 GiB"),
            (max, "15 EiB"),
        ] {
            assert_eq!(bytes(number), text);
        }
    }

    #[test]
    fn spans_have_two_units() {
        let seconds = Duration::from_secs;
        assert_eq!(span(Duration::ZERO), "0s");
        assert_eq!(span(Duration::from_millis(350)), "350ms");
        assert_eq!(span(seconds(59)), "59s");
        assert_eq!(span(seconds(61)), "1m 1s");
        assert_eq!(span(seconds(3600)), "1h");
        assert_eq!(span(seconds(90_061)), "1d 1h");
    }

    #[test]
    fn moments_are_dates_whatever_the_gateway_sends() {
        assert_eq!(moment(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(moment(1_700_000_000), "2023-11-14 22:13:20 UTC");
        assert_eq!(moment(i64::MAX), format!("@{}", i64::MAX));
        assert_eq!(moment(-1), "@-1");
        assert_eq!(moment(i64::MIN), format!("@{}", i64::MIN));
    }

    #[test]
    fn distances_look_both_ways() {
        assert_eq!(distance(100, 40), "in 1m");
        assert_eq!(distance(40, 100), "1m ago");
        assert_eq!(distance(40, 40), "now");
    }

    proptest::proptest! {
        #[test]
        fn numbers_of_any_size_are_short_texts(number: u64, moment_or_now: i64, now: i64, text in "\\PC*|.*") {
            proptest::prop_assert!(bytes(number).len() <= 8);
            proptest::prop_assert!(span(Duration::from_millis(number)).len() <= 24);
            proptest::prop_assert!(moment(moment_or_now).len() <= 24);
            proptest::prop_assert!(distance(moment_or_now, now).len() <= 28);
            proptest::prop_assert!(!clean(&text).chars().any(char::is_control));
        }
    }

    #[test]
    fn text_cannot_steer_the_terminal() {
        assert_eq!(clean("a\u{1b}[2Jb\n\u{202e}c"), "a\\u{1b}[2Jb\\u{a}\\u{202e}c");
        assert_eq!(clean("größe ✓"), "größe ✓");
    }
}
