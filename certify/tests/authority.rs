//! The keeper against a real authority (pebble), in a program of the test's own: storage that fails at every moment,
//! clocks that are wrong, certificates that come due, an authority that is away for hours.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use acceptance::pebble::{Door, Pebble, Weather};
use certify::{Report, system_clock};

use support::{HOUR, World, YEAR};

#[test]
fn a_store_that_is_full_at_any_moment_loses_no_order_that_was_stored() {
    if !Pebble::available() {
        return;
    }
    let world = World::start(20);
    let mut seen = Vec::new();
    for write in 0.. {
        let name = format!("full{write}.example");
        *world.program.0.names.lock().unwrap() = vec![name.clone()];
        world.program.0.records.lock().unwrap().clear();
        world.program.0.writes.store(0, Ordering::SeqCst);
        world.program.0.failing.store(write, Ordering::SeqCst);
        world.orders();
        world.run_until(|report| report.failed + report.obtained > 0);
        let Some(what) = world.program.0.failed.lock().unwrap().take() else { break };
        world.program.0.failing.store(usize::MAX, Ordering::SeqCst);
        world.pass(2 * HOUR);
        world.run_until(|_| world.program.leaf(&name).is_some());
        // An order whose address was never stored cannot be found again; that record is the second under the name.
        let address_lost = what == format!("name:{name}")
            && seen.iter().filter(|seen: &&String| seen.starts_with("name:")).count() == 1;
        assert_eq!(world.orders(), 1 + usize::from(address_lost), "{what} could not be written");
        seen.push(what);
    }
    assert!(seen.iter().any(|what| what.starts_with("account:")), "{seen:?}");
    assert!(seen.iter().any(|what| what.starts_with("install:")), "{seen:?}");
    assert!(seen.iter().filter(|what| what.starts_with("name:")).count() >= 3, "{seen:?}");
}

#[test]
fn a_clock_that_is_behind_waits_with_the_certificate_and_orders_no_other() {
    if !Pebble::available() {
        return;
    }
    let world = World::start(20);
    world.pass(-2 * YEAR);
    world.run_until(|report| {
        let problem = report.failing.get("a.example");
        problem.is_some_and(|problem| problem.error.contains("is the clock right?"))
    });
    assert!(world.program.leaf("a.example").is_none(), "it is not used");
    world.ahead.store(0, Ordering::SeqCst);
    world.run_until(|_| world.program.leaf("a.example").is_some());
    assert_eq!(world.orders(), 1);
}

#[test]
fn certificates_are_renewed_once_at_two_thirds_of_their_life() {
    if !Pebble::available() {
        return;
    }
    let world = World::start(20);
    let obtained = |name: &'static str| move |world: &World| world.program.leaf(name).is_some();
    world.run_until(|report| report.obtained == 1);
    let first = world.program.leaf("a.example");
    // Pebble's certificates are valid for five years.
    world.pass(3 * YEAR);
    world.program.0.names.lock().unwrap().push("b.example".to_owned());
    world.run_until(|report| report.obtained == 1);
    assert_eq!(world.program.leaf("a.example"), first, "three years are less than two thirds");
    assert!(obtained("b.example")(&world));
    world.pass(YEAR);
    // By this clock even the renewed ones are four years old: they must not be ordered again and again.
    world.program.0.names.lock().unwrap().push("c.example".to_owned());
    world.run_until(|report| report.obtained == 3);
    assert_ne!(world.program.leaf("a.example"), first);
    world.program.0.names.lock().unwrap().push("d.example".to_owned());
    world.run_until(|_| obtained("d.example")(&world));
    assert_eq!(world.orders(), 6, "a, b, then a, b, c, then d");
}

#[test]
fn the_authority_can_ask_for_an_early_renewal() {
    if !Pebble::available() {
        return;
    }
    let world = World::start(20);
    world.run_until(|report| report.obtained == 1);
    let first = world.program.leaf("a.example");
    world.pass(7 * HOUR);
    let suggest = |year: u32| Door::SuggestRenewal {
        start: format!("{year}-01-01T00:00:00Z"),
        end: format!("{year}-01-02T00:00:00Z"),
    };
    world.pebble.take_exchanges();
    world.pebble.set_door(suggest(2020));
    world.run_until(|report| report.obtained == 1);
    assert_ne!(world.program.leaf("a.example"), first);
    let exchanges = world.pebble.take_exchanges();
    assert!(exchanges.iter().any(|e| e.request.starts_with("GET /renewal/")), "{exchanges:?}");
}

#[test]
fn an_authority_that_talks_nonsense_is_named_and_waited_for() {
    if !Pebble::available() {
        return;
    }
    let world = World::start(0);
    let large: &'static str = Box::leak("x".repeat(certify::http::MAX_ANSWER + 1).into_boxed_str());
    let cases = [
        ("200 OK", large, "too large"),
        ("200 OK", "<html>welcome</html>", "not that of an ACME server"),
        ("200 OK", "{}", "not that of an ACME server"),
        ("302 Found", "", "not that of an ACME server"),
        ("503 Service Unavailable", "<html>later</html>", "503"),
    ];
    for (status, body, said) in cases {
        world.pebble.set_door(Door::Answer { path: "/dir", status, retry_after: 5000, body });
        let now = system_clock()();
        world.run_until(|report| {
            let Some(problem) = &report.authority else { return false };
            assert!(problem.error.contains(said), "{status}: {problem:?}");
            assert!(report.failing.is_empty(), "the name is not to blame");
            let asked = status.starts_with("503");
            assert_eq!(problem.next_attempt >= now + 5000, asked, "{status}: {problem:?}");
            true
        });
    }
    world.pebble.set_door(Door::Open);
    world.run_until(|report| report.obtained == 1);
}

#[test]
fn an_authority_that_is_away_for_a_day_meets_no_storm_when_it_is_back() {
    if !Pebble::available() {
        return;
    }
    let world = World::start(0);
    let names: Vec<String> = (0..20).map(|number| format!("n{number}.example")).collect();
    world.program.0.names.lock().unwrap().clone_from(&names);
    world.pebble.set_door(Door::Shut);
    world.run(async |_, reports| {
        // The keeper sleeps by the hour; a change of the configuration makes it look at the clock.
        let half_an_hour = async || {
            world.pass(HOUR / 2);
            world.program.0.version.send_modify(|version| *version += 1);
            tokio::time::sleep(Duration::from_millis(230)).await;
        };
        for _ in 0..48 {
            half_an_hour().await;
        }
        let report = reports.read();
        assert!((12..=40).contains(&report.failed), "about one an hour: {report:?}");
        assert!(report.failing.is_empty() && report.authority.is_some(), "{report:?}");
        world.pebble.set_door(Door::Open);
        for _ in 0..4 {
            half_an_hour().await;
        }
        let end = Instant::now() + Duration::from_secs(120);
        while reports.read().obtained < 20 {
            assert!(Instant::now() < end, "{:?}", reports.read());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert_eq!(world.orders(), names.len(), "one for each name");
}

#[test]
fn an_authority_that_takes_its_time_is_waited_for() {
    if !Pebble::available() {
        return;
    }
    let scale = std::env::var("CERTIFY_VALIDATION_DELAY").ok().and_then(|s| s.parse().ok());
    let weather = Weather {
        nonce_rejections: 20,
        validation_delay: scale.unwrap_or(2),
        ..Weather::default()
    };
    let world = World::start_in(&weather);
    *world.program.0.names.lock().unwrap() = vec!["a.example".into(), "b.example".into()];
    world.run_until(|report| report.obtained == 2);
    assert_eq!(world.orders(), 2);
}

#[test]
fn a_wrong_clock_is_noticed_and_said() {
    if !Pebble::available() {
        return;
    }
    let world = World::start(0);
    world.run_until(|report| report.obtained == 1);
    world.run_until(|report| {
        assert_eq!(report.clock_ahead, None);
        report.names == 1
    });
    let ahead = |seconds: i64| {
        move |report: &Report| {
            report.clock_ahead.is_some_and(|found| (found - seconds).abs() <= 120)
        }
    };
    // By the dates of a certificate alone: nothing is asked of an authority before its time.
    world.pebble.set_door(Door::Shut);
    world.pass(-2 * HOUR);
    world.run_until(ahead(-2 * HOUR));
    world.pebble.set_door(Door::Open);
    world.pass(4 * HOUR);
    world.program.0.names.lock().unwrap().push("b.example".to_owned());
    world.run_until(ahead(2 * HOUR));
}
