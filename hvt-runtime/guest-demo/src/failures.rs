//! Ways to fail, to see what is said about them.

use std::hint::black_box;
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
        "memory" => exhaust(),
        "spin" => spin(),
        "wait" => thread::sleep(Duration::from_secs(3600)),
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
