//! A gateway, its authority (pebble) and a backend.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use acceptance::backend::Backend;
use acceptance::gateway::DOMAIN;
use acceptance::pebble::{Door, Exchange, Pebble, Weather};
use acceptance::peer::{eventually, run};
use acceptance::{Gateway, client};

/// Percent of nonces that are refused; the client must repeat those requests.
pub const NONCE_REJECTIONS: u8 = 15;

pub struct World {
    pub pebble: Pebble,
    pub gateway: Gateway,
    pub backend: Backend,
}

impl World {
    pub fn start(options: &[&str]) -> Self {
        Self::start_with(options, NONCE_REJECTIONS)
    }

    pub fn start_with(options: &[&str], nonce_rejections: u8) -> Self {
        Self::start_in(options, &Weather { nonce_rejections, ..Weather::default() })
    }

    pub fn start_in(options: &[&str], weather: &Weather) -> Self {
        let mut pebble = Pebble::prepare();
        let own = pebble.options();
        let all: Vec<&str> =
            own.iter().map(String::as_str).chain(options.iter().copied()).collect();
        let gateway = Gateway::start_with(&all);
        pebble.serve_in(gateway.http, gateway.https, weather);
        Self { pebble, gateway, backend: Backend::http("site") }
    }

    pub fn add(&self, name: &str) {
        self.gateway.ctl(&["add", name, &self.backend.to_arg()]);
    }

    /// Whether a client that trusts pebble's root alone reaches the backend by this name.
    pub fn served(&self, name: &str) -> bool {
        let config = client::config(&self.pebble.root_file(), &[]);
        let host = format!("{name}.{DOMAIN}");
        client::connect(self.gateway.https, &host, &config)
            .and_then(|mut tls| client::get(&mut tls, &host, "/"))
            .is_ok_and(|answer| answer.contains("backend site"))
    }

    pub fn wait_for(&self, name: &str) {
        let end = Instant::now() + Duration::from_secs(90);
        while !self.served(name) {
            assert!(
                Instant::now() < end,
                "{name} has no certificate: {}\n{}",
                self.gateway.log(),
                self.pebble.log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Adds `name`, and kills the gateway when `step` requests are through and the next is answered by pebble, but the
    /// answer has not come back. Starts it again, sees that `others` are served, and waits for the certificate.
    ///
    /// Gives the exchange whose answer was lost, and all of them; none if there were no more than `step`.
    pub fn lose_answer(
        &mut self,
        step: usize,
        name: &str,
        others: &[String],
    ) -> Option<(Exchange, Vec<Exchange>)> {
        self.pebble.take_exchanges();
        self.pebble.set_door(Door::HoldAfter(step));
        self.add(name);
        let mut finished = false;
        eventually("an answer is held back, or all are through", || {
            finished = self.served(name);
            finished || self.pebble.holding()
        });
        if finished {
            return None;
        }
        self.gateway.kill();
        let mut all = self.pebble.take_exchanges();
        let lost = all.last().expect("the one that is lost").clone();
        self.pebble.set_door(Door::Open);
        self.gateway.spawn();
        for other in others {
            assert!(self.served(other), "{other} is served while {name} is not yet");
        }
        self.wait_for(name);
        all.extend(self.pebble.take_exchanges());
        Some((lost, all))
    }

    pub fn problems(&self) -> String {
        let status: serde_json::Value =
            serde_json::from_str(&self.gateway.ctl(&["--json", "status"])).expect("JSON");
        status["problems"].to_string()
    }

    /// The certificate that is in use for a name, as `show` says.
    pub fn shown(&self, name: &str) -> serde_json::Value {
        let shown: serde_json::Value =
            serde_json::from_str(&self.gateway.ctl(&["--json", "show", name])).expect("JSON");
        shown["certificate"].clone()
    }

    /// The SHA-256 of the certificate from the authority that is in use for a name.
    pub fn certificate(&self, name: &str) -> String {
        let shown = self.shown(name);
        assert_eq!(shown["source"], "acme", "{shown}");
        shown["sha256"].as_str().expect("text").to_owned()
    }

    /// Makes a certificate for `name` and gives it to the gateway over the control port. Returns its file.
    pub fn give_certificate(&self, name: &str) -> PathBuf {
        let folder = self.gateway.folder();
        let (chain, key) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
        let host = format!("{name}.{DOMAIN}");
        let mut command = Command::new("openssl");
        command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
        command.args(["-nodes", "-days", "90", "-subj", &format!("/CN={host}")]);
        command.args(["-addext", &format!("subjectAltName=DNS:{host}")]);
        command.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
        command.arg("-keyout").arg(&key).arg("-out").arg(&chain);
        let made = run(&mut command, b"", Duration::from_secs(30));
        assert!(made.status.success(), "openssl: {made:?}");
        let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
        self.gateway.ctl(&["cert", "set", "--cert", &text(&chain), "--key", &text(&key)]);
        chain
    }
}

pub fn made(exchanges: &[Exchange], request: &str) -> usize {
    exchanges.iter().filter(|e| e.request == request && e.status == 201).count()
}

pub const NEW_ACCOUNT: &str = "POST /sign-me-up";
pub const NEW_ORDER: &str = "POST /order-plz";
