//! What a guest cost: exits of the machine, calls, frames, bytes. `--stats` and SIGUSR1 print it.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use hvt_abi::{extension, hypercall};

use crate::device::{Device, Devices};

/// The calls by number, as `--stats` names them.
const CALLS: [(u16, &str); 14] = [
    (hypercall::WALLTIME, "walltime"),
    (hypercall::PUTS, "puts"),
    (hypercall::POLL, "poll"),
    (hypercall::BLOCK_WRITE, "block-write"),
    (hypercall::BLOCK_READ, "block-read"),
    (hypercall::NET_WRITE, "net-write"),
    (hypercall::NET_READ, "net-read"),
    (hypercall::HALT, "halt"),
    (extension::BLOCK_FLUSH, "block-flush"),
    (extension::EXCHANGE, "exchange"),
    (extension::MEMORY_RELEASE, "memory-release"),
    (extension::BLOCK_COMMIT, "block-commit"),
    (extension::SLOT_WAKE, "slot-wake"),
    (extension::SLOT_WAIT, "slot-wait"),
];

/// Exits and calls. Frames and bytes are counted where they pass.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    exits: u64,
    /// By number; 0 counts what is no call.
    calls: [u64; CALLS.len() + 1],
}

impl Counters {
    /// The machine was left, for a call or anything else.
    pub fn exit(&mut self) {
        self.exits += 1;
    }

    /// A call was made.
    pub fn call(&mut self, number: u16) {
        let slot = self.calls.get_mut(usize::from(number)).filter(|_| number > 0);
        match slot {
            Some(slot) => *slot += 1,
            None => self.calls[0] += 1,
        }
    }

    /// One line for the calls and one for each device, as words `name=number`. Calls that were not made are left out.
    #[must_use]
    pub fn report(&self, devices: &Devices) -> String {
        let mut text = format!("stats exits={}", self.exits);
        for ((_, name), count) in
            CALLS.iter().zip(&self.calls[1..]).filter(|(_, count)| **count > 0)
        {
            // Writing to a string does not fail.
            _ = write!(text, " {name}={count}");
        }
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        for (_, device) in devices.iter() {
            _ = match device {
                Device::Net(net) => {
                    let traffic = net.traffic();
                    write!(
                        text,
                        "\nstats net={} sent={} sent-bytes={} refused={} received={} received-bytes={}",
                        net.name(),
                        load(&traffic.sent),
                        load(&traffic.sent_bytes),
                        load(&traffic.refused),
                        load(&traffic.received),
                        load(&traffic.received_bytes),
                    )
                }
                Device::Block(block) => {
                    let traffic = block.traffic();
                    write!(
                        text,
                        "\nstats block={} read-bytes={} written-bytes={}",
                        block.name(),
                        load(&traffic.read_bytes),
                        load(&traffic.written_bytes),
                    )
                }
            };
        }
        text
    }
}

const _: () = {
    let mut i = 0;
    while i < CALLS.len() {
        assert!(CALLS[i].0 as usize == i + 1, "in the order of their numbers, without a gap");
        i += 1;
    }
};
