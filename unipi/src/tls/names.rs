//! The names that are served, as they come and go.

use std::collections::BTreeSet;

use tokio::sync::watch;

/// The names that want a certificate. A clone is another handle on the same.
#[derive(Clone, Debug)]
pub struct Names(watch::Sender<State>);

#[derive(Debug, Default)]
struct State {
    version: u64,
    /// Named at start.
    fixed: BTreeSet<String>,
    /// Those of sites, which come and go.
    sites: BTreeSet<String>,
}

impl Names {
    /// The names that were given at start: in lower case, without a final dot.
    pub fn new(fixed: impl IntoIterator<Item = String>) -> Self {
        let fixed = fixed.into_iter().collect();
        Self(watch::Sender::new(State { fixed, ..State::default() }))
    }

    /// The names of sites are these from now on, besides those that were given at start.
    pub fn set_sites(&self, sites: impl IntoIterator<Item = String>) {
        let sites: BTreeSet<String> = sites.into_iter().collect();
        self.0.send_if_modified(|state| {
            let changed = state.sites != sites;
            if changed {
                state.sites = sites;
                state.version += 1;
            }
            changed
        });
    }

    /// All names, and the version of the list.
    pub fn all(&self) -> (u64, Vec<String>) {
        let state = self.0.borrow();
        (state.version, state.fixed.union(&state.sites).cloned().collect())
    }

    /// Returns once the version is not `since` any more.
    pub async fn changed(&self, since: u64) {
        let mut versions = self.0.subscribe();
        // The sender lives in this value.
        let _ = versions.wait_for(|state| state.version != since).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sites_come_and_go_and_the_first_names_stay() {
        let names = Names::new(["b.example".to_owned()]);
        let (version, all) = names.all();
        assert_eq!(all, ["b.example"]);
        let other = names.clone();
        other.set_sites(["a.example".to_owned(), "b.example".to_owned()]);
        names.changed(version).await;
        let (version, all) = names.all();
        assert_eq!(all, ["a.example", "b.example"]);
        other.set_sites(["a.example".to_owned(), "b.example".to_owned()]);
        assert_eq!(names.all().0, version, "the same list is no change");
        other.set_sites([]);
        assert_eq!(names.all().1, ["b.example"]);
    }
}
