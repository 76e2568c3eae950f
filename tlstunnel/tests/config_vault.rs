//! A store whose secrets are encrypted: turned on for what is there, shut without the right key, silent about new secrets,
//! and under another key when that is changed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;
use std::time::SystemTime;

use blockdev::device::FaultPlan;
use blockdev::{BlockDevice, FaultDevice, MemoryDevice};
use certify::self_signed::{PemPair, authority, leaf};
use certify::vault::{StoreKeys, Vault};
use config_proto::key::Key;
use config_proto::message::{KeyAdded, Role, Sealed};
use tlstunnel::config::{Configuration, OpenError, Settings, Start, StorageError, open};
use tlstunnel::gateway::Gateway;
use tlstunnel::limits::Limits;
use zeroize::Zeroizing;

const SIZE: usize = 8 << 20;
const RIGHT: &str = "the right key, which has more than thirty-two bytes";
const WRONG: &str = "a wrong key, which has more than thirty-two bytes too";
const NEXT: &str = "the next key, which has more than thirty-two bytes as well";
const ACCOUNT: &str = "account:https://ca.example/dir";

struct World {
    runtime: tokio::runtime::Runtime,
    device: Arc<MemoryDevice>,
}

impl World {
    fn new() -> Self {
        Self::on(MemoryDevice::new(SIZE))
    }

    fn on(device: MemoryDevice) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { runtime, device: Arc::new(device) }
    }

    fn open(&self, key: Option<&str>) -> Result<(Configuration, Arc<Gateway>), OpenError> {
        self.open_at(Arc::clone(&self.device) as Arc<_>, key.map(|key| StoreKeys::from(vault(key))))
    }

    /// The same with a key that is changed.
    fn change(&self, key: &str, old: &str) -> Result<(Configuration, Arc<Gateway>), OpenError> {
        let keys = StoreKeys { current: vault(key), previous: Some(vault(old)) };
        self.open_at(Arc::clone(&self.device) as Arc<_>, Some(keys))
    }

    fn open_at(
        &self,
        device: Arc<dyn BlockDevice>,
        keys: Option<StoreKeys>,
    ) -> Result<(Configuration, Arc<Gateway>), OpenError> {
        let store = open::on_device(device, false)?;
        let gateway = Gateway::new(Limits::default());
        let settings = Settings {
            domains: vec!["example.org".to_owned()],
            history: 10,
            route_memory: u64::MAX,
        };
        let start = Start {
            name: "test".to_owned(),
            administrator: Some(Key::new("admin".parse().unwrap(), &[1; 32]).unwrap()),
            self_signed: true,
            storage_keys: keys,
            ..Start::default()
        };
        let handle = self.runtime.handle().clone();
        let (configuration, _) =
            Configuration::open(Arc::clone(&gateway), store, settings, start, handle)?;
        Ok((configuration, gateway))
    }

    /// Puts secrets of every kind there; gives texts that only they have.
    fn fill(&self, configuration: &Configuration, name: &str) -> Vec<String> {
        let ca = authority("CA", SystemTime::now()).unwrap();
        let PemPair { chain_pem, key_pem } =
            leaf(&ca, &[format!("{name}.example.org")], SystemTime::now()).unwrap();
        let body = key_pem.lines().nth(1).unwrap().to_owned();
        let record = format!("{{\"key\":\"secret of {name}\"}}");
        let saved = Zeroizing::new(record.clone().into_bytes());
        let KeyAdded { secret: Sealed(secret), .. } = self.runtime.block_on(async {
            configuration.set_certificate("admin", chain_pem, Sealed(key_pem)).await.unwrap();
            let account = format!("{ACCOUNT}/{name}");
            configuration.save_acme_record(account, Some(saved)).await.unwrap();
            configuration.add_key("admin", name, Role::Viewer).await.unwrap()
        });
        vec![body, record, secret]
    }

    fn holds(&self, text: &str) -> bool {
        let image = self.device.image();
        image.windows(text.len()).any(|window| window == text.as_bytes())
    }
}

fn vault(key: &str) -> Vault {
    Vault::from_text(key).unwrap()
}

fn seen(world: &World, configuration: &Configuration, gateway: &Gateway) -> (usize, usize, usize) {
    let records = world.runtime.block_on(configuration.acme_records()).unwrap();
    (gateway.snapshot.load().certificates.len(), records.len(), configuration.keys().list().len())
}

#[test]
fn what_is_there_is_encrypted_and_what_comes_is_never_in_the_clear() {
    let world = World::new();
    let (configuration, gateway) = world.open(None).unwrap();
    let early = world.fill(&configuration, "early");
    let before = seen(&world, &configuration, &gateway);
    for secret in &early {
        assert!(world.holds(secret), "a test that searches must find: {secret}");
    }
    drop((configuration, gateway));

    let (configuration, gateway) = world.open(Some(RIGHT)).unwrap();
    assert_eq!(seen(&world, &configuration, &gateway), before);
    for secret in &early {
        assert!(!world.holds(secret), "no trace is left: {secret}");
    }
    let usage = world.runtime.block_on(configuration.usage()).unwrap();
    assert!(usage.used < usage.capacity / 4, "there is room again: {usage:?}");
    let late = world.fill(&configuration, "late");
    for secret in &late {
        assert!(!world.holds(secret), "{secret}");
    }
    let after = seen(&world, &configuration, &gateway);
    drop((configuration, gateway));
    let (configuration, gateway) = world.open(Some(RIGHT)).unwrap();
    assert_eq!(seen(&world, &configuration, &gateway), after);
    let records = world.runtime.block_on(configuration.acme_records()).unwrap();
    assert!(records.iter().any(|(key, value)| {
        *key == format!("{ACCOUNT}/early") && value.as_slice() == early[1].as_bytes()
    }));
}

#[test]
fn without_the_right_key_nothing_is_read_or_written() {
    let world = World::new();
    let (configuration, gateway) = world.open(Some(RIGHT)).unwrap();
    world.fill(&configuration, "a");
    let before = seen(&world, &configuration, &gateway);
    let generation = gateway.snapshot.load().generation;
    drop((configuration, gateway));
    for (key, expected) in [(None, "--storage-key-file"), (Some(WRONG), "another key")] {
        let error = world.open(key).map(|_| ()).unwrap_err();
        assert!(matches!(
            error,
            OpenError::Storage(StorageError::KeyNeeded | StorageError::WrongKey)
        ));
        assert!(error.to_string().contains(expected), "{error}");
    }
    let (configuration, gateway) = world.open(Some(RIGHT)).unwrap();
    assert_eq!(seen(&world, &configuration, &gateway), before, "nothing was lost");
    assert_eq!(gateway.snapshot.load().generation, generation);
}

/// The bytes that begin each encrypted record on a device: no two are alike.
fn sealed(image: &[u8]) -> Vec<[u8; 20]> {
    let starts = image.windows(20).filter(|window| window.starts_with(b"\0sealed1"));
    starts.map(|window| window.try_into().unwrap()).collect()
}

#[test]
fn the_key_can_be_changed_and_the_old_one_opens_nothing() {
    let world = World::new();
    let (configuration, gateway) = world.open(Some(RIGHT)).unwrap();
    let secrets = world.fill(&configuration, "a");
    let before = seen(&world, &configuration, &gateway);
    drop((configuration, gateway));
    let old = sealed(&world.device.image());
    assert!(!old.is_empty());

    // Two wrong ones are none.
    let error = world.change(NEXT, WRONG).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("--storage-key-file-old"), "{error}");
    // Twice is as good as once.
    for _ in 0..2 {
        let (configuration, gateway) = world.change(NEXT, RIGHT).unwrap();
        assert_eq!(seen(&world, &configuration, &gateway), before);
        drop((configuration, gateway));
        let left = sealed(&world.device.image());
        assert!(old.iter().all(|old| !left.contains(old)), "no old form is left");
    }
    let error = world.open(Some(RIGHT)).map(|_| ()).unwrap_err();
    assert!(matches!(error, OpenError::Storage(StorageError::WrongKey)), "{error}");
    let (configuration, gateway) = world.open(Some(NEXT)).unwrap();
    assert_eq!(seen(&world, &configuration, &gateway), before);
    let records = world.runtime.block_on(configuration.acme_records()).unwrap();
    assert!(records.iter().any(|(_, value)| value.as_slice() == secrets[1].as_bytes()));
}

/// Takes the power away at every write and flush of the change, and here and there while free space is overwritten after it.
#[test]
fn a_change_of_the_key_is_whole_at_every_moment() {
    let world = World::on(MemoryDevice::new(512 << 10));
    let (configuration, gateway) = world.open(Some(RIGHT)).unwrap();
    for name in ["a", "b", "c"] {
        world.fill(&configuration, name);
    }
    let before = seen(&world, &configuration, &gateway);
    drop((configuration, gateway));
    let image = world.device.image();
    let old = sealed(&image);

    let (mut with_old, mut with_new) = (0, 0);
    let mut crash_at = 0;
    loop {
        crash_at += if with_new < 20 { 1 } else { 23 };
        let world = World::on(MemoryDevice::from_image(image.clone(), 512));
        let plan = FaultPlan { seed: crash_at, crash_at: Some(crash_at), ..FaultPlan::default() };
        let device = Arc::new(FaultDevice::new(Arc::clone(&world.device) as Arc<_>, plan));
        let keys = StoreKeys { current: vault(NEXT), previous: Some(vault(RIGHT)) };
        let opened = world.open_at(Arc::clone(&device) as Arc<_>, Some(keys));
        let finished = !device.crashed();
        drop(opened);
        if finished {
            break;
        }
        // What is left is under one key, whole.
        let opens = |key: &str| {
            let copy = World::on(MemoryDevice::from_image(world.device.image(), 512));
            copy.open(Some(key)).is_ok_and(|(configuration, gateway)| {
                assert_eq!(seen(&copy, &configuration, &gateway), before, "write {crash_at}");
                true
            })
        };
        let (is_old, is_new) = (opens(RIGHT), opens(NEXT));
        assert!(is_old ^ is_new, "write {crash_at}: {is_old} {is_new}");
        with_old += usize::from(is_old);
        with_new += usize::from(is_new);
        // The next start ends what this one began.
        let (configuration, gateway) = world.change(NEXT, RIGHT).unwrap();
        assert_eq!(seen(&world, &configuration, &gateway), before, "write {crash_at}");
        drop((configuration, gateway));
        let left = sealed(&world.device.image());
        assert!(old.iter().all(|old| !left.contains(old)), "write {crash_at}: an old form is left");
    }
    assert!(with_old > 0 && with_new > 0, "{with_old} {with_new}");
}

#[test]
fn a_record_that_somebody_planted_does_not_survive_the_change() {
    let world = World::new();
    let (configuration, _gateway) = world.open(Some(RIGHT)).unwrap();
    world.fill(&configuration, "a");
    drop((configuration, _gateway));
    let store = open::on_device(Arc::clone(&world.device) as Arc<_>, false).unwrap();
    let planted = store
        .write::<_, blockdev::StoreError>(|tx| tx.put(blockdev::Table("keys"), b"intruder", b"{}"));
    planted.unwrap();
    drop(store);
    let error = world.change(NEXT, RIGHT).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("intruder"), "{error}");
}
