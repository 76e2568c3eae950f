//! From options to a running gateway and to its end: build, run, drain.
//!
//! # How it is laid out
//!
//! One single-threaded runtime for each worker. The first is the calling thread's: control, metrics, confirmations and
//! active checks live there, and with one worker everything does. The others are threads that only accept and serve.
//! All workers accept from the same sockets.
//!
//! # How it stops
//!
//! On the first stop the listeners close, once what the kernel has queued is accepted, and the storage is given up to a
//! successor. Open connections go on until they end, or until the time for draining is over, or until a second stop.

mod certificates;
mod key;
mod listeners;
mod notify;
mod stop;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use certify::dns::responder::Sockets;
use certify::options::Issuance;
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

use crate::backend::{Resolver, ResolverOptions};
use crate::config::{Configuration, OpenError, Start, open};
use crate::control::Control;
use crate::gateway::{Gateway, Phase};
use crate::observe::metrics::Metrics;
use crate::observe::syslog::SyslogSender;
use crate::options::Options;

pub use key::KeyError;
pub use listeners::{Addresses, Listeners};
pub use stop::{StopHandle, Stops, stop_channel};

/// Why a gateway did not start, or stopped by itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// A listener.
    #[error(transparent)]
    Bind(#[from] crate::listen::BindError),
    /// The administrator's key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Certificates from files.
    #[error(transparent)]
    Certificates(#[from] certify::files::FileError),
    /// Storage.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A file that others wait for.
    #[error("cannot write {}: {error}", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// How certificates are to be obtained.
    #[error(transparent)]
    Acme(#[from] certify::options::AcmeOptionsError),
    /// Certificates through DNS are for domains.
    #[error("--dns-server without --acme obtains certificates for --domains, and there is none")]
    NoDomain,
    /// The operating system gives no event loop, thread or descriptor.
    #[error("the system refuses what the gateway needs: {0}; is the limit of open files too low?")]
    System(#[from] std::io::Error),
    /// A worker ended in a panic.
    #[error("a worker failed; the log says why")]
    Worker,
}

impl RunError {
    /// Whether only other options can help: wrong usage, for an exit code.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::NoDomain => true,
            Self::Key(error) => error.is_usage(),
            Self::Acme(error) => error.is_usage(),
            Self::Open(OpenError::StorageKey(error)) => error.is_usage(),
            _ => false,
        }
    }
}

/// Runs a gateway until `stops` says so. `ready` is told the bound addresses once clients can connect.
///
/// Logging is the caller's: see [`crate::observe::log::install`], whose sender goes into `syslog`.
///
/// # Errors
/// When it cannot start. Once it runs, only the failure of a worker ends it.
pub fn run(
    options: &Options,
    mut stops: Stops,
    syslog: Option<SyslogSender>,
    ready: impl FnOnce(&Addresses),
) -> Result<(), RunError> {
    options.acme.consistent().map_err(certify::options::AcmeOptionsError::from)?;
    if options.acme.through_dns() && options.domains.is_empty() {
        return Err(RunError::NoDomain);
    }
    let resolver = Resolver::new(ResolverOptions { name_servers: options.name_servers.clone() });
    let gateway = Gateway::with_resolver(options.limits.limits(), resolver);
    let runtime = runtime()?;

    // Listeners first: a port that is taken is found out before the storage is touched.
    let listeners = Listeners::open(&options.listen)?;
    let dns = listeners::dns(&options.acme.dns.acme_dns_listen, options.listen.reuse_port)?;
    let keys = key::administrator(options)?;
    let now = certify::system_clock()();
    let files = options.certificates.files.load(now)?;
    let given = options.certificates.files.given(now)?.into_iter().map(Arc::new);
    let start = Start {
        name: options.name.clone(),
        administrator: keys.key,
        certificates: files.certificates().into_iter().chain(given).collect(),
        self_signed: options.certificates.self_signed,
        storage_keys: options.storage.vault.keys().map_err(OpenError::from)?,
    };
    let store = open::store(&options.storage)?;
    let settings = crate::config::Settings {
        domains: options.domains.clone(),
        history: options.storage.history,
        route_memory: options.limits.route_memory(),
    };
    let (configuration, authority) = Configuration::open(
        Arc::clone(&gateway),
        store,
        settings,
        start,
        runtime.handle().clone(),
    )?;
    write_authority(options, authority)?;

    let obtaining = self::certificates::issuance(
        &options.acme,
        options.certificates.acme_on_demand,
        &gateway,
        &configuration,
    )?;
    let through_dns = self::certificates::through_dns(options, &gateway, &configuration);
    let control = Control::new(
        Arc::clone(&gateway),
        configuration.clone(),
        crate::control::Settings {
            name: options.name.clone(),
            connections: options.control.control_connections,
            frame_time: options.control.control_timeout,
            max_frame: options.limits.max_control_frame(),
            v1_key: keys.v1,
            keeper: obtaining.as_ref().map(Issuance::requests),
            certificate_alert: options.certificates.files.alert(),
        },
    );
    let metrics = Arc::new(Metrics::new(
        Arc::clone(&gateway),
        Arc::clone(control.refusals()),
        syslog.as_ref().map(SyslogSender::dropped),
    ));

    let mut addresses = listeners.addresses()?;
    addresses.dns = dns.iter().map(Sockets::local_addr).collect::<std::io::Result<_>>()?;
    let workers = start_workers(options, &gateway, &listeners)?;
    let served: Result<(), RunError> = runtime.block_on(async {
        stops.listen();
        let (frontends, services) = listeners.split();
        let port = control.port();
        for listener in services.control {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tokio::spawn(crate::control::serve(Arc::clone(&port), listener));
        }
        for listener in services.metrics {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let (gateway, metrics) = (Arc::clone(&gateway), Arc::clone(&metrics));
            tokio::spawn(crate::observe::http::serve(listener, gateway, metrics));
        }
        tokio::spawn(configuration.clone().watch_confirmations());
        if let Some(issuance) = obtaining {
            let work = issuance.run(dns);
            tokio::spawn(self::certificates::while_serving(Arc::clone(&gateway), work));
        }
        if let Some(keeper) = through_dns {
            tokio::spawn(self::certificates::while_serving(Arc::clone(&gateway), keeper.run()));
        }
        let watching = self::certificates::watch(files, options, &gateway, &configuration);
        tokio::spawn(self::certificates::while_serving(Arc::clone(&gateway), watching));
        let announcing = self::certificates::announce(options, &gateway);
        tokio::spawn(self::certificates::while_serving(Arc::clone(&gateway), announcing));
        if let Some(syslog) = syslog {
            tokio::spawn(syslog.run());
        }
        let accepting = frontends.serve(&gateway, options);
        if let Some(path) = &options.ready_file {
            daemon::files::replace(path, addresses.to_json().as_bytes())
                .map_err(|error| RunError::Write { path: path.clone(), error })?;
        }
        tracing::info!(%addresses, version = env!("CARGO_PKG_VERSION"), "serving");
        notify::ready();
        ready(&addresses);
        drain_when_told(&gateway, &configuration, stops).await;
        wait_for_ends(&gateway, accepting).await;
        Ok(())
    });
    // A failed start must end the workers too.
    gateway.phase.send_replace(Phase::Ended);
    let joined: Vec<_> = workers.into_iter().map(std::thread::JoinHandle::join).collect();
    runtime.shutdown_timeout(LAST_WORDS);
    served?;
    match joined.iter().all(Result::is_ok) {
        true => Ok(()),
        false => Err(RunError::Worker),
    }
}

fn runtime() -> Result<Runtime, RunError> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}

/// Starts every worker but the first, which is the calling thread.
fn start_workers(
    options: &Options,
    gateway: &Arc<Gateway>,
    listeners: &Listeners,
) -> Result<Vec<std::thread::JoinHandle<()>>, RunError> {
    let count = options
        .workers
        .map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), usize::from);
    (1..count)
        .map(|number| {
            let frontends = listeners.clone_frontends()?;
            let runtime = runtime()?;
            let (gateway, options) = (Arc::clone(gateway), options.clone());
            let thread = std::thread::Builder::new().name(format!("worker-{number}"));
            Ok(thread.spawn(move || {
                runtime.block_on(async {
                    let accepting = frontends.serve(&gateway, &options);
                    wait_for_ends(&gateway, accepting).await;
                });
                runtime.shutdown_timeout(LAST_WORDS);
            })?)
        })
        .collect()
}

/// Waits for a stop, then drains: until no connection is open, the time is over, or a second stop.
async fn drain_when_told(gateway: &Gateway, configuration: &Configuration, mut stops: Stops) {
    stops.next().await;
    let time = gateway.limits.drain;
    let open = gateway.live.open();
    tracing::info!(open, ?time, "stopping: no new connections; a second signal ends at once");
    notify::stopping();
    gateway.phase.send_replace(Phase::Draining);
    configuration.close().await;
    let idle = async {
        while gateway.live.open() > 0 {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    tokio::select! {
        () = idle => {}
        () = tokio::time::sleep(time) => {
            tracing::warn!(open = gateway.live.open(), "the time for draining is over");
        }
        () = stops.next() => tracing::warn!(open = gateway.live.open(), "ending at once"),
    }
    gateway.phase.send_replace(Phase::Ended);
}

/// Waits until the gateway has ended and the connections have noticed.
async fn wait_for_ends(gateway: &Gateway, accepting: Vec<tokio::task::JoinHandle<()>>) {
    let mut phase = gateway.phase.subscribe();
    // The sender lives in the gateway.
    let _ = phase.wait_for(|phase| *phase == Phase::Ended).await;
    for task in accepting {
        task.abort();
    }
    let deadline = Instant::now() + LAST_WORDS;
    while gateway.live.open() > 0 && Instant::now() < deadline {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Writes the development authority next to the storage, for curl and browsers.
fn write_authority(options: &Options, authority: Option<String>) -> Result<(), RunError> {
    let (Some(authority), Some(path)) = (authority, options.beside_storage("-ca.pem")) else {
        return Ok(());
    };
    daemon::files::replace(&path, authority.as_bytes())
        .map_err(|error| RunError::Write { path: path.clone(), error })?;
    tracing::info!(file = %path.display(), "clients that trust this authority accept the development certificates");
    Ok(())
}

/// How often draining looks whether connections are open still.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// For connections to say goodbye once the gateway has ended.
const LAST_WORDS: Duration = Duration::from_secs(1);
