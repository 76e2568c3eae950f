//! Measures what a guest may not do slower than a host: TLS handshakes, hashing, copying, allocating, transactions,
//! switching threads. Each line: name, best of several runs, unit; the best one is what the machine can do undisturbed.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use anyhow::Result;
use blockdev::store::Format;
use blockdev::{BlockDevice, FileDevice, OpenOptions, Store, StoreError, Table};
use sha2::{Digest, Sha256};

use crate::parts;

const RUNS: usize = 5;
/// Transactions in a run.
const TRANSACTIONS: u32 = 200;

/// Prints one line for each measurement whose name begins with `only`.
pub(crate) fn measure(storage: &str, only: &str) -> Result<()> {
    let best = |name: &str, unit: &str, amount: f64, run: &mut dyn FnMut() -> Result<()>| {
        if name.starts_with(only) { best(name, unit, amount, run) } else { Ok(()) }
    };
    let (server, client) = parts::tls_configurations()?;
    best("tls-handshakes", "1/s", 100.0, &mut || {
        for _ in 0..100 {
            parts::handshake(&server, &client)?;
        }
        Ok(())
    })?;
    let data = vec![0x5A; 8 << 20];
    best("sha256", "MB/s", 8.388_608, &mut || {
        black_box(Sha256::digest(&data));
        Ok(())
    })?;
    for len in [16, 64, 256, 1024, 4096, 16_384, 65_536, 262_144, 1 << 20] {
        if format!("memcpy-{len}").starts_with(only) {
            copy(len)?;
        }
    }
    best("allocation-churn", "M/s", 1.0, &mut || {
        churn(1_000_000);
        Ok(())
    })?;
    best("vec-growth", "M/s", 2.0, &mut || {
        for _ in 0..20 {
            let mut numbers = Vec::new();
            for n in 0..100_000_u32 {
                numbers.push(black_box(n));
            }
            black_box(&numbers);
        }
        Ok(())
    })?;
    let device: Arc<dyn BlockDevice> = Arc::new(FileDevice::open(storage)?);
    let options = OpenOptions { format: Format::Always, ..OpenOptions::default() };
    let store = Store::open(device, options)?;
    let mut next = 0_u32;
    best("redb-transactions", "1/s", TRANSACTIONS.into(), &mut || {
        for _ in 0..TRANSACTIONS {
            store
                .write(|transaction| {
                    next += 1;
                    transaction.put(Table("speed"), &(next % 1000).to_be_bytes(), &[1; 200])
                })
                .map_err(|error: StoreError| error)?;
        }
        Ok(())
    })?;
    best("thread-rendezvous", "1/s", 2000.0, &mut || {
        let (to, from_main) = mpsc::sync_channel::<u32>(0);
        let (back, from_thread) = mpsc::sync_channel::<u32>(0);
        let echo = thread::spawn(move || {
            for n in from_main {
                if back.send(n).is_err() {
                    return;
                }
            }
        });
        for n in 0..2000 {
            to.send(n)?;
            black_box(from_thread.recv()?);
        }
        drop(to);
        let _ = echo.join();
        Ok(())
    })
}

fn best(name: &str, unit: &str, amount: f64, run: &mut dyn FnMut() -> Result<()>) -> Result<()> {
    run()?;
    let mut shortest = f64::MAX;
    for _ in 0..RUNS {
        let started = Instant::now();
        run()?;
        shortest = shortest.min(started.elapsed().as_secs_f64());
    }
    println!("{name} {:.1} {unit}", amount / shortest);
    Ok(())
}

fn copy(len: usize) -> Result<()> {
    let from = vec![7_u8; len];
    let mut to = vec![0_u8; len];
    let rounds = ((64 << 20) / len).min(2_000_000);
    best(&format!("memcpy-{len}"), "MB/s", (rounds * len) as f64 / 1e6, &mut || {
        for _ in 0..rounds {
            // The length must not be known to the compiler, or it would not be a call.
            let len = black_box(len);
            to[..len].copy_from_slice(&from[..len]);
            black_box(&mut to);
        }
        Ok(())
    })
}

/// Blocks of many sizes that live for a while.
fn churn(count: usize) {
    let mut kept: Vec<Vec<u8>> = (0..1000).map(|_| Vec::new()).collect();
    let mut state = 0x9e37_79b9_u32;
    for _ in 0..count {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let slot = (state >> 8) as usize % kept.len();
        let size = 1 << (4 + (state >> 28) % 8);
        kept[slot] = Vec::with_capacity(size + (state >> 20) as usize % size);
        black_box(&kept[slot]);
    }
}
