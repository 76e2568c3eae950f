//! dns-01 that fails for hours because of what people did, and comes right by itself once they have put it right.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use acceptance::name_server::{Kind, Policy, Setup, Zone, free_port};
use acceptance::pebble::Pebble;
use certify::dns::{DnsServer, DynamicUpdate};
use certify::http::Resolve;
use certify::{ChallengeKind, TxtFuture, TxtPublisher, system_clock};
use support::{HOUR, World};

/// The publisher of the moment: what a person has configured.
#[derive(Clone, Debug)]
struct Configured(Arc<Mutex<Arc<dyn TxtPublisher>>>);

impl Configured {
    fn now(&self) -> Arc<dyn TxtPublisher> {
        Arc::clone(&self.0.lock().unwrap())
    }
}

impl TxtPublisher for Configured {
    fn patience(&self) -> Duration {
        self.now().patience()
    }

    fn publish<'a>(&'a self, name: &'a str, value: &'a str) -> TxtFuture<'a> {
        Box::pin(async move { self.now().publish(name, value).await })
    }

    fn withdraw<'a>(&'a self, name: &'a str, value: &'a str) -> TxtFuture<'a> {
        Box::pin(async move { self.now().withdraw(name, value).await })
    }
}

/// Nobody needs to be found.
struct Nobody;

impl Resolve for Nobody {
    fn resolve<'a>(
        &'a self,
        host: &'a str,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<Vec<std::net::IpAddr>, String>> + Send + 'a>>
    {
        Box::pin(async move { Err(format!("{host} is not known")) })
    }
}

fn updates(address: SocketAddr, key: &str) -> Arc<dyn TxtPublisher> {
    let server = DnsServer {
        address,
        key: key.parse().unwrap(),
        authoritative_port: address.port(),
        patience: Duration::from_secs(10),
    };
    Arc::new(DynamicUpdate::new(server, Arc::new(Nobody), system_clock()))
}

/// The wrong key, then nobody at the server's address, then the right one: hours pass, one order is placed, and no person
/// has to ask.
#[test]
fn a_wrong_key_and_a_wrong_server_cost_time_and_no_second_order() {
    for kind in [Kind::Bind, Kind::Knot] {
        if !Pebble::available() || !kind.available() {
            continue;
        }
        let mut world = World::start(10);
        let address = free_port(Ipv4Addr::LOCALHOST.into());
        let zone = Zone::new("a.example", address.ip(), Policy::Txt);
        let server = Setup::new(kind, address).with(zone).start();
        world.pebble.ask_name_server(address);
        let port_80 = SocketAddr::from(([127, 0, 0, 1], 80));
        world.pebble.serve(port_80, port_80, 10);
        world.settings.challenge = ChallengeKind::Dns01;
        let wrong = "acme:SHA256:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        let configured = Configured(Arc::new(Mutex::new(updates(address, wrong))));
        world.txt = Some(Arc::new(configured.clone()));

        let fails = |world: &World, expected: &str, times: u32| {
            world.run_until(|report| {
                let problem = report.failing.get("a.example");
                problem.is_some_and(|problem| {
                    problem.error.contains(expected) && problem.failures == times
                })
            });
        };
        fails(&world, "has another secret for the key acme", 1);
        // Before its time nothing is tried, whoever starts and however often.
        world.run_until(|report| report.names == 1);
        assert!(server.ask("_acme-challenge.a.example", "TXT").is_empty());
        world.pass(HOUR);
        fails(&world, "has another secret for the key acme", 2);
        let nobody = free_port(Ipv4Addr::LOCALHOST.into());
        *configured.0.lock().unwrap() = updates(nobody, &server.key());
        world.pass(2 * HOUR);
        fails(&world, &nobody.to_string(), 3);
        assert_eq!(world.orders(), 1);

        *configured.0.lock().unwrap() = updates(address, &server.key());
        world.pass(4 * HOUR);
        world.run_until(|report| report.obtained == 1 && report.failing.is_empty());
        assert!(world.program.leaf("a.example").is_some());
        let again = world.orders();
        assert!(again <= 1, "an authority may let an order of yesterday go: {again}");
        let gone = <[String]>::is_empty;
        server.wait_for("the record is gone", "_acme-challenge.a.example", "TXT", gone);
    }
}
