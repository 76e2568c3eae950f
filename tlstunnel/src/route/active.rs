//! A route that has been checked and made ready.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use config_proto::model::{
    BackendHost, BackendTls, HealthCheck, MAX_BACKENDS, Mode, Route, RouteLimits, RouteSettings,
};
use rustls::RootCertStore;
use rustls::pki_types::ServerName;

use super::authorities;
use super::invalid::{InvalidRoute, MAX_ALPN_PROTOCOLS, MAX_DESCRIPTION_LEN};
use crate::backend::{Backends, TlsConnector, Trust};
use crate::counters::RouteCounters;
use crate::limits::Limits;

/// A route that is ready for connections.
#[derive(Debug)]
pub struct ActiveRoute {
    /// As configured.
    pub route: Route,
    /// The gateway's limits, narrowed by the route's own.
    pub limits: Limits,
    /// Connections of this route at the same time; absent means without limit.
    pub max_connections: Option<u64>,
    /// Where connections go.
    pub backends: Arc<Backends>,
    /// The name's counters.
    pub counters: Arc<RouteCounters>,
    /// Clients must show a certificate that one of these issued.
    pub client_ca: Option<Arc<RootCertStore>>,
    /// The ALPN protocols to offer, best first; absent: the gateway chooses by the coalescing rule.
    pub alpn: Option<Vec<Vec<u8>>>,
}

impl ActiveRoute {
    /// Checks `route` and makes it ready. Backends that `previous` (the route of the same name) has too keep their
    /// health and open connections.
    ///
    /// # Errors
    /// [`InvalidRoute`] says what to change.
    pub fn new(
        route: &Route,
        gateway_limits: &Limits,
        counters: Arc<RouteCounters>,
        previous: Option<&Self>,
    ) -> Result<Self, InvalidRoute> {
        let settings = &route.settings;
        check_backends(settings)?;
        check_mode(settings)?;
        if let Some(health) = &settings.health {
            check_health(health)?;
        }
        if settings.description.as_ref().is_some_and(|text| text.len() > MAX_DESCRIPTION_LEN) {
            return Err(InvalidRoute::DescriptionTooLong);
        }
        let client_ca = match &settings.client_ca {
            Some(pem) => Some(authorities::parse(pem).map_err(InvalidRoute::ClientCa)?),
            None => None,
        };
        let alpn = settings.alpn.as_deref().map(parse_alpn).transpose()?;
        let tls = match settings.mode {
            Mode::Reencrypt => Some(connector(settings.backend_tls.as_ref())?),
            Mode::Terminate | Mode::Passthrough | Mode::Reject => None,
        };
        Ok(Self {
            limits: narrowed(gateway_limits, &settings.limits)?,
            max_connections: settings.limits.max_connections.filter(|cap| *cap != 0).map(u64::from),
            backends: Arc::new(Backends::new(
                settings,
                tls,
                previous.map(|route| route.backends.as_ref()),
            )),
            counters,
            client_ca: client_ca.map(Arc::new),
            alpn,
            route: route.clone(),
        })
    }
}

fn check_backends(settings: &RouteSettings) -> Result<(), InvalidRoute> {
    let backends = &settings.backends;
    if backends.is_empty() && settings.mode != Mode::Reject {
        return Err(InvalidRoute::NoBackends);
    }
    if backends.len() > MAX_BACKENDS {
        return Err(InvalidRoute::TooManyBackends(backends.len()));
    }
    let mut seen = HashSet::new();
    for backend in backends {
        if !seen.insert(backend) {
            return Err(InvalidRoute::DuplicateBackend(backend.clone()));
        }
        if let BackendHost::Ip(ip) = &backend.host
            && ip.to_canonical().is_unspecified()
        {
            return Err(InvalidRoute::UnspecifiedBackend(backend.clone()));
        }
    }
    Ok(())
}

/// A setting without effect is refused: whoever wrote it believes in a protection or a protocol that is not there.
fn check_mode(settings: &RouteSettings) -> Result<(), InvalidRoute> {
    let mode = settings.mode;
    let not_here = |setting, instead| Err(InvalidRoute::NotInMode { setting, mode, instead });
    if settings.backend_tls.is_some() && mode != Mode::Reencrypt {
        return not_here("backend-tls", "mode reencrypt");
    }
    if matches!(mode, Mode::Passthrough | Mode::Reject) {
        if settings.client_ca.is_some() {
            return not_here("client-ca", "mode terminate");
        }
        if settings.alpn.is_some() {
            return not_here("alpn", "mode terminate");
        }
    }
    Ok(())
}

fn check_health(health: &HealthCheck) -> Result<(), InvalidRoute> {
    in_range("health.interval-seconds", health.interval_seconds, 1, 3600)?;
    in_range("health.timeout-seconds", health.timeout_seconds, 1, 60)?;
    in_range("health.rise", health.rise, 1, 10)?;
    in_range("health.fall", health.fall, 1, 10)
}

fn in_range(setting: &'static str, value: u32, min: u32, max: u32) -> Result<(), InvalidRoute> {
    match (min..=max).contains(&value) {
        true => Ok(()),
        false => Err(InvalidRoute::OutOfRange { setting, value, min, max }),
    }
}

fn parse_alpn(protocols: &[String]) -> Result<Vec<Vec<u8>>, InvalidRoute> {
    if protocols.len() > MAX_ALPN_PROTOCOLS {
        return Err(InvalidRoute::TooManyAlpn(protocols.len()));
    }
    for (at, protocol) in protocols.iter().enumerate() {
        if !(1..=255).contains(&protocol.len()) {
            return Err(InvalidRoute::BadAlpn(protocol.clone()));
        }
        if protocols[..at].contains(protocol) {
            return Err(InvalidRoute::DuplicateAlpn(protocol.clone()));
        }
    }
    Ok(protocols.iter().map(|protocol| protocol.clone().into_bytes()).collect())
}

fn connector(settings: Option<&BackendTls>) -> Result<TlsConnector, InvalidRoute> {
    let none = BackendTls::default();
    let settings = settings.unwrap_or(&none);
    let trust = match (&settings.ca, &settings.pin_sha256) {
        (Some(_), Some(_)) => return Err(InvalidRoute::CaAndPin),
        (Some(pem), None) => {
            let roots = authorities::parse(pem).map_err(InvalidRoute::BackendCa)?;
            Trust::Authorities(Arc::new(roots))
        }
        (None, Some(pin)) => {
            let mut digest = [0; 32];
            hex::decode_to_slice(pin, &mut digest).map_err(|_| InvalidRoute::BadPin)?;
            Trust::Pin(digest)
        }
        (None, None) => Trust::Public,
    };
    let server_name = match &settings.server_name {
        Some(text) => Some(
            ServerName::try_from(text.clone())
                .map_err(|_| InvalidRoute::BadServerName(text.clone()))?,
        ),
        None => None,
    };
    TlsConnector::new(trust, server_name)
        .map_err(|error| InvalidRoute::BackendTls(error.to_string()))
}

/// The gateway's limits with the route's own in their place.
fn narrowed(gateway: &Limits, route: &RouteLimits) -> Result<Limits, InvalidRoute> {
    let mut limits = gateway.clone();
    let seconds = |seconds: u32| Duration::from_secs(seconds.into());
    if let Some(connect) = route.connect_seconds {
        in_range("limits.connect-seconds", connect, 1, 3600)?;
        limits.connect = seconds(connect);
    }
    if let Some(idle) = route.idle_seconds {
        limits.idle = seconds(idle);
    }
    if let Some(half_closed) = route.half_closed_seconds {
        limits.half_closed = seconds(half_closed);
    }
    Ok(limits)
}
