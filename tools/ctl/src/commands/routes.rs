//! `add`, `remove`, `list` and `show`.

use std::io::Write;

use config_proto::message::{Request, RouteDetail};
use config_proto::model::{Mode, Route, RouteSettings};

use super::{paging, print_changed, when};
use crate::failure::Failure;
use crate::output::human::{bytes, plural};
use crate::output::table::{Cell, Table};
use crate::output::{Output, Tone, settings as show_settings, warn};
use crate::session::Session;

pub(super) fn add(
    session: &mut Session,
    output: &mut Output,
    name: String,
    settings: RouteSettings,
    replace: bool,
) -> Result<(), Failure> {
    let changed = session.ask(&Request::Add { name, settings, replace })?;
    print_changed(output, &changed)
}

pub(super) fn remove(
    session: &mut Session,
    output: &mut Output,
    name: String,
) -> Result<(), Failure> {
    let changed = session.ask(&Request::Remove { name })?;
    print_changed(output, &changed)
}

/// Prints routes while they come: a million of them take no more memory than a page.
pub(super) fn list(
    session: &mut Session,
    output: &mut Output,
    filter: Option<String>,
) -> Result<(), Failure> {
    let mut table = Table::new(&["NAME", "BACKENDS", "MODE", "OPTIONS", "DESCRIPTION"]);
    let mut first_generation = None;
    let mut last_generation = 0;
    let mut count: u64 = 0;
    paging::routes(session, filter.as_deref(), |page| {
        let first = *first_generation.get_or_insert(page.generation);
        last_generation = page.generation;
        if output.json() {
            if count == 0 {
                write!(output, "{{\n  \"generation\": {first},\n  \"routes\": [")?;
            }
            for route in &page.routes {
                write!(output, "{}\n    ", if count == 0 { "" } else { "," })?;
                serde_json::to_writer(&mut *output, route).map_err(std::io::Error::from)?;
                count += 1;
            }
            if !page.more {
                write!(output, "\n  ],\n  \"more\": false\n}}\n")?;
            }
        } else {
            let rows: Vec<Vec<Cell>> = page.routes.iter().map(row).collect();
            if !rows.is_empty() {
                table.rows(output, &rows)?;
            }
            count += u64::try_from(rows.len()).unwrap_or_default();
        }
        Ok(())
    })?;
    output.flush()?;
    if count == 0 && !output.json() {
        match filter {
            Some(filter) => output.line(&format!("No route has {filter:?} in its name."))?,
            None => output
                .line("There are no routes yet. Add one: tlstunnel-ctl add blog 10.0.0.7:80")?,
        }
    }
    if first_generation.is_some_and(|first| first != last_generation) {
        warn("the routes were changed while they were listed; list again for one consistent view");
    }
    Ok(())
}

fn row(route: &Route) -> Vec<Cell> {
    let settings = &route.settings;
    let mode = show_settings::mode(settings.mode);
    vec![
        Cell::new(route.name.to_string(), Tone::Strong),
        Cell::from(show_settings::backends(settings)),
        Cell::new(mode, if settings.mode == Mode::Reject { Tone::Warning } else { Tone::Plain }),
        Cell::from(show_settings::options(settings)),
        Cell::new(settings.description.as_deref().unwrap_or_default(), Tone::Faint),
    ]
}

pub(super) fn show(
    session: &mut Session,
    output: &mut Output,
    name: String,
) -> Result<(), Failure> {
    let detail: RouteDetail = session.ask(&Request::Show { name })?;
    if output.as_json(&detail)? {
        return Ok(());
    }
    let settings = &detail.route.settings;
    let heading = output.paint(Tone::Strong, &detail.route.name.to_string());
    writeln!(output, "{heading}")?;
    output.field("mode", &show_settings::mode(settings.mode))?;
    if !detail.alpn.is_empty() {
        output.field("alpn offered", &detail.alpn.join(", "))?;
    }
    if let Some(certificate) = &detail.certificate {
        let names = certificate.names.join(", ");
        output.field("certificate", &format!("{names}, from {}", certificate.issuer))?;
        output.field("expires", &when(certificate.not_after))?;
    }
    output.field("connections", &format!("{} open, {} since start", detail.open, detail.total))?;
    output.field(
        "traffic",
        &format!("{} in, {} out", bytes(detail.bytes_in), bytes(detail.bytes_out)),
    )?;
    let others: Vec<Vec<Cell>> = show_settings::pairs(settings)
        .filter(|(name, _)| name != "backends" && name != "mode")
        .map(|(name, value)| vec![Cell::from(name), Cell::from(value)])
        .collect();
    if !others.is_empty() {
        writeln!(output)?;
        Table::new(&["SETTING", "VALUE"]).rows(output, &others)?;
    }
    if detail.backends.is_empty() {
        return Ok(());
    }
    writeln!(output)?;
    let mut table = Table::new(&["BACKEND", "STATE", "OPEN", "TOTAL", "FAILURES", "LAST ERROR"]);
    let rows: Vec<Vec<Cell>> = detail
        .backends
        .iter()
        .map(|backend| {
            let (state, tone) =
                if backend.healthy { ("up", Tone::Good) } else { ("down", Tone::Bad) };
            vec![
                Cell::from(&backend.address),
                Cell::new(state, tone),
                Cell::from(backend.open.to_string()),
                Cell::from(backend.total.to_string()),
                Cell::from(backend.failures.to_string()),
                Cell::from(backend.last_error.as_deref().unwrap_or_default()),
            ]
        })
        .collect();
    table.rows(output, &rows)?;
    let down = detail.backends.iter().filter(|backend| !backend.healthy).count();
    if down == detail.backends.len() {
        output.flush()?;
        let all = plural(u64::try_from(down).unwrap_or_default(), "backend");
        warn(&format!("{all}, none of them up: clients get no answer from this route"));
    }
    Ok(())
}
