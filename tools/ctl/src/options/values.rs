//! How values on the command line are read: durations, health checks, the words of the vocabulary.

use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use config_proto::model::HealthCheck;
use serde::de::DeserializeOwned;

/// Parses the words of one of the vocabulary's enumerations, which clap then also lists and completes.
///
/// The words go through serde, so that the command line and a file of routes cannot disagree.
pub(crate) fn words<T>(words: &'static [&'static str]) -> impl TypedValueParser<Value = T>
where
    T: DeserializeOwned + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(words)
        .try_map(|word| serde_json::from_value::<T>(serde_json::Value::String(word)))
}

/// Parses `60s`, `5m`, `1h 30m`, `250ms`; a bare number means seconds.
///
/// # Errors
/// Says what the text should look like.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<u32>() {
        return Ok(Duration::from_secs(seconds.into()));
    }
    humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write a duration such as 60s, 5m or 1h30m"))
}

/// A duration that is longer than nothing: a wait of zero would always fail.
///
/// # Errors
/// As [`duration`], and for zero.
pub(crate) fn wait(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("it must be longer than 0s".to_owned()),
        wait => Ok(wait),
    }
}

/// A duration in whole seconds, as the configuration holds them.
///
/// # Errors
/// As [`duration`], and for parts of a second or more than 136 years.
pub(crate) fn seconds(text: &str) -> Result<u32, String> {
    let duration = duration(text)?;
    if duration.subsec_nanos() != 0 {
        return Err("only whole seconds are possible, such as 1s or 5m".to_owned());
    }
    u32::try_from(duration.as_secs()).map_err(|_| "this is longer than a century".to_owned())
}

/// Parses `interval=5s,timeout=2s,rise=2,fall=3`; what is absent keeps its default, so an empty text is valid.
///
/// # Errors
/// Names the part that is not understood.
pub(crate) fn health(text: &str) -> Result<HealthCheck, String> {
    let mut check = HealthCheck::default();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (key, value) = part
            .split_once('=')
            .ok_or_else(|| format!("{part:?} is not KEY=VALUE, as in interval=5s"))?;
        let count = || {
            value.parse::<u32>().map_err(|_| format!("{value:?} is not a number, as in {key}=2"))
        };
        match key {
            "interval" => check.interval_seconds = seconds(value)?,
            "timeout" => check.timeout_seconds = seconds(value)?,
            "rise" => check.rise = count()?,
            "fall" => check.fall = count()?,
            _ => return Err(format!("{key:?} is unknown: interval, timeout, rise, fall")),
        }
    }
    Ok(check)
}

/// Parses `HOST:PORT`, `ADDRESS:PORT` or `[V6]:PORT` of a control port. The host is resolved later.
///
/// # Errors
/// Those of [`config_proto::model::BackendAddress`], which has the same form.
pub(crate) fn remote(text: &str) -> Result<String, String> {
    match text.parse::<config_proto::model::BackendAddress>() {
        Ok(address) => Ok(address.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, expected) in [("60s", 60), ("5m", 300), ("1h30m", 5400), ("90", 90), ("0", 0)] {
            assert_eq!(seconds(text).unwrap(), expected, "{text}");
        }
        assert_eq!(duration("250ms").unwrap(), Duration::from_millis(250));
        for bad in ["", "s", "-5s", "5 parsecs", "250ms", "200y", "1.5"] {
            assert!(seconds(bad).is_err(), "{bad:?} must be refused");
        }
        assert!(wait("0s").is_err());
    }

    #[test]
    fn a_health_check_keeps_the_defaults_of_what_is_absent() {
        assert_eq!(health("").unwrap(), HealthCheck::default());
        let check = health("interval=1m,fall=5").unwrap();
        assert_eq!((check.interval_seconds, check.fall), (60, 5));
        assert_eq!((check.timeout_seconds, check.rise), (2, 2));
        for bad in ["interval", "interval=x", "rise=two", "color=red", "10.0.0.7:80"] {
            assert!(health(bad).is_err(), "{bad:?} must be refused");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_too_odd_to_be_refused(text in "\\PC*|[0-9smhdw., =:\\[\\]-]*") {
            // An error, or a value that its own text form leads to again.
            if let Ok(seconds) = seconds(&text) {
                proptest::prop_assert_eq!(super::seconds(&format!("{seconds}s")), Ok(seconds));
            }
            if let Ok(remote) = remote(&text) {
                proptest::prop_assert_eq!(super::remote(&remote), Ok(remote));
            }
            let _ = health(&text);
        }
    }

    #[test]
    fn a_remote_has_host_and_port() {
        assert_eq!(remote("127.0.0.1:1234").unwrap(), "127.0.0.1:1234");
        assert_eq!(remote("[::1]:1234").unwrap(), "[::1]:1234");
        assert_eq!(remote("gateway.example.org:1234").unwrap(), "gateway.example.org:1234");
        for bad in ["", "127.0.0.1", "::1:1234", "host:0", "host:port"] {
            assert!(remote(bad).is_err(), "{bad:?} must be refused");
        }
    }
}
