//! `site`: the sites of a site server.

use std::io::Write;

use config_proto::key::GENERATED_SECRET_LEN;
use config_proto::message::{Request, Sealed};
use config_proto::site::{SiteDeploy, SiteGeneration, SiteInfo, SiteList, SiteLog};

use super::{paging, print_changed};
use crate::failure::Failure;
use crate::key;
use crate::options::{SiteAddOptions, SiteCommand, SiteSecrets};
use crate::output::human::{bytes, plural};
use crate::output::table::{Cell, Table};
use crate::output::{Output, Tone, human};
use crate::session::Session;

/// Characters of a commit's id that are shown.
const SHORT: usize = 12;

/// Does what was asked for. Files are read before a connection is opened.
pub(super) fn run(
    session: impl FnOnce() -> Result<Session, Failure>,
    output: &mut Output,
    command: SiteCommand,
) -> Result<(), Failure> {
    let request = match command {
        SiteCommand::Add(options) => return add(session, output, *options),
        SiteCommand::List { filter } => return list(&mut session()?, output, filter),
        SiteCommand::Log { name, limit } => return log(&mut session()?, output, name, limit),
        SiteCommand::Remove { name } => Request::SiteRemove { name },
        SiteCommand::Refresh { name } => Request::SiteRefresh { name },
        SiteCommand::Rollback { name, generation } => Request::SiteRollback { name, generation },
        SiteCommand::Pin { name, off } => Request::SitePin { name, pinned: !off },
    };
    let changed = session()?.ask(&request)?;
    print_changed(output, &changed)
}

fn add(
    session: impl FnOnce() -> Result<Session, Failure>,
    output: &mut Output,
    options: SiteAddOptions,
) -> Result<(), Failure> {
    let settings = options.settings()?;
    let SiteSecrets { hook_secret, push_token, ssh_key, password } = options.secrets(secret)?;
    let made = |made: bool, secret: &Option<Sealed>| secret.clone().filter(|_| made);
    let (made_hook, made_push) =
        (made(options.hook, &hook_secret), made(options.push, &push_token));
    let request = Request::SiteAdd {
        name: options.name,
        settings,
        replace: options.replace,
        hook_secret,
        push_token,
        ssh_key,
        password,
    };
    let changed: config_proto::message::Changed = session()?.ask(&request)?;
    if output.json() {
        let mut answer = serde_json::to_value(&changed).map_err(std::io::Error::from)?;
        if let Some(object) = answer.as_object_mut() {
            for (name, secret) in [("hook-secret", &made_hook), ("push-token", &made_push)] {
                if let Some(Sealed(text)) = secret {
                    object.insert(name.to_owned(), text.as_str().into());
                }
            }
        }
        output.as_json(&answer)?;
        return Ok(());
    }
    print_changed(output, &changed)?;
    if let Some(Sealed(text)) = made_hook {
        output.line("The secret for the forge's webhook, shown this once:")?;
        output.line(&text)?;
    }
    if let Some(Sealed(text)) = made_push {
        output.line("The token that git push asks for as password, shown this once:")?;
        output.line(&text)?;
    }
    Ok(())
}

/// A new secret, in digits and letters that every forge and password prompt takes.
fn secret() -> Result<String, Failure> {
    let mut random = [0; GENERATED_SECRET_LEN];
    getrandom::fill(&mut random).map_err(key::no_randomness)?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn list(session: &mut Session, output: &mut Output, filter: Option<String>) -> Result<(), Failure> {
    let sites = paging::sites(session, filter.as_deref())?;
    let list = SiteList { sites, more: false };
    if output.as_json(&list)? {
        return Ok(());
    }
    if list.sites.is_empty() {
        output.line(match filter {
            Some(_) => "No site has that in its name.",
            None => "There are no sites yet. Add one: tlstunnel-ctl site add NAME URL#BRANCH",
        })?;
        return Ok(());
    }
    let mut table = Table::new(&["SITE", "FROM", "LIVE", "SIZE", "STATE"]);
    let rows: Vec<Vec<Cell>> = list.sites.iter().map(row).collect();
    Ok(table.rows(output, &rows)?)
}

fn row(site: &SiteInfo) -> Vec<Cell> {
    let settings = &site.settings;
    let mut from = settings.remote.clone().unwrap_or_else(|| "pushed".to_owned());
    if let Some(branch) = &settings.branch {
        from.push('#');
        from.push_str(branch);
    }
    let (live, size) = match &site.live {
        Some(live) => (shown(live), bytes(live.size)),
        None => ("nothing yet".to_owned(), String::new()),
    };
    let (state, tone) = match (&site.failure, site.pinned, &site.live) {
        (Some(failure), _, _) => (failure.clone(), Tone::Bad),
        (None, true, _) => ("pinned".to_owned(), Tone::Warning),
        (None, false, Some(live)) if live.problems > 0 => {
            (plural(live.problems, "problem"), Tone::Warning)
        }
        (None, false, Some(_)) => ("good".to_owned(), Tone::Good),
        (None, false, None) => (String::new(), Tone::Plain),
    };
    vec![
        Cell::new(&site.name, Tone::Strong),
        Cell::from(from),
        Cell::from(live),
        Cell::from(size),
        Cell::new(state, tone),
    ]
}

fn shown(generation: &SiteGeneration) -> String {
    let commit: String = generation.commit.chars().take(SHORT).collect();
    format!("{} ({commit})", generation.number)
}

fn log(
    session: &mut Session,
    output: &mut Output,
    name: String,
    limit: u32,
) -> Result<(), Failure> {
    let log: SiteLog = session.ask(&Request::SiteLog { name, limit })?;
    if output.as_json(&log)? {
        return Ok(());
    }
    let heading = output.paint(Tone::Strong, &log.name);
    writeln!(output, "{heading}")?;
    let live = log.live.map_or_else(|| "none".to_owned(), |number| number.to_string());
    output.field("live", &format!("{live}{}", if log.pinned { ", pinned" } else { "" }))?;
    let kept: Vec<String> = log.kept.iter().map(shown).collect();
    output.field("kept", &kept.join(", "))?;
    if log.log.is_empty() {
        return Ok(());
    }
    writeln!(output)?;
    let mut table = Table::new(&["WHEN", "WHAT", "BY", "COMMIT", "FILES", "SIZE", "PROBLEMS"]);
    let rows: Vec<Vec<Cell>> = log.log.iter().map(entry).collect();
    Ok(table.rows(output, &rows)?)
}

fn entry(deploy: &SiteDeploy) -> Vec<Cell> {
    let tone = match deploy.outcome.as_str() {
        "live" => Tone::Good,
        "failed" => Tone::Bad,
        "held" | "rolled-back" | "pinned" => Tone::Warning,
        _ => Tone::Plain,
    };
    let time = i64::try_from(deploy.time).unwrap_or(i64::MAX);
    let what = match &deploy.generation {
        Some(generation) => format!("{} {}", deploy.outcome, generation.number),
        None => deploy.outcome.clone(),
    };
    let of = |text: fn(&SiteGeneration) -> String| {
        Cell::from(deploy.generation.as_ref().map(text).unwrap_or_default())
    };
    vec![
        Cell::from(human::moment(time)),
        Cell::new(what, tone),
        Cell::from(&deploy.by),
        of(|generation| {
            let commit: String = generation.commit.chars().take(SHORT).collect();
            format!("{commit} {}", generation.subject)
        }),
        of(|generation| generation.files.to_string()),
        of(|generation| bytes(generation.size)),
        Cell::from(deploy.problems.join("; ")),
    ]
}
