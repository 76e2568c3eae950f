//! What a person asks of a running keeper, against a real authority: renewal, revocation, a new account key, other contacts,
//! and what kind of certificate comes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use acceptance::pebble::{Door, Pebble, Weather};
use certify::{Outcome, Reason, Reports, Request, RequestError, Requests};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;

use support::{HOUR, World};

const NAME: &str = "a.example";

async fn until(world: &World, done: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < end, "{}", world.pebble.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A keeper begins with asking when to renew, which opens the account.
async fn quiet(world: &World) {
    let asked = || world.pebble.take_exchanges().iter().any(|e| e.request == "GET /dir");
    until(world, asked).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
}

fn leaf(world: &World) -> CertificateDer<'static> {
    world.program.leaf(NAME).unwrap()
}

fn status(world: &World, leaf: &CertificateDer<'_>) -> serde_json::Value {
    let (_, parsed) = X509Certificate::from_der(leaf).unwrap();
    world.pebble.certificate_status(&parsed.serial.to_str_radix(16))
}

/// The account's record, and how many accounts were made since the last call.
fn account(world: &World) -> serde_json::Value {
    let records = world.program.0.records.lock().unwrap();
    let (_, record) = records.iter().find(|(key, _)| key.starts_with("account:")).unwrap();
    serde_json::from_slice(record).unwrap()
}

fn renew() -> Request {
    Request::Renew { name: NAME.to_owned() }
}

fn revoke(reason: Reason) -> Request {
    Request::Revoke { name: NAME.to_owned(), reason }
}

#[test]
fn renewal_and_revocation_bring_a_new_certificate() {
    if !Pebble::available() {
        return;
    }
    let world = World::start(20);
    world.run(async |requests, reports| {
        let nothing = requests.ask(revoke(Reason::Unspecified)).await;
        assert_eq!(nothing, Err(RequestError::NoCertificate(NAME.to_owned())));
        until(&world, || reports.read().obtained == 1).await;
        let first = leaf(&world);
        let stranger = Request::Renew { name: "b.example".to_owned() };
        let unknown = requests.ask(stranger).await;
        assert_eq!(unknown, Err(RequestError::Name("b.example".to_owned())));

        assert_eq!(requests.ask(renew()).await, Ok(Outcome::Done));
        until(&world, || leaf(&world) != first).await;
        let second = leaf(&world);
        assert_eq!(status(&world, &first)["Status"], "Valid");

        assert_eq!(requests.ask(revoke(Reason::KeyCompromise)).await, Ok(Outcome::Done));
        let revoked = status(&world, &second);
        assert_eq!((&revoked["Status"], &revoked["Reason"]), (&"Revoked".into(), &1.into()));
        until(&world, || leaf(&world) != second).await;
        assert_eq!(status(&world, &leaf(&world))["Status"], "Valid");
    });
    assert_eq!(world.orders(), 3);
    let keys: Vec<_> =
        world.program.0.chains.lock().unwrap().iter().map(|chain| spki(chain)).collect();
    assert!(keys[0] != keys[1] && keys[1] != keys[2], "every certificate has a key of its own");
}

fn spki(chain: &str) -> Vec<u8> {
    let leaf = CertificateDer::from_pem_slice(chain.as_bytes()).unwrap();
    let (_, parsed) = X509Certificate::from_der(&leaf).unwrap();
    parsed.public_key().raw.to_vec()
}

#[test]
fn a_revocation_that_is_interrupted_leaves_nobody_with_a_revoked_certificate() {
    if !Pebble::available() {
        return;
    }
    let world = World::start(0);
    world.run_until(|report| report.obtained == 1);
    for step in 0.. {
        let first = leaf(&world);
        world.orders();
        let finished = world.run(async |requests, _| {
            quiet(&world).await;
            world.pebble.set_door(Door::HoldAfter(step));
            let asking =
                tokio::spawn(async move { requests.ask(revoke(Reason::Superseded)).await });
            until(&world, || world.pebble.holding() || leaf(&world) != first).await;
            asking.abort();
            leaf(&world) != first
        });
        world.pebble.set_door(Door::Open);
        world.pass(HOUR);
        world.run_until(|_| leaf(&world) != first);
        if finished {
            assert!(step >= 6, "the sweep went through all of it: {step}");
            break;
        }
        let orders = world.orders();
        assert!((1..=2).contains(&orders), "one, and one whose address was lost: {orders}");
    }
}

#[test]
fn the_accounts_key_changes_and_the_account_stays() {
    if !Pebble::available() {
        return;
    }
    let world = World::start(20);
    world.run(async |requests, reports| {
        until(&world, || reports.read().obtained == 1).await;
        let before = account(&world);
        assert_eq!(requests.ask(Request::RollOver).await, Ok(Outcome::Done));
        let after = account(&world);
        assert_eq!(before["id"], after["id"]);
        assert_ne!(before["key"], after["key"]);
        let first = leaf(&world);
        assert_eq!(requests.ask(renew()).await, Ok(Outcome::Done));
        until(&world, || leaf(&world) != first).await;
    });
    *world.program.0.names.lock().unwrap() = vec!["b.example".to_owned()];
    world.run_until(|report| report.obtained == 1);
    assert_eq!(accounts(&world), 1);
}

fn accounts(world: &World) -> usize {
    let exchanges = world.pebble.take_exchanges();
    exchanges.iter().filter(|e| e.request == "POST /sign-me-up" && e.status == 201).count()
}

#[test]
fn a_change_of_key_that_is_interrupted_anywhere_loses_no_account() {
    if !Pebble::available() {
        return;
    }
    let world = World::start(0);
    world.run_until(|report| report.obtained == 1);
    let mut interrupted = 0;
    for step in 0.. {
        let before = account(&world);
        let finished = world.run(async |requests: Requests, _: Reports| {
            quiet(&world).await;
            world.pebble.set_door(Door::HoldAfter(step));
            let asking = tokio::spawn(async move { requests.ask(Request::RollOver).await });
            until(&world, || world.pebble.holding() || asking.is_finished()).await;
            asking.is_finished()
        });
        world.pebble.set_door(Door::Open);
        interrupted += usize::from(account(&world)["next_key"].is_string());
        let name = format!("step{step}.example");
        *world.program.0.names.lock().unwrap() = vec![name.clone()];
        world.run_until(|_| world.program.leaf(&name).is_some());
        let after = account(&world);
        assert_eq!(after["id"], before["id"]);
        assert!(after["next_key"].is_null());
        if finished {
            assert_ne!(after["key"], before["key"]);
            break;
        }
    }
    assert!(interrupted >= 3, "the key was stored before the authority heard of it: {interrupted}");
}

#[test]
fn an_authority_that_changes_no_keys_goes_on_issuing() {
    if !Pebble::available() {
        return;
    }
    let world = World::start(0);
    world.run_until(|report| report.obtained == 1);
    let before = account(&world);
    world.pebble.set_door(Door::Answer {
        path: "/rollover-account-key",
        status: "403 Forbidden",
        retry_after: 0,
        body: r#"{"type":"urn:ietf:params:acme:error:unauthorized","detail":"not here","status":403}"#,
    });
    let refused = world.run(async |requests, _| requests.ask(Request::RollOver).await);
    assert!(matches!(refused, Err(RequestError::Failed(ref why)) if why.contains("not here")));
    assert_eq!(account(&world), before);
    *world.program.0.names.lock().unwrap() = vec!["b.example".to_owned()];
    world.run_until(|_| world.program.leaf("b.example").is_some());
}

#[test]
fn a_store_that_is_full_changes_no_key() {
    if !Pebble::available() {
        return;
    }
    let world = World::start(0);
    world.run_until(|report| report.obtained == 1);
    let before = account(&world);
    let writes = world.program.0.writes.load(Ordering::SeqCst);
    for failing in [writes, writes + 1] {
        world.program.0.failing.store(failing, Ordering::SeqCst);
        let refused = world.run(async |requests, _| requests.ask(Request::RollOver).await);
        assert!(matches!(refused, Err(RequestError::Failed(ref why)) if why.contains("full")));
        world.program.0.writes.store(writes, Ordering::SeqCst);
    }
    world.program.0.failing.store(usize::MAX, Ordering::SeqCst);
    let done = world.run(async |requests, _| requests.ask(Request::RollOver).await);
    assert_eq!(done, Ok(Outcome::Done));
    assert_ne!(account(&world)["key"], before["key"]);
    *world.program.0.names.lock().unwrap() = vec!["b.example".to_owned()];
    world.run_until(|_| world.program.leaf("b.example").is_some());
    assert_eq!(accounts(&world), 1);
}

#[test]
fn nobody_may_be_impatient_before_the_authority_allows_it() {
    if !Pebble::available() {
        return;
    }
    let world = World::start(0);
    world.run_until(|report| report.obtained == 1);
    world.pebble.set_door(Door::Answer {
        path: "/order-plz",
        status: "429 Too Many Requests",
        retry_after: 7200,
        body: r#"{"type":"urn:ietf:params:acme:error:rateLimited","detail":"too many","status":429}"#,
    });
    world.run(async |requests, reports| {
        assert_eq!(requests.ask(renew()).await, Ok(Outcome::Done));
        until(&world, || reports.read().failed == 1).await;
        world.orders();
        let held = requests.ask(renew()).await;
        assert!(matches!(held, Err(RequestError::Held(_))), "{held:?}");
    });
    world.pebble.set_door(Door::Open);
    // Nor is a restart a way around it.
    world.run(async |requests, _| {
        assert!(matches!(requests.ask(renew()).await, Err(RequestError::Held(_))));
    });
    assert_eq!(world.orders(), 0);
    let first = leaf(&world);
    world.pass(3 * HOUR);
    world.run_until(|_| leaf(&world) != first);
    assert_eq!(world.orders(), 1, "what was asked for is done when the time has come");
}

#[test]
fn contacts_follow_the_options() {
    if !Pebble::available() {
        return;
    }
    let mut world = World::start(0);
    let changes = |world: &World| {
        let exchanges = world.pebble.take_exchanges();
        exchanges.iter().filter(|e| e.request.starts_with("POST /my-account/")).count()
    };
    world.run_until(|report| report.obtained == 1);
    assert_eq!(changes(&world), 0);
    for contacts in [vec!["admin@example.org"], vec!["admin@example.org"], vec![]] {
        let contacts: Vec<String> = contacts.into_iter().map(str::to_owned).collect();
        let expected = usize::from(world.settings.contacts != contacts);
        world.settings.contacts = contacts;
        let done = world.run(async |requests, _| requests.ask(Request::RollOver).await);
        assert_eq!(done, Ok(Outcome::Done));
        assert_eq!(changes(&world), expected, "{:?}", world.settings.contacts);
    }
}

#[test]
fn keys_are_of_the_type_that_is_asked_for_by_domain() {
    if !Pebble::available() {
        return;
    }
    let mut world = World::start(20);
    world.settings.key_type =
        ["p384", "example.org=rsa2048", "b.example.org=rsa3072", "example.com=p256"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
    let names = ["a.test", "a.example.org", "b.example.org", "example.com"];
    *world.program.0.names.lock().unwrap() = names.map(str::to_owned).to_vec();
    world.run_until(|report| report.obtained == 4);
    let size = |name: &str| {
        let leaf = world.program.leaf(name).unwrap();
        let (_, parsed) = X509Certificate::from_der(&leaf).unwrap();
        match parsed.public_key().parsed().unwrap() {
            PublicKey::RSA(key) => key.key_size(),
            PublicKey::EC(point) => point.key_size(),
            _ => 0,
        }
    };
    assert_eq!(names.map(size), [384, 2048, 3072, 256]);
}

#[test]
fn the_preferred_chain_is_taken_when_there_is_one() {
    if !Pebble::available() {
        return;
    }
    let weather = Weather { nonce_rejections: 20, alternate_roots: 2, ..Weather::default() };
    let mut world = World::start_in(&weather);
    let common_name = |file: std::path::PathBuf| {
        let der = CertificateDer::from_pem_file(file).unwrap();
        let (_, root) = X509Certificate::from_der(&der).unwrap();
        root.subject().iter_common_name().next().unwrap().as_str().unwrap().to_owned()
    };
    let roots: Vec<String> =
        (0..3).map(|number| common_name(world.pebble.alternate_root_file(number))).collect();
    let issuer = |world: &World| {
        let chains = world.program.0.chains.lock().unwrap();
        let last = CertificateDer::pem_slice_iter(chains.last().unwrap().as_bytes()).last();
        let last = last.unwrap().unwrap();
        let (_, topmost) = X509Certificate::from_der(&last).unwrap();
        topmost.issuer().iter_common_name().next().unwrap().as_str().unwrap().to_owned()
    };
    let wanted = [None, Some(&roots[1]), Some(&roots[2]), Some(&roots[0]), Some(&NAME.to_owned())];
    for (round, (wanted, expected)) in wanted.iter().zip([0, 1, 2, 0, 0]).enumerate() {
        world.settings.preferred_chain = wanted.cloned();
        let name = format!("chain{round}.example");
        *world.program.0.names.lock().unwrap() = vec![name.clone()];
        world.run_until(|_| world.program.leaf(&name).is_some());
        assert_eq!(issuer(&world), roots[expected], "wanted {wanted:?}");
    }
}
