//! Active TCP checks of one backend.

use std::sync::{Arc, Weak};
use std::time::Duration;

use config_proto::model::HealthCheck;
use tokio::time::{Instant, sleep, timeout_at};

use super::opener::connect_tcp;
use super::{Backend, Resolver};

/// Checks a backend until nobody holds it any more, or the task is aborted. The first check is made at once; a backend
/// counts as up until [`HealthCheck::fall`] checks in a row have failed.
pub(super) async fn watch(backend: Weak<Backend>, settings: HealthCheck, resolver: Resolver) {
    let mut streak = Streak::new(&settings, backend.upgrade().is_some_and(|b| b.is_down()));
    loop {
        let Some(held) = backend.upgrade() else { return };
        check(&held, &settings, &resolver, &mut streak).await;
        drop(held);
        sleep(Duration::from_secs(settings.interval_seconds.into())).await;
    }
}

async fn check(
    backend: &Arc<Backend>,
    settings: &HealthCheck,
    resolver: &Resolver,
    streak: &mut Streak,
) {
    let deadline = Instant::now() + Duration::from_secs(settings.timeout_seconds.into());
    let failure = match timeout_at(deadline, connect_tcp(backend, resolver, deadline)).await {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some("no answer in time".to_owned()),
    };
    if let Some(error) = &failure {
        backend.note_failure(&format!("health check: {error}"));
    }
    if let Some(down) = streak.count(failure.is_none()) {
        backend.set_down(down);
        match (down, failure) {
            (true, error) => {
                let error = error.unwrap_or_default();
                tracing::warn!(backend = %backend.address, %error, "backend is down");
            }
            (false, _) => tracing::info!(backend = %backend.address, "backend is up again"),
        }
    }
}

/// Counts checks that contradict the present state.
#[derive(Debug)]
struct Streak {
    rise: u32,
    fall: u32,
    down: bool,
    contrary: u32,
}

impl Streak {
    fn new(settings: &HealthCheck, down: bool) -> Self {
        Self { rise: settings.rise, fall: settings.fall, down, contrary: 0 }
    }

    /// Counts one check; the new state (true: down) when it changes.
    fn count(&mut self, succeeded: bool) -> Option<bool> {
        if succeeded != self.down {
            self.contrary = 0;
            return None;
        }
        self.contrary += 1;
        let needed = if self.down { self.rise } else { self.fall };
        (self.contrary >= needed).then(|| {
            self.contrary = 0;
            self.down = !self.down;
            self.down
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_changes_after_rise_and_fall_in_a_row() {
        let settings = HealthCheck { rise: 2, fall: 3, ..HealthCheck::default() };
        let mut streak = Streak::new(&settings, false);
        let checks = [false, false, true, false, false, false, false, true, false, true, true];
        let changes: Vec<_> = checks.iter().map(|&ok| streak.count(ok)).collect();
        let mut expected = vec![None; checks.len()];
        expected[5] = Some(true);
        expected[10] = Some(false);
        assert_eq!(changes, expected);
    }
}
