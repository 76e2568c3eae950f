//! The parts, each of which prints what it found. Nothing here may depend on time, on addresses or on chance.

use std::cell::Cell;
use std::collections::HashMap;
use std::fs;
use std::hint::black_box;
use std::io::{Read, Write};
use std::net::UdpSocket;
use std::sync::mpsc;
use std::sync::{Arc, Barrier, Condvar, Mutex, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use blockdev::store::Format;
use blockdev::{BlockDevice, FileDevice, OpenOptions, Store, StoreError, Table};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use sha2::{Digest, Sha256};

/// Runs all parts in order.
pub(crate) fn all(storage: &str) -> Result<()> {
    threads()?;
    timers()?;
    panics()?;
    tls()?;
    block_device(storage)?;
    store(storage)?;
    own()?;
    println!("all parts are done");
    Ok(())
}

thread_local! {
    static OWN: Cell<u64> = const { Cell::new(7) };
}

fn threads() -> Result<()> {
    let (sender, receiver) = mpsc::channel();
    let meeting = Arc::new(Barrier::new(4));
    let table = Arc::new(RwLock::new(HashMap::new()));
    let workers: Vec<_> = (1..=4_u64)
        .map(|id| {
            let (sender, meeting, table) = (sender.clone(), meeting.clone(), table.clone());
            thread::Builder::new().name(format!("worker {id}")).spawn(move || {
                OWN.set(OWN.get() + id);
                meeting.wait();
                thread::sleep(Duration::from_millis(2 * id));
                if let Ok(mut table) = table.write() {
                    table.insert(id, OWN.get());
                }
                // The receiver lives until all senders are gone.
                let _ = sender.send(id * 10);
                id
            })
        })
        .collect::<Result<_, _>>()?;
    drop(sender);
    let mut received: Vec<u64> = receiver.iter().collect();
    // On a busy host the sleeps may end in another order.
    received.sort_unstable();
    let joined: u64 = workers.into_iter().filter_map(|worker| worker.join().ok()).sum();
    println!("threads: received {received:?}, joined {joined}, own value still {}", OWN.get());
    let table = table.read().map_err(|_| anyhow::anyhow!("poisoned"))?;
    let mut values: Vec<_> = table.iter().map(|(id, value)| (*id, *value)).collect();
    values.sort_unstable();
    println!("threads: values {values:?}");

    // More than there are stacks with guard pages.
    let all_there = Arc::new(Barrier::new(100));
    let small = || thread::Builder::new().stack_size(128 * 1024);
    let crowd: Vec<_> = (0..100_u32)
        .map(|n| {
            let all_there = all_there.clone();
            small().spawn(move || {
                all_there.wait();
                n
            })
        })
        .collect::<Result<_, _>>()?;
    let sum: u32 = crowd.into_iter().filter_map(|thread| thread.join().ok()).sum();
    println!("threads: a hundred at once sum up to {sum}");

    let ball = Arc::new((Mutex::new(0_u32), Condvar::new()));
    let other = ball.clone();
    let player = thread::spawn(move || rally(&other, 1));
    rally(&ball, 0);
    ensure!(player.join().is_ok(), "the second player failed");
    println!("threads: rally of {}", ball.0.lock().map_or(0, |count| *count));
    Ok(())
}

/// Adds one whenever it is this side's turn, up to 2000.
fn rally(ball: &(Mutex<u32>, Condvar), side: u32) {
    let (count, changed) = ball;
    let Ok(mut count) = count.lock() else { return };
    while *count < 2000 {
        if *count % 2 == side {
            *count += 1;
            changed.notify_one();
        } else {
            let Ok(again) = changed.wait(count) else { return };
            count = again;
        }
    }
}

fn timers() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    runtime.block_on(async {
        let order = Arc::new(Mutex::new(Vec::new()));
        let started = Instant::now();
        let tasks: Vec<_> = [30_u64, 10, 20]
            .into_iter()
            .map(|delay| {
                let order = order.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(delay)).await;
                    if let Ok(mut order) = order.lock() {
                        order.push(delay);
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await?;
        }
        let waited = started.elapsed() >= Duration::from_millis(30);
        println!(
            "timers: {:?}, long enough: {waited}",
            order.lock().map(|order| order.clone()).ok()
        );
        let slow = tokio::time::sleep(Duration::from_secs(3600));
        let cut = tokio::time::timeout(Duration::from_millis(5), slow).await;
        println!("timers: a timeout is an error: {}", cut.is_err());
        let blocking: Vec<_> = (0..20_u64)
            .map(|n| {
                tokio::task::spawn_blocking(move || {
                    thread::sleep(Duration::from_millis(1));
                    n * n
                })
            })
            .collect();
        let mut sum = 0;
        for task in blocking {
            sum += task.await?;
        }
        println!("timers: 20 blocking tasks sum up to {sum}");
        anyhow::Ok(())
    })?;

    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(3).enable_time().build()?;
    let total = runtime.block_on(async {
        let (sender, mut receiver) = tokio::sync::mpsc::channel(4);
        for id in 0..8_u64 {
            let sender = sender.clone();
            tokio::spawn(async move {
                for n in 0..100 {
                    if sender.send(id * n).await.is_err() {
                        return;
                    }
                    tokio::task::yield_now().await;
                }
            });
        }
        drop(sender);
        let mut total = 0;
        while let Some(n) = receiver.recv().await {
            total += n;
        }
        total
    });
    println!("timers: three workers bring {total}");
    Ok(())
}

fn panics() -> Result<()> {
    struct Guard(Arc<Mutex<u32>>);
    impl Drop for Guard {
        fn drop(&mut self) {
            if let Ok(mut drops) = self.0.lock() {
                *drops += 1;
            }
        }
    }
    let drops = Arc::new(Mutex::new(0));
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let guard = Guard(drops.clone());
    let answer = runtime.block_on(async move {
        let failing = tokio::spawn(async move {
            let _guard = guard;
            #[expect(clippy::panic, reason = "this is what is shown")]
            {
                panic!("a task gives up");
            }
        });
        let failed = failing.await.is_err_and(|error| error.is_panic());
        let after = tokio::spawn(async { 42 }).await;
        (failed, after.ok())
    });
    let thread = thread::spawn({
        let guard = Guard(drops.clone());
        move || {
            let _guard = guard;
            let numbers: Vec<u32> = Vec::new();
            numbers[std::hint::black_box(3)]
        }
    });
    let thread_failed = thread.join().is_err();
    std::panic::set_hook(quiet);
    let drops = drops.lock().map_or(0, |drops| *drops);
    println!("panics: task {answer:?}, thread failed: {thread_failed}, values dropped: {drops}");
    Ok(())
}

/// A server's and a client's configuration for the name `demo.example`.
pub(crate) fn tls_configurations() -> Result<(Arc<ServerConfig>, Arc<ClientConfig>)> {
    let certified = rcgen::generate_simple_self_signed(["demo.example".to_owned()])?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der()));
    let certificate = certified.cert.der().clone();
    let server = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)?;
    let mut roots = RootCertStore::empty();
    roots.add(certificate)?;
    let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    Ok((Arc::new(server), Arc::new(client)))
}

/// Both ends of a connection after their handshake, which went through memory.
pub(crate) fn handshake(
    server: &Arc<ServerConfig>,
    client: &Arc<ClientConfig>,
) -> Result<(ServerConnection, ClientConnection)> {
    let name = ServerName::try_from("demo.example")?;
    let mut server = ServerConnection::new(server.clone())?;
    let mut client = ClientConnection::new(client.clone(), name)?;
    while server.is_handshaking() || client.is_handshaking() {
        carry(&mut client, &mut server)?;
        carry(&mut server, &mut client)?;
    }
    Ok((server, client))
}

/// Moves what one end has to send to the other.
pub(crate) fn carry<A, B>(
    from: &mut rustls::ConnectionCommon<A>,
    to: &mut rustls::ConnectionCommon<B>,
) -> Result<()> {
    let mut wire = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut wire)?;
    }
    let mut wire = wire.as_slice();
    while !wire.is_empty() {
        to.read_tls(&mut wire)?;
        to.process_new_packets()?;
    }
    Ok(())
}

fn tls() -> Result<()> {
    let (server, client) = tls_configurations()?;
    let (mut server, mut client) = handshake(&server, &client)?;
    println!(
        "tls: {:?}, {:?}, {:?}",
        client.protocol_version().context("no version")?,
        client.negotiated_cipher_suite().context("no cipher suite")?.suite(),
        client.negotiated_key_exchange_group().context("no group")?.name(),
    );
    let sent: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251).to_le_bytes()[0]).collect();
    let mut received = Vec::new();
    for chunk in sent.chunks(10_000) {
        client.writer().write_all(chunk)?;
        carry(&mut client, &mut server)?;
        let mut buffer = vec![0; chunk.len()];
        server.reader().read_exact(&mut buffer)?;
        received.extend(buffer);
    }
    println!("tls: {} bytes arrived as they were sent: {}", received.len(), received == sent);
    let digest: String =
        Sha256::digest(&received).iter().map(|byte| format!("{byte:02x}")).collect();
    println!("tls: sha256 {digest}");
    Ok(())
}

/// Reads and writes over block boundaries, straight on the device.
fn block_device(storage: &str) -> Result<()> {
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new().read(true).write(true).open(storage);
    let file = file.with_context(|| format!("cannot open {storage}"))?;
    let pattern: Vec<u8> = (0..10_000_u32).map(|n| (n * 7).to_le_bytes()[0]).collect();
    file.write_all_at(&vec![0; 16_384], 0)?;
    file.write_all_at(&pattern, 123)?;
    file.sync_all()?;
    let mut back = vec![0; 10_300];
    file.read_exact_at(&mut back, 0)?;
    let whole = back[123..10_123] == pattern && back[..123].iter().all(|&byte| byte == 0);
    let zero_behind = back[10_123..].iter().all(|&byte| byte == 0);
    println!("block device: the pattern is where it was put: {}", whole && zero_behind);
    let missing = std::fs::File::open("/dev/there-is-no-such-device");
    println!("block device: a missing one: {:?}", missing.map_err(|error| error.kind()).err());
    Ok(())
}

/// Waits for SIGTERM as any tokio program would, and finishes its work.
pub(crate) fn drain() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let kind = tokio::signal::unix::SignalKind::terminate();
        let mut stop = tokio::signal::unix::signal(kind)?;
        println!("drain: at work");
        stop.recv().await;
        println!("drain: asked to stop");
        tokio::time::sleep(Duration::from_millis(5)).await;
        println!("drain: done");
        Ok(())
    })
}

const TABLE: Table = Table("demo");

fn store(storage: &str) -> Result<()> {
    let open = |format| -> Result<Store> {
        let device: Arc<dyn BlockDevice> = Arc::new(FileDevice::open(storage)?);
        Ok(Store::open(device, OpenOptions { format, ..OpenOptions::default() })?)
    };
    let store = open(Format::Always)?;
    for round in 0..10_u32 {
        store.write(|transaction| {
            for n in 0..50_u32 {
                let key = (round * 50 + n).to_be_bytes();
                transaction.put(TABLE, &key, &[n.to_le_bytes()[0]; 100])?;
            }
            Ok::<(), StoreError>(())
        })?;
    }
    let refused = store.write(|transaction| {
        transaction.put(TABLE, b"never", b"seen")?;
        Err::<(), _>(StoreError::Full { capacity: 0 })
    });
    drop(store);
    let store = open(Format::Never)?;
    let (count, never) = store.read(|transaction| {
        Ok::<_, StoreError>((transaction.len(TABLE)?, transaction.get(TABLE, b"never")?))
    })?;
    println!(
        "store: {count} entries after opening again, undone: {}",
        refused.is_err() && never.is_none()
    );
    println!("store: whole: {}", store.check()?);
    Ok(())
}

/// Counts up in a transaction each, and says each number once it is durable, until it is ended from outside.
pub(crate) fn count(storage: &str) -> Result<()> {
    let device: Arc<dyn BlockDevice> = Arc::new(FileDevice::open(storage)?);
    let store =
        Store::open(device, OpenOptions { format: Format::Always, ..OpenOptions::default() })?;
    for number in 1_u64.. {
        store.write(|transaction| {
            transaction.put(TABLE, b"count", &number.to_be_bytes())?;
            transaction.put(TABLE, &(number % 100).to_be_bytes(), &[number.to_le_bytes()[0]; 200])
        })?;
        println!("{number}");
    }
    Ok(())
}

/// What a program can look up about itself grows with what it takes.
fn own() -> Result<()> {
    // "NAME: .. FIELD NUMBER .." or "NAME: NUMBER ..".
    let number = |file: &str, name: &str, field: Option<&str>| -> Result<u64> {
        let text = fs::read_to_string(file).with_context(|| file.to_owned())?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let mut words = line.with_context(|| format!("{name} in {file}"))?.split_whitespace();
        if let Some(field) = field {
            words.by_ref().find(|word| *word == field);
        }
        words.next().and_then(|word| word.parse().ok()).with_context(|| format!("{name} in {file}"))
    };
    let status = |name| number("/proc/self/status", name, None);
    let before = status("VmData")?;
    let block = vec![1_u8; 16 << 20];
    let grown = status("VmData")?.saturating_sub(before) >= 15 << 10;
    drop(black_box(block));
    println!(
        "own: data grows by what is allocated: {grown}, some memory is resident: {}",
        status("VmRSS")? > 0
    );

    let all_there = Arc::new(Barrier::new(6));
    let threads: Vec<_> = (0..5)
        .map(|_| {
            let all_there = all_there.clone();
            thread::spawn(move || all_there.wait().is_leader())
        })
        .collect();
    let six = status("Threads")? >= 6;
    all_there.wait();
    let ended = threads.into_iter().filter_map(|thread| thread.join().ok()).count();
    println!("own: five threads more are counted: {six}, {ended} ended");

    let sockets: Vec<_> =
        (0..3).map(|_| UdpSocket::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    let counted = number("/proc/net/sockstat", "UDP", Some("inuse"))? >= 3;
    println!("own: {} sockets are counted: {counted}", sockets.len());
    Ok(())
}
