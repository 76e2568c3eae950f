//! The configuration on its store: everything persists, durable comes before visible, generations lead back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use blockdev::device::FaultPlan;
use blockdev::{BlockDevice, FaultDevice, MemoryDevice};
use config_proto::message::{RefusalCode, Role, Sealed};
use config_proto::model::{Document, RouteSettings};
use tlstunnel::config::{
    AUTHOR_MIGRATION, AUTHOR_ROLLBACK, Configuration, OpenError, Settings, Start, open,
};
use tlstunnel::gateway::Gateway;
use tlstunnel::limits::Limits;
use tlstunnel::tls::self_signed;
use tokio::runtime::{Builder, Runtime};

/// A gateway's configuration on a device.
struct World {
    runtime: Runtime,
    configuration: Configuration,
    gateway: Arc<Gateway>,
}

impl World {
    fn on(device: &Arc<dyn BlockDevice>) -> Self {
        Self::try_on(device, 1000).unwrap()
    }

    fn try_on(device: &Arc<dyn BlockDevice>, history: u32) -> Result<Self, OpenError> {
        Self::with_memory(device, history, u64::MAX)
    }

    fn with_memory(
        device: &Arc<dyn BlockDevice>,
        history: u32,
        route_memory: u64,
    ) -> Result<Self, OpenError> {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let gateway = Gateway::new(Limits::default());
        let store = open::on_device(Arc::clone(device), false)?;
        let settings = Settings { domains: vec!["example.org".to_owned()], history, route_memory };
        let (configuration, _) = Configuration::open(
            Arc::clone(&gateway),
            store,
            settings,
            Start::default(),
            runtime.handle().clone(),
        )?;
        Ok(Self { runtime, configuration, gateway })
    }

    fn routes(&self) -> BTreeMap<String, RouteSettings> {
        let snapshot = self.gateway.snapshot.load();
        snapshot
            .routes
            .iter_after(None)
            .map(|active| (active.route.name.to_string(), active.route.settings.clone()))
            .collect()
    }

    fn generation(&self) -> u64 {
        self.gateway.snapshot.load().generation
    }

    fn add(&self, name: &str, backend: &str) -> u64 {
        let adding = self.configuration.add("test", name, to(backend), true);
        self.runtime.block_on(adding).unwrap().generation
    }
}

fn memory(bytes: usize) -> Arc<dyn BlockDevice> {
    Arc::new(MemoryDevice::new(bytes))
}

fn to(backend: &str) -> RouteSettings {
    RouteSettings { backends: vec![backend.parse().unwrap()], ..RouteSettings::default() }
}

fn document(routes: &[(&str, &str)]) -> Document {
    let routes = routes.iter().map(|(name, backend)| (name.parse().unwrap(), to(backend)));
    Document { routes: routes.collect() }
}

#[test]
fn every_kind_of_change_is_there_after_a_restart() {
    let device = memory(4 << 20);
    let authority = self_signed::authority("Test CA", SystemTime::now()).unwrap();
    let pair = self_signed::wildcard(&authority, "example.org", SystemTime::now()).unwrap();
    let (routes, certificates, keys, generation, history) = {
        let world = World::on(&device);
        world.add("blog", "10.0.0.1:80");
        world.add("*.example.org", "10.0.0.2:80");
        world.add("default", "10.0.0.3:80");
        world.add("blog", "10.0.0.4:80");
        let configuration = &world.configuration;
        world.runtime.block_on(async {
            configuration.remove("test", "default").await.unwrap();
            configuration.add_key("test", "viewer-1", Role::Viewer).await.unwrap();
            configuration.add_key("test", "gone", Role::Admin).await.unwrap();
            configuration.remove_key("test", "gone").await.unwrap();
            let set = configuration.set_certificate("test", pair.chain_pem, Sealed(pair.key_pem));
            set.await.unwrap();
        });
        let history = world.runtime.block_on(configuration.history(None, 1000)).unwrap();
        (
            world.routes(),
            configuration.certificates(None, 1000),
            configuration.keys().list(),
            world.generation(),
            history,
        )
    };
    assert_eq!(generation, 9);
    let world = World::on(&device);
    assert_eq!(world.routes(), routes);
    assert_eq!(routes["blog.example.org"], to("10.0.0.4:80"));
    assert_eq!(world.configuration.certificates(None, 1000), certificates);
    assert_eq!(certificates.certificates[0].source, "uploaded");
    assert_eq!(world.configuration.keys().list(), keys);
    assert_eq!(keys.len(), 1);
    assert_eq!(world.generation(), generation);
    let again = world.runtime.block_on(world.configuration.history(None, 1000)).unwrap();
    assert_eq!(again, history);
    assert_eq!(again.generations.len(), 9);
    assert_eq!(again.generations[0].number, 9);
    assert!(again.generations[0].summary.contains("*.example.org"), "{again:?}");
}

#[test]
fn generations_can_be_compared_and_brought_back() {
    let world = World::on(&memory(4 << 20));
    let first = world.add("a", "10.0.0.1:80");
    let before = world.routes();
    world.add("a", "10.0.0.2:80");
    let last = world.add("b", "10.0.0.3:80");
    let configuration = &world.configuration;
    world.runtime.block_on(async {
        let diff = configuration.diff(first, None).await.unwrap();
        assert_eq!((diff.from, diff.to, diff.changes.len()), (first, last, 2));
        assert_eq!(diff.changes[0].before.as_ref().unwrap().settings, to("10.0.0.1:80"));
        assert_eq!(diff.changes[0].after.as_ref().unwrap().settings, to("10.0.0.2:80"));
        assert_eq!(diff.changes[1].before, None);
        let changed = configuration.rollback("test", first).await.unwrap();
        assert_eq!(changed.generation, last + 1);
        assert_eq!(world.routes(), before);
        configuration.rollback("test", last).await.unwrap();
        assert_eq!(world.routes().len(), 2);
        let ahead = configuration.rollback("test", 99).await.unwrap_err();
        assert_eq!(ahead.code, RefusalCode::NotFound);
        let reversed = configuration.diff(last, Some(first)).await.unwrap_err();
        assert_eq!(reversed.code, RefusalCode::Invalid);
    });
}

#[test]
fn old_generations_make_room() {
    let device = memory(4 << 20);
    let world = World::try_on(&device, 5).unwrap();
    for n in 1..=12 {
        world.add("a", &format!("10.0.0.{n}:80"));
    }
    let configuration = &world.configuration;
    world.runtime.block_on(async {
        let history = configuration.history(None, 1000).await.unwrap();
        let numbers: Vec<u64> = history.generations.iter().map(|g| g.number).collect();
        assert_eq!(numbers, [12, 11, 10, 9, 8]);
        let page = configuration.history(Some(11), 2).await.unwrap();
        assert_eq!(page.generations.iter().map(|g| g.number).collect::<Vec<_>>(), [10, 9]);
        assert!(page.more);
        assert_eq!(
            configuration.rollback("test", 6).await.unwrap_err().code,
            RefusalCode::NotFound
        );
        configuration.rollback("test", 7).await.unwrap();
    });
    assert_eq!(world.routes()["a.example.org"], to("10.0.0.7:80"));
}

#[test]
fn what_a_huge_generation_did_goes_piece_by_piece() {
    let device = memory(16 << 20);
    let names: Vec<String> = (0..2000).map(|n| format!("n{n}.example.org")).collect();
    let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "10.0.0.1:80")).collect();
    let changes = |device: &Arc<dyn BlockDevice>| {
        let store = open::on_device(Arc::clone(device), false).unwrap();
        store
            .read::<_, blockdev::StoreError>(|tx| {
                Ok(tx.scan(blockdev::Table("changes"), &[], None, 10_000)?.len())
            })
            .unwrap()
    };
    let world = World::try_on(&device, 2).unwrap();
    let applying = world.configuration.apply("test", document(&many), false, None);
    world.runtime.block_on(applying).unwrap();
    for n in 1..=3 {
        world.add("n0", &format!("10.0.0.2:{n}"));
    }
    drop(world);
    let after_few = changes(&device);
    assert!(after_few > 1000 && after_few < 2003, "{after_few} changes, all at once or never");
    let world = World::try_on(&device, 2).unwrap();
    for n in 1..=8 {
        world.add("n0", &format!("10.0.0.3:{n}"));
    }
    drop(world);
    assert_eq!(changes(&device), 2);
}

#[test]
fn an_apply_is_all_or_nothing_and_a_dry_run_is_nothing() {
    let world = World::on(&memory(4 << 20));
    world.add("old", "10.0.0.1:80");
    let configuration = &world.configuration;
    let wanted = document(&[("a.example.org", "10.0.0.2:80"), ("b.example.org", "10.0.0.3:80")]);
    world.runtime.block_on(async {
        let dry = configuration.apply("test", wanted.clone(), true, None).await.unwrap();
        assert!(!dry.applied);
        assert_eq!((dry.diff.changes.len(), world.generation()), (3, 1));

        let mut broken = wanted.clone();
        broken.routes.insert("c.example.org".parse().unwrap(), RouteSettings::default());
        let refused = configuration.apply("test", broken, false, None).await.unwrap_err();
        assert_eq!(refused.code, RefusalCode::Invalid);
        assert!(refused.message.contains("c.example.org"), "{refused:?}");
        assert_eq!(world.routes().len(), 1);

        let done = configuration.apply("test", wanted.clone(), false, None).await.unwrap();
        assert!(done.applied);
        assert_eq!((done.generation, done.diff.changes.len()), (2, 3));
        let again = configuration.apply("test", wanted, false, None).await.unwrap();
        assert!(!again.applied);
        assert_eq!(again.generation, 2);
    });
    assert_eq!(world.routes().into_keys().collect::<Vec<_>>(), ["a.example.org", "b.example.org"]);
}

#[test]
fn what_is_not_confirmed_is_undone_and_what_is_stays() {
    let world = World::on(&memory(4 << 20));
    world.add("old", "10.0.0.1:80");
    let configuration = world.configuration.clone();
    world.runtime.spawn(configuration.clone().watch_confirmations());
    world.runtime.block_on(async {
        let wanted = document(&[("new.example.org", "10.0.0.2:80")]);
        configuration.apply("test", wanted.clone(), false, Some(3600)).await.unwrap();
        assert_eq!(configuration.pending().unwrap().generation, 2);
        let other = configuration.add("test", "x", to("10.0.0.9:80"), false).await.unwrap_err();
        assert_eq!(other.code, RefusalCode::Pending);
        assert_eq!(configuration.confirm("test", 1).await.unwrap_err().code, RefusalCode::Invalid);
        configuration.confirm("test", 2).await.unwrap();
        assert_eq!(configuration.pending(), None);

        configuration.apply("test", document(&[]), false, Some(1)).await.unwrap();
        assert!(world.routes().is_empty());
        // A key in between must not be lost, nor keep the change from being undone.
        configuration.add_key("test", "between", Role::Viewer).await.unwrap();
        while configuration.pending().is_some() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(world.routes().into_keys().collect::<Vec<_>>(), ["new.example.org"]);
        assert_eq!(configuration.keys().list().len(), 1);
        let history = configuration.history(None, 1).await.unwrap();
        assert_eq!(history.generations[0].author, AUTHOR_ROLLBACK);
    });
}

#[test]
fn a_waiting_change_goes_on_waiting_after_a_restart() {
    let device = memory(4 << 20);
    let apply = |world: &World, seconds| {
        let wanted = document(&[("new.example.org", "10.0.0.2:80")]);
        let applying = world.configuration.apply("test", wanted, false, Some(seconds));
        world.runtime.block_on(applying).unwrap();
    };
    apply(&World::on(&device), 3600);
    let world = World::on(&device);
    let pending = world.configuration.pending().unwrap();
    assert!(pending.generation == 1 && pending.seconds_left <= 3600, "{pending:?}");
    assert_eq!(world.routes().len(), 1);
    world.runtime.block_on(world.configuration.rollback("test", 0)).unwrap();
    assert_eq!(world.configuration.pending(), None);
    apply(&world, 1);
    drop(world);
    std::thread::sleep(Duration::from_millis(2100));
    let world = World::on(&device);
    assert!(world.routes().is_empty());
    assert_eq!(world.configuration.pending(), None);
}

/// At every write and flush of a change the power goes: what was acknowledged is there afterwards, what was refused was
/// never visible, and nothing in between exists.
#[test]
fn durable_comes_before_visible_whenever_the_power_goes() {
    let disk = memory(1 << 20);
    World::on(&disk).add("a", "10.0.0.1:80");
    let mut crash_at = 1;
    loop {
        let image = copy(&disk);
        let faulty = Arc::new(FaultDevice::new(Arc::clone(&image), FaultPlan::default()));
        let device: Arc<dyn BlockDevice> = Arc::clone(&faulty) as _;
        let world = World::on(&device);
        let before = world.routes();
        faulty.set_plan(FaultPlan {
            seed: crash_at,
            crash_at: Some(crash_at),
            ..FaultPlan::default()
        });
        let adding = world.configuration.add("test", "b", to("10.0.0.2:80"), false);
        let result = world.runtime.block_on(adding);
        let crashed = faulty.crashed();
        let visible = world.routes();
        assert_eq!(result.is_ok(), visible.len() == 2, "crash at {crash_at}: {result:?}");
        drop(world);
        let after = World::on(&image).routes();
        if result.is_ok() {
            assert_eq!(after, visible, "crash at {crash_at}: visible and not durable");
        } else {
            assert_eq!(visible, before);
            assert!(after == before || after.len() == 2, "crash at {crash_at}: {after:?}");
        }
        if !crashed {
            assert!(result.is_ok());
            break;
        }
        crash_at += 1;
    }
    assert!(crash_at > 3, "the change wrote next to nothing");
}

/// One call of the device fails, whichever: the change is refused or done, and the next start agrees with what was seen.
#[test]
fn what_is_seen_after_a_failing_call_is_what_the_next_start_finds() {
    let disk = memory(1 << 20);
    World::on(&disk).add("a", "10.0.0.1:80");
    let mut fail_call = 1;
    loop {
        let image = copy(&disk);
        let faulty = Arc::new(FaultDevice::new(Arc::clone(&image), FaultPlan::default()));
        let device: Arc<dyn BlockDevice> = Arc::clone(&faulty) as _;
        let world = World::on(&device);
        faulty.set_plan(FaultPlan { fail_call: Some(fail_call), ..FaultPlan::default() });
        let adding = world.configuration.add("test", "b", to("10.0.0.2:80"), false);
        let result = world.runtime.block_on(adding);
        let calls = faulty.calls();
        assert_eq!(
            result.is_ok(),
            world.routes().len() == 2,
            "failed call {fail_call}: {result:?}"
        );
        // A client tries again until it is told that it is done.
        for _ in 0..3 {
            let again = world.configuration.add("test", "c", to("10.0.0.3:80"), true);
            if world.runtime.block_on(again).is_ok() {
                break;
            }
        }
        let visible = world.routes();
        assert!(visible.contains_key("c.example.org"), "failed call {fail_call}");
        drop(world);
        drop(device);
        faulty.set_plan(FaultPlan::default());
        let device: Arc<dyn BlockDevice> = faulty;
        assert_eq!(World::on(&device).routes(), visible, "failed call {fail_call}");
        if calls < fail_call {
            break;
        }
        fail_call += 1;
    }
    assert!(fail_call > 3);
}

#[test]
fn ten_thousand_routes_in_one_change() {
    let device = memory(32 << 20);
    let names: Vec<String> = (0..10_000).map(|n| format!("n{n}.example.org")).collect();
    let wanted = Document {
        routes: names.iter().map(|name| (name.parse().unwrap(), to("10.0.0.1:80"))).collect(),
    };
    {
        let world = World::on(&device);
        let applying = world.configuration.apply("test", wanted.clone(), false, None);
        let applied = world.runtime.block_on(applying).unwrap();
        assert_eq!(applied.generation, 1);
        assert!(applied.diff.more);
        assert_eq!(applied.diff.changes.len(), 1000);
    }
    let world = World::on(&device);
    assert_eq!(world.routes().len(), 10_000);
    let again = world.configuration.apply("test", wanted, false, None);
    assert!(!world.runtime.block_on(again).unwrap().applied);
    world.runtime.block_on(world.configuration.rollback("test", 0)).unwrap();
    assert!(world.routes().is_empty());
}

#[test]
fn a_full_store_refuses_and_goes_on() {
    let world = World::on(&memory(640 << 10));
    let mut refused = None;
    for n in 0..10_000 {
        let name = format!("{}-{n}", "x".repeat(40));
        let mut settings = to("10.0.0.1:80");
        settings.description = Some("d".repeat(200));
        let adding = world.configuration.add("test", &name, settings, false);
        if let Err(error) = world.runtime.block_on(adding) {
            refused = Some(error);
            break;
        }
    }
    assert_eq!(refused.unwrap().code, RefusalCode::Full);
    for name in world.routes().into_keys() {
        world.runtime.block_on(world.configuration.remove("test", &name)).unwrap();
    }
    assert!(world.routes().is_empty());
    world.add("a", "10.0.0.1:80");
}

#[test]
fn the_originals_names_are_taken_over_as_generation_1() {
    let sni = |name: &str, host: [u8; 4]| config_proto::v1::Sni {
        name: name.to_owned(),
        host: host.into(),
        port: 80,
    };
    let snis =
        [sni("blog.test", [10, 0, 0, 1]), sni("default", [10, 0, 0, 2]), sni("not a name", [0; 4])];
    let device = memory(2 << 20);
    let data = config_proto::v1::store::encode(&snis);
    blockdev::v1::write(&*device, &data, 7, 0).unwrap();
    for _ in 0..2 {
        let world = World::on(&device);
        assert_eq!(world.routes().into_keys().collect::<Vec<_>>(), ["blog.test", "default"]);
        assert_eq!(world.generation(), 1);
        let history = world.runtime.block_on(world.configuration.history(None, 10)).unwrap();
        assert_eq!(history.generations[0].author, AUTHOR_MIGRATION);
    }
}

/// A copy of a memory device.
fn copy(device: &Arc<dyn BlockDevice>) -> Arc<dyn BlockDevice> {
    let mut image = vec![0; usize::try_from(device.capacity()).unwrap()];
    device.read(0, &mut image).unwrap();
    Arc::new(MemoryDevice::from_image(image, 512))
}

#[test]
fn routes_are_refused_before_they_take_more_memory_than_there_is() {
    const ROOM: u64 = 64 << 10;
    let device = memory(4 << 20);
    let world = World::with_memory(&device, 10, ROOM).unwrap();
    let configuration = &world.configuration;
    let many = |n: u16| RouteSettings {
        backends: (1..=n).map(|port| format!("10.0.0.1:{port}").parse().unwrap()).collect(),
        ..RouteSettings::default()
    };
    let add = |name: &str, backends: u16| {
        world.runtime.block_on(configuration.add("test", name, many(backends), true))
    };
    let mut names = (0..).map(|n| format!("r{n}"));
    let refusal = names.find_map(|name| add(&name, 20).err()).unwrap();
    assert_eq!(refusal.code, RefusalCode::Full);
    assert!(refusal.hint.unwrap().contains("--route-memory"), "{}", refusal.message);
    let (routes, generation) = (world.routes(), world.generation());
    assert!(routes.len() > 1, "{}", routes.len());

    // One can still be changed, but not all at once: old and new ones are there together for a while.
    assert!(add("r0", 19).unwrap().generation > generation);
    let shorter = routes.keys().map(|name| (name.parse().unwrap(), many(18)));
    let document = Document { routes: shorter.collect() };
    let applying = configuration.apply("test", document, false, None);
    let refusal = world.runtime.block_on(applying).unwrap_err();
    assert!(refusal.hint.unwrap().contains("fewer routes at once"), "{}", refusal.message);
    let (routes, generation) = (world.routes(), world.generation());

    // Whatever way they come by, the same holds, and nothing is changed.
    assert_eq!(add("r0", 64).unwrap_err().code, RefusalCode::Full);
    let all: Vec<(String, RouteSettings)> =
        (0..100).map(|n| (format!("a{n}.example.org"), many(20))).collect();
    let document = Document {
        routes: all.into_iter().map(|(name, settings)| (name.parse().unwrap(), settings)).collect(),
    };
    for dry_run in [true, false] {
        let applying = configuration.apply("test", document.clone(), dry_run, None);
        let refusal = world.runtime.block_on(applying).unwrap_err();
        assert_eq!(refusal.code, RefusalCode::Full);
    }
    assert_eq!((world.routes(), world.generation()), (routes.clone(), generation));

    // A store with more than there is memory for now says so, and serves again where there is more, or less in it.
    drop(world);
    let error = World::with_memory(&device, 10, ROOM / 4).map(|_| ()).unwrap_err().to_string();
    let backends = 20 * routes.len() - 1;
    let said = format!("{} routes with {backends} backends", routes.len());
    assert!(error.contains(&said) && error.contains("--route-memory"), "{error}");
    let world = World::with_memory(&device, 10, ROOM).unwrap();
    assert_eq!(world.routes(), routes);
    let remove = |name: &str| {
        world.runtime.block_on(world.configuration.remove("test", name)).unwrap();
    };
    routes.keys().for_each(|name| remove(name));
    assert_eq!(world.gateway.snapshot.load().routes.memory(), 0);
}
