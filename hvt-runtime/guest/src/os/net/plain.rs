//! Frames by Solo5's plain calls: an exit of the machine for each. For tenders that offer nothing else, which are those
//! before Solo5 0.11.

use hvt_abi::exchange;
use hvt_abi::hypercall::RESULT_OK;

use super::super::hypercall;
use super::device::{Queued, Queues};

/// Most frames that are taken from one device in one turn.
const READS: usize = 64;

/// Carries frames both ways and waits up to `timeout` nanoseconds; the set of devices with events.
pub(super) fn turn(queues: &mut Queues, timeout: u64) -> u64 {
    while let Some(Queued { handle, buffer, len, .. }) = queues.to_send.pop_front() {
        queues.counters.calls += 1;
        match hypercall::net_write(handle.into(), &buffer[..len]) {
            RESULT_OK => queues.counters.sent += 1,
            _ => queues.counters.refused += 1,
        }
        queues.spare.push(buffer);
    }
    queues.counters.calls += 1;
    let ready = hypercall::poll(timeout);
    for index in 0..queues.handles.len() {
        let handle = queues.handles[index];
        if ready & 1 << handle == 0 {
            continue;
        }
        for _ in 0..READS {
            let mut buffer = queues.buffer();
            queues.counters.calls += 1;
            let Some(len) = hypercall::net_read(handle.into(), &mut buffer) else {
                queues.spare.push(buffer);
                break;
            };
            queues.counters.received += 1;
            let offload = exchange::Offload::default();
            queues.received[index].push_back(Queued { handle, buffer, len, offload });
        }
    }
    ready
}
