//! What a request would change: routes before and after, computed from a routing table and touching nothing.

use std::collections::BTreeMap;

use config_proto::message::{Refusal, RefusalCode, RouteChange};
use config_proto::model::{Document, Route, RouteName, RouteSettings};

use super::refuse;
use crate::route::RoutingTable;

/// Adds a route, or replaces the one of that name when that was asked for. Empty when it is there already, just so.
pub(super) fn add(
    routes: &RoutingTable,
    route: Route,
    replace: bool,
) -> Result<Vec<RouteChange>, Refusal> {
    let before = routes.get(&route.name).map(|active| active.route.clone());
    match before {
        Some(before) if before == route => Ok(Vec::new()),
        Some(_) if !replace => Err(refuse(
            RefusalCode::Exists,
            format!("{} is registered already, with other settings", route.name),
            format!(
                "tlstunnel-ctl show {0} shows them; add --replace to put these in their place",
                route.name
            ),
        )),
        before => Ok(vec![RouteChange { name: route.name.clone(), before, after: Some(route) }]),
    }
}

/// Removes the route of this name.
pub(super) fn remove(routes: &RoutingTable, name: &RouteName) -> Result<Vec<RouteChange>, Refusal> {
    let before = routes.get(name).ok_or_else(|| unknown_route(routes, name))?.route.clone();
    Ok(vec![RouteChange { name: name.clone(), before: Some(before), after: None }])
}

/// Makes the routes those of a document.
pub(super) fn apply(routes: &RoutingTable, document: Document) -> Vec<RouteChange> {
    let mut changes: Vec<RouteChange> = routes
        .iter_after(None)
        .filter(|active| !document.routes.contains_key(&active.route.name))
        .map(|active| RouteChange {
            name: active.route.name.clone(),
            before: Some(active.route.clone()),
            after: None,
        })
        .collect();
    for (name, settings) in document.routes {
        let before = routes.get(&name).map(|active| active.route.clone());
        if before.as_ref().is_none_or(|before| before.settings != settings) {
            let after = Some(Route { name: name.clone(), settings });
            changes.push(RouteChange { name, before, after });
        }
    }
    changes.sort_by(|a, b| a.name.cmp(&b.name));
    changes
}

/// The net effect of what several generations did, oldest first.
#[derive(Debug, Default)]
pub(super) struct NetChanges {
    by_name: BTreeMap<RouteName, (Option<RouteSettings>, Option<RouteSettings>)>,
}

impl NetChanges {
    /// Adds what the next generation did to one route.
    pub(super) fn then(
        &mut self,
        name: RouteName,
        before: Option<RouteSettings>,
        after: Option<RouteSettings>,
    ) {
        self.by_name
            .entry(name)
            .and_modify(|(_, last)| last.clone_from(&after))
            .or_insert((before, after));
    }

    /// In order of the names; routes that came back to what they were are left out.
    pub(super) fn forward(self) -> impl Iterator<Item = RouteChange> {
        self.by_name.into_iter().filter(|(_, (before, after))| before != after).map(
            |(name, (before, after))| {
                let route = |settings: Option<RouteSettings>| {
                    settings.map(|settings| Route { name: name.clone(), settings })
                };
                RouteChange { before: route(before), after: route(after), name: name.clone() }
            },
        )
    }

    /// What undoes all of it.
    pub(super) fn backward(self) -> Vec<RouteChange> {
        self.forward()
            .map(|change| RouteChange {
                name: change.name,
                before: change.after,
                after: change.before,
            })
            .collect()
    }
}

/// Says what `changes` do, for the history: by name when it is one, by number when they are many.
pub(super) fn describe(changes: &[RouteChange]) -> String {
    match changes {
        [] => "nothing changed".to_owned(),
        [RouteChange { name, before: None, .. }] => format!("{name} added"),
        [RouteChange { name, after: None, .. }] => format!("{name} removed"),
        [RouteChange { name, .. }] => format!("{name} changed"),
        many => {
            let count =
                |matches: fn(&RouteChange) -> bool| many.iter().filter(|c| matches(c)).count();
            format!(
                "{} added, {} changed, {} removed",
                count(|c| c.before.is_none()),
                count(|c| c.before.is_some() && c.after.is_some()),
                count(|c| c.after.is_none())
            )
        }
    }
}

/// The refusal for a name that has no route, with the nearest thing that has.
pub(crate) fn unknown_route(routes: &RoutingTable, name: &RouteName) -> Refusal {
    let hint = match name {
        RouteName::Exact(host) => routes
            .lookup(Some(host))
            .route
            .map(|found| format!("connections for it go to the route {}; ", found.route.name)),
        _ => None,
    };
    refuse(
        RefusalCode::NotFound,
        format!("there is no route {name}"),
        format!("{}tlstunnel-ctl list shows what there is", hint.unwrap_or_default()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(backend: &str) -> RouteSettings {
        RouteSettings { backends: vec![backend.parse().unwrap()], ..RouteSettings::default() }
    }

    #[test]
    fn generations_add_up_and_come_apart() {
        let (a, b, c): (RouteName, RouteName, RouteName) =
            ("a.test".parse().unwrap(), "b.test".parse().unwrap(), "c.test".parse().unwrap());
        let net = || {
            let mut net = NetChanges::default();
            net.then(a.clone(), None, Some(settings("10.0.0.1:1")));
            net.then(b.clone(), Some(settings("10.0.0.2:2")), None);
            net.then(a.clone(), Some(settings("10.0.0.1:1")), Some(settings("10.0.0.1:2")));
            net.then(c.clone(), None, Some(settings("10.0.0.3:3")));
            net.then(c.clone(), Some(settings("10.0.0.3:3")), None);
            net
        };
        let forward: Vec<_> = net().forward().collect();
        assert_eq!(
            forward.iter().map(|c| c.name.to_string()).collect::<Vec<_>>(),
            ["a.test", "b.test"]
        );
        assert_eq!(forward[0].before, None);
        assert_eq!(forward[0].after.as_ref().unwrap().settings, settings("10.0.0.1:2"));
        let backward = net().backward();
        assert_eq!(backward[0].after, None);
        assert_eq!(backward[1].after.as_ref().unwrap().settings, settings("10.0.0.2:2"));
        assert_eq!(describe(&forward), "1 added, 0 changed, 1 removed");
    }
}
