//! The chain of one TLS connection, link by link: [`connection`] reads from top to bottom.
//!
//! Everything up to the open backend is `establish`, a future of its own on the heap: its state is large and is gone
//! before the first byte is forwarded, so that an idle connection costs little more than its TLS session.

mod answer;
mod arrive;
mod record;
mod session;
mod terminate;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use config_proto::model::{FailureAnswer, Mode, RouteName};
use ipnet::IpNet;
use rustls::server::Accepted;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::backend::{ClientInfo, TlsInfo};
use crate::client_hello::{self, Hello, HelloError, Refused, ServerName};
use crate::config::warnings::terminates;
use crate::forward::Socket;
use crate::gateway::{Gateway, Phase};
use crate::live::{Admitted, Slot};
use crate::route::ActiveRoute;
use crate::tls::ALPN_ACME_TLS;
use crate::tls::certificate::{Certificate, Source};

pub(crate) use answer::last_words;
use answer::{Alert, Page};
use arrive::arrive;
use record::{End, Negotiated, Record};
use session::{Client, OpenOnRoute, Session};
use terminate::{Policy, answer_challenge, terminate};

/// How often a client that waits for a certificate on demand looks whether it has come.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Serves one accepted connection to its end. `proxy_from` are the peers whose connections begin with a PROXY header.
pub async fn connection(
    gateway: Arc<Gateway>,
    stream: TcpStream,
    peer: SocketAddr,
    slot: Slot,
    proxy_from: Arc<[IpNet]>,
) {
    gateway.counters.accepted.add_one();
    let deadline = Instant::now() + gateway.limits.handshake;

    let arrived = Box::pin(arrive(&gateway, stream, peer, slot, &proxy_from, deadline)).await;
    let (stream, live, local) = match arrived {
        Ok(arrived) => arrived,
        Err((outcome, details)) => {
            return record::log_refused(peer, outcome, details.as_deref());
        }
    };
    drop(proxy_from);

    let mut record = Record::default();
    let end = {
        let mut phase = gateway.phase.subscribe();
        let establish = Box::pin(establish(&gateway, stream, &live, local, deadline, &mut record));
        tokio::select! {
            established = establish => established,
            () = ended(&mut phase) => Err(End::Refused("drained")),
        }
    };
    let end = match end {
        Ok(session) => End::Forwarded(session.forward(&gateway, &live).await),
        Err(end) => end,
    };
    record.log(&live, &end);
}

async fn ended(phase: &mut watch::Receiver<Phase>) {
    // The sender lives in the gateway, which this connection holds.
    let _ = phase.wait_for(|phase| *phase == Phase::Ended).await;
}

/// From the first byte to an open backend. A client that cannot be served gets its answer in here.
async fn establish(
    gateway: &Gateway,
    stream: TcpStream,
    live: &Admitted,
    local: SocketAddr,
    deadline: Instant,
    record: &mut Record,
) -> Result<Session, End> {
    // What does the client ask for?
    let (stream, hello) = read_hello(gateway, stream, deadline).await?;
    let Hello { raw, server_name, accepted } = hello;
    let accepted = match (server_name.as_deref(), accepted) {
        (Some(name), Ok(accepted)) if offers_only_acme(&accepted) => {
            match gateway.challenges.certificate(name) {
                Some(key) => {
                    live.set_route(Some(name), None);
                    return Err(answer_challenge(stream, accepted, key, deadline).await);
                }
                None => Ok(accepted),
            }
        }
        (_, accepted) => accepted,
    };

    // Where does it go? One look at the current state; the connection keeps what it finds.
    let snapshot = gateway.snapshot.load_full();
    let name = server_name.as_deref();
    if let ServerName::Illegal(reason) = &server_name {
        gateway.counters.unknown_names.add_one();
        let details = reason.to_string();
        answer::alert(stream, Alert::UnrecognizedName).await;
        return Err(End::Failed("illegal server name", details));
    }
    let Some(route) = snapshot.routes.lookup(name).route else {
        live.set_route(name, None);
        gateway.counters.unknown_names.add_one();
        let certificate = snapshot.certificates.find(name).cloned();
        drop(snapshot);
        return Err(refuse_name(gateway, stream, accepted, certificate, deadline, record).await);
    };
    live.set_route(name, Some(&route.route.name));
    let certificate = match route.route.settings.mode {
        Mode::Terminate | Mode::Reencrypt => snapshot.certificates.find(name).cloned(),
        Mode::Passthrough | Mode::Reject => None,
    };
    drop(snapshot);
    let certificate = match (&server_name, certificate) {
        (ServerName::Name(name), found) if gateway.demand.is_enabled() => {
            on_demand(gateway, &route, name, found, deadline).await
        }
        (_, found) => found,
    };
    let mode = route.route.settings.mode;
    if mode == Mode::Reject {
        answer::alert(stream, Alert::UnrecognizedName).await;
        return Err(End::Refused("rejected"));
    }
    let Some(open) = OpenOnRoute::enter(&route) else {
        gateway.counters.refused_over_cap.add_one();
        answer::alert(stream, Alert::InternalError).await;
        return Err(End::Refused("over the route's cap"));
    };
    route.counters.total.add_one();
    let mut info =
        ClientInfo { peer: live.client(), local, server_name: name.map(Arc::from), tls: None };

    // Whose TLS is it?
    let client = match (mode, certificate) {
        (Mode::Passthrough, _) => Client::Untouched(Socket::new(stream, raw)),
        (_, Some(certificate)) => {
            let accepted = match accepted {
                Ok(accepted) => accepted,
                Err(refused) => return Err(refuse_hello(gateway, stream, refused).await),
            };
            let policy = Policy::of(&route);
            let stream =
                terminate(gateway, stream, accepted, &policy, &certificate, deadline, record)
                    .await?;
            info.tls = record.tls.as_ref().map(tls_info);
            Client::Terminated(Box::new(stream))
        }
        (_, None) => {
            answer::alert(stream, Alert::UnrecognizedName).await;
            return Err(End::Refused("no certificate for the name"));
        }
    };

    // Who answers?
    let connected = route.backends.connect(&gateway.resolver, &info, &route.limits).await;
    match connected {
        Ok(backend) => {
            let setup = live.started().elapsed();
            route.counters.setup_latency.observe(setup);
            record.setup = Some(setup);
            live.set_backend(&backend.backend().address.to_string());
            Ok(Session { client, backend, route, open })
        }
        Err(error) => {
            gateway.counters.backend_unreachable.add_one();
            route.counters.failed.add_one();
            let details = error.to_string();
            match client {
                Client::Untouched(socket) => answer::alert(socket, Alert::InternalError).await,
                Client::Terminated(stream) => {
                    let alpn = record.tls.as_ref().and_then(|tls| tls.alpn.as_deref());
                    let failure = route.route.settings.failure;
                    answer::page(stream, Page::BackendDown, failure, alpn).await;
                }
            }
            Err(End::Failed("no backend", details))
        }
    }
}

/// Notes that a client wants the certificate of a registered name, and waits for it unless there is one to show meanwhile.
async fn on_demand(
    gateway: &Gateway,
    route: &ActiveRoute,
    name: &str,
    found: Option<Arc<Certificate>>,
    deadline: Instant,
) -> Option<Arc<Certificate>> {
    let is_registered = matches!(&route.route.name, RouteName::Exact(own) if own == name);
    let has_real = found.as_ref().is_some_and(|found| found.source() != Source::SelfSigned);
    if !is_registered || !terminates(&route.route) || has_real {
        return found;
    }
    gateway.demand.ask(name);
    if found.is_some() {
        return found;
    }
    let shown = async {
        loop {
            if let Some(certificate) = gateway.snapshot.load().certificates.find(Some(name)) {
                return Arc::clone(certificate);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    timeout_at(deadline, shown).await.ok()
}

/// Reads the ClientHello; whoever sends something else is told so.
async fn read_hello(
    gateway: &Gateway,
    mut stream: TcpStream,
    deadline: Instant,
) -> Result<(TcpStream, Hello), End> {
    let read = client_hello::read(&mut stream, gateway.limits.client_hello_bytes);
    let Ok(read) = timeout_at(deadline, read).await else {
        gateway.counters.handshake_timeouts.add_one();
        return Err(End::Refused("ClientHello too slow"));
    };
    let error = match read {
        Ok(hello) => return Ok((stream, hello)),
        Err(error) => error,
    };
    Err(match error {
        HelloError::Silent => End::Refused("closed before ClientHello"),
        HelloError::Io(error) => End::Failed("client error", error.to_string()),
        HelloError::PlainHttp => {
            gateway.counters.hello_malformed.add_one();
            answer::plain_http(stream).await;
            End::Refused("plain HTTP")
        }
        HelloError::Refused(refused) => refuse_hello(gateway, stream, refused).await,
        HelloError::Truncated | HelloError::Malformed(_) => {
            gateway.counters.hello_malformed.add_one();
            answer::last_words(stream, &error.alert()).await;
            End::Failed("bad ClientHello", error.to_string())
        }
    })
}

/// Ends a connection whose hello rustls refuses, where it cannot be passed through.
async fn refuse_hello(gateway: &Gateway, stream: TcpStream, refused: Refused) -> End {
    gateway.counters.hello_malformed.add_one();
    answer::last_words(stream, &refused.alert).await;
    End::Failed("bad ClientHello", refused.to_string())
}

fn offers_only_acme(accepted: &Accepted) -> bool {
    accepted.client_hello().alpn().is_some_and(|alpn| alpn.eq([ALPN_ACME_TLS]))
}

/// Ends a connection for whose name there is no route: with a page under a certificate that covers the name, with an
/// alert where there is none.
async fn refuse_name(
    gateway: &Gateway,
    stream: TcpStream,
    accepted: Result<Accepted, Refused>,
    certificate: Option<Arc<Certificate>>,
    deadline: Instant,
    record: &mut Record,
) -> End {
    let Some(certificate) = certificate else {
        answer::alert(stream, Alert::UnrecognizedName).await;
        return End::Refused("unknown name");
    };
    let accepted = match accepted {
        Ok(accepted) => accepted,
        Err(refused) => return refuse_hello(gateway, stream, refused).await,
    };
    match terminate(gateway, stream, accepted, &Policy::UNKNOWN, &certificate, deadline, record)
        .await
    {
        Ok(stream) => {
            let alpn = record.tls.as_ref().and_then(|tls| tls.alpn.as_deref());
            answer::page(stream, Page::UnknownName, FailureAnswer::Auto, alpn).await;
            End::Refused("unknown name")
        }
        Err(end) => end,
    }
}

fn tls_info(negotiated: &Negotiated) -> TlsInfo {
    TlsInfo {
        version: negotiated.version,
        cipher: negotiated.cipher.to_owned(),
        alpn: negotiated.alpn.as_deref().map(<[u8]>::to_vec),
        client_certificate: negotiated.client_certificate,
    }
}
