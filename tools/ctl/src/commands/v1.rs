//! `--v1`: add, remove and list against an original gateway, or one of ours that runs with `--control-v1`.
//!
//! One request per connection, and nothing proves that an answer is the gateway's. What v1 cannot say (modes, several
//! backends, DNS names) is a usage error, and is never left out silently.

use config_proto::message::{Changed, Refusal, RefusalCode};
use config_proto::model::{BackendHost, RouteSettings};
use config_proto::v1::client::{self, Decoder};
use config_proto::v1::message::{DONE, NOT_AUTHENTICATED, UNDECODABLE};
use config_proto::v1::{Reply, Request, Sni};

use super::print_changed;
use crate::context::Target;
use crate::failure::Failure;
use crate::key;
use crate::options::{AddOptions, Command};
use crate::output::table::{Cell, Table};
use crate::output::{Output, Tone};
use crate::session::wire::{self, Deadline};

pub(super) fn run(target: &Target, command: &Command, output: &mut Output) -> Result<(), Failure> {
    let (request, filter) = match command {
        Command::Add(options) => (Request::Add(sni(options)?), None),
        Command::Remove { name } => (Request::Remove(name.clone()), None),
        Command::List { filter } => (Request::List, filter.as_deref()),
        _ => {
            return Err(Failure::usage(
                "protocol v1 has only add, remove and list",
                Some("leave --v1 out for a gateway that speaks v2"),
            ));
        }
    };
    match (ask(target, &request)?, request) {
        (Reply::Snis(snis), Request::List) => print_list(output, &snis, filter.unwrap_or_default()),
        (
            Reply::Result { exit: DONE, message },
            Request::Add(Sni { name, .. }) | Request::Remove(name),
        ) => {
            // v1 has no generations.
            let name = Some(name);
            print_changed(output, &Changed { generation: 0, message, name, warnings: Vec::new() })
        }
        (Reply::Result { exit, message }, _) => Err(refusal(target, exit, message)),
        (Reply::Snis(_), _) => Err(Failure::Unreachable {
            message: "the gateway answered with a list that was not asked for".to_owned(),
            hint: None,
        }),
    }
}

fn sni(options: &AddOptions) -> Result<Sni, Failure> {
    let settings = options.settings()?;
    let plain = RouteSettings { backends: settings.backends.clone(), ..RouteSettings::default() };
    match settings.backends.as_slice() {
        [backend] if settings == plain => match backend.host {
            BackendHost::Ip(host) => {
                Ok(Sni { name: options.name.clone(), host, port: backend.port })
            }
            BackendHost::Dns(_) => Err(Failure::usage(
                format!("protocol v1 has no backends with a DNS name, such as {backend}"),
                Some("write the backend's IP address"),
            )),
        },
        _ => Err(Failure::usage(
            "protocol v1 has only one backend per name, and no options",
            Some("leave --v1 out for a gateway that speaks v2"),
        )),
    }
}

fn ask(target: &Target, request: &Request) -> Result<Reply, Failure> {
    let deadline = Deadline::after(target.timeout);
    let bytes = client::request(request, &key::load_v1(target)?);
    let mut stream = wire::connect(&target.remote, deadline)?;
    wire::write(&mut stream, &bytes, &target.remote, deadline)?;
    let mut decoder = Decoder::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        let length = wire::read(&mut stream, &mut buffer, &target.remote, deadline)?;
        let reply = match buffer.get(..length) {
            None | Some([]) => Err(decoder.end()),
            Some(bytes) => decoder.feed(bytes),
        };
        let reply = reply.map_err(|error| Failure::Unreachable {
            message: format!("{}: {error}", target.remote),
            hint: Some("does the gateway speak v1? Ours does with --control-v1".to_owned()),
        })?;
        if let Some(reply) = reply {
            return Ok(reply);
        }
    }
}

fn refusal(target: &Target, exit: i32, message: String) -> Failure {
    if exit == NOT_AUTHENTICATED {
        let file = target.key_file.as_deref().map(|file| file.display().to_string());
        return Failure::NotAuthenticated {
            message: format!("{}: {message}", target.remote),
            hint: Some(format!(
                "check that {} holds the text that the gateway was given as --key",
                file.unwrap_or_default()
            )),
        };
    }
    let code = if exit == UNDECODABLE { RefusalCode::Malformed } else { RefusalCode::Invalid };
    Failure::Refused(Refusal { code, message, hint: None })
}

/// Prints the names; as JSON in the shape of v2's list. An original gateway takes any text for a name, so names are
/// printed as they are.
fn print_list(output: &mut Output, snis: &[Sni], filter: &str) -> Result<(), Failure> {
    let listed = || snis.iter().filter(|sni| sni.name.contains(filter));
    let backend = |sni: &Sni| std::net::SocketAddr::new(sni.host, sni.port).to_string();
    let routes: Vec<serde_json::Value> = listed()
        .map(|sni| serde_json::json!({"name": sni.name, "settings": {"backends": [backend(sni)]}}))
        .collect();
    let answer = serde_json::json!({"generation": 0, "routes": routes, "more": false});
    if output.as_json(&answer)? {
        return Ok(());
    }
    let rows: Vec<Vec<Cell>> = listed()
        .map(|sni| vec![Cell::new(&sni.name, Tone::Strong), Cell::from(backend(sni))])
        .collect();
    if rows.is_empty() {
        output.line("There are no such routes.")?;
        return Ok(());
    }
    Ok(Table::new(&["NAME", "BACKEND"]).rows(output, &rows)?)
}
