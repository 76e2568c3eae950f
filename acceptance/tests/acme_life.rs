//! The life of certificates in a running gateway: replaced a hundred times under live connections, renewed and revoked by
//! hand, encrypted where they are stored, kept when the store is full.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod acme_support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use acceptance::gateway::DOMAIN;
use acceptance::pebble::{Door, Pebble, Weather};
use acceptance::peer::{available, eventually, run};
use acceptance::programs::program;
use acceptance::unikernel::{Way, way};
use acceptance::{Gateway, client};
use rustls::ClientConfig;

use acme_support::{NEW_ACCOUNT, NEW_ORDER, World, made};

/// An authority of a test's own that signs with openssl.
struct Authority {
    folder: PathBuf,
}

impl Authority {
    fn new(folder: &Path) -> Self {
        let authority = Self { folder: folder.to_owned() };
        authority.openssl(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "30",
            "-subj",
            "/CN=Files CA",
            "-keyout",
            "ca.key",
            "-out",
            "ca.pem",
        ]);
        authority
    }

    fn openssl(&self, arguments: &[&str]) {
        let mut command = Command::new("openssl");
        command.current_dir(&self.folder).args(arguments);
        let done = run(&mut command, b"", Duration::from_secs(30));
        assert!(done.status.success(), "openssl: {done:?}");
    }

    /// Writes `chain.pem` and `key.pem` for `host`, certificate first.
    fn issue(&self, host: &str) {
        self.openssl(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "20",
            "-subj",
            "/CN=site",
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-addext",
            &format!("subjectAltName=DNS:{host}"),
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-keyout",
            "new.key",
            "-out",
            "chain.pem",
        ]);
        std::fs::rename(self.folder.join("new.key"), self.folder.join("key.pem")).unwrap();
    }

    fn file(&self, name: &str) -> String {
        self.folder.join(name).to_str().unwrap().to_owned()
    }

    /// Has the control tool give a gateway what was issued last.
    fn offer(&self, gateway: &Gateway) -> Output {
        let [chain, key] = ["chain.pem", "key.pem"].map(|name| self.file(name));
        gateway.ctl_output(&["cert", "set", "--cert", &chain, "--key", &key])
    }

    /// The same, which must be taken.
    fn give(&self, gateway: &Gateway) {
        let output = self.offer(gateway);
        assert!(output.status.success(), "{output:?}");
    }
}

/// Handshakes until told to stop; every one must succeed.
fn handshakes(
    stop: &Arc<AtomicBool>,
    gateway: &Gateway,
    host: &str,
    config: &Arc<ClientConfig>,
) -> JoinHandle<usize> {
    let (stop, config, host, address) =
        (Arc::clone(stop), Arc::clone(config), host.to_owned(), gateway.https);
    std::thread::spawn(move || {
        let mut count = 0;
        while !stop.load(Ordering::SeqCst) {
            let mut tls = client::connect(address, &host, &config).expect("a handshake");
            client::get(&mut tls, &host, "/").expect("an answer");
            count += 1;
        }
        count
    })
}

/// By the authority, from files (which a guest does not have), and by the control tool.
#[test]
fn a_hundred_replacements_interrupt_nobody() {
    if !Pebble::available() || !available(&["openssl", "kill"]) {
        return;
    }
    let by_authority = std::env::var("ACCEPTANCE_RENEWALS").ok().and_then(|n| n.parse().ok());
    let by_authority = by_authority.unwrap_or(10);
    let by_files = if way() == Way::Host { 45 } else { 0 };
    let by_hand = 100 - by_authority - by_files;
    let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let [filed, given] = [0, 1].map(|at: usize| Authority::new(folders[at].path()));
    let names = ["blog", "given", "filed"].map(|name| format!("{name}.{DOMAIN}"));
    let [blog_host, given_host, filed_host] = &names;
    filed.issue(filed_host);
    given.issue(given_host);
    let [chain, key] = [filed.file("chain.pem"), filed.file("key.pem")];
    let files = ["--cert", &chain, "--cert-key", &key, "--cert-poll", "3600"];
    let world = World::start(if by_files > 0 { &files } else { &[] });
    given.give(&world.gateway);
    let of = |file: &Path| client::config(file, &[]);
    let (of_pebble, of_given) = (of(&world.pebble.root_file()), of(given.file("ca.pem").as_ref()));
    let of_files = of(filed.file("ca.pem").as_ref());
    let mut shown = vec![(blog_host, &of_pebble), (given_host, &of_given)];
    shown.extend((by_files > 0).then_some((filed_host, &of_files)));
    ["blog", "given"].iter().for_each(|name| world.add(name));
    if by_files > 0 {
        world.add("filed");
    }
    world.wait_for("blog");

    let mut open: Vec<_> = shown
        .iter()
        .map(|(host, config)| (host, client::connect(world.gateway.https, host, config).unwrap()))
        .collect();
    let failures = || world.gateway.metric("tlstunnel_handshake_failures_total");
    let failed_before = failures();
    let stop = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = shown
        .iter()
        .map(|(host, config)| handshakes(&stop, &world.gateway, host, config))
        .collect();
    world.pebble.take_exchanges();

    let replaced = |name: &str, times: usize, replace: &dyn Fn()| {
        for _ in 0..times {
            let shown = world.shown(name)["sha256"].clone();
            replace();
            eventually("another one is in use", || world.shown(name)["sha256"] != shown);
        }
    };
    let id = world.gateway.process_id().to_string();
    let hang_up = || assert!(Command::new("kill").args(["-HUP", &id]).status().unwrap().success());
    replaced("filed", by_files, &|| {
        filed.issue(filed_host);
        hang_up();
    });
    replaced("given", by_hand, &|| {
        given.issue(given_host);
        given.give(&world.gateway);
    });
    replaced("blog", by_authority, &|| {
        world.gateway.ctl(&["cert", "renew", "blog"]);
    });
    for (host, connection) in &mut open {
        client::get(connection, host, "/").expect("a connection from before goes on");
    }
    stop.store(true, Ordering::SeqCst);
    for thread in threads {
        assert!(thread.join().expect("no handshake failed") > 0);
    }
    assert_eq!(made(&world.pebble.take_exchanges(), NEW_ORDER), by_authority);
    assert_eq!(failures(), failed_before);

    // What is broken is said, and replaces nothing.
    std::fs::write(given.file("chain.pem"), "broken").unwrap();
    assert!(!given.offer(&world.gateway).status.success());
    if by_files > 0 {
        std::fs::write(&chain, "broken").unwrap();
        hang_up();
        eventually("the broken file is a problem", || {
            world.problems().contains("it has changed and is not used")
                && world.gateway.metric("tlstunnel_certificate_file_errors") >= 1.0
        });
    }
    for (host, config) in shown {
        client::connect(world.gateway.https, host, config).expect("the one before it is shown");
    }
}

#[test]
fn what_people_ask_for_is_done_by_the_running_gateway() {
    if !Pebble::available() {
        return;
    }
    let mut world = World::start(&["--acme-key-type", "p384,shop.apps.localhost=rsa2048"]);
    world.add("blog");
    world.wait_for("blog");
    let first = world.certificate("blog");
    let said = world.gateway.ctl(&["cert", "revoke", "blog", "--reason", "key-compromise"]);
    assert!(said.contains("is revoked"), "{said}");
    eventually("another one is in use", || world.certificate("blog") != first);
    assert!(world.served("blog"));
    let second = world.certificate("blog");
    world.gateway.ctl(&["cert", "renew", "blog"]);
    eventually("a third one is in use", || world.certificate("blog") != second);
    let said = world.gateway.ctl(&["cert", "account", "rollover"]);
    assert!(said.contains("new key"), "{said}");
    // The new account key is the one that is stored.
    world.gateway.kill();
    world.gateway.spawn();
    world.add("shop");
    world.wait_for("shop");
    let exchanges = world.pebble.take_exchanges();
    assert_eq!((made(&exchanges, NEW_ACCOUNT), made(&exchanges, NEW_ORDER)), (1, 4));
    assert_eq!(
        exchanges.iter().filter(|e| e.request == "POST /revoke-cert" && e.status == 200).count(),
        1
    );

    for (arguments, expected) in [
        (&["cert", "renew", "nobody"][..], "no certificate from an authority is looked after"),
        (&["cert", "revoke", "nobody"], "no certificate"),
        (&["cert", "renew", "default"], "no name that a certificate can have"),
    ] {
        let refused = world.gateway.ctl_output(arguments);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains(expected), "{arguments:?}: {said}");
    }
    let without = Gateway::start();
    let refused = without.ctl_output(&["cert", "account", "rollover"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--acme"), "{refused:?}");
}

#[test]
fn an_authority_with_bad_days_still_issues() {
    if !Pebble::available() {
        return;
    }
    let delay = std::env::var("ACCEPTANCE_VALIDATION_DELAY").ok().and_then(|n| n.parse().ok());
    let weather = Weather {
        nonce_rejections: 30,
        validation_delay: delay.unwrap_or(3),
        ..Weather::default()
    };
    for challenge in ["http-01", "tls-alpn-01"] {
        let world = World::start_in(&["--acme-challenge", challenge], &weather);
        world.add("blog");
        world.add("wiki");
        world.wait_for("blog");
        world.wait_for("wiki");
        assert_eq!(made(&world.pebble.take_exchanges(), NEW_ORDER), 2);
    }
}

#[test]
fn certificates_on_demand_are_ordered_for_registered_names_that_somebody_wants() {
    if !Pebble::available() {
        return;
    }
    let mut world = World::start(&["--acme-on-demand"]);
    let backend = world.backend.to_arg();
    for name in ["shop.example.org", "sleeper.example.org", "*.wild.example.org"] {
        world.gateway.ctl(&["add", name, &backend]);
    }
    let config = client::config(&world.pebble.root_file(), &[]);
    let ask = |world: &World, host: &str| {
        client::connect(world.gateway.https, host, &config)
            .and_then(|mut tls| client::get(&mut tls, host, "/"))
    };
    for stranger in ["stranger.example.org", "a.wild.example.org", "example.org"] {
        ask(&world, stranger).unwrap_err();
    }
    assert_eq!(made(&world.pebble.take_exchanges(), NEW_ORDER), 0, "nothing without a client");
    // The first client waits for the certificate, and so do those who come meanwhile.
    std::thread::scope(|scope| {
        let clients: Vec<_> =
            (0..5).map(|_| scope.spawn(|| ask(&world, "shop.example.org"))).collect();
        for client in clients {
            assert!(client.join().unwrap().unwrap().contains("backend site"));
        }
    });
    world.gateway.kill();
    world.gateway.spawn();
    assert!(ask(&world, "shop.example.org").unwrap().contains("backend site"));
    assert_eq!(made(&world.pebble.take_exchanges(), NEW_ORDER), 1);
    // Where a development certificate is shown, the real one takes its place.
    world.add("blog");
    assert!(!world.served("blog"));
    world.wait_for("blog");
    assert_eq!(made(&world.pebble.take_exchanges(), NEW_ORDER), 1);
}

/// Debian's pebble is too old for it in its release of 2023; a later one goes first in the path where it is tried.
#[test]
fn profiles_are_asked_for_by_domain() {
    if !Pebble::available() {
        return;
    }
    let world = World::start(&["--acme-profile", &format!("default,short.{DOMAIN}=shortlived")]);
    if !world.pebble.offers_profiles() {
        println!("SKIPPED: this version of pebble knows no profiles");
        return;
    }
    for (name, days) in [("blog", 90), ("short", 6)] {
        world.add(name);
        world.wait_for(name);
        let shown = world.shown(name);
        let time = |field: &str| shown[field].as_i64().unwrap_or_else(|| panic!("{shown}"));
        let life = time("not-after") - time("not-before");
        assert!((life - days * 86_400).abs() < 3600, "{name}: {shown}");
    }
    // A profile that the authority does not have is its refusal of this name, and no other's.
    let mut world = world;
    world.gateway.replace_option("--acme-profile", &format!("default,odd.{DOMAIN}=unheard-of"));
    world.gateway.stop("TERM");
    world.gateway.spawn();
    world.add("odd");
    eventually("who is to blame is in status", || world.problems().contains("unheard-of"));
    world.add("even");
    world.wait_for("even");
}

const RIGHT: &str = "the right key, which has more than thirty-two bytes\n";

#[test]
fn keys_at_rest_are_encrypted_and_a_wrong_key_touches_nothing() {
    if !Pebble::available() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let right = file("right", RIGHT);
    let wrong = file("wrong", &RIGHT.replace("right", "wrong"));
    let mut world = World::start(&["--storage-key-file", &right]);
    world.add("blog");
    world.wait_for("blog");
    let first = world.certificate("blog");
    world.gateway.kill();
    let image = std::fs::read(world.gateway.storage()).unwrap();
    for secret in ["BEGIN PRIVATE KEY", "key_pem", "\"next_key\"", "\"secret\""] {
        let found = image.windows(secret.len()).any(|window| window == secret.as_bytes());
        assert!(!found, "{secret} is on the device");
    }
    for (options, expected) in [
        (&["--storage-key-file", &wrong][..], "encrypted with another key"),
        (&[], "give the key with --storage-key-file"),
        (&["--storage-key", "short"], "at least 32"),
    ] {
        let refused = world.gateway.run_to_end(options);
        let said = [refused.stdout, refused.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert_eq!(refused.status.code(), Some(1), "{said}");
        assert!(said.contains(expected), "{said}");
    }
    world.gateway.spawn();
    assert_eq!(world.certificate("blog"), first);
    assert!(world.served("blog"));
    world.gateway.kill();
    let storage = world.gateway.storage();
    let mut info = Command::new(program("tlstunnel"));
    info.args(["storage", "check", "--storage"]).arg(storage).args(["--storage-key-file", &right]);
    let checked = run(&mut info, b"", Duration::from_secs(30));
    assert!(String::from_utf8_lossy(&checked.stdout).contains("sound"), "{checked:?}");
}

/// Turns encryption on and kills the gateway while it does so, a little later each time.
#[test]
fn kill_9_while_secrets_are_encrypted_loses_none() {
    if !available(&["openssl"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    std::fs::write(&key, RIGHT).unwrap();
    let authority = Authority::new(folder.path());
    let mut gateway = Gateway::start_with(&["--storage-size", "4MiB"]);
    for number in 0..20 {
        authority.issue(&format!("n{number}.example.org"));
        authority.give(&gateway);
    }
    let listed = gateway.ctl(&["--json", "cert", "list"]);
    gateway.kill();
    let key = key.to_str().unwrap();
    let is_sound = |gateway: &Gateway, options: &[&str]| {
        let mut check = Command::new(program("tlstunnel"));
        check.args(["storage", "check", "--storage"]).arg(gateway.storage()).args(options);
        run(&mut check, b"", Duration::from_secs(30)).status.success()
    };
    gateway.add_options(&["--storage-key-file", key]);
    let clear = std::fs::read(gateway.storage()).unwrap();
    let mut seen_half_done = false;
    let mut time = Duration::ZERO;
    loop {
        std::fs::write(gateway.storage(), &clear).unwrap();
        gateway.begin();
        std::thread::sleep(time);
        time = time * 4 / 3 + Duration::from_millis(1);
        gateway.kill();
        let ready = gateway.has_served();
        seen_half_done |= !ready && std::fs::read(gateway.storage()).unwrap() != clear;
        let in_clear = is_sound(&gateway, &[]);
        let encrypted = is_sound(&gateway, &["--storage-key-file", key]);
        assert!(in_clear ^ encrypted, "either the one or the other, whole");
        if ready {
            break;
        }
    }
    assert!(seen_half_done, "some kills came in the middle");
    gateway.spawn();
    assert_eq!(gateway.ctl(&["--json", "cert", "list"]), listed);
}

#[test]
fn a_full_store_costs_no_service_and_no_second_order() {
    if !Pebble::available() {
        return;
    }
    let world = World::start(&["--storage-size", "512KiB"]);
    world.add("blog");
    world.wait_for("blog");
    world.pebble.set_door(Door::Shut);
    world.add("shop");
    eventually("the authority is missed", || world.problems().contains("could be obtained"));
    // Large routes first, then small ones: nothing fits any more.
    let backends: Vec<String> = (1..=60).map(|port| format!("127.0.0.1:{port}")).collect();
    let (mut fillers, mut full) = (Vec::new(), String::new());
    for size in [backends.len(), 1] {
        loop {
            let name = format!("filler{}", fillers.len());
            let mut arguments = vec!["add", &name, "--mode", "passthrough"];
            arguments.extend(backends[..size].iter().map(String::as_str));
            let added = world.gateway.ctl_output(&arguments);
            if !added.status.success() {
                assert!(!fillers.is_empty(), "{added:?}");
                full = String::from_utf8_lossy(&added.stderr).into_owned();
                break;
            }
            fillers.push(name);
        }
    }
    assert!(full.contains("full"), "{full}");
    world.pebble.take_exchanges();
    world.pebble.set_door(Door::Open);
    // Not in an hour but now; that this cannot be stored either is no reason not to try.
    world.gateway.ctl_output(&["cert", "renew", "shop"]);
    // What is left may be just enough; `certify/tests/authority.rs` fails every single write.
    eventually("the store's being full is in status, unless the certificate fits", || {
        let problems = world.problems();
        problems.contains(&format!("shop.{DOMAIN}: no certificate")) && problems.contains("full")
            || world.served("shop")
    });
    assert!(world.served("blog"));
    let served = world.served("shop");
    assert!(
        made(&world.pebble.take_exchanges(), NEW_ORDER) <= 1,
        "it is not tried again and again"
    );
    // What was stored is whole.
    let mut world = world;
    world.gateway.kill();
    world.gateway.spawn();
    assert!(world.served("blog"));
    assert!(!served || world.served("shop"));
}
