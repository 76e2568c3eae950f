//! `key add`, `key list`, `key remove` and `key generate`.

use std::io::Write;
use std::path::Path;

use config_proto::key::Key;
use config_proto::message::{KeyAdded, KeyList, Request, Role};

use super::print_changed;
use crate::failure::Failure;
use crate::files::SecretFile;
use crate::key;
use crate::output::table::{Cell, Table};
use crate::output::{Output, Tone, human};
use crate::session::Session;

/// Makes a key. With `out` the file is made first: the gateway shows the secret only once, so there must be a place
/// for it before it is asked for. The secret is then not printed, also not in JSON (`file` instead of `secret`).
pub(super) fn add(
    session: impl FnOnce() -> Result<Session, Failure>,
    output: &mut Output,
    id: String,
    role: Role,
    out: Option<&Path>,
) -> Result<(), Failure> {
    let file = out.map(SecretFile::create).transpose()?;
    let shown_role = role.to_string();
    let added: KeyAdded = session()?.ask(&Request::KeyAdd { id, role })?;
    let Some((file, path)) = file.zip(out) else {
        if output.as_json(&added)? {
            return Ok(());
        }
        output.line(&format!(
            "Key {} ({shown_role}) was made. This line for a key file is shown this once:",
            added.id
        ))?;
        output.line(&format!("{}:{}", added.id, added.secret.0))?;
        return Ok(());
    };
    let key = format!("{}:{}", added.id, added.secret.0).parse::<Key>();
    let written = key
        .map_err(|error| Failure::usage(format!("the gateway's secret is no key: {error}"), None))
        .and_then(|key| file.finish(&key));
    if let Err(failure) = written {
        // The key exists now; without its secret it must not be lost silently.
        return Err(Failure::usage(
            format!("key {} was made, but its secret is lost: {failure}", added.id),
            Some(&format!("remove it and try again: tlstunnel-ctl key remove {}", added.id)),
        ));
    }
    let path = path.display().to_string();
    let answer = serde_json::json!({
        "generation": added.generation, "id": added.id, "file": path
    });
    if output.as_json(&answer)? {
        return Ok(());
    }
    output.line(&format!("Key {} ({shown_role}) was made; its secret is in {path}.", added.id))?;
    output.line(&format!("Use it with: --key-file {path}"))?;
    Ok(())
}

pub(super) fn list(session: &mut Session, output: &mut Output) -> Result<(), Failure> {
    let list: KeyList = session.ask(&Request::KeyList)?;
    if output.as_json(&list)? {
        return Ok(());
    }
    let mut table = Table::new(&["KEY", "ROLE", "MADE"]);
    let rows: Vec<Vec<Cell>> = list
        .keys
        .iter()
        .map(|key| {
            let made = match key.created {
                0 => "given at start".to_owned(),
                created => human::moment(created),
            };
            vec![
                Cell::new(&key.id, Tone::Strong),
                Cell::from(key.role.to_string()),
                Cell::from(made),
            ]
        })
        .collect();
    Ok(table.rows(output, &rows)?)
}

pub(super) fn remove(
    session: &mut Session,
    output: &mut Output,
    id: String,
) -> Result<(), Failure> {
    let changed = session.ask(&Request::KeyRemove { id })?;
    print_changed(output, &changed)
}

/// Makes a secret from the operating system's randomness; no gateway is asked.
pub(super) fn generate(
    output: &mut Output,
    id: Option<&str>,
    out: Option<&Path>,
) -> Result<(), Failure> {
    let key = key::generate(id)?;
    let id = key.id().as_str();
    let Some(path) = out else {
        let answer = serde_json::json!({"id": id, "secret": *key.secret_base64()});
        if !output.as_json(&answer)? {
            write!(output, "{}", *key.to_file_text())?;
        }
        return Ok(());
    };
    SecretFile::create(path)?.finish(&key)?;
    let path = path.display().to_string();
    if !output.as_json(&serde_json::json!({"id": id, "file": path}))? {
        output.line(&format!("A new key is in {path}."))?;
        output.line(&format!("Start the gateway with: tlstunnel --key-file {path}"))?;
    }
    Ok(())
}
