//! Waits until every server of a zone shows a record: an authority may ask any of them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::rr::{Name, RecordType};
use tokio::time::{Instant, sleep, timeout};

use super::exchange::{ask, txt_values};
use super::{DnsError, shown};

/// The pause between two rounds of questions: the first, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(4));
/// A server that does not answer at all is asked this often before the others are enough.
const ATTEMPTS_UNREACHABLE: u32 = 3;

/// At least so long is waited for a server, even when the time is nearly over.
const LOOK_TIME: Duration = Duration::from_secs(2);

/// A server of the zone and how it stands.
struct Server {
    addresses: Vec<SocketAddr>,
    state: State,
}

enum State {
    Shows,
    /// It answers, and without the record.
    Lacks,
    /// It does not answer; how often it was asked, and why the last time failed.
    Silent(u32, String),
}

/// Returns once all of `servers` show the TXT record. Of those with several addresses one that shows it is enough. Those
/// that never answer here are not waited for once the others show it: the authority may well reach them.
pub(super) async fn wait(
    zone: &Name,
    servers: BTreeMap<String, Result<Vec<SocketAddr>, String>>,
    name: &Name,
    value: &str,
    patience: Duration,
) -> Result<(), DnsError> {
    let end = Instant::now() + patience;
    let mut all: BTreeMap<String, Server> = servers
        .into_iter()
        .map(|(server, addresses)| {
            let (addresses, reason) = match addresses {
                Ok(addresses) => (addresses, "not asked yet".to_owned()),
                Err(reason) => (Vec::new(), reason),
            };
            (server, Server { addresses, state: State::Silent(0, reason) })
        })
        .collect();
    let mut pause = PAUSE.0;
    loop {
        for server in all.values_mut().filter(|server| !matches!(server.state, State::Shows)) {
            // One that is silent may take long, and must not keep the others from being asked.
            let time = end.saturating_duration_since(Instant::now()).max(LOOK_TIME);
            if timeout(time, server.look(name, value)).await.is_err() {
                server.be_silent("no answer in time".to_owned());
            }
        }
        let lacking = listed(&all, |state| matches!(state, State::Lacks));
        let asked = |state: &State| match state {
            State::Silent(attempts, _) => *attempts < ATTEMPTS_UNREACHABLE,
            _ => false,
        };
        let pending = listed(&all, asked);
        let silent = listed(&all, |state| matches!(state, State::Silent(..)));
        let showing = all.values().any(|server| matches!(server.state, State::Shows));
        let late = Instant::now() >= end;
        if lacking.is_empty() && (pending.is_empty() || late) {
            if !showing {
                return Err(DnsError::NoServers { zone: shown(zone), reason: silent });
            }
            if !silent.is_empty() {
                tracing::warn!(
                    servers = silent,
                    "servers of the zone do not answer; going on without them"
                );
            }
            return Ok(());
        }
        if late {
            return Err(DnsError::Lagging {
                name: shown(name),
                seconds: patience.as_secs(),
                missing: lacking,
            });
        }
        sleep(pause.min(end.saturating_duration_since(Instant::now()))).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}

impl Server {
    async fn look(&mut self, name: &Name, value: &str) {
        let mut reason = match &self.state {
            State::Silent(_, reason) => reason.clone(),
            _ => String::new(),
        };
        let mut answered = false;
        for address in &self.addresses {
            match ask(*address, name, RecordType::TXT).await {
                Ok(answer) if txt_values(&answer, name).any(|txt| txt == value.as_bytes()) => {
                    self.state = State::Shows;
                    return;
                }
                // An answer of any kind: the server is there, and an authority that asks it sees no record.
                Ok(_) | Err(DnsError::Answer { .. } | DnsError::Nonsense { .. }) => answered = true,
                Err(error) => reason = error.to_string(),
            }
        }
        match answered {
            true => self.state = State::Lacks,
            false => self.be_silent(reason),
        }
    }

    fn be_silent(&mut self, reason: String) {
        let attempts = match &self.state {
            State::Silent(attempts, _) => attempts.saturating_add(1),
            _ => 1,
        };
        self.state = State::Silent(attempts, reason);
    }
}

fn listed(all: &BTreeMap<String, Server>, which: impl Fn(&State) -> bool) -> String {
    let chosen = all.iter().filter(|(_, server)| which(&server.state));
    let texts: Vec<String> = chosen
        .map(|(name, server)| match &server.state {
            State::Silent(_, reason) => format!("{name} ({reason})"),
            _ => name.clone(),
        })
        .collect();
    texts.join(", ")
}
