//! What would become of a connection, decision by decision, each with its reason.

use std::net::IpAddr;

use config_proto::message::{Refusal, RefusalCode, Why};
use config_proto::model::{Balance, Mode, RouteName, normalize_host};

use super::Control;
use super::answer::alpn;
use crate::config::refuse;
use crate::gateway::{Gateway, Snapshot};
use crate::route::ActiveRoute;
use crate::tls::certificates::Certificate;

/// Who asks, when nobody is named: an address for documentation (RFC 5737).
const ANYBODY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

impl Control {
    /// Walks the way of a connection without opening one.
    pub(super) fn why(&self, name: Option<&str>, from: Option<IpAddr>) -> Result<Why, Refusal> {
        let snapshot = self.gateway.snapshot.load_full();
        let server_name = name.map(|name| self.server_name(name)).transpose()?;
        let mut why = Why {
            server_name: server_name.clone(),
            route: None,
            certificate: None,
            alpn: Vec::new(),
            backend: None,
            steps: Vec::new(),
        };
        caps(&self.gateway, from, &mut why);
        match &server_name {
            Some(name) => why.steps.push(format!("the client asks for {name}")),
            None => why.steps.push("the client sends no server name".to_owned()),
        }
        let found = snapshot.routes.lookup(server_name.as_deref());
        let Some(active) = found.route else {
            why.steps.push(format!("no route: {}", found.reason));
            let shown = snapshot.certificates.find(server_name.as_deref());
            why.certificate = shown.map(|certificate| certificate.info());
            why.steps.push(match shown {
                Some(_) => "a client that speaks HTTP is told 404, any other is cut off".to_owned(),
                None => {
                    "there is no certificate for it either: TLS alert unrecognized_name".to_owned()
                }
            });
            return Ok(why);
        };
        why.route = Some(active.route.clone());
        why.steps.push(format!("route {}: {}", active.route.name, found.reason));
        if tls(&active, &snapshot, server_name.as_deref(), &mut why) {
            backend(&active, from, &mut why);
        }
        Ok(why)
    }

    /// The name in compared form; one without dots goes under the first domain, as everywhere.
    fn server_name(&self, name: &str) -> Result<String, Refusal> {
        match self.configuration.complete(name)? {
            RouteName::Exact(host) => Ok(host),
            RouteName::Wildcard(_) | RouteName::NoSni | RouteName::Default => normalize_host(name)
                .map_err(|_| {
                    refuse(
                        RefusalCode::Invalid,
                        format!("{name} is no name that a client asks for"),
                        "give a host name, or none for a client that sends none",
                    )
                }),
        }
    }
}

fn caps(gateway: &Gateway, from: Option<IpAddr>, why: &mut Why) {
    let limits = &gateway.limits;
    why.steps.push(format!(
        "{} of {} connections are open",
        gateway.live.open(),
        limits.connections
    ));
    if let Some(client) = from
        && limits.connections_per_client > 0
    {
        let open = gateway.live.open_of_client(client);
        let most = limits.connections_per_client;
        why.steps.push(match open >= most {
            true => format!("{client} has {open} connections, which is its cap: it is refused"),
            false => format!("{client} has {open} of its {most} connections"),
        });
    }
}

/// What happens to the TLS; whether the connection goes on to a backend.
fn tls(
    active: &ActiveRoute,
    snapshot: &Snapshot,
    server_name: Option<&str>,
    why: &mut Why,
) -> bool {
    let settings = &active.route.settings;
    match settings.mode {
        Mode::Reject => {
            why.steps.push("mode reject: TLS alert unrecognized_name".to_owned());
            return false;
        }
        Mode::Passthrough => {
            why.steps.push(
                "mode passthrough: the backend answers with a certificate of its own".to_owned(),
            );
            return true;
        }
        Mode::Terminate | Mode::Reencrypt => {}
    }
    let Some(certificate) = snapshot.certificates.find(server_name) else {
        why.steps.push("no certificate covers the name: the client is refused".to_owned());
        return false;
    };
    why.certificate = Some(certificate.info());
    why.alpn = alpn(active, Some(certificate), server_name);
    why.steps.push(certificate_step(certificate, server_name));
    why.steps.push(match (&settings.alpn, server_name) {
        (Some(_), _) => format!("ALPN {}, as the route says", why.alpn.join(", ")),
        (None, Some(name)) if certificate.is_own(name) => {
            format!("ALPN {}: the certificate is this name's alone", why.alpn.join(", "))
        }
        (None, _) => format!(
            "ALPN {} and no h2: other names share the certificate, and a browser could send their requests here",
            why.alpn.join(", ")
        ),
    });
    if settings.client_ca.is_some() {
        why.steps.push("the client must show a certificate of the route's authority".to_owned());
    }
    if settings.mode == Mode::Reencrypt {
        why.steps.push(
            "mode reencrypt: TLS again towards the backend, whose certificate is verified"
                .to_owned(),
        );
    }
    true
}

fn certificate_step(certificate: &Certificate, server_name: Option<&str>) -> String {
    let names = certificate.names().join(", ");
    match server_name {
        None => format!("certificate {names}: the first one, for clients without a server name"),
        Some(name) if certificate.names().iter().any(|n| n == name) => {
            format!("certificate {names}: it has exactly this name")
        }
        Some(_) => format!("certificate {names}: its wildcard covers this name"),
    }
}

fn backend(active: &ActiveRoute, from: Option<IpAddr>, why: &mut Why) {
    let client = from.unwrap_or(ANYBODY);
    let order = active.backends.preview(client);
    let Some(first) = order.first() else {
        why.steps.push("the route has no backend".to_owned());
        return;
    };
    why.backend = Some(first.address.to_string());
    let rule = match (order.len(), active.route.settings.balance) {
        (1, _) => "the only one".to_owned(),
        (_, Balance::RoundRobin) => {
            "its turn now (round-robin; the next client gets the next)".to_owned()
        }
        (_, Balance::Least) => format!("the fewest open connections now ({})", first.open()),
        (_, Balance::Hash) => match from {
            Some(client) => {
                format!("by the hash of {client}, the same each time while it is healthy")
            }
            None => "by the hash of the client's address; name one with --from".to_owned(),
        },
    };
    let health = if first.is_available() {
        ""
    } else {
        "; no backend is healthy, so this one is tried anyway"
    };
    why.steps.push(format!("backend {}: {rule}{health}", first.address));
    let passed_over: Vec<String> = active
        .backends
        .summaries()
        .into_iter()
        .filter(|backend| !backend.healthy)
        .map(|backend| {
            let error = backend.last_error.unwrap_or_else(|| "its checks fail".to_owned());
            format!("{} ({error})", backend.address)
        })
        .collect();
    if !passed_over.is_empty() {
        why.steps.push(format!("down: {}", passed_over.join(", ")));
    }
    if let [_, rest @ ..] = order.as_slice()
        && !rest.is_empty()
    {
        let rest: Vec<String> = rest.iter().map(|backend| backend.address.to_string()).collect();
        why.steps.push(format!("if it cannot be reached: {}", rest.join(", then ")));
    }
    if let Some(version) = active.route.settings.proxy {
        why.steps.push(
            format!("a PROXY header ({version:?}) tells it the client's address").to_lowercase(),
        );
    }
}
