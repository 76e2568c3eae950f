//! What each subcommand does.
//!
//! Everything local (options, files) is checked before a connection is opened, so that a slip on the command line is
//! reported at once and the gateway sees only requests that make sense.

use std::io::Write;
use std::process::ExitCode;

use clap::CommandFactory;
use config_proto::message::{Changed, Request};

use crate::context::Target;
use crate::failure::Failure;
use crate::options::{
    AccountCommand, CertCommand, Command, ConnectionOptions, ContextCommand, KeyCommand, Options,
};
use crate::output::{Output, human, warn};
use crate::session::Session;
use crate::top;

mod apply;
mod certificates;
mod contexts;
mod generations;
mod keys;
mod paging;
mod routes;
mod sites;
mod state;
mod v1;

/// Carries out what was typed, and reports what went wrong; the exit code of the program.
pub(crate) fn run(options: Options) -> ExitCode {
    let mut output = Output::stdout(options.json);
    let done = dispatch(&options.connection, options.command, &mut output);
    // What was printed before a failure is part of the answer.
    let flushed = output.flush().map_err(Failure::from);
    match done.and(flushed) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output.report(&failure);
            failure.exit_code()
        }
    }
}

fn dispatch(
    connection: &ConnectionOptions,
    command: Command,
    output: &mut Output,
) -> Result<(), Failure> {
    let environment = |name: &str| std::env::var(name).ok();
    let target = || Target::resolve(connection, &environment);
    if connection.v1 {
        return v1::run(&target()?, &command, output);
    }
    let session = || Session::open(&target()?);
    match command {
        Command::Add(options) => {
            let settings = options.settings()?;
            routes::add(&mut session()?, output, options.name, settings, options.replace)
        }
        Command::Remove { name } => routes::remove(&mut session()?, output, name),
        Command::List { filter } => routes::list(&mut session()?, output, filter),
        Command::Show { name } => routes::show(&mut session()?, output, name),
        Command::Status => state::status(&mut session()?, output),
        Command::Why { name, from, .. } => state::why(&mut session()?, output, name, from),
        Command::Check => state::check(&mut session()?, output),
        Command::History { limit, all } => {
            let limit = if all { u64::MAX } else { limit };
            generations::history(&mut session()?, output, limit)
        }
        Command::Diff { from, to } => generations::diff(&mut session()?, output, from, to),
        Command::Rollback { generation } => {
            generations::rollback(&mut session()?, output, generation)
        }
        Command::Apply { file, confirm, dry_run, format } => {
            let document = apply::read(&file, format)?;
            apply::apply(&mut session()?, output, document, confirm, dry_run)
        }
        Command::Confirm { generation } => apply::confirm(&mut session()?, output, generation),
        Command::Export { format } => apply::export(&mut session()?, output, format),
        Command::Cert(CertCommand::List) => certificates::list(&mut session()?, output),
        Command::Cert(CertCommand::Show { name, last }) => {
            certificates::show(&mut session()?, output, name, last)
        }
        Command::Cert(CertCommand::Set { cert, key }) => {
            let pair = certificates::read(&cert, &key)?;
            certificates::set(&mut session()?, output, pair)
        }
        Command::Cert(CertCommand::Renew { name }) => {
            certificates::ask(&mut session()?, output, &Request::CertRenew { name })
        }
        Command::Cert(CertCommand::Revoke { name, reason }) => {
            let request = Request::CertRevoke { name, reason: reason.into() };
            certificates::ask(&mut session()?, output, &request)
        }
        Command::Cert(CertCommand::Account(AccountCommand::Rollover)) => {
            certificates::ask(&mut session()?, output, &Request::CertRollOver)
        }
        Command::Site(command) => sites::run(session, output, command),
        Command::Key(KeyCommand::Add { id, role, out }) => {
            keys::add(session, output, id, role, out.as_deref())
        }
        Command::Key(KeyCommand::List) => keys::list(&mut session()?, output),
        Command::Key(KeyCommand::Remove { id }) => keys::remove(&mut session()?, output, id),
        Command::Key(KeyCommand::Generate { out }) => {
            keys::generate(output, connection.key_id.as_deref(), out.as_deref())
        }
        Command::Top { interval, once, limit } => {
            top::run(session()?, output, interval, once, limit)
        }
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Options::command(), "tlstunnel-ctl", output);
            Ok(())
        }
        Command::Context(ContextCommand::List) => contexts::list(output, &environment),
        Command::Context(ContextCommand::Use { name }) => {
            contexts::choose(output, &environment, &name)
        }
        Command::Context(ContextCommand::Set { name }) => {
            contexts::set(output, &environment, &name, connection)
        }
        Command::Context(ContextCommand::Remove { name }) => {
            contexts::remove(output, &environment, &name)
        }
    }
}

/// Prints what a change did, in the gateway's words.
fn print_changed(output: &mut Output, changed: &Changed) -> Result<(), Failure> {
    if output.as_json(changed)? {
        return Ok(());
    }
    let message = changed.message.trim_end_matches('.');
    let name = changed.name.as_deref().filter(|name| !message.contains(name));
    let about = name.map(|name| format!("{name}: ")).unwrap_or_default();
    let generation = match changed.generation {
        // Protocol v1 has none.
        0 => String::new(),
        number if message.contains(&format!("generation {number}")) => String::new(),
        number => format!(" (generation {number})"),
    };
    output.line(&format!("{about}{message}{generation}"))?;
    // First the deed, then what may be doubtful about it.
    output.flush()?;
    changed.warnings.iter().for_each(|warning| warn(warning));
    Ok(())
}

/// `when (how long ago)` of a moment in the past or future.
fn when(seconds: i64) -> String {
    format!("{} ({})", human::moment(seconds), human::distance(seconds, human::now()))
}
