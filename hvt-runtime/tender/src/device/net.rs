//! Network devices: one descriptor, one frame a read or write.
//!
//! What the descriptor is (a TAP, a datagram socket) is decided in [`super::tap`]; here it only moves frames.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use hvt_abi::hypercall::{RESULT_AGAIN, RESULT_INVALID, RESULT_OK, RESULT_UNSPECIFIED};
use hvt_abi::manifest::NetProperties;
use vm_memory::VolatileSlice;

use super::pcap::Pcap;
use super::{Complaint, transfer};

/// The shortest thing that is a frame: an Ethernet header.
pub const MIN_FRAME: u64 = 14;

/// A network device of the guest.
#[derive(Debug)]
pub struct NetDevice {
    fd: OwnedFd,
    properties: NetProperties,
    /// The other end is gone: nothing will ever come, and waiting for it would return at once.
    gone: AtomicBool,
    pcap: Option<Mutex<Pcap>>,
    complaint: Complaint,
}

impl NetDevice {
    /// A device of a descriptor that does not block.
    #[must_use]
    pub fn new(name: &str, fd: OwnedFd, properties: NetProperties, pcap: Option<Pcap>) -> Self {
        let complaint = Complaint::about("network device", name);
        let pcap = pcap.map(Mutex::new);
        Self { fd, properties, gone: AtomicBool::new(false), pcap, complaint }
    }

    /// What the guest learns of it.
    #[must_use]
    pub fn properties(&self) -> NetProperties {
        self.properties
    }

    /// Sends one frame. The answer is a result code of the ABI.
    ///
    /// A frame that the host has no room for is dropped, as a wire does; a link that is down is told, and not the end.
    pub fn send(&self, frame: &VolatileSlice<'_>) -> i32 {
        if (frame.len() as u64) < MIN_FRAME {
            return RESULT_INVALID;
        }
        match transfer::write(self.fd.as_fd(), frame) {
            Ok(_) => {
                self.record(frame, frame.len());
                RESULT_OK
            }
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN | libc::ENOBUFS) => RESULT_OK,
                Some(libc::EINVAL | libc::EMSGSIZE) => RESULT_INVALID,
                _ => {
                    self.complaint.once("send", &error);
                    RESULT_UNSPECIFIED
                }
            },
        }
    }

    /// Receives one frame: a result code of the ABI and the frame's length. What does not fit is lost.
    pub fn receive(&self, room: &VolatileSlice<'_>) -> (i32, u64) {
        if self.is_gone() {
            return (RESULT_AGAIN, 0);
        }
        match transfer::read(self.fd.as_fd(), room) {
            // The end of a connection, or an empty datagram, which is no frame.
            Ok(0) if !room.is_empty() => {
                if self.is_hung_up() {
                    self.mark_gone();
                }
                (RESULT_AGAIN, 0)
            }
            Ok(len) => {
                self.record(room, len);
                (RESULT_OK, len as u64)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => (RESULT_AGAIN, 0),
            Err(error) => {
                self.complaint.once("receive", &error);
                self.mark_gone();
                (RESULT_AGAIN, 0)
            }
        }
    }

    /// Whether nothing can come any more.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    /// Notes that nothing will come any more.
    pub fn mark_gone(&self) {
        if !self.gone.swap(true, Ordering::Relaxed) {
            self.complaint.say("the other end is gone; nothing will be received any more");
        }
    }

    fn is_hung_up(&self) -> bool {
        let mut poll = libc::pollfd { fd: self.fd.as_raw_fd(), events: 0, revents: 0 };
        let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: one pollfd and a time are passed, and both live through the call.
        unsafe { libc::ppoll(&raw mut poll, 1, &raw const now, std::ptr::null()) };
        poll.revents & (libc::POLLHUP | libc::POLLERR) != 0
    }

    fn record(&self, frame: &VolatileSlice<'_>, len: usize) {
        let Some(pcap) = &self.pcap else { return };
        let mut pcap = pcap.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Err(error) = pcap.record(frame, len) {
            self.complaint.once("record", &error);
        }
    }

    /// The descriptor of the recording, for the sandbox.
    pub(crate) fn pcap_fd(&self) -> Option<i32> {
        let pcap = self.pcap.as_ref()?;
        Some(pcap.lock().unwrap_or_else(std::sync::PoisonError::into_inner).raw_fd())
    }
}

impl AsFd for NetDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
