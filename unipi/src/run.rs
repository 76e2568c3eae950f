//! From options to a running site server and to its end: build, run, drain.
//!
//! One single-threaded runtime does everything; only the storage's calls, which block, have threads of their own. On the
//! first SIGTERM or SIGINT listeners close and open connections get time to end; a second one ends at once.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::git::{self, SshIdentity};
use crate::listen::{BindError, Listeners};
use crate::observe::Metrics;
use crate::options::Options;
use crate::refresh::{Refresher, Requests, Schedule};
use crate::serve::{self, Counters, HookAt, Secure, Server, Trust};
use crate::site::{BuildOptions, ContentTypes, Generations};
use crate::storage::{Storage, StorageError};
use crate::tls::{Start, TlsError};
use crate::webhook::{EmptySecret, Hook, Secret};

/// Why a site server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// A listener.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A file that is read at start.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// A file that others wait for.
    #[error("cannot write {}: {error}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// The file with the webhook's secret holds none.
    #[error("{}: {error}", path.display())]
    Secret {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        error: EmptySecret,
    },
    /// The storage.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The operating system gives no event loop or signals.
    #[error("the system refuses what the server needs: {0}")]
    System(#[from] std::io::Error),
}

/// Serves until it is told to stop.
///
/// # Errors
/// When it cannot start.
pub fn run(options: &Options) -> Result<(), RunError> {
    // Listeners first: a port that is taken is found out before anything else is touched.
    let listeners = Listeners::open(options)?;
    let storage = match &options.storage.storage {
        Some(path) => {
            let (size, format) = (options.storage.storage_size, options.storage.format);
            Some(Storage::open(path, size, format)?)
        }
        None => None,
    };
    let tls = Start::new(&options.tls, storage.as_ref(), false)?;
    let secure = tls.as_ref().map(|start| Secure {
        tls: Arc::clone(&start.tls),
        port: listeners.https_port().unwrap_or(options.listen.https_port),
        hsts: options.tls.hsts(),
    });
    let (refresher, server) = build(options, storage, secure)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let served = runtime.block_on(serve(options, refresher, server, listeners, tls));
    runtime.shutdown_timeout(LAST_WORDS);
    served
}

/// Puts the parts together.
fn build(
    options: &Options,
    storage: Option<Storage>,
    secure: Option<Secure>,
) -> Result<(Refresher, Arc<Server>), RunError> {
    let mut remote = options.remote.clone();
    if let (Some(path), Some(host_key)) =
        (&options.access.ssh_key_file, &options.access.ssh_authenticator)
    {
        let key = String::from_utf8_lossy(&read(path)?).into_owned();
        remote.ssh =
            Some(SshIdentity { private_key: Zeroizing::new(key), host_key: host_key.clone() });
    }
    let hook = match &options.refresh.hook_secret_file {
        Some(path) => {
            let secret = Secret::new(&read(path)?)
                .map_err(|error| RunError::Secret { path: path.clone(), error })?;
            Some(Arc::new(Hook::new(secret, remote.reference.clone())))
        }
        None => None,
    };
    let trust = match (&hook, options.refresh.hook_open) {
        (Some(hook), _) => Some(Trust::Signed(Arc::clone(hook))),
        (None, true) => Some(Trust::Path),
        (None, false) => None,
    };
    let requests = Arc::new(Requests::default());
    let generations = Arc::new(Generations::new(usize::from(options.site.keep)));
    let max_size = options.site.max_site_size;
    let limits = git::Limits {
        total_time: options.limits.fetch_timeout,
        pack_bytes: max_size,
        unpacked_bytes: max_size,
        ..git::Limits::default()
    };
    let types = ContentTypes {
        by_extension: options.site.mime_type.iter().cloned().collect(),
        default: options.site.default_mime_type.clone(),
    };
    let build = BuildOptions { types, max_size, default: options.site.default.clone() };
    let server = Server {
        generations: Arc::clone(&generations),
        limits: options.limits.serving(options.tls.handshake_timeout),
        hook: trust.map(|trust| HookAt { path: options.refresh.hook.clone(), trust }),
        status_path: options.site.status_path.clone(),
        requests: Arc::clone(&requests),
        secure,
        trusted: options.listen.trust_forwarded.clone(),
        counters: Counters::default(),
    };
    let mut refresher = Refresher::new(remote, limits, build, generations, requests);
    refresher.storage = storage;
    refresher.hook = hook;
    refresher.schedule = Schedule { poll: options.refresh.poll.map(Duration::from_secs) };
    Ok((refresher, Arc::new(server)))
}

async fn serve(
    options: &Options,
    mut refresher: Refresher,
    server: Arc<Server>,
    listeners: Listeners,
    tls: Option<Start>,
) -> Result<(), RunError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (stop, stopped) = watch::channel(false);
    let addresses = listeners.addresses()?;
    // What was kept is served from the first request on.
    refresher.restore().await;
    let mut serving = tokio::task::JoinSet::new();
    let (doors, monitoring) = listeners.doors(tls.as_ref().map(|start| &start.tls))?;
    for door in doors {
        let (server, limits) = (Arc::clone(&server), server.limits);
        serving.spawn(serve::connection::serve(door, server, limits, stopped.clone()));
    }
    // It ends with the runtime.
    let certificates = tls.and_then(|mut start| start.work()).map(tokio::spawn);
    if let Some(door) = monitoring {
        let metrics = Arc::new(Metrics::new(Arc::clone(&server)));
        let limits = serve::limits_for_monitoring();
        serving.spawn(serve::connection::serve(door, metrics, limits, stopped));
    }
    if let Some(path) = &options.ready_file {
        replace(path, addresses.to_string().as_bytes())
            .map_err(|error| RunError::Write { path: path.clone(), error })?;
    }
    tracing::info!(name = options.name, %addresses, remote = %options.remote.url, "serving");
    tokio::select! {
        () = refresher.run() => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    if let Some(certificates) = certificates {
        certificates.abort();
    }
    tracing::info!("stopping: no new connections; a second signal ends at once");
    // Nobody listens any more only when everything has ended.
    let _ = stop.send(true);
    tokio::select! {
        () = async { while serving.join_next().await.is_some() {} } => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, RunError> {
    let read = std::fs::read(path).map(Zeroizing::new);
    read.map_err(|error| RunError::Read { path: path.to_owned(), error })
}

/// Puts `content` at `path` in one step: a reader sees all of it or nothing.
fn replace(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    std::fs::write(&beside, content)?;
    std::fs::rename(&beside, path)
}

/// For the storage to finish what it writes.
const LAST_WORDS: Duration = Duration::from_secs(10);
