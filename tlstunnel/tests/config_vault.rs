//! A store whose secrets are encrypted: turned on for what is there, shut without the right key, silent about new secrets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;
use std::time::SystemTime;

use blockdev::MemoryDevice;
use certify::self_signed::{PemPair, authority, leaf};
use certify::vault::Vault;
use config_proto::key::Key;
use config_proto::message::{KeyAdded, Role, Sealed};
use tlstunnel::config::{Configuration, OpenError, Settings, Start, StorageError, open};
use tlstunnel::gateway::Gateway;
use tlstunnel::limits::Limits;
use zeroize::Zeroizing;

const SIZE: usize = 8 << 20;
const RIGHT: &str = "the right key, which has more than thirty-two bytes";
const WRONG: &str = "a wrong key, which has more than thirty-two bytes too";
const ACCOUNT: &str = "account:https://ca.example/dir";

struct World {
    runtime: tokio::runtime::Runtime,
    device: Arc<MemoryDevice>,
}

impl World {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { runtime, device: Arc::new(MemoryDevice::new(SIZE)) }
    }

    fn open(&self, key: Option<&str>) -> Result<(Configuration, Arc<Gateway>), OpenError> {
        let store = open::on_device(Arc::clone(&self.device) as Arc<_>, false).unwrap();
        let gateway = Gateway::new(Limits::default());
        let settings = Settings { domains: vec!["example.org".to_owned()], history: 10 };
        let start = Start {
            name: "test".to_owned(),
            administrator: Some(Key::new("admin".parse().unwrap(), &[1; 32]).unwrap()),
            self_signed: true,
            vault: key.map(|key| Vault::from_text(key).unwrap()),
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
