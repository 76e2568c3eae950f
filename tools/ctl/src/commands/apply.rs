//! `apply`, `confirm` and `export`: the routes as one document.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use config_proto::message::{Applied, Refusal, RefusalCode, Request, Status};
use config_proto::model::Document;

use super::{paging, print_changed};
use crate::failure::Failure;
use crate::files;
use crate::options::Format;
use crate::output::human::{plural, span};
use crate::output::{Output, settings as show_settings, warn};
use crate::session::Session;

/// How often an export starts again because the routes changed while it ran.
const EXPORT_ATTEMPTS: usize = 5;

/// Reads and parses the file, so that a slip in it is shown with its line before anything is sent.
pub(super) fn read(path: &Path, format: Option<Format>) -> Result<Document, Failure> {
    let text = files::read_text(path, files::MAX_DOCUMENT_BYTES)?;
    let format = format.unwrap_or_else(|| guess(path, &text));
    let parsed = match format {
        Format::Toml => toml::from_str(&text).map_err(|error| error.to_string()),
        Format::Json => serde_json::from_str(&text).map_err(|error| error.to_string()),
    };
    parsed.map_err(|error| {
        let shown = if path == Path::new("-") {
            "standard input".to_owned()
        } else {
            path.display().to_string()
        };
        Failure::usage(
            format!("{shown} is not valid: {error}"),
            Some("see the form with: tlstunnel-ctl export"),
        )
    })
}

fn guess(path: &Path, text: &str) -> Format {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("json") => Format::Json,
        Some("toml") => Format::Toml,
        _ if text.trim_start().starts_with('{') => Format::Json,
        _ => Format::Toml,
    }
}

pub(super) fn apply(
    session: &mut Session,
    output: &mut Output,
    document: Document,
    confirm_seconds: Option<u32>,
    dry_run: bool,
) -> Result<(), Failure> {
    let applied: Applied = session.ask(&Request::Apply { document, dry_run, confirm_seconds })?;
    if output.as_json(&applied)? {
        return Ok(());
    }
    show_settings::print_diff(output, &applied.diff)?;
    let changes = u64::try_from(applied.diff.changes.len()).unwrap_or(u64::MAX);
    let routes = format!(
        "{}{}",
        if applied.diff.more { "more than " } else { "" },
        plural(changes, "route")
    );
    let generation = applied.generation;
    let summary = match (changes, applied.applied) {
        (0, _) => {
            format!("Nothing to change: the routes are as in the file (generation {generation}).")
        }
        (_, true) => format!("Changed {routes} (generation {generation})."),
        (_, false) => format!("Would change {routes}; nothing was done (generation {generation})."),
    };
    output.line(&summary)?;
    if applied.connections != 0 {
        let open = plural(applied.connections, "open connection");
        output.line(&format!("{open} on these routes go on as they are."))?;
    }
    if let (Some(seconds), true) = (applied.confirm_seconds, applied.applied) {
        let time = span(Duration::from_secs(seconds.into()));
        output.line(&format!(
            "This is undone in {time} unless you type: tlstunnel-ctl confirm {generation}"
        ))?;
    }
    output.flush()?;
    applied.warnings.iter().for_each(|warning| warn(warning));
    Ok(())
}

/// Keeps the given generation, or the one that waits.
pub(super) fn confirm(
    session: &mut Session,
    output: &mut Output,
    generation: Option<u64>,
) -> Result<(), Failure> {
    let generation = match generation {
        Some(generation) => generation,
        None => {
            let status: Status = session.ask(&Request::Status)?;
            let nothing = || {
                Failure::Refused(Refusal {
                    code: RefusalCode::NotFound,
                    message: "no change waits for confirmation".to_owned(),
                    hint: Some(
                        "it may have been undone already: see tlstunnel-ctl history".to_owned(),
                    ),
                })
            };
            status.pending.ok_or_else(nothing)?.generation
        }
    };
    let changed = session.ask(&Request::Confirm { generation })?;
    print_changed(output, &changed)
}

/// Writes all routes of one generation.
pub(super) fn export(
    session: &mut Session,
    output: &mut Output,
    format: Format,
) -> Result<(), Failure> {
    let document = one_generation(session)?;
    if output.json() || format == Format::Json {
        serde_json::to_writer_pretty(&mut *output, &document).map_err(std::io::Error::from)?;
        writeln!(output)?;
        return Ok(());
    }
    let text = toml::to_string(&document)
        .map_err(|error| Failure::usage(format!("cannot write TOML: {error}"), None))?;
    Ok(output.write_all(text.as_bytes())?)
}

/// Collects the pages, and starts again when a change came between them: half of one state and half of another must
/// never be applied again as if it had been a state.
fn one_generation(session: &mut Session) -> Result<Document, Failure> {
    for _ in 0..EXPORT_ATTEMPTS {
        let mut document = Document::default();
        let mut generation = None;
        let mut consistent = true;
        paging::routes(session, None, |page| {
            consistent &= *generation.get_or_insert(page.generation) == page.generation;
            document
                .routes
                .extend(page.routes.into_iter().map(|route| (route.name, route.settings)));
            Ok(())
        })?;
        if consistent {
            return Ok(document);
        }
    }
    Err(Failure::Refused(Refusal {
        code: RefusalCode::Pending,
        message: format!(
            "the routes changed during each of {EXPORT_ATTEMPTS} attempts to read them"
        ),
        hint: Some("try again when fewer changes are made".to_owned()),
    }))
}
