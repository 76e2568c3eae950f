//! What a route is estimated to take is what it takes: compared with the memory of this process.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;

use config_proto::model::{Route, RouteSettings};
use tlstunnel::limits::Limits;
use tlstunnel::route::{ActiveRoute, RoutingTable};

/// Bytes in RAM; none where the system does not say.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// A table of `routes` with this many backends each, and what it takes by the system's count.
fn table(routes: usize, backends: u16, host: &str) -> (RoutingTable, u64) {
    let before = resident().unwrap();
    let mut table = RoutingTable::default();
    for n in 0..routes {
        let settings = RouteSettings {
            backends: (1..=backends)
                .map(|port| format!("{host}:{port}").parse().unwrap())
                .collect(),
            ..RouteSettings::default()
        };
        let route = Route { name: format!("n{n}.example.org").parse().unwrap(), settings };
        let active = ActiveRoute::new(&route, &Limits::default(), Arc::default(), None).unwrap();
        table = table.with(Arc::new(active));
    }
    let after = resident().unwrap();
    (table, after.saturating_sub(before))
}

#[test]
fn the_estimate_is_within_a_factor_of_two() {
    if resident().is_none() {
        println!("SKIPPED: the system does not say what memory a process has");
        return;
    }
    // All tables are kept, so that nothing is used again.
    let mut kept = Vec::new();
    for (routes, backends, host) in [
        (20_000, 1, "10.0.0.1"),
        (1_000, 64, "10.0.0.1"),
        (1_000, 64, "a-backend-with-a-name.internal.example.org"),
    ] {
        let (table, taken) = table(routes, backends, host);
        let estimated = table.memory();
        println!("{routes} routes of {backends}: {taken} bytes taken, {estimated} estimated");
        assert!(estimated > taken / 2 && estimated / 2 < taken, "{estimated} for {taken}");
        kept.push(table);
    }
}
