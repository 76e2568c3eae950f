//! From options to a running site server and to its end: build, run, drain.
//!
//! One event loop serves, and one does what takes long ([`crate::background`]); the storage's calls, which block, have
//! threads of their own. On the first SIGTERM or SIGINT listeners close and open connections get time to end; a second
//! one ends at once.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use certify::options::VaultOptionsError;
use certify::roots::{RootsError, public_roots, roots_from_pem};
use config_proto::key::{Key, KeyError};
use config_proto::site::SiteSettings;
use config_proto::v2::GATEWAY_FRAME_BYTES;
use control_port::administrator::{self, AdministratorError};
use control_port::{KeyRing, Port, Refusals};
use rustls::RootCertStore;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::background::Background;
use crate::control::{Administration, KeysError};
use crate::git::{self, Remote, RemoteUrl, SshIdentity};
use crate::listen::{BindError, Listeners, bind};
use crate::observe::Metrics;
use crate::options::Options;
use crate::push::{Token, TokenError};
use crate::serve::{self, Counters, Secure, Server};
use crate::site::{BuildOptions, ContentTypes};
use crate::sites::{Config, DEFAULT, Defaults, Sites, SitesError, Trust, full_branch};
use crate::storage::{Storage, StorageError};
use crate::tls::{Names, Start, TlsError};
use crate::trust::{AllowedSigners, SignersError};
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
    /// What was given as the webhook's secret is none.
    #[error("{from}: {error}")]
    Secret {
        /// Where it was given.
        from: String,
        /// What is wrong.
        error: EmptySecret,
    },
    /// What was given as the push token is none.
    #[error("{from}: {error}")]
    Token {
        /// Where it was given.
        from: String,
        /// What is wrong.
        error: TokenError,
    },
    /// What was given as the allowed signers is no such list.
    #[error("{from}: {error}")]
    Signers {
        /// Where it was given.
        from: String,
        /// What is wrong.
        error: SignersError,
    },
    /// What was given as the authority of https remotes is none.
    #[error("{from}: {error}")]
    RemoteAuthority {
        /// Where it was given.
        from: String,
        /// What is wrong.
        error: RootsError,
    },
    /// The key that secrets are encrypted with.
    #[error(transparent)]
    StorageKey(#[from] VaultOptionsError),
    /// How the site is to be had.
    #[error("{0}")]
    Site(String),
    /// The storage.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The sites in it.
    #[error(transparent)]
    Sites(#[from] SitesError),
    /// The control keys in it.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The administrator's key.
    #[error(transparent)]
    Administrator(#[from] AdministratorError),
    /// The same, given as it is.
    #[error("--control-key: {0}")]
    ControlKey(#[from] KeyError),
    /// There is no place for a new administrator's key.
    #[error(
        "there is no administrator's key, and no place for a new one next to a device: give --key-file or --control-key"
    )]
    NoKeyPlace,
    /// The operating system gives no event loop or signals.
    #[error("the system refuses what the server needs: {0}")]
    System(#[from] std::io::Error),
}

impl RunError {
    /// Whether only other options can help: wrong usage, for an exit code.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Tls(error) => error.is_usage(),
            Self::StorageKey(error) => error.is_usage(),
            Self::RemoteAuthority { .. } => true,
            Self::ControlKey(_) | Self::NoKeyPlace => true,
            _ => false,
        }
    }
}

/// Serves until it is told to stop.
///
/// # Errors
/// When it cannot start.
pub fn run(options: &Options) -> Result<(), RunError> {
    options.tls.check(!options.control.control.is_empty())?;
    let defaults = defaults(options)?;
    let administrator = AdministratorKey::of(options)?;
    // Listeners first: a port that is taken is found out before anything else is touched.
    let listeners = Listeners::open(options)?;
    let control = options.control.control.iter().copied().map(bind).collect::<Result<_, _>>()?;
    let storage = storage(options)?;
    let site = site(options, &defaults)?;
    let tls = Start::new(&options.tls, storage.as_ref(), &options.name_servers)?;
    let secure = tls.as_ref().map(|start| Secure {
        tls: Arc::clone(&start.tls),
        port: listeners.https_port().filter(|_| !options.tls.no_redirect),
        hsts: options.tls.hsts(),
    });
    let background = Background::start(LAST_WORDS)?;
    let sites = Sites::new(defaults, storage.clone(), background.worker());
    let server = Server {
        sites: Arc::clone(&sites),
        limits: options.limits.serving(options.tls.handshake_timeout),
        hook_path: options.refresh.hook.clone(),
        push_path: options.publishing.push.clone(),
        status_path: options.site.status_path.clone(),
        secure,
        trusted: options.listen.trust_forwarded.clone(),
        counters: Counters::default(),
    };
    let port = match (administrator, storage) {
        (Some(key), Some(storage)) => Some(control_port(options, key.read()?, &sites, storage)?),
        _ => None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let parts = Parts { server: Arc::new(server), site, listeners, control, port, tls };
    let served = runtime.block_on(serve(options, parts));
    runtime.shutdown_timeout(LAST_WORDS);
    background.stop();
    served
}

/// What [`serve`] puts to work.
struct Parts {
    server: Arc<Server>,
    site: Option<Config>,
    listeners: Listeners,
    control: Vec<TcpListener>,
    port: Option<Arc<Port<Administration>>>,
    tls: Option<Start>,
}

/// Opens the storage. Where nothing but the site of the command line can be in it, damage is put aside; what was added at
/// run time is worth more than a quick start.
fn storage(options: &Options) -> Result<Option<Storage>, RunError> {
    let Some(path) = &options.storage.storage else { return Ok(None) };
    let keys = options.storage.vault.keys()?;
    let (size, format) = (options.storage.storage_size, options.storage.format);
    let opened = match options.control.control.is_empty() {
        true => Storage::open_replaceable(path, size, format),
        false => Storage::open(path, size, format),
    };
    Ok(Some(opened?.encrypted(keys)?))
}

/// The site of the command line, if it has one.
fn site(options: &Options, defaults: &Defaults) -> Result<Option<Config>, RunError> {
    let (publishing, refresh) = (&options.publishing, &options.refresh);
    let push = given("--push-token", &publishing.push_token, &publishing.push_token_file)?
        .map(|Given { text, from }| {
            Token::new(&text).map_err(|error| RunError::Token { from, error })
        })
        .transpose()?;
    if options.remote.is_none() && push.is_none() {
        return Ok(None);
    }
    let remote = options.remote.clone();
    let remote = remote.map(|remote| with_identity(options, defaults, remote)).transpose()?;
    let reference = remote.as_ref().and_then(|remote| remote.reference.clone());
    let reference = reference.or_else(|| options.publishing.branch.clone());
    let hook = match given("--hook-secret", &refresh.hook_secret, &refresh.hook_secret_file)? {
        Some(Given { text, from }) => {
            let secret = Secret::new(&text).map_err(|error| RunError::Secret { from, error })?;
            Some(Trust::Signed(Hook::new(secret, reference.clone())))
        }
        None if refresh.hook_open => Some(Trust::Path),
        None => None,
    };
    let lines = (!publishing.allowed_signer.is_empty())
        .then(|| certify::options::Secret::from(publishing.allowed_signer.join("\n").as_str()));
    let signers = given("--allowed-signer", &lines, &publishing.allowed_signers)?
        .map(|Given { text, from }| {
            AllowedSigners::parse(&String::from_utf8_lossy(&text))
                .map_err(|error| RunError::Signers { from, error })
        })
        .transpose()?;
    let hash = match options.publishing.object_format.as_str() {
        "sha256" => git::HashKind::Sha256,
        _ => git::HashKind::Sha1,
    };
    let settings = SiteSettings {
        remote: remote.as_ref().map(|remote| remote.url.to_string()),
        branch: reference.clone(),
        poll_seconds: options.refresh.poll,
        ..SiteSettings::default()
    };
    Ok(Some(Config {
        settings,
        remote,
        branch: full_branch(reference.as_deref()).map_err(RunError::Site)?,
        hook,
        hash,
        push,
        signers,
        poll: options.refresh.poll.map(Duration::from_secs),
        max_size: options.site.max_site_size,
        keep: usize::from(options.site.keep),
    }))
}

/// The remote with who knows its address, whom to trust there, and with what lets us in over SSH.
fn with_identity(
    options: &Options,
    defaults: &Defaults,
    mut remote: Remote,
) -> Result<Remote, RunError> {
    remote.name_servers.clone_from(&defaults.name_servers);
    remote.roots.clone_from(&defaults.roots);
    let key = match (&options.access.ssh_key, &options.access.ssh_key_file) {
        (Some(text), _) => Some(Zeroizing::new(text.clone())),
        (None, Some(path)) => {
            Some(Zeroizing::new(String::from_utf8_lossy(&read(path)?).into_owned()))
        }
        (None, None) => None,
    };
    remote.ssh = match (key, &options.access.ssh_authenticator) {
        (Some(key), Some(host_key)) => Some(SshIdentity {
            private_key: git::private_key(&key).map_err(RunError::Site)?,
            host_key: host_key.clone(),
        }),
        _ if matches!(remote.url, RemoteUrl::Ssh { .. }) => {
            let text = "an SSH remote needs --ssh-key-file (or --ssh-key) and --ssh-authenticator";
            return Err(RunError::Site(text.to_owned()));
        }
        _ => None,
    };
    Ok(remote)
}

/// What holds for every site.
fn defaults(options: &Options) -> Result<Defaults, RunError> {
    let max_size = options.site.max_site_size;
    let limits = git::Limits { total_time: options.limits.fetch_timeout, ..git::Limits::default() };
    let types = ContentTypes {
        by_extension: options.site.mime_type.iter().cloned().collect(),
        default: options.site.default_mime_type.clone(),
    };
    let build = BuildOptions { types, max_size, default: options.site.default.clone() };
    let (keep, name_servers) = (usize::from(options.site.keep), options.name_servers.clone());
    let (rollback_time, roots) = (options.site.rollback_time, remote_roots(options)?);
    Ok(Defaults { build, limits, max_size, keep, rollback_time, name_servers, roots })
}

/// Whom https remotes are to have their certificates from, if not from a public authority alone.
fn remote_roots(options: &Options) -> Result<Option<Arc<RootCertStore>>, RunError> {
    let (pem, from) = match (&options.access.remote_ca_pem, &options.access.remote_ca) {
        (Some(pem), _) => (pem.clone(), "--remote-ca-pem".to_owned()),
        (None, Some(path)) => {
            (String::from_utf8_lossy(&read(path)?).into_owned(), path.display().to_string())
        }
        (None, None) => return Ok(None),
    };
    let own = roots_from_pem(&pem).map_err(|error| RunError::RemoteAuthority { from, error })?;
    let mut roots = public_roots();
    roots.roots.extend(own.roots);
    Ok(Some(Arc::new(roots)))
}

/// Where the administrator's key is.
enum AdministratorKey {
    Given(Key),
    /// Made there if it is missing.
    File(PathBuf),
}

impl AdministratorKey {
    /// What the options say, where there is a control port. Touches nothing.
    fn of(options: &Options) -> Result<Option<Self>, RunError> {
        let (control, Some(storage)) = (&options.control, &options.storage.storage) else {
            return Ok(None);
        };
        if control.control.is_empty() {
            return Ok(None);
        }
        if let Some(text) = &control.control_key {
            return Ok(Some(Self::Given(Key::from_file_text(text.text())?)));
        }
        if control.key_file.is_none() && storage.starts_with("/dev") {
            return Err(RunError::NoKeyPlace);
        }
        let mut beside = storage.as_os_str().to_owned();
        beside.push(".key");
        Ok(Some(Self::File(control.key_file.clone().unwrap_or_else(|| beside.into()))))
    }

    fn read(self) -> Result<Key, RunError> {
        match self {
            Self::Given(key) => Ok(key),
            Self::File(path) => Ok(administrator::read_or_make(&path)?),
        }
    }
}

fn control_port(
    options: &Options,
    key: Key,
    sites: &Arc<Sites>,
    storage: Storage,
) -> Result<Arc<Port<Administration>>, RunError> {
    let ring = Arc::new(KeyRing::new(Some(key)));
    let desk = Administration::new(Arc::clone(sites), Arc::clone(&ring), storage)?;
    let settings = control_port::Settings {
        connections: options.control.control_connections,
        frame_time: options.control.control_timeout,
        max_frame: GATEWAY_FRAME_BYTES,
    };
    Ok(Port::new(Arc::new(desk), ring, Arc::new(Refusals::new(&[])), settings))
}

async fn serve(options: &Options, parts: Parts) -> Result<(), RunError> {
    let Parts { server, site, listeners, control, port, tls } = parts;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (stop, stopped) = watch::channel(false);
    let mut addresses = listeners.addresses()?;
    let bound = control.iter().map(TcpListener::local_addr).collect::<Result<Vec<_>, _>>()?;
    addresses["control"] = serde_json::json!(bound);
    let dns = tls.as_ref().map(Start::dns_addresses).transpose()?;
    addresses["dns"] = serde_json::json!(dns.unwrap_or_default());
    // What was kept is served from the first request on.
    server.sites.open(site).await?;
    // What goes on beside the serving ends with this value.
    let mut beside = tokio::task::JoinSet::new();
    let mut serving = tokio::task::JoinSet::new();
    let (doors, monitoring) = listeners.doors(tls.as_ref().map(|start| &start.tls))?;
    for door in doors {
        let (server, limits) = (Arc::clone(&server), server.limits);
        serving.spawn(serve::connection::serve(door, server, limits, stopped.clone()));
    }
    if let Some(mut start) = tls {
        beside.spawn(follow_names(start.names.clone(), Arc::clone(&server.sites)));
        if let Some(work) = start.work() {
            beside.spawn(work);
        }
    }
    let refusals = port.as_ref().map(|port| Arc::clone(port.refusals()));
    if let Some(port) = port {
        for listener in control {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            beside.spawn(Arc::clone(&port).serve(listener));
        }
    }
    if let Some(door) = monitoring {
        let metrics = Arc::new(Metrics::new(Arc::clone(&server), refusals));
        let limits = serve::limits_for_monitoring();
        serving.spawn(serve::connection::serve(door, metrics, limits, stopped));
    }
    if let Some(path) = &options.ready_file {
        daemon::files::replace(path, addresses.to_string().as_bytes())
            .map_err(|error| RunError::Write { path: path.clone(), error })?;
    }
    let sites = server.sites.all().len();
    tracing::info!(name = options.name, %addresses, sites, "serving");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    drop(beside);
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

/// Tells of sites that come and go to who looks after certificates.
async fn follow_names(names: Names, sites: Arc<Sites>) {
    let mut changes = sites.changes();
    loop {
        let hosts = sites.all().into_iter().map(|site| site.name.clone());
        names.set_sites(hosts.filter(|name| name != DEFAULT));
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Something that is given as it is, or in a file.
struct Given {
    text: Zeroizing<Vec<u8>>,
    /// The option, or the file.
    from: String,
}

fn given(
    option: &str,
    text: &Option<certify::options::Secret>,
    file: &Option<PathBuf>,
) -> Result<Option<Given>, RunError> {
    Ok(match (text, file) {
        (Some(text), _) => Some(Given {
            text: Zeroizing::new(text.text().as_bytes().to_vec()),
            from: option.to_owned(),
        }),
        (None, Some(path)) => Some(Given { text: read(path)?, from: path.display().to_string() }),
        (None, None) => None,
    })
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, RunError> {
    let read = std::fs::read(path).map(Zeroizing::new);
    read.map_err(|error| RunError::Read { path: path.to_owned(), error })
}

/// For the storage to finish what it writes.
const LAST_WORDS: Duration = Duration::from_secs(10);
