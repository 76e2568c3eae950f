//! Frames by the exchange ([`hvt_abi::exchange`]): one exit of the machine for many, both ways, and the wait.

use alloc::boxed::Box;
use alloc::vec::Vec;

use hvt_abi::exchange::{self, Exchange};
use hvt_abi::hypercall::{RESULT_AGAIN, RESULT_OK};

use super::super::hypercall;
use super::device::{LOOPBACK_ROOM, Queued, Queues, SEND_MAX, length};

/// Rooms for received frames in one call.
const ROOMS: usize = 64;
/// The same after a call that filled them all, where frames are short: a stream of data then leaves the machine less often.
const ROOMS_MANY: usize = exchange::MAX_FRAMES as usize;
/// Result codes as a frame's status has them.
const SENT: u16 = 0;
const NOT_NOW: u16 = 1;
const _: () = assert!(RESULT_OK == 0 && RESULT_AGAIN == 1);
const _: () = assert!(SEND_MAX <= exchange::MAX_FRAMES as usize);

/// What one call leaves to the next.
#[derive(Default)]
pub(super) struct ByExchange {
    /// Devices that took no more at the last call.
    full: u64,
    send_list: Vec<exchange::Frame>,
    receive_list: Vec<exchange::Frame>,
    rooms: Vec<Box<[u8]>>,
    /// The last call filled all rooms.
    flooded: bool,
}

impl ByExchange {
    /// Carries frames both ways and waits up to `timeout` nanoseconds; the set of devices with events.
    pub(super) fn turn(&mut self, queues: &mut Queues, timeout: u64) -> u64 {
        let wanted = if self.flooded { ROOMS_MANY } else { ROOMS };
        while self.rooms.len() < wanted {
            self.rooms.push(queues.buffer());
        }
        queues.spare.extend(self.rooms.drain(wanted..));
        self.receive_list.clear();
        self.receive_list.extend(self.rooms.iter_mut().map(|room| exchange::Frame {
            data: room.as_mut_ptr() as u64,
            len: length(room.len()),
            ..exchange::Frame::default()
        }));
        self.send_list.clear();
        self.send_list.extend(queues.to_send.iter().take(SEND_MAX).map(|queued| exchange::Frame {
            data: queued.buffer.as_ptr() as u64,
            len: length(queued.len),
            handle: queued.handle,
            offload: queued.offload,
            ..exchange::Frame::default()
        }));
        let mut call = Exchange {
            send: self.send_list.as_ptr() as u64,
            receive: self.receive_list.as_mut_ptr() as u64,
            timeout_nsecs: timeout,
            receive_set: queues.devices(),
            writable_set: self.full,
            send_count: length(self.send_list.len()),
            receive_count: length(self.receive_list.len()),
            ..Exchange::default()
        };
        // SAFETY: both lists are as long as told, and name buffers that are the pool's own.
        unsafe { hypercall::exchange(&mut call) };
        queues.counters.calls += 1;
        self.take_sent(queues, call.sent);
        let received = call.received as usize;
        self.flooded = received == wanted && queues.room <= LOOPBACK_ROOM;
        self.take_received(queues, received);
        call.ready_set
    }

    fn take_sent(&mut self, queues: &mut Queues, sent: u32) {
        self.full = 0;
        queues.counters.sent += u64::from(sent);
        let all = sent as usize == self.send_list.len();
        let mut kept = 0;
        for descriptor in &self.send_list {
            let Some(queued) = queues.to_send.pop_front() else { break };
            if !all && descriptor.status == NOT_NOW {
                self.full |= 1 << queued.handle;
                queues.to_send.push_back(queued);
                kept += 1;
                continue;
            }
            queues.counters.refused += u64::from(!all && descriptor.status != SENT);
            queues.spare.push(queued.buffer);
        }
        // Behind them stands what did not fit the call.
        queues.to_send.rotate_right(kept);
    }

    fn take_received(&mut self, queues: &mut Queues, count: usize) {
        let rooms = self.rooms.drain(..count.min(self.rooms.len()));
        for (buffer, descriptor) in rooms.zip(&self.receive_list) {
            let len = (descriptor.len as usize).min(buffer.len());
            let index = queues.handles.iter().position(|&handle| handle == descriptor.handle);
            let whole = descriptor.status == SENT;
            if let (Some(index), true) = (index, whole) {
                queues.counters.received += 1;
                let (handle, offload) = (descriptor.handle, descriptor.offload);
                queues.received[index].push_back(Queued { handle, buffer, len, offload });
            } else {
                queues.spare.push(buffer);
            }
        }
    }
}
