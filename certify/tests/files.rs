//! Certificate files that change in all the ways in which they do, under a watch.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use certify::certificates::Certificate;
use certify::files::{FileError, Files, Replacement};
use certify::self_signed::{self, PemPair};
use certify::{Reports, system_clock};

const NAME: &str = "a.example";

fn pair() -> PemPair {
    let ca = self_signed::authority("Test CA", SystemTime::now()).unwrap();
    self_signed::leaf(&ca, &[NAME.to_owned()], SystemTime::now()).unwrap()
}

fn sha256(pair: &PemPair) -> String {
    let source = certify::Source::File;
    Certificate::from_pem(&pair.chain_pem, &pair.key_pem, source).unwrap().sha256().to_owned()
}

fn write(folder: &Path, pair: &PemPair) -> (PathBuf, PathBuf) {
    let (chain, key) = (folder.join("chain.pem"), folder.join("key.pem"));
    std::fs::write(&chain, &pair.chain_pem).unwrap();
    std::fs::write(&key, &pair.key_pem).unwrap();
    (chain, key)
}

/// A watch over one pair, with what it had shown so far.
struct Watch {
    shown: Arc<Mutex<Vec<Replacement>>>,
    refuse: Arc<Mutex<bool>>,
    reports: Reports,
}

impl Watch {
    /// Runs `work` while the files are watched.
    fn over(chain: &Path, key: &Path, every: Duration, work: impl AsyncFnOnce(&Self)) {
        let now = system_clock()();
        let files = Files::load(&[chain.to_owned()], &[key.to_owned()], now).unwrap();
        let watch =
            Self { shown: Arc::default(), refuse: Arc::default(), reports: Reports::default() };
        let (shown, refuse) = (Arc::clone(&watch.shown), Arc::clone(&watch.refuse));
        let replace = move |replacement| {
            let refused = *refuse.lock().unwrap();
            if !refused {
                shown.lock().unwrap().push(replacement);
            }
            async move { if refused { Err("not now".to_owned()) } else { Ok(()) } }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let watching = files.watch(every, system_clock(), watch.reports.clone(), replace);
            tokio::select! {
                () = watching => panic!("a watch does not end"),
                () = work(&watch) => {}
            }
        });
    }

    async fn until(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !done(self) {
            assert!(Instant::now() < end, "{what}: {:?}", self.reports.read().files);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn shows(&self, what: &str, pair: &PemPair) {
        self.until(what, |watch| watch.last().as_deref() == Some(&sha256(pair))).await;
    }

    fn last(&self) -> Option<String> {
        self.shown.lock().unwrap().last().map(|replacement| replacement.new.sha256().to_owned())
    }

    fn error(&self) -> Option<String> {
        self.reports.read().files.values().next().cloned()
    }
}

const OFTEN: Duration = Duration::from_millis(10);

#[test]
fn every_way_of_changing_files_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let first = pair();
    let (chain, key) = write(folder, &first);
    Watch::over(&chain, &key, OFTEN, async |watch| {
        let in_place = pair();
        write(folder, &in_place);
        watch.shows("written in place", &in_place).await;
        assert_eq!(watch.shown.lock().unwrap()[0].old.sha256(), sha256(&first));

        let renamed = pair();
        let aside = folder.join("aside");
        std::fs::create_dir(&aside).unwrap();
        let (new_chain, new_key) = write(&aside, &renamed);
        std::fs::rename(new_chain, &chain).unwrap();
        std::fs::rename(new_key, &key).unwrap();
        watch.shows("renamed over the old ones", &renamed).await;

        // Nothing is replaced by itself.
        let count = watch.shown.lock().unwrap().len();
        let text = std::fs::read(&chain).unwrap();
        std::fs::write(&chain, text).unwrap();
        tokio::time::sleep(OFTEN * 5).await;
        assert_eq!(watch.shown.lock().unwrap().len(), count);
    });
}

/// `..data` points to a folder of one version, and the files point into `..data`.
#[test]
fn a_folder_swapped_behind_a_link_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let version = |number: u32, pair: &PemPair| {
        let own = folder.join(format!("v{number}"));
        std::fs::create_dir(&own).unwrap();
        write(&own, pair);
        let link = folder.join("next");
        symlink(&own, &link).unwrap();
        std::fs::rename(link, folder.join("..data")).unwrap();
    };
    version(0, &pair());
    for file in ["chain.pem", "key.pem"] {
        symlink(format!("..data/{file}"), folder.join(file)).unwrap();
    }
    Watch::over(&folder.join("chain.pem"), &folder.join("key.pem"), OFTEN, async |watch| {
        for number in 1..4 {
            let pair = pair();
            version(number, &pair);
            watch.shows("swapped", &pair).await;
            std::fs::remove_dir_all(folder.join(format!("v{}", number - 1))).unwrap();
        }
        assert_eq!(watch.error(), None);
    });
}

#[test]
fn nothing_half_written_or_wrong_replaces_a_good_pair() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (chain, key) = write(folder, &pair());
    Watch::over(&chain, &key, OFTEN, async |watch| {
        let says = async |what: &str| {
            watch
                .until(what, |watch| watch.error().is_some_and(|error| error.contains(what)))
                .await;
        };
        let next = pair();
        std::fs::write(&chain, &next.chain_pem[..next.chain_pem.len() / 3]).unwrap();
        says("PEM").await;
        std::fs::write(&chain, &next.chain_pem).unwrap();
        says("does not belong").await;
        std::fs::remove_file(&key).unwrap();
        says("cannot read").await;
        std::fs::write(&key, "").unwrap();
        says("there is no private key").await;
        let expired = {
            let then = SystemTime::now() - Duration::from_secs(20 * 365 * 86_400);
            let ca = self_signed::authority("Test CA", then).unwrap();
            self_signed::leaf(&ca, &[NAME.to_owned()], then).unwrap()
        };
        write(folder, &expired);
        says("expired").await;
        std::fs::write(&chain, "x".repeat(300 * 1024)).unwrap();
        says("larger than").await;
        assert!(watch.shown.lock().unwrap().is_empty());

        *watch.refuse.lock().unwrap() = true;
        write(folder, &next);
        says("not now").await;
        *watch.refuse.lock().unwrap() = false;
        watch.shows("what was refused is given again", &next).await;
        watch.until("no problem is left", |watch| watch.error().is_none()).await;
    });
}

#[test]
fn sighup_looks_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let (chain, key) = write(folder.path(), &pair());
    Watch::over(&chain, &key, Duration::from_secs(3600), async |watch| {
        // The watch listens from its first turn on.
        tokio::task::yield_now().await;
        let next = pair();
        write(folder.path(), &next);
        let own = std::process::id().to_string();
        assert!(Command::new("kill").args(["-HUP", &own]).status().unwrap().success());
        watch.shows("read again", &next).await;
    });
}

#[test]
fn a_start_needs_whole_pairs() {
    let folder = tempfile::tempdir().unwrap();
    let (chain, key) = write(folder.path(), &pair());
    let load = |chains: &[&PathBuf], keys: &[&PathBuf]| {
        let owned = |paths: &[&PathBuf]| paths.iter().map(|&path| path.clone()).collect::<Vec<_>>();
        Files::load(&owned(chains), &owned(keys), system_clock()())
    };
    assert_eq!(load(&[&chain], &[&key]).unwrap().certificates().len(), 1);
    assert!(load(&[], &[]).unwrap().certificates().is_empty());
    assert!(matches!(load(&[&chain], &[]), Err(FileError::Unpaired { certs: 1, keys: 0, .. })));
    assert!(matches!(load(&[&key], &[&key]), Err(FileError::Unusable { .. })));
    let missing = folder.path().join("missing");
    assert!(matches!(load(&[&missing], &[&key]), Err(FileError::Read { .. })));
}
