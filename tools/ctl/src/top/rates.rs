//! Rates from two looks at counters.
//!
//! The gateway's own clock (`uptime_ms`) stands in both answers, so that a slow answer does not distort a rate. A
//! gateway that restarted in between has counters that fell: then there is no rate, instead of a wrong one.

use std::collections::HashMap;

use config_proto::message::{RouteActivity, Top};
use config_proto::model::RouteName;

/// Two looks, of which the second is shown.
#[derive(Clone, Debug)]
pub(super) struct Rates {
    before: Option<Top>,
    now: Top,
}

/// What happened per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate {
    /// Tenths of an event per second.
    tenths: u64,
}

impl Rate {
    /// Whole events per second.
    pub(super) const fn whole(self) -> u64 {
        self.tenths / 10
    }
}

impl std::fmt::Display for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.tenths / 10, self.tenths % 10)
    }
}

impl Rates {
    /// The first look: no rates yet.
    pub(super) const fn first(now: Top) -> Self {
        Self { before: None, now }
    }

    /// The next look.
    pub(super) fn next(self, now: Top) -> Self {
        let restarted = now.uptime_ms < self.now.uptime_ms;
        Self { before: (!restarted).then_some(self.now), now }
    }

    /// The second look.
    pub(super) const fn now(&self) -> &Top {
        &self.now
    }

    /// How fast a counter of the gateway grows.
    pub(super) fn of(&self, counter: impl Fn(&Top) -> u64) -> Option<Rate> {
        let before = self.before.as_ref()?;
        self.rate(counter(before), counter(&self.now))
    }

    /// The routes of the second look with their counters of the first.
    pub(super) fn routes(&self) -> impl Iterator<Item = RouteRates<'_>> {
        let before: HashMap<&RouteName, &RouteActivity> = self
            .before
            .iter()
            .flat_map(|before| &before.routes)
            .map(|activity| (&activity.name, activity))
            .collect();
        self.now.routes.iter().map(move |now| RouteRates {
            rates: self,
            before: before.get(&now.name).copied(),
            now,
        })
    }

    fn rate(&self, before: u64, now: u64) -> Option<Rate> {
        let milliseconds = self.now.uptime_ms.checked_sub(self.before.as_ref()?.uptime_ms)?;
        let grown = u128::from(now.checked_sub(before)?);
        let tenths = (grown * 10_000).checked_div(milliseconds.into())?;
        Some(Rate { tenths: u64::try_from(tenths).unwrap_or(u64::MAX) })
    }
}

/// A route of the second look.
#[derive(Clone, Copy, Debug)]
pub(super) struct RouteRates<'a> {
    rates: &'a Rates,
    before: Option<&'a RouteActivity>,
    /// Its counters now.
    pub(super) now: &'a RouteActivity,
}

impl RouteRates<'_> {
    /// How fast a counter of the route grows. A route that was not among the busiest at the first look has no rate.
    pub(super) fn of(&self, counter: impl Fn(&RouteActivity) -> u64) -> Option<Rate> {
        self.rates.rate(counter(self.before?), counter(self.now))
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A look with one route, whose counters are the gateway's.
    pub(in crate::top) fn look(uptime_ms: u64, total: u64, bytes_in: u64) -> Top {
        serde_json::from_value(serde_json::json!({
            "uptime-ms": uptime_ms, "open": 2, "total": total, "handshakes": total,
            "handshake-failures": 0, "bytes-in": bytes_in, "bytes-out": 0,
            "routes": [{"name": "blog.example.org", "open": 2, "total": total,
                        "bytes-in": bytes_in, "bytes-out": 0}],
            "connections": [{"id": 7, "client": "192.0.2.9:4711", "server-name": "blog.example.org",
                             "route": "blog.example.org", "backend": "10.0.0.7:80",
                             "age-ms": 61_000, "bytes-in": 5, "bytes-out": 2048}],
        }))
        .unwrap()
    }

    #[test]
    fn a_rate_is_growth_over_the_gateways_own_time() {
        let rates = Rates::first(look(1000, 10, 0)).next(look(3000, 15, 4096));
        assert_eq!(rates.of(|top| top.total).unwrap().to_string(), "2.5");
        assert_eq!(rates.of(|top| top.bytes_in).unwrap().whole(), 2048);
        let route = rates.routes().next().unwrap();
        assert_eq!(route.of(|route| route.total).unwrap().to_string(), "2.5");
    }

    #[test]
    fn there_is_no_rate_without_two_looks_or_over_a_restart_or_within_no_time() {
        assert_eq!(Rates::first(look(1000, 10, 0)).of(|top| top.total), None);
        assert_eq!(
            Rates::first(look(1000, 10, 0)).next(look(500, 20, 0)).of(|top| top.total),
            None
        );
        assert_eq!(
            Rates::first(look(1000, 10, 0)).next(look(2000, 5, 0)).of(|top| top.total),
            None
        );
        assert_eq!(
            Rates::first(look(1000, 10, 0)).next(look(1000, 11, 0)).of(|top| top.total),
            None
        );
    }

    #[test]
    fn enormous_counters_do_not_overflow() {
        let rates = Rates::first(look(0, 0, 0)).next(look(1, u64::MAX, u64::MAX));
        assert_eq!(rates.of(|top| top.total).unwrap().tenths, u64::MAX);
    }

    #[test]
    fn a_route_that_is_new_among_the_busiest_has_no_rate() {
        let mut first = look(1000, 10, 0);
        first.routes.clear();
        let rates = Rates::first(first).next(look(2000, 10, 0));
        assert_eq!(rates.routes().next().unwrap().of(|route| route.total), None);
    }
}
