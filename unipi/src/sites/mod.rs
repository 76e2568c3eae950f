//! The sites of this server: one by options, or many by configuration in the storage, each found by its host name.
//!
//! # How data passes through
//!
//! A request's host leads to a [`Hosted`] site ([`Sites::find`]): a look into a snapshot of all of them, without a lock.
//! The control port changes the set ([`Sites::add`], [`Sites::remove`]): the record is made durable, then the snapshot is
//! replaced. Requests and connections that are under way keep the site that they found.
//!
//! # What it must not know
//!
//! HTTP, the control protocol's frames, and how a commit is fetched or pushed.

mod config;
mod hosted;
mod report;
mod room;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use config_proto::model::RouteName;
use config_proto::site::SiteSettings;
use rustls::RootCertStore;
use tokio::sync::watch;

pub use config::{Config, Secrets, Trust, full_branch};
pub(crate) use hosted::Trees;
pub use hosted::{DeployError, Hosted};
pub(crate) use room::Room;

use crate::background::Worker;
use crate::git;
use crate::site::BuildOptions;
use crate::storage::{SITES, Storage, StorageError};
use config::Record;

/// The site of all hosts that no other is named for.
pub const DEFAULT: &str = "default";
/// The most sites.
pub const MAX_SITES: usize = 10_000;
/// For what was kept to be read again, before the server begins without waiting for the rest.
const RESTORE_TIME: Duration = Duration::from_secs(5);

/// What holds for every site unless its own settings say less.
#[derive(Clone, Debug)]
pub struct Defaults {
    /// How sites are made.
    pub build: BuildOptions,
    /// What a fetch or push may cost.
    pub limits: git::Limits,
    /// Bytes of a site, at most.
    pub max_size: u64,
    /// Generations that are kept.
    pub keep: usize,
    /// For how long an earlier generation stays where its memory is wanted for gzip variants of the current one.
    pub rollback_time: Duration,
    /// Who is asked for the addresses of remotes. Empty: the system's.
    pub name_servers: Vec<SocketAddr>,
    /// Whom https remotes are to have their certificates from. `None`: the public authorities.
    pub roots: Option<Arc<RootCertStore>>,
}

/// All sites.
#[derive(Debug)]
pub struct Sites {
    hosts: ArcSwap<Hosts>,
    defaults: Defaults,
    storage: Option<Storage>,
    work: Worker,
    /// Changes come one at a time.
    changing: tokio::sync::Mutex<()>,
    changed: watch::Sender<()>,
}

type Hosts = BTreeMap<String, Arc<Hosted>>;

/// Why the sites are not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SitesError {
    /// No host name.
    #[error("{name:?} is no name of a site: {why}")]
    Name {
        /// What was given.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// Settings or secrets that cannot work.
    #[error("{0}")]
    Settings(String),
    /// There is one of that name.
    #[error("there is a site {0} already")]
    Exists(String),
    /// There is none.
    #[error("there is no site {0}")]
    Unknown(String),
    /// The command line has it.
    #[error("the site {0} is configured by the command line of the server, not here")]
    Fixed(String),
    /// Too many.
    #[error("there are {MAX_SITES} sites, which is the most")]
    TooMany,
    /// There is nothing to keep it in.
    #[error("sites cannot be added without a storage: start the server with --storage FILE")]
    NoStorage,
    /// The storage.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl Sites {
    /// No sites yet. What takes long is given to `work`.
    pub fn new(defaults: Defaults, storage: Option<Storage>, work: Worker) -> Arc<Self> {
        Arc::new(Self {
            hosts: ArcSwap::default(),
            defaults,
            storage,
            work,
            changing: tokio::sync::Mutex::default(),
            changed: watch::Sender::default(),
        })
    }

    /// Tells of sites that come and go.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// The defaults.
    pub fn defaults(&self) -> &Defaults {
        &self.defaults
    }

    /// The site for a request to `host`, in whatever case and with or without a port: the one of that name, or else the
    /// default one.
    pub fn find(&self, host: Option<&str>) -> Option<Arc<Hosted>> {
        let hosts = self.hosts.load();
        let named = host.and_then(compared).and_then(|host| hosts.get(&*host));
        named.or_else(|| hosts.get(DEFAULT)).cloned()
    }

    /// The site of this name.
    ///
    /// # Errors
    /// [`SitesError::Unknown`].
    pub fn get(&self, name: &str) -> Result<Arc<Hosted>, SitesError> {
        let name = site_name(name)?;
        self.hosts.load().get(&name).cloned().ok_or(SitesError::Unknown(name))
    }

    /// All of them, in order of their names.
    pub fn all(&self) -> Vec<Arc<Hosted>> {
        self.hosts.load().values().cloned().collect()
    }

    /// Whether a host name belongs to a site of its own.
    pub fn has(&self, host: &str) -> bool {
        compared(host).is_some_and(|host| self.hosts.load().contains_key(&*host))
    }

    /// Begins with the site of the command line, if there is one, and all that were added. What was kept is served when
    /// this returns, or soon after where there is a lot of it; fetching goes on behind it.
    ///
    /// # Errors
    /// When the storage cannot be read. A record that does not work any more is left out, and said.
    pub async fn open(&self, fixed: Option<Config>) -> Result<(), SitesError> {
        let _changing = self.changing.lock().await;
        let mut hosts = Hosts::new();
        let records = self.storage.as_ref().map(|storage| storage.records(SITES)).transpose()?;
        for (name, value) in records.unwrap_or_default() {
            let config = serde_json::from_slice::<Record>(&value)
                .map_err(|error| error.to_string())
                .and_then(|record| record.config(&self.defaults));
            match config {
                Ok(config) => {
                    hosts.insert(name.clone(), self.hosted(name, config, false));
                }
                Err(why) => {
                    tracing::error!(site = name, why, "the record does not work; not served");
                }
            }
        }
        if let Some(config) = fixed {
            hosts.insert(DEFAULT.to_owned(), self.hosted(DEFAULT.to_owned(), config, true));
        }
        let mut restoring = tokio::task::JoinSet::new();
        for site in hosts.values() {
            let site = Arc::clone(site);
            restoring.spawn_on(async move { site.restore().await }, self.work.handle());
        }
        self.hosts.store(Arc::new(hosts));
        let restored = async { while restoring.join_next().await.is_some() {} };
        let late = tokio::time::timeout(RESTORE_TIME, restored).await.is_err();
        if late {
            tracing::warn!("reading what was kept takes long; the rest follows while serving");
        }
        restoring.detach_all();
        for site in self.all() {
            self.work.handle().spawn(site.run());
        }
        Ok(())
    }

    /// Adds a site, or replaces it; true when it was there. It is durable and served for when this returns; what a
    /// replaced one showed stays until the new one has something, if it comes from the same place.
    ///
    /// # Errors
    /// [`SitesError`]; nothing has changed then.
    pub async fn add(
        &self,
        name: &str,
        settings: SiteSettings,
        secrets: Secrets,
        replace: bool,
    ) -> Result<bool, SitesError> {
        let name = site_name(name)?;
        let storage = self.storage.as_ref().ok_or(SitesError::NoStorage)?;
        let _changing = self.changing.lock().await;
        let before = self.hosts.load().get(&name).cloned();
        match &before {
            Some(site) if site.fixed => return Err(SitesError::Fixed(name)),
            Some(_) if !replace => return Err(SitesError::Exists(name)),
            None if self.hosts.load().len() >= MAX_SITES => return Err(SitesError::TooMany),
            _ => {}
        }
        let kept = self.record(storage, &name).await?;
        let record = Record::new(settings, secrets, kept.as_ref()).map_err(SitesError::Settings)?;
        let config = record.config(&self.defaults).map_err(SitesError::Settings)?;
        let json =
            serde_json::to_vec(&record).map_err(|error| SitesError::Settings(error.to_string()))?;
        storage.put(SITES, &name, json).await?;
        let site = self.hosted(name.clone(), config, false);
        if let Some(before) = &before {
            before.close().await;
        }
        let restored = Arc::clone(&site);
        self.work.run(async move { restored.restore().await }).await;
        self.change(|hosts| {
            hosts.insert(name, Arc::clone(&site));
        });
        self.work.handle().spawn(site.run());
        Ok(before.is_some())
    }

    /// Removes a site and what is kept of it.
    ///
    /// # Errors
    /// [`SitesError`]; nothing has changed then.
    pub async fn remove(&self, name: &str) -> Result<(), SitesError> {
        let _changing = self.changing.lock().await;
        let site = self.get(name)?;
        if site.fixed {
            return Err(SitesError::Fixed(site.name.clone()));
        }
        let storage = self.storage.as_ref().ok_or(SitesError::NoStorage)?;
        storage.delete(SITES, &site.name).await?;
        self.change(|hosts| {
            hosts.remove(&site.name);
        });
        site.close().await;
        storage.forget(&site.name).await?;
        Ok(())
    }

    async fn record(&self, storage: &Storage, name: &str) -> Result<Option<Record>, SitesError> {
        let Some(value) = storage.get(SITES, name).await? else { return Ok(None) };
        // One that cannot be read keeps nobody from writing it anew.
        Ok(serde_json::from_slice(&value).ok())
    }

    fn hosted(&self, name: String, config: Config, fixed: bool) -> Arc<Hosted> {
        let (storage, work) = (self.storage.clone(), self.work.clone());
        Arc::new(Hosted::new(name, config, fixed, &self.defaults, storage, work))
    }

    fn change(&self, change: impl FnOnce(&mut Hosts)) {
        let mut hosts = Hosts::clone(&self.hosts.load());
        change(&mut hosts);
        self.hosts.store(Arc::new(hosts));
        self.changed.send_replace(());
    }
}

/// A site's name in the form in which names are compared.
fn site_name(name: &str) -> Result<String, SitesError> {
    let bad = |why: &str| SitesError::Name { name: name.to_owned(), why: why.to_owned() };
    match name.parse() {
        Ok(name @ (RouteName::Exact(_) | RouteName::Default)) => Ok(name.to_string()),
        Ok(_) => Err(bad("write a host name, or default for all that no site is named for")),
        Err(error) => Err(bad(&error.to_string())),
    }
}

/// A host as it is compared: without port, final dot and upper case. None for what is no host.
fn compared(host: &str) -> Option<Cow<'_, str>> {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.0,
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    let name = match name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => Cow::Owned(name.to_ascii_lowercase()),
        false => Cow::Borrowed(name),
    };
    // Nobody reaches the default site under the word that stands for it.
    Some(name).filter(|name| !name.is_empty() && name != DEFAULT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_compared_without_port_dot_and_case() {
        for (host, wanted) in [
            ("Blog.Example.ORG:8443", Some("blog.example.org")),
            ("blog.example.org.", Some("blog.example.org")),
            ("[2001:DB8::1]:80", Some("2001:db8::1")),
            ("localhost", Some("localhost")),
            ("default", None),
            (":80", None),
            ("", None),
        ] {
            assert_eq!(compared(host).as_deref(), wanted, "{host}");
        }
    }

    #[test]
    fn sites_have_names_of_hosts() {
        assert!(site_name("Blog.example.org").is_ok_and(|name| name == "blog.example.org"));
        assert!(site_name("default").is_ok_and(|name| name == DEFAULT));
        for bad in ["*.example.org", "no-sni", "a b", "", "-x.example.org"] {
            assert!(site_name(bad).is_err(), "{bad}");
        }
    }
}
