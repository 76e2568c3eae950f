//! `context list`, `use`, `set` and `remove`.

use crate::context::{Context, ContextFile};
use crate::failure::Failure;
use crate::options::ConnectionOptions;
use crate::output::table::{Cell, Table};
use crate::output::{Output, Tone};

type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

pub(super) fn list(output: &mut Output, environment: Environment<'_>) -> Result<(), Failure> {
    let path = ContextFile::path(environment)?;
    let file = ContextFile::load(&path)?;
    if output.as_json(&file)? {
        return Ok(());
    }
    if file.contexts.is_empty() {
        output.line(&format!("There are no contexts in {}.", path.display()))?;
        output
            .line("Add one: tlstunnel-ctl context set home --remote HOST:PORT --key-file FILE")?;
        return Ok(());
    }
    let mut table = Table::new(&["", "CONTEXT", "REMOTE", "KEY ID", "KEY FILE"]);
    let rows: Vec<Vec<Cell>> = file
        .contexts
        .iter()
        .map(|(name, context)| {
            let marked = file.default.as_ref() == Some(name);
            let key_file = context.key_file.as_ref().map(|path| path.display().to_string());
            vec![
                Cell::new(if marked { "*" } else { " " }, Tone::Good),
                Cell::new(name, Tone::Strong),
                Cell::from(context.remote.as_deref().unwrap_or_default()),
                Cell::from(context.key_id.as_deref().unwrap_or_default()),
                Cell::from(key_file.unwrap_or_default()),
            ]
        })
        .collect();
    Ok(table.rows(output, &rows)?)
}

pub(super) fn choose(
    output: &mut Output,
    environment: Environment<'_>,
    name: &str,
) -> Result<(), Failure> {
    change(output, environment, |file| {
        file.get(name)?;
        file.default = Some(name.to_owned());
        Ok(format!("The default context is now {name}."))
    })
}

pub(super) fn set(
    output: &mut Output,
    environment: Environment<'_>,
    name: &str,
    options: &ConnectionOptions,
) -> Result<(), Failure> {
    let legal = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || !name.chars().all(legal) {
        return Err(Failure::usage(
            format!("{name:?} is no name for a context: use letters, digits, `-`, `_` and `.`"),
            None,
        ));
    }
    if options.remote.is_none() && options.key_file.is_none() && options.key_id.is_none() {
        return Err(Failure::usage(
            "there is nothing to set",
            Some("give at least one of --remote, --key-file and --key-id"),
        ));
    }
    // The context is used from other folders than this one.
    let key_file =
        options.key_file.as_ref().map(std::path::absolute).transpose().map_err(|error| {
            Failure::usage(format!("the key file has no full path: {error}"), None)
        })?;
    change(output, environment, |file| {
        let first = file.contexts.is_empty();
        let context = file.contexts.entry(name.to_owned()).or_insert_with(Context::default);
        context.remote = options.remote.clone().or_else(|| context.remote.take());
        context.key_file = key_file.or_else(|| context.key_file.take());
        context.key_id = options.key_id.clone().or_else(|| context.key_id.take());
        if first {
            file.default = Some(name.to_owned());
            return Ok(format!("Context {name} is set, and is the default one."));
        }
        Ok(format!("Context {name} is set."))
    })
}

pub(super) fn remove(
    output: &mut Output,
    environment: Environment<'_>,
    name: &str,
) -> Result<(), Failure> {
    change(output, environment, |file| {
        file.get(name)?;
        file.contexts.remove(name);
        if file.default.as_deref() == Some(name) {
            file.default = None;
            return Ok(format!("Context {name} is removed; there is no default one now."));
        }
        Ok(format!("Context {name} is removed."))
    })
}

/// Loads the file, changes it, saves it; prints the sentence, or the new contexts as JSON.
fn change(
    output: &mut Output,
    environment: Environment<'_>,
    deed: impl FnOnce(&mut ContextFile) -> Result<String, Failure>,
) -> Result<(), Failure> {
    let path = ContextFile::path(environment)?;
    let mut file = ContextFile::load(&path)?;
    let sentence = deed(&mut file)?;
    file.save(&path)?;
    if !output.as_json(&file)? {
        output.line(&sentence)?;
    }
    Ok(())
}
