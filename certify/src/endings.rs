//! Certificates in use that end soon, said in the log: renewal should have happened, so somebody must look.

use std::time::Duration;

use crate::certificates::CertificateTable;
use crate::keeper::Clock;
use crate::schedule::is_ending;

/// How often it is said.
const AGAIN: Duration = Duration::from_secs(86_400);
/// The most certificates that are named at a time.
const NAMED: usize = 20;

/// A certificate that ends soon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Its first name.
    pub name: String,
    /// Seconds until its end; negative once it has ended.
    pub left: i64,
}

/// The certificates of `table` that end soon (see [`is_ending`]), the most urgent first.
pub fn endings(table: &CertificateTable, alert: i64, now: i64) -> Vec<Ending> {
    let mut endings: Vec<Ending> = table
        .iter()
        .filter(|certificate| is_ending(certificate.validity(), alert, now))
        .map(|certificate| Ending {
            name: certificate.names().first().cloned().unwrap_or_default(),
            left: certificate.not_after().saturating_sub(now),
        })
        .collect();
    endings.sort_by_key(|ending| ending.left);
    endings
}

/// Says once a day which of the certificates that `shown` gives end soon. It goes on for ever; drop the future to stop.
pub async fn announce(alert: i64, clock: Clock, shown: impl Fn() -> CertificateTable) {
    loop {
        let endings = endings(&shown(), alert, clock());
        for Ending { name, left } in endings.iter().take(NAMED) {
            let hours = left / 3600;
            tracing::warn!(name, hours, "a certificate in use ends soon and was not renewed");
        }
        if let Some(more) = endings.len().checked_sub(NAMED).filter(|more| *more > 0) {
            tracing::warn!(more, "other certificates end soon too");
        }
        tokio::time::sleep(AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;
    use std::time::SystemTime;

    use super::*;
    use crate::self_signed::{authority, leaf};
    use crate::{Certificate, Source};

    #[test]
    fn what_ends_soon_is_found_the_most_urgent_first() {
        let ca = authority("CA", SystemTime::now()).unwrap();
        let mut table = CertificateTable::default();
        let mut ends = Vec::new();
        for (name, back) in [("a.example", 0), ("b.example", 20), ("c.example", 40)] {
            let then = SystemTime::now() - Duration::from_secs(back * 86_400);
            let pair = leaf(&ca, &[name.to_owned()], then).unwrap();
            let certificate =
                Certificate::from_pem(&pair.chain_pem, &pair.key_pem, Source::File).unwrap();
            ends.push(certificate.not_after());
            table.insert(Arc::new(certificate));
        }
        let day = 86_400;
        let found = |now| -> Vec<String> {
            endings(&table, 7 * day, now).into_iter().map(|ending| ending.name).collect()
        };
        assert!(found(ends[2] - 8 * day).is_empty());
        assert_eq!(found(ends[2] - 6 * day), ["c.example"]);
        assert_eq!(found(ends[1] + day), ["c.example", "b.example"]);
    }
}
