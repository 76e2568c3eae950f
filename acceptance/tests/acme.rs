//! Certificates from a real authority (pebble, which refuses nonces at random): obtained for registered names by both
//! challenges, gone on with after outages, refusals and SIGKILL, and never at the cost of service.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod acme_support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use acceptance::backend::Backend;
use acceptance::gateway::DOMAIN;
use acceptance::pebble::{Door, Pebble};
use acceptance::peer::eventually;
use acceptance::{Gateway, client};

use acme_support::{NEW_ACCOUNT, NEW_ORDER, World, made};

#[test]
fn registered_names_get_certificates_of_their_own() {
    if !Pebble::available() {
        return;
    }
    for challenge in ["http-01", "tls-alpn-01"] {
        let world =
            World::start(&["--acme-challenge", challenge, "--acme-contact", "admin@example.org"]);
        world.add("blog");
        world.add("wiki");
        world.gateway.ctl(&["add", "mail", &world.backend.to_arg(), "--mode", "passthrough"]);
        world.wait_for("blog");
        world.wait_for("wiki");
        eventually("the work is counted", || {
            world.gateway.metric("tlstunnel_acme_attempts_total{result=\"obtained\"}") >= 2.0
        });
        let exchanges = world.pebble.take_exchanges();
        assert_eq!(made(&exchanges, NEW_ACCOUNT), 1, "{exchanges:?}");
        assert_eq!(made(&exchanges, NEW_ORDER), 2, "no order for the passthrough: {exchanges:?}");
        // The backend goes on being spoken to as before, and h2 is a word away: browsers cannot coalesce.
        let config = client::config(&world.pebble.root_file(), &["h2", "http/1.1"]);
        let host = format!("blog.{DOMAIN}");
        let agreed = || {
            let tls = client::connect(world.gateway.https, &host, &config).expect("TLS");
            tls.conn.alpn_protocol().map(<[u8]>::to_vec)
        };
        assert_eq!(agreed(), Some(b"http/1.1".to_vec()));
        let backend = world.backend.to_arg();
        world.gateway.ctl(&["add", "blog", &backend, "--replace", "--alpn", "h2,http/1.1"]);
        assert_eq!(agreed(), Some(b"h2".to_vec()));
        assert!(!world.gateway.ctl(&["check"]).contains("share"), "its certificate is its own");
        assert!(!world.problems().contains("could be obtained"), "{}", world.problems());
    }
}

#[test]
fn a_restart_orders_nothing_and_a_given_certificate_stays() {
    if !Pebble::available() {
        return;
    }
    let mut world = World::start(&[]);
    world.add("blog");
    world.wait_for("blog");
    let first = world.certificate("blog");
    world.pebble.take_exchanges();
    let given = world.give_certificate("own");
    world.add("own");
    for signal in ["TERM", "KILL"] {
        world.gateway.stop(signal);
        world.gateway.spawn();
        assert!(world.served("blog"), "from the store, at once");
        assert_eq!(world.certificate("blog"), first);
        assert_eq!(world.shown("own")["source"], "uploaded");
    }
    world.add("shop");
    world.wait_for("shop");
    let exchanges = world.pebble.take_exchanges();
    assert_eq!((made(&exchanges, NEW_ACCOUNT), made(&exchanges, NEW_ORDER)), (0, 1));
    let config = client::config(&given, &[]);
    client::connect(world.gateway.https, &format!("own.{DOMAIN}"), &config).expect("still shown");
    // What is given for a name that has one from the authority takes its place, and is not ordered for again.
    world.give_certificate("shop");
    world.add("last");
    world.wait_for("last");
    assert_eq!(world.shown("shop")["source"], "uploaded");
    assert_eq!(made(&world.pebble.take_exchanges(), NEW_ORDER), 1);
}

#[test]
fn a_shut_authority_shows_and_costs_no_service() {
    if !Pebble::available() {
        return;
    }
    let world = World::start(&[]);
    world.add("blog");
    world.wait_for("blog");
    world.pebble.set_door(Door::Shut);
    world.add("shop");
    eventually("the failure is in status and metrics", || {
        world.problems().contains("acme: no certificate could be obtained")
            && world.gateway.metric("tlstunnel_acme_authority_failures") >= 1.0
    });
    assert!(world.served("blog"));
    world.pebble.set_door(Door::Open);
    world.wait_for("shop");
    eventually("the problem is gone", || !world.problems().contains("could be obtained"));
}

#[test]
fn refusals_name_their_reason_and_wait() {
    if !Pebble::available() {
        return;
    }
    let world = World::start(&[]);
    world.add("blog");
    world.wait_for("blog");
    world.pebble.point(&format!("astray.{DOMAIN}"), "127.0.0.77");
    world.add("astray");
    eventually("the authority's reason is in status", || {
        let problems = world.problems();
        problems.contains(&format!("astray.{DOMAIN}")) && problems.contains("127.0.0.77")
    });
    // What was wrong in DNS is put right, and a person does not wait for the next attempt.
    world.pebble.point(&format!("astray.{DOMAIN}"), &world.gateway.http.ip().to_string());
    world.gateway.ctl(&["cert", "renew", "astray"]);
    world.wait_for("astray");
    world.pebble.set_door(Door::Answer {
        path: "/order-plz",
        status: "429 Too Many Requests",
        retry_after: 7200,
        body: r#"{"type":"urn:ietf:params:acme:error:rateLimited","detail":"too many orders","status":429}"#,
    });
    world.add("shop");
    eventually("the limit is in status, and the wait", || {
        let problems = world.problems();
        let minutes = problems
            .split("too many orders")
            .nth(1)
            .and_then(|rest| rest.split("within ").nth(1)?.split(' ').next()?.parse::<u32>().ok());
        minutes.is_some_and(|minutes| (118..=151).contains(&minutes))
    });
    assert!(world.served("blog"));
    // The wait is stored: a restart is no way around it.
    let mut world = world;
    world.pebble.set_door(Door::Open);
    world.pebble.take_exchanges();
    world.gateway.kill();
    world.gateway.spawn();
    world.add("third");
    world.wait_for("third");
    let exchanges = world.pebble.take_exchanges();
    assert_eq!(made(&exchanges, NEW_ORDER), 1, "only the new name's: {exchanges:?}");
    assert!(world.problems().contains("too many orders"));
}

/// Kills the gateway at every request of an issuance: after the authority has acted on it and before the answer came.
#[test]
fn kill_9_at_every_request_makes_no_needless_order() {
    if !Pebble::available() {
        return;
    }
    for challenge in ["http-01", "tls-alpn-01"] {
        let mut world = World::start(&["--acme-challenge", challenge]);
        let mut accounts = 0;
        let mut names: Vec<String> = Vec::new();
        loop {
            let name = format!("step{}", names.len());
            let Some((lost, all)) = world.lose_answer(names.len(), &name, &names) else { break };
            accounts += made(&all, NEW_ACCOUNT);
            // An order whose address was lost with the answer cannot be found again.
            let lost_order = usize::from(lost.request == NEW_ORDER && lost.status == 201);
            assert_eq!(made(&all, NEW_ORDER), 1 + lost_order, "{lost:?} was lost: {all:?}");
            names.push(name);
        }
        assert_eq!(accounts, 1, "one account whatever happens");
        assert!(names.len() >= 8, "the sweep went through the whole issuance: {names:?}");
    }
}

#[test]
fn kill_9_while_the_account_is_made_makes_no_second_one() {
    if !Pebble::available() {
        return;
    }
    let mut lost_account = false;
    for step in 1..4 {
        let mut world = World::start_with(&[], 0);
        let (lost, all) = world.lose_answer(step, "blog", &[]).expect("a request is lost");
        assert_eq!(made(&all, NEW_ACCOUNT), 1, "{lost:?} was lost: {all:?}");
        lost_account |= lost.request == NEW_ACCOUNT && lost.status == 201;
    }
    assert!(lost_account, "the answer that says that the account is made was among those lost");
}

/// The same authority under another address is another authority: everything is issued anew. Connections live through it.
#[test]
fn replacement_interrupts_nobody() {
    if !Pebble::available() {
        return;
    }
    let mut world = World::start(&[]);
    world.add("blog");
    world.wait_for("blog");
    let first = world.certificate("blog");

    let other = world.pebble.other_directory();
    world.gateway.replace_option("--acme", &other);
    world.gateway.stop("KILL");
    world.pebble.set_door(Door::Shut);
    world.gateway.spawn();
    let config = client::config(&world.pebble.root_file(), &[]);
    let host = format!("blog.{DOMAIN}");
    let mut open = client::connect(world.gateway.https, &host, &config).expect("the old one");
    let stop = Arc::new(AtomicBool::new(false));
    let handshakes = {
        let (stop, config, host, address) =
            (Arc::clone(&stop), Arc::clone(&config), host.clone(), world.gateway.https);
        std::thread::spawn(move || {
            let mut count = 0;
            while !stop.load(Ordering::SeqCst) {
                client::connect(address, &host, &config).expect("every handshake succeeds");
                count += 1;
            }
            count
        })
    };
    assert_eq!(world.certificate("blog"), first);
    world.pebble.set_door(Door::Open);
    eventually("a new certificate is in use", || world.certificate("blog") != first);
    client::get(&mut open, &host, "/").expect("the old connection goes on");
    stop.store(true, Ordering::SeqCst);
    assert!(handshakes.join().expect("no handshake failed") > 0);
}

#[test]
fn accounts_are_bound_to_an_account_elsewhere() {
    if !Pebble::available() {
        return;
    }
    const KEY: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";
    let mut pebble = Pebble::prepare();
    let (own, bound) = (pebble.options(), format!("kid-1:{KEY}"));
    let all: Vec<&str> = own.iter().map(String::as_str).chain(["--acme-eab", &bound]).collect();
    let gateway = Gateway::start_with(&all);
    pebble.serve_bound(gateway.http, gateway.https, "kid-1", KEY);
    let world = World { pebble, gateway, backend: Backend::http("site") };
    world.add("blog");
    world.wait_for("blog");
    assert_eq!(made(&world.pebble.take_exchanges(), NEW_ACCOUNT), 1);
    assert!(!world.gateway.log().contains(KEY), "the key is in no log");
}

#[test]
fn the_authority_may_say_when_to_renew() {
    if !Pebble::available() {
        return;
    }
    let mut world = World::start(&[]);
    world.add("blog");
    world.wait_for("blog");
    let first = world.certificate("blog");
    let suggest =
        |start: &str, end: &str| Door::SuggestRenewal { start: start.into(), end: end.into() };
    world.pebble.set_door(suggest("2100-01-01T00:00:00Z", "2100-01-02T00:00:00Z"));
    world.pebble.take_exchanges();
    world.gateway.kill();
    world.gateway.spawn();
    let mut asked = Vec::new();
    eventually("the authority is asked", || {
        asked.extend(world.pebble.take_exchanges());
        asked.iter().any(|exchange| exchange.request.starts_with("GET /renewal/"))
    });
    assert_eq!(world.certificate("blog"), first);
    assert_eq!(made(&asked, NEW_ORDER), 0);
}
