//! What is published: zones, and TXT records in them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use hickory_proto::rr::Name;

use crate::challenge::{TxtError, TxtFuture, TxtPublisher};
use crate::dns::{DnsError, MAX_ALIASES, parse_name, shown};
use crate::http::Resolve;

/// The most TXT records of one name: what several orders at once need, and what fits an answer over UDP.
pub const MAX_VALUES: usize = 6;
/// The most names with records.
const MAX_NAMES: usize = 1024;

/// Zones that are delegated to this program, with their records. Shared between who publishes and who answers.
#[derive(Debug)]
pub struct Zones {
    names: Vec<Name>,
    server: Name,
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Values by name, in lower case. No name without values.
    records: BTreeMap<Name, Vec<String>>,
    /// Of every zone (RFC 1035, section 3.3.13); grows with each change.
    serial: u32,
}

/// Why zones cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ZonesError {
    /// A name that DNS cannot hold.
    #[error(transparent)]
    Name(#[from] DnsError),
    /// No zone.
    #[error("there is no zone to answer for")]
    NoZone,
    /// The server's name lies in a zone that it would have to be looked up in.
    #[error(
        "the name server {server} lies in the zone {zone} that is delegated to it: give it a name outside, such as that of this machine"
    )]
    ServerInside {
        /// The server.
        server: String,
        /// The zone.
        zone: String,
    },
}

/// What is at a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum At {
    /// TXT records, perhaps none: only names below it have some, or it is the zone's own.
    Values(Vec<String>),
    /// No such name.
    Nothing,
}

impl Zones {
    /// Zones whose only server is `server`, as their parents' NS records say.
    ///
    /// # Errors
    /// When a name is no name, or the server lies in one of the zones.
    pub fn new(zones: &[String], server: &str) -> Result<Self, ZonesError> {
        let names =
            zones.iter().map(|zone| parse_name(zone)).collect::<Result<Vec<Name>, DnsError>>()?;
        let server = parse_name(server)?;
        if names.is_empty() {
            return Err(ZonesError::NoZone);
        }
        if let Some(zone) = names.iter().find(|zone| zone.zone_of(&server)) {
            return Err(ZonesError::ServerInside { server: shown(&server), zone: shown(zone) });
        }
        Ok(Self { names, server, state: RwLock::default() })
    }

    /// Adds `value` to the TXT records of `name`. What is there stays.
    ///
    /// # Errors
    /// When the name is in no zone, or too much is published.
    pub fn add(&self, name: &str, value: &str) -> Result<(), TxtError> {
        let name = parse_name(name)?;
        if self.zone_of(&name).is_none() {
            return Err(self.outside(&name));
        }
        let full = || TxtError {
            message: "too many TXT records are published at the same time".to_owned(),
            passing: true,
        };
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if state.records.len() >= MAX_NAMES && !state.records.contains_key(&name) {
            return Err(full());
        }
        let values = state.records.entry(name).or_default();
        if !values.iter().any(|known| known == value) {
            if values.len() >= MAX_VALUES {
                return Err(full());
            }
            values.push(value.to_owned());
            state.serial = state.serial.wrapping_add(1);
        }
        Ok(())
    }

    /// Takes `value` away from `name`.
    pub fn remove(&self, name: &str, value: &str) {
        let Ok(name) = parse_name(name) else { return };
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let Some(values) = state.records.get_mut(&name) else { return };
        values.retain(|known| known != value);
        if values.is_empty() {
            state.records.remove(&name);
        }
        state.serial = state.serial.wrapping_add(1);
    }

    /// The innermost zone that `name` is in.
    pub(super) fn zone_of(&self, name: &Name) -> Option<&Name> {
        let holding = self.names.iter().filter(|zone| zone.zone_of(name));
        holding.max_by_key(|zone| zone.num_labels())
    }

    /// The server of all zones.
    pub(super) fn server(&self) -> &Name {
        &self.server
    }

    pub(super) fn serial(&self) -> u32 {
        self.state.read().unwrap_or_else(PoisonError::into_inner).serial
    }

    /// What is at `name` in `zone`.
    pub(super) fn at(&self, zone: &Name, name: &Name) -> At {
        let name = name.to_lowercase();
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(values) = state.records.get(&name) {
            return At::Values(values.clone());
        }
        // A name above one that exists exists too (RFC 8020, section 2).
        match name == *zone || state.records.keys().any(|known| name.zone_of(known)) {
            true => At::Values(Vec::new()),
            false => At::Nothing,
        }
    }

    fn outside(&self, name: &Name) -> TxtError {
        let zones: Vec<String> = self.names.iter().map(shown).collect();
        let (name, zones, server) = (shown(name), zones.join(", "), shown(&self.server));
        let message = format!(
            "{name} does not lead to a zone that is answered here ({zones}): its zone needs the record \
             {name}. NS {server}., or a CNAME record into one of them"
        );
        TxtError { message, passing: false }
    }
}

/// Publishes into [`Zones`].
#[derive(Clone)]
pub struct DelegatedZones {
    zones: Arc<Zones>,
    resolver: Arc<dyn Resolve>,
}

impl fmt::Debug for DelegatedZones {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DelegatedZones").field("zones", &self.zones.names).finish_non_exhaustive()
    }
}

impl DelegatedZones {
    /// A publisher into `zones`. Names outside of them are followed through their CNAME records with `resolver`.
    pub fn new(zones: Arc<Zones>, resolver: Arc<dyn Resolve>) -> Self {
        Self { zones, resolver }
    }

    /// The name in our zones that `name` leads to.
    async fn place(&self, name: &str) -> Result<String, TxtError> {
        let first = parse_name(name)?;
        let mut at = first.clone();
        for _ in 0..=MAX_ALIASES {
            if self.zones.zone_of(&at).is_some() {
                return Ok(shown(&at));
            }
            let alias = self.resolver.alias(&shown(&at)).await;
            match alias.map_err(DnsError::Resolve)? {
                Some(next) => at = parse_name(&next)?,
                None => return Err(self.zones.outside(&at)),
            }
        }
        Err(DnsError::Aliases(shown(&first)).into())
    }
}

impl TxtPublisher for DelegatedZones {
    fn publish<'a>(&'a self, name: &'a str, value: &'a str) -> TxtFuture<'a> {
        Box::pin(async move { self.zones.add(&self.place(name).await?, value) })
    }

    fn withdraw<'a>(&'a self, name: &'a str, value: &'a str) -> TxtFuture<'a> {
        Box::pin(async move {
            // A record of an earlier run is gone with its memory, and nobody needs to be asked where it was.
            if self.zones.holds(value) {
                self.zones.remove(&self.place(name).await?, value);
            }
            Ok(())
        })
    }
}

impl Zones {
    fn holds(&self, value: &str) -> bool {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.records.values().flatten().any(|known| known == value)
    }
}
