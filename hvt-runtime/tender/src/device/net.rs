//! Network devices: frames in and out of one descriptor.
//!
//! What the descriptor is (a TAP, a socket) is decided in [`super::tap`]; here it only moves frames.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hvt_abi::exchange::{MAX_FRAME_LEN, Offload};
use hvt_abi::hypercall::{RESULT_AGAIN, RESULT_INVALID, RESULT_OK, RESULT_UNSPECIFIED};
use hvt_abi::manifest::NetProperties;
use vm_memory::{Bytes, VolatileSlice};

use super::merge::Merge;
use super::offload::{self, Header};
use super::pcap::Pcap;
use super::segment::HEADERS_MAX;
use super::split::Inbox;
use super::stream::FrameStream;
use super::{Complaint, transfer};

/// The shortest thing that is a frame: an Ethernet header.
pub const MIN_FRAME: u64 = 14;

/// How frames lie on a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// One frame is one read or write.
    Packets,
    /// The same, with a [`Header`] before each frame.
    Headers {
        /// Whether the guest gets and gives the headers, which takes trust; else they stay here, and the guest's frames are
        /// merged ([`super::merge`]) and the host's cut ([`super::split`]).
        offload: bool,
    },
    /// A stream of frames with their lengths.
    Stream,
}

/// A network device of the guest.
#[derive(Debug)]
pub struct NetDevice {
    name: String,
    fd: OwnedFd,
    properties: NetProperties,
    framing: Framing,
    /// Unused unless the framing is [`Framing::Stream`].
    stream: Mutex<FrameStream>,
    /// Unused unless the framing is [`Framing::Headers`] without offload.
    inbox: Mutex<Inbox>,
    /// The other end is gone: nothing will ever come, and waiting for it would return at once.
    gone: AtomicBool,
    pcap: Option<Mutex<Pcap>>,
    complaint: Complaint,
    traffic: Traffic,
}

/// A received frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Bytes in the room.
    pub len: usize,
    /// The frame was longer than the room and lost its end.
    pub cut: bool,
    /// What it leaves to the guest.
    pub offload: Offload,
}

/// What went through a device.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Frames that the host took.
    pub sent: AtomicU64,
    /// Their bytes.
    pub sent_bytes: AtomicU64,
    /// Frames that the host did not take, for whatever reason.
    pub refused: AtomicU64,
    /// Frames that the guest got.
    pub received: AtomicU64,
    /// Their bytes.
    pub received_bytes: AtomicU64,
}

impl NetDevice {
    /// A device of a descriptor that does not block.
    #[must_use]
    pub fn new(
        name: &str,
        fd: OwnedFd,
        properties: NetProperties,
        framing: Framing,
        pcap: Option<Pcap>,
    ) -> Self {
        Self {
            name: name.to_owned(),
            fd,
            properties,
            framing,
            stream: Mutex::default(),
            inbox: Mutex::default(),
            gone: AtomicBool::new(false),
            pcap: pcap.map(Mutex::new),
            complaint: Complaint::about("network device", name),
            traffic: Traffic::default(),
        }
    }

    /// Its name in the manifest.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the guest learns of it.
    #[must_use]
    pub fn properties(&self) -> NetProperties {
        self.properties
    }

    /// Whether the guest may leave checksums and segments to the host, and the host to the guest.
    #[must_use]
    pub fn has_offload(&self) -> bool {
        self.framing == Framing::Headers { offload: true }
    }

    /// What went through it.
    #[must_use]
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Sends one frame. The answer is a result code of the ABI: OK; AGAIN when there is no room for it now, and it was
    /// not sent; INVALID for what is no frame or has claims that the device can't take; UNSPECIFIED when the host fails,
    /// which is told, and not the end.
    ///
    /// On a stream the frame may lie here until [`NetDevice::flush`].
    pub fn send(&self, frame: &VolatileSlice<'_>, offload: &Offload) -> i32 {
        let code = self.try_send(frame, offload);
        self.tally(code, frame);
        code
    }

    /// Counts and records a frame that was sent, or not.
    fn tally(&self, code: i32, frame: &VolatileSlice<'_>) {
        if code == RESULT_OK {
            count(&self.traffic.sent, &self.traffic.sent_bytes, frame.len());
            self.record(frame, frame.len());
        } else {
            self.traffic.refused.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What begins with this frame, if the device takes segments of one stream together.
    pub(crate) fn mergeable(&self, frame: &VolatileSlice<'_>, offload: &Offload) -> Option<Merge> {
        if self.framing != (Framing::Headers { offload: false }) || *offload != Offload::default() {
            return None;
        }
        let mut first = [0; HEADERS_MAX];
        let len = frame.len().min(HEADERS_MAX);
        frame.read_slice(&mut first[..len], 0).ok()?;
        Merge::begin(&first[..len], frame.len())
    }

    /// Sends frames that were merged. The answer, a result code of the ABI, is that of each.
    pub(crate) fn send_merged(&self, frames: &[VolatileSlice<'_>], merge: Merge) -> i32 {
        let skip = merge.header_len();
        let (offload, headers) = merge.finish();
        let len = frames.iter().map(|frame| frame.len().saturating_sub(skip) as u64).sum::<u64>();
        let Some(header) = offload::header(&offload, len + skip as u64) else {
            return RESULT_INVALID;
        };
        let beginnings = [&header[..], headers.bytes()];
        let code = self.code(transfer::write_parts(self.fd.as_fd(), beginnings, frames, skip));
        for frame in frames {
            self.tally(code, frame);
        }
        code
    }

    fn try_send(&self, frame: &VolatileSlice<'_>, offload: &Offload) -> i32 {
        let len = frame.len() as u64;
        if !(MIN_FRAME..=u64::from(MAX_FRAME_LEN)).contains(&len)
            || !self.has_offload() && *offload != Offload::default()
        {
            return RESULT_INVALID;
        }
        let sent = match self.framing {
            Framing::Packets => transfer::write_packet(self.fd.as_fd(), &[], frame),
            Framing::Headers { .. } => match offload::header(offload, len) {
                Some(header) => transfer::write_packet(self.fd.as_fd(), &header, frame),
                None => return RESULT_INVALID,
            },
            Framing::Stream if self.is_gone() => return RESULT_UNSPECIFIED,
            Framing::Stream if self.stream().push(frame) => return RESULT_OK,
            Framing::Stream => return RESULT_AGAIN,
        };
        self.code(sent)
    }

    fn code(&self, sent: io::Result<usize>) -> i32 {
        match sent {
            Ok(_) => RESULT_OK,
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN | libc::ENOBUFS) => RESULT_AGAIN,
                Some(libc::EINVAL | libc::EMSGSIZE) => RESULT_INVALID,
                _ => {
                    self.complaint.once("send", &error);
                    RESULT_UNSPECIFIED
                }
            },
        }
    }

    /// Hands over to the host what [`NetDevice::send`] has kept, as much as it takes.
    pub fn flush(&self) {
        if self.framing == Framing::Stream
            && !self.is_gone()
            && let Err(error) = self.stream().flush(self.fd.as_fd())
        {
            self.complaint.once("send", &error);
            self.mark_gone();
        }
    }

    /// Whether [`NetDevice::flush`] has something to do when the descriptor is writable.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        self.framing == Framing::Stream && self.stream().has_unsent()
    }

    /// Whether a frame was read already, so that waiting for the descriptor would be wrong.
    #[must_use]
    pub fn has_frame(&self) -> bool {
        match self.framing {
            Framing::Stream => !self.is_gone() && self.stream().is_decided(),
            Framing::Headers { offload: false } => self.inbox().has_frame(),
            _ => false,
        }
    }

    /// The descriptor is readable: whether that is a frame. On a stream it may be a part of one, which is read.
    pub fn has_frame_to_read(&self) -> bool {
        if self.framing != Framing::Stream {
            return true;
        }
        let complete = self.stream().complete(self.fd.as_fd());
        complete.unwrap_or_else(|error| {
            self.note(&error);
            false
        })
    }

    /// Receives one frame, if there is one. What does not fit into the room is lost.
    pub fn receive(&self, room: &VolatileSlice<'_>) -> Option<Received> {
        if self.is_gone() {
            return None;
        }
        let received = match self.framing {
            Framing::Stream => self.stream().pop(self.fd.as_fd(), room),
            Framing::Packets => self.receive_packet(room, &mut []).map(Some),
            Framing::Headers { offload: false } => self.inbox().receive(self.fd.as_fd(), room),
            Framing::Headers { offload: true } => {
                let mut header = Header::default();
                let received = self.receive_packet(room, &mut header);
                let offload = offload::from_header(&header);
                received.map(|received| Some(Received { offload, ..received }))
            }
        };
        match received {
            Ok(Some(received)) => {
                count(&self.traffic.received, &self.traffic.received_bytes, received.len);
                self.record(room, received.len);
                return Some(received);
            }
            Ok(None) => {}
            Err(error) => self.note(&error),
        }
        None
    }

    /// Tells of what kept a frame from coming, and notes the end.
    fn note(&self, error: &io::Error) {
        match error.kind() {
            io::ErrorKind::WouldBlock => {}
            // The end of a connection, or an empty datagram, which is no frame.
            io::ErrorKind::UnexpectedEof if !self.is_at_end() => {}
            io::ErrorKind::UnexpectedEof => self.mark_gone(),
            io::ErrorKind::InvalidData => {
                self.complaint.say("the other end sends what is no frame");
                self.mark_gone();
            }
            _ => {
                self.complaint.once("receive", error);
                self.mark_gone();
            }
        }
    }

    fn receive_packet(&self, room: &VolatileSlice<'_>, header: &mut [u8]) -> io::Result<Received> {
        let packet = transfer::read_packet(self.fd.as_fd(), header, room)?;
        Ok(Received { len: packet.len, cut: packet.cut, offload: Offload::default() })
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

    /// After a read of nothing: whether that was the end.
    fn is_at_end(&self) -> bool {
        if self.framing == Framing::Stream {
            return true;
        }
        let mut poll = libc::pollfd { fd: self.fd.as_raw_fd(), events: 0, revents: 0 };
        let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: one pollfd and a time are passed, and both live through the call.
        unsafe { libc::ppoll(&raw mut poll, 1, &raw const now, std::ptr::null()) };
        poll.revents & (libc::POLLHUP | libc::POLLERR) != 0
    }

    fn stream(&self) -> MutexGuard<'_, FrameStream> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, frame: &VolatileSlice<'_>, len: usize) {
        let Some(pcap) = &self.pcap else { return };
        let mut pcap = pcap.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = pcap.record(frame, len) {
            self.complaint.once("record", &error);
        }
    }

    /// The descriptor of the recording, for the sandbox.
    pub(crate) fn pcap_fd(&self) -> Option<i32> {
        let pcap = self.pcap.as_ref()?;
        Some(pcap.lock().unwrap_or_else(PoisonError::into_inner).raw_fd())
    }
}

impl AsFd for NetDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn count(frames: &AtomicU64, bytes: &AtomicU64, len: usize) {
    frames.fetch_add(1, Ordering::Relaxed);
    bytes.fetch_add(len as u64, Ordering::Relaxed);
}
