//! The settings of a route as pairs of words, and the differences between two of them.
//!
//! The pairs are made from the serialised form, so that a setting that is added to the vocabulary is shown here
//! without a change.

use std::collections::BTreeMap;
use std::io::{self, Write};

use config_proto::message::{Diff, RouteChange};
use config_proto::model::{Mode, Route, RouteSettings};
use serde_json::Value;

use super::human::clean;
use super::{Output, Tone};

/// Every setting that is not at its default, by its name (`limits.idle-seconds`), in words.
pub(crate) fn pairs(settings: &RouteSettings) -> impl Iterator<Item = (String, String)> {
    values(settings).into_iter().map(|(name, value)| (name, words(&value)))
}

fn values(settings: &RouteSettings) -> BTreeMap<String, Value> {
    let mut pairs = BTreeMap::new();
    if let Ok(value) = serde_json::to_value(settings) {
        flatten("", &value, &mut pairs);
    }
    pairs
}

fn flatten(name: &str, value: &Value, pairs: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(members) => {
            for (member, value) in members {
                let dot = if name.is_empty() { "" } else { "." };
                flatten(&format!("{name}{dot}{member}"), value, pairs);
            }
        }
        _ => {
            pairs.insert(name.to_owned(), value.clone());
        }
    }
}

fn words(value: &Value) -> String {
    match value {
        Value::String(text) if text.contains("-----BEGIN ") => {
            let sections = text.matches("-----BEGIN ").count();
            let s = if sections == 1 { "" } else { "s" };
            format!("{sections} certificate{s} in PEM, {} bytes", text.len())
        }
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(words).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

/// The word for a mode, as it is typed.
pub(crate) fn mode(mode: Mode) -> String {
    serde_json::to_value(mode).map(|value| words(&value)).unwrap_or_default()
}

/// Backends separated by commas.
pub(crate) fn backends(settings: &RouteSettings) -> String {
    let backends: Vec<String> = settings.backends.iter().map(ToString::to_string).collect();
    backends.join(", ")
}

/// All but name, backends, mode and description in one line: `alpn=h2 proxy=v2`.
pub(crate) fn options(settings: &RouteSettings) -> String {
    let shown = |name: &str| !matches!(name, "backends" | "mode" | "description");
    let words: Vec<String> = pairs(settings)
        .filter(|(name, _)| shown(name))
        .map(|(name, value)| match name.ends_with("ca") {
            true => name,
            false => format!("{name}={}", value.replace(", ", ",")),
        })
        .collect();
    words.join(" ")
}

/// Prints what changed, route by route: `+` added, `-` removed, `~` changed with each setting before and after.
///
/// # Errors
/// The output cannot be written.
pub(crate) fn print_diff(output: &mut Output, diff: &Diff) -> io::Result<()> {
    diff.changes.iter().try_for_each(|change| print_change(output, change))?;
    if diff.more {
        output.line("... and more, which one answer cannot hold")?;
    }
    Ok(())
}

fn print_change(output: &mut Output, change: &RouteChange) -> io::Result<()> {
    let settings = |route: &Option<Route>| route.as_ref().map(|route| values(&route.settings));
    let (sign, tone, before, after) = match (settings(&change.before), settings(&change.after)) {
        (None, after) => ("+", Tone::Good, BTreeMap::new(), after.unwrap_or_default()),
        (Some(before), None) => ("-", Tone::Bad, before, BTreeMap::new()),
        (Some(before), Some(after)) => ("~", Tone::Warning, before, after),
    };
    let heading = output.paint(tone, &format!("{sign} {}", change.name));
    writeln!(output, "{heading}")?;
    let mut names: Vec<&String> = before.keys().chain(after.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let changed = |name: &&String| before.get(*name) != after.get(*name);
    let width = names.iter().copied().filter(changed).map(String::len).max().unwrap_or(0);
    for name in names.iter().copied().filter(changed) {
        let line = match (before.get(name).map(words), after.get(name).map(words)) {
            (Some(value), None) if sign == "-" => value,
            (None, Some(value)) if sign == "+" => value,
            // Two bundles of the same size read the same in short.
            (before, after) if before == after => "changed".to_owned(),
            (before, after) => {
                let default = || "(default)".to_owned();
                format!("{} → {}", before.unwrap_or_else(default), after.unwrap_or_else(default))
            }
        };
        let name = output.paint(Tone::Faint, &format!("{name:<width$}"));
        writeln!(output, "    {name}  {}", clean(&line))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn route(settings: Value) -> Route {
        serde_json::from_value(json!({"name": "blog.example.org", "settings": settings})).unwrap()
    }

    fn print(before: Option<Value>, after: Option<Value>) -> String {
        let (mut output, text) = Output::memory();
        let change = RouteChange {
            name: "blog.example.org".parse().unwrap(),
            before: before.map(route),
            after: after.map(route),
        };
        print_diff(&mut output, &Diff { from: 1, to: 2, changes: vec![change], more: false })
            .unwrap();
        text.take()
    }

    #[test]
    fn an_added_route_shows_its_settings() {
        assert_eq!(
            print(None, Some(json!({"backends": ["10.0.0.7:80"], "limits": {"idle-seconds": 5}}))),
            "+ blog.example.org\n    backends             10.0.0.7:80\n    limits.idle-seconds  5\n"
        );
    }

    #[test]
    fn a_removed_route_shows_what_is_lost() {
        assert_eq!(
            print(Some(json!({"backends": ["10.0.0.7:80"]})), None),
            "- blog.example.org\n    backends  10.0.0.7:80\n"
        );
    }

    #[test]
    fn a_changed_route_shows_only_what_changed() {
        assert_eq!(
            print(
                Some(json!({"backends": ["10.0.0.7:80"], "proxy": "v1", "alpn": ["h2"]})),
                Some(
                    json!({"backends": ["10.0.0.7:80", "10.0.0.8:80"], "mode": "passthrough", "alpn": ["h2"]})
                )
            ),
            "~ blog.example.org\n\
             \x20   backends  10.0.0.7:80 → 10.0.0.7:80, 10.0.0.8:80\n\
             \x20   mode      (default) → passthrough\n\
             \x20   proxy     v1 → (default)\n"
        );
    }

    #[test]
    fn certificates_are_shown_in_short_and_a_change_of_them_is_not_missed() {
        let pem = |letter: &str| {
            format!("-----BEGIN CERTIFICATE-----\n{letter}\n-----END CERTIFICATE-----\n")
        };
        let text = print(
            Some(json!({"backends": ["a.b:1"], "client-ca": pem("A")})),
            Some(json!({"backends": ["a.b:1"], "client-ca": pem("B")})),
        );
        assert_eq!(text, "~ blog.example.org\n    client-ca  changed\n");
    }

    #[test]
    fn the_list_shows_options_in_one_line() {
        let settings = route(json!({
            "backends": ["a.b:1"], "mode": "reencrypt", "proxy": "v2", "alpn": ["h2", "http/1.1"],
            "description": "the blog", "client-ca": "-----BEGIN CERTIFICATE-----",
        }))
        .settings;
        assert_eq!(options(&settings), "alpn=h2,http/1.1 client-ca proxy=v2");
    }
}
