//! Ways to fail, to see what is said about them.

use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Duration;

/// Fails in the way that `word` names; false for any other word.
pub(crate) fn run(word: &str) -> bool {
    match word {
        "panic" => innermost(),
        "overflow" => {
            println!("{}", descend(0));
        }
        "thread-overflow" => {
            let thread = thread::spawn(|| descend(0));
            println!("{:?}", thread.join().is_ok());
        }
        "large-thread-overflow" => {
            // No guard page is below a stack of this size.
            let thread = thread::Builder::new().stack_size(4 << 20).spawn(|| wander(0));
            println!("{:?}", thread.map(|thread| thread.join().is_ok()).ok());
        }
        "memory" => exhaust(),
        "write" => return write("/dev/storage").is_ok(),
        "ebb" => ebb(),
        "spin" => spin(),
        "wait" => {
            println!("main");
            thread::sleep(Duration::from_secs(3600));
        }
        _ => return false,
    }
    true
}

#[expect(clippy::panic, reason = "this is what is shown")]
#[inline(never)]
fn innermost() {
    panic!("a panic in main");
}

#[expect(unconditional_recursion, reason = "this is what is shown")]
#[inline(never)]
fn descend(depth: u64) -> u64 {
    let room = black_box([depth; 64]);
    descend(room[0] + 1) + black_box(room[1])
}

/// As [`descend`], but others get their turn.
#[expect(unconditional_recursion, reason = "this is what is shown")]
#[inline(never)]
fn wander(depth: u64) -> u64 {
    let room = black_box([depth; 64]);
    thread::yield_now();
    wander(room[0] + 1) + black_box(room[1])
}

/// Much memory is used, and then not any more.
fn ebb() {
    let mut kept: Vec<Vec<u8>> = (0..400_u32).map(|n| vec![n.to_le_bytes()[0]; 100_000]).collect();
    println!("high");
    thread::sleep(Duration::from_millis(200));
    kept.retain(|block| black_box(block)[0].is_multiple_of(10));
    println!("low");
    thread::sleep(Duration::from_secs(3600));
    black_box(&kept);
}

/// Writes, does not flush, and ends.
fn write(storage: &str) -> std::io::Result<()> {
    let file = std::fs::File::options().write(true).open(storage)?;
    for sector in (1..4).rev() {
        file.write_all_at(&[sector; 512], u64::from(sector) * 512)?;
    }
    println!("written");
    Ok(())
}

fn exhaust() {
    let mut kept = Vec::new();
    loop {
        kept.push(vec![1_u8; 1 << 20]);
        black_box(&kept);
    }
}

/// Two threads that never wait: both get their turn because they allocate.
fn spin() {
    let threads: Vec<_> = (0..2)
        .map(|id| {
            thread::spawn(move || {
                let mut sum = 0;
                for round in 0..5_000_000_u64 {
                    sum += *black_box(Box::new(round));
                    if round % 1_000_000 == 0 {
                        println!("thread {id} at {round}");
                    }
                }
                sum
            })
        })
        .collect();
    for thread in threads {
        println!("{:?}", thread.join().ok());
    }
}
