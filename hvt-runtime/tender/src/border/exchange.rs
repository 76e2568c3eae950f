//! The exchange ([`hvt_abi::exchange`]): send, wait, receive.
//!
//! Each descriptor is copied once, and only the copy is believed. What is written back goes through the same checks as
//! everything else.

use std::time::Duration;

use hvt_abi::exchange::{Exchange, Frame, MAX_FRAMES, Offload};
use hvt_abi::extension::POLL_SHUTDOWN;
use hvt_abi::hypercall::{RESULT_INVALID, RESULT_OK};

use vm_memory::VolatileSlice;

use super::wait::Wanted;
use super::{Border, Misuse, buffer, structure};
use crate::device::merge::Merge;
use crate::device::net::NetDevice;
use crate::memory::PointerFault;

const CALL: &str = "exchange";
const FRAME_SIZE: u64 = size_of::<Frame>() as u64;

/// An array of descriptors is not where the guest may have it.
fn array(fault: PointerFault) -> Misuse {
    Misuse::Pointer { call: CALL, part: "its array of frames", fault }
}

impl Border {
    pub(super) fn exchange(&mut self, address: u64) -> Result<(), Misuse> {
        let mut call: Exchange = self.space.read(address).map_err(structure(CALL))?;
        // Refused before anything is done rather than after it.
        let size = size_of::<Exchange>() as u64;
        self.space.writable(address, size).map_err(structure(CALL))?;
        for (start, count) in [(call.send, call.send_count), (call.receive, call.receive_count)] {
            self.space.writable(start, u64::from(count) * FRAME_SIZE).map_err(array)?;
        }
        (call.ready_set, call.sent, call.received, call.pad) = (0, 0, 0, 0);
        call.ret = RESULT_INVALID;
        if call.send_count.max(call.receive_count) <= MAX_FRAMES {
            call.ret = RESULT_OK;
            call.sent = self.send_frames(call.send, call.send_count)?;
            let polls = call.timeout_nsecs > 0 || call.receive_count == 0 && call.receive_set != 0;
            call.ready_set = if polls {
                let wanted = Wanted { readable: call.receive_set, writable: call.writable_set };
                self.wait(wanted, Duration::from_nanos(call.timeout_nsecs))
            } else {
                call.receive_set & !POLL_SHUTDOWN | self.shutdown_bit()
            };
            (call.received, call.ready_set) =
                self.receive_frames(call.receive, call.receive_count, call.ready_set)?;
        }
        self.space.write(address, call).map_err(structure(CALL))
    }

    /// Sends the frames of an array. How many were sent; the others have their status.
    fn send_frames(&self, start: u64, count: u32) -> Result<u32, Misuse> {
        let mut sent = 0;
        let mut touched = 0_u64;
        let mut train: Option<Train<'_>> = None;
        for i in 0..u64::from(count) {
            let at = start + i * FRAME_SIZE;
            let frame: Frame = self.space.read(at).map_err(array)?;
            let Some(net) = self.devices.net(frame.handle.into()) else {
                sent += self.send_train(train.take())?;
                self.refuse(at, frame, RESULT_INVALID)?;
                continue;
            };
            touched |= 1 << frame.handle;
            let bytes = self.space.readable(frame.data, frame.len.into()).map_err(buffer(CALL))?;
            if let Some(merge) = net.mergeable(&bytes, &frame.offload) {
                let follows = train.as_mut().is_some_and(|train| {
                    train.handle == frame.handle && train.merge.append(&merge)
                });
                if !follows {
                    let handle = frame.handle;
                    let next = Train { net, handle, merge, frames: Vec::new(), bytes: Vec::new() };
                    sent += self.send_train(train.replace(next))?;
                }
                if let Some(train) = &mut train {
                    train.frames.push((at, frame));
                    train.bytes.push(bytes);
                }
                continue;
            }
            sent += self.send_train(train.take())?;
            match net.send(&bytes, &frame.offload) {
                RESULT_OK => sent += 1,
                status => self.refuse(at, frame, status)?,
            }
        }
        sent += self.send_train(train)?;
        for (_, net) in self.devices.nets().filter(|(handle, _)| touched >> handle & 1 == 1) {
            net.flush();
        }
        Ok(sent)
    }

    /// Sends what was gathered. How many frames were sent.
    fn send_train(&self, train: Option<Train<'_>>) -> Result<u32, Misuse> {
        let Some(Train { net, merge, frames, bytes, .. }) = train else { return Ok(0) };
        let status = match &bytes[..] {
            [alone] => net.send(alone, &Offload::default()),
            _ => net.send_merged(&bytes, merge),
        };
        if status == RESULT_OK {
            return Ok(u32::try_from(frames.len()).unwrap_or(u32::MAX));
        }
        for (at, frame) in frames {
            self.refuse(at, frame, status)?;
        }
        Ok(0)
    }

    fn refuse(&self, at: u64, mut frame: Frame, status: i32) -> Result<(), Misuse> {
        frame.status = code(status);
        self.space.write(at, frame).map_err(array)
    }

    /// Fills rooms with frames of these devices, one of each in turn. How many rooms were filled, and the devices that
    /// were not found empty, together with the bits that are no device's.
    fn receive_frames(&mut self, start: u64, count: u32, ready: u64) -> Result<(u32, u64), Misuse> {
        let mut ready = ready & (self.devices.net_set() | POLL_SHUTDOWN);
        let mut received = 0;
        // Whose turn it was to be left out last time goes first.
        let mut handle = self.next_receive;
        while received < count && ready & !POLL_SHUTDOWN != 0 {
            handle = following(ready & !POLL_SHUTDOWN, handle);
            let Some(net) = self.devices.net(handle) else { break };
            let at = start + u64::from(received) * FRAME_SIZE;
            let mut frame: Frame = self.space.read(at).map_err(array)?;
            let room = self.space.writable(frame.data, frame.len.into()).map_err(buffer(CALL))?;
            match net.receive(&room) {
                None => ready &= !(1 << handle),
                Some(got) => {
                    frame.len = u32::try_from(got.len).unwrap_or(u32::MAX);
                    frame.handle = u16::try_from(handle).unwrap_or(0);
                    frame.status = code(if got.cut { RESULT_INVALID } else { RESULT_OK });
                    frame.offload =
                        if net.has_offload() { got.offload } else { Offload::default() };
                    frame.pad = [0; 6];
                    self.space.write(at, frame).map_err(array)?;
                    received += 1;
                }
            }
        }
        self.next_receive = handle;
        Ok((received, ready))
    }
}

/// Frames that follow each other in the array and go to the host as one.
struct Train<'a> {
    net: &'a NetDevice,
    handle: u16,
    merge: Merge,
    /// Where each is described, and how.
    frames: Vec<(u64, Frame)>,
    bytes: Vec<VolatileSlice<'a>>,
}

/// The next bit that is set, by number, after this one and then from the start.
fn following(set: u64, after: u64) -> u64 {
    let later = set & (u64::MAX << (after & 63)) & !(1 << (after & 63));
    u64::from(if later != 0 { later.trailing_zeros() } else { set.trailing_zeros() })
}

fn code(result: i32) -> u16 {
    u16::try_from(result).unwrap_or(u16::MAX)
}
