//! `history`, `diff` and `rollback`.

use std::io::Write;

use config_proto::message::{Diff, Generation, History, MAX_PAGE, Request, Status};

use super::print_changed;
use crate::failure::Failure;
use crate::output::table::{Cell, Table};
use crate::output::{Output, Tone, human, settings as show_settings};
use crate::session::Session;

/// Prints at most `limit` generations while they come, newest first.
pub(super) fn history(
    session: &mut Session,
    output: &mut Output,
    limit: u64,
) -> Result<(), Failure> {
    let mut table = Table::new(&["GENERATION", "WHEN", "", "AUTHOR", "WHAT"]);
    let mut left = limit;
    let mut before = None;
    let mut printed = false;
    loop {
        let page_limit = u32::try_from(left).unwrap_or(MAX_PAGE).min(MAX_PAGE);
        let mut page: History = session.ask(&Request::History { before, limit: page_limit })?;
        let wanted = usize::try_from(left).unwrap_or(usize::MAX);
        let cut = page.generations.len() > wanted;
        page.generations.truncate(wanted);
        left = left.saturating_sub(u64::try_from(page.generations.len()).unwrap_or(u64::MAX));
        let oldest = page.generations.last().map(|generation| generation.number);
        // Numbers fall; a peer that sends others must not keep us for ever.
        let advances = oldest.is_some() && (before.is_none() || oldest < before);
        let more = page.more || cut;
        let last = left == 0 || !more || !advances;
        if output.json() {
            for generation in &page.generations {
                let open = if printed { "," } else { "{\n  \"generations\": [" };
                write!(output, "{open}\n    ")?;
                serde_json::to_writer(&mut *output, generation).map_err(std::io::Error::from)?;
                printed = true;
            }
            if last {
                let open = if printed { "" } else { "{\n  \"generations\": [" };
                write!(output, "{open}\n  ],\n  \"more\": {more}\n}}\n")?;
            }
        } else {
            let rows: Vec<Vec<Cell>> = page.generations.iter().map(row).collect();
            table.rows(output, &rows)?;
            if last && more {
                output.line("There are older ones: tlstunnel-ctl history --all")?;
            }
        }
        if last {
            return Ok(());
        }
        before = oldest;
    }
}

fn row(generation: &Generation) -> Vec<Cell> {
    vec![
        Cell::new(generation.number.to_string(), Tone::Strong),
        Cell::from(human::moment(generation.time)),
        Cell::new(human::distance(generation.time, human::now()), Tone::Faint),
        Cell::from(&generation.author),
        Cell::from(&generation.summary),
    ]
}

/// Prints what changed from `from` to `to`; without them, what the last change was.
pub(super) fn diff(
    session: &mut Session,
    output: &mut Output,
    from: Option<u64>,
    to: Option<u64>,
) -> Result<(), Failure> {
    let from = match (from, to) {
        (Some(from), _) => from,
        (None, Some(to)) => to.saturating_sub(1),
        (None, None) => {
            let status: Status = session.ask(&Request::Status)?;
            status.generation.saturating_sub(1)
        }
    };
    let diff: Diff = session.ask(&Request::Diff { from, to })?;
    if output.as_json(&diff)? {
        return Ok(());
    }
    let heading = format!("generation {} → {}", diff.from, diff.to);
    if diff.changes.is_empty() {
        output.line(&format!("{heading}: the routes are the same"))?;
        return Ok(());
    }
    let heading = output.paint(Tone::Faint, &heading);
    writeln!(output, "{heading}")?;
    Ok(show_settings::print_diff(output, &diff)?)
}

pub(super) fn rollback(
    session: &mut Session,
    output: &mut Output,
    generation: u64,
) -> Result<(), Failure> {
    let changed = session.ask(&Request::Rollback { generation })?;
    print_changed(output, &changed)
}
