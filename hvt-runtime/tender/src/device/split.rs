//! Frames of the host's that are too long for the guest, or have no checksum yet: cut and completed.
//!
//! A TAP that may, gives TCP data of the host in packets of up to 64 KiB, as the host's stack made them, which is what
//! costs it least. A guest without offload gets what would have come over a wire: segments of the size that the host says,
//! with checksums. They say that the frame came whole out of the host's kernel, which has checked what came from outside.

use std::io;
use std::os::fd::BorrowedFd;

use hvt_abi::exchange::{MAX_FRAME_LEN, Offload};
use vm_memory::{Bytes, VolatileSlice};

use super::net::Received;
use super::offload::{self, Header};
use super::segment::{CWR, FIN, HEADERS_MAX, Headers, PSH, folded, sum};
use super::transfer;

/// The last frame of the host's, as far as the guest has not got it.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
    rest: Option<Box<Rest>>,
}

/// Segments that are left.
#[derive(Debug)]
struct Rest {
    headers: Headers,
    /// Data of each segment.
    size: usize,
    /// Where the next one's data begins, and where all ends.
    next: usize,
    end: usize,
}

impl Inbox {
    /// Whether there is something without a look at the descriptor.
    pub(super) fn has_frame(&self) -> bool {
        self.rest.is_some()
    }

    /// Puts the next frame into the room, reading from the descriptor if nothing is left. None for what is no frame.
    pub(super) fn receive(
        &mut self,
        fd: BorrowedFd<'_>,
        room: &VolatileSlice<'_>,
    ) -> io::Result<Option<Received>> {
        if self.rest.is_none() {
            let mut header = Header::default();
            self.bytes.resize(MAX_FRAME_LEN as usize, 0);
            let len = transfer::read_packet_here(fd, &mut header, &mut self.bytes)?;
            let offload = offload::from_header(&header);
            if offload.gso_type != Offload::GSO_NONE {
                self.rest = self.cut(len, &offload);
            } else if offload.flags & Offload::NEEDS_CSUM == 0 || self.complete(len, &offload) {
                return Ok(Some(put(room, &self.bytes[..len], &[])));
            }
        }
        Ok(self.segment(room))
    }

    /// Writes the checksum that the host left out. False if it can't be.
    fn complete(&mut self, len: usize, offload: &Offload) -> bool {
        let start = usize::from(offload.csum_start);
        let at = start + usize::from(offload.csum_offset);
        let Some(covered) = self.bytes.get(start..len) else { return false };
        // The field holds the sum over the pseudo header, which belongs to what is summed up.
        let checksum = match !folded(sum(covered)) {
            // RFC 768: zero would mean that there is none. To TCP both mean the same.
            0 => 0xffff,
            checksum => checksum,
        };
        let Some(field) = self.bytes[..len].get_mut(at..at + 2) else { return false };
        field.copy_from_slice(&checksum.to_be_bytes());
        true
    }

    fn cut(&self, len: usize, offload: &Offload) -> Option<Box<Rest>> {
        let headers = Headers::parse(&self.bytes[..len.min(HEADERS_MAX)], len)?;
        let size = usize::from(offload.gso_size);
        let tcp =
            matches!(offload.gso_type & !Offload::GSO_ECN, Offload::GSO_TCPV4 | Offload::GSO_TCPV6);
        let next = headers.len();
        let rest = Rest { headers, size, next, end: len };
        (tcp && size > 0 && next < len).then(|| Box::new(rest))
    }

    fn segment(&mut self, room: &VolatileSlice<'_>) -> Option<Received> {
        let rest = self.rest.as_mut()?;
        let first = rest.next == rest.headers.len();
        let end = (rest.next + rest.size).min(rest.end);
        let last = end == rest.end;
        let data = &self.bytes[rest.next..end];
        let mut headers = rest.headers.clone();
        let not_here = if last { 0 } else { FIN | PSH } | if first { 0 } else { CWR };
        headers.set_flags(headers.flags() & !not_here);
        let before = rest.next - rest.headers.len();
        let number = u16::try_from(before / rest.size).unwrap_or(0);
        headers.set_payload(data.len(), headers.identification().wrapping_add(number));
        headers.set_sequence(headers.sequence().wrapping_add(u32::try_from(before).unwrap_or(0)));
        headers.set_checksum(data);
        let received = put(room, headers.bytes(), data);
        rest.next = end;
        if last {
            self.rest = None;
        }
        Some(received)
    }
}

/// Copies a frame into a room, as much of it as fits.
fn put(room: &VolatileSlice<'_>, headers: &[u8], data: &[u8]) -> Received {
    let mut len = 0;
    for part in [headers, data] {
        // What has no room is lost, and counted as lost below.
        len += room.write(part, len).unwrap_or(0);
    }
    Received { len, cut: len < headers.len() + data.len(), offload: Offload::default() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::cast_possible_truncation)]

    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;

    use super::super::merge::Merge;
    use super::super::segment::tests::frame;
    use super::super::segment::{ACK, PSH};
    use super::*;

    /// What the guest gets of frames that the host gives with this header.
    fn received(header: Header, bytes: &[u8], room_len: usize) -> Vec<(Vec<u8>, bool)> {
        let (host, guest) = UnixDatagram::pair().unwrap();
        guest.set_nonblocking(true).unwrap();
        host.send(&[&header[..], bytes].concat()).unwrap();
        let mut inbox = Inbox::default();
        let mut frames = Vec::new();
        loop {
            let mut memory = vec![0; room_len];
            let room = VolatileSlice::from(memory.as_mut_slice());
            match inbox.receive(guest.as_fd(), &room) {
                Ok(Some(got)) => {
                    memory.truncate(got.len);
                    frames.push((memory, got.cut));
                }
                Ok(None) => {}
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    return frames;
                }
            }
        }
    }

    /// Merging and cutting undo each other: what a guest sends is what another gets.
    #[test]
    fn merged_frames_are_cut_into_themselves() {
        for v6 in [false, true] {
            for lens in [vec![1428; 40], vec![1000, 1000, 7], vec![5, 5], vec![1427, 1]] {
                let mut frames: Vec<Vec<u8>> = Vec::new();
                let mut sequence = u32::MAX - 3000;
                for (i, len) in lens.iter().enumerate() {
                    let data: Vec<u8> = (0..*len).map(|n| (n * 7 + i) as u8).collect();
                    let flags = if i + 1 == lens.len() { ACK | PSH } else { ACK };
                    frames.push(frame(v6, sequence, flags, i as u16, &data));
                    sequence = sequence.wrapping_add(*len as u32);
                }
                let mut merge = Merge::begin(&frames[0], frames[0].len()).unwrap();
                for next in &frames[1..] {
                    assert!(merge.append(&Merge::begin(next, next.len()).unwrap()));
                }
                let skip = merge.header_len();
                let (offload, headers) = merge.finish();
                let mut whole = headers.bytes().to_vec();
                frames.iter().for_each(|frame| whole.extend(&frame[skip..]));
                let header = offload::header(&offload, whole.len() as u64).unwrap();
                let got = received(header, &whole, 1518);
                assert_eq!(got.len(), frames.len());
                for (i, ((got, cut), sent)) in got.iter().zip(&frames).enumerate() {
                    assert!(got == sent && !cut, "frame {i} of {}", lens.len());
                }
            }
        }
    }

    #[test]
    fn a_left_out_checksum_is_written() {
        let whole = frame(false, 9, ACK, 1, b"odd");
        let mut left_out = whole.clone();
        let mut headers = Headers::parse(&whole, whole.len()).unwrap();
        headers.set_pseudo_checksum(3);
        left_out[..headers.len()].copy_from_slice(headers.bytes());
        let offload = Offload {
            flags: Offload::NEEDS_CSUM,
            csum_start: 34,
            csum_offset: 16,
            ..Offload::default()
        };
        let header = offload::header(&offload, 1000).unwrap();
        assert_eq!(received(header, &left_out, 1518), [(whole.clone(), false)]);
        assert_eq!(received(Header::default(), &whole, 1518), [(whole.clone(), false)]);
        assert_eq!(received(Header::default(), &whole, 20), [(whole[..20].to_vec(), true)]);
    }

    #[test]
    fn what_makes_no_sense_is_dropped() {
        let whole = frame(false, 9, ACK, 1, &[7; 100]);
        let cut = Offload {
            flags: Offload::NEEDS_CSUM,
            gso_type: Offload::GSO_TCPV4,
            hdr_len: 66,
            gso_size: 50,
            csum_start: 34,
            csum_offset: 16,
        };
        let header = |change: &dyn Fn(&mut Offload)| {
            let mut offload = cut;
            change(&mut offload);
            let [h0, h1] = offload.hdr_len.to_le_bytes();
            let [g0, g1] = offload.gso_size.to_le_bytes();
            let [s0, s1] = offload.csum_start.to_le_bytes();
            let [o0, o1] = offload.csum_offset.to_le_bytes();
            [offload.flags, offload.gso_type, h0, h1, g0, g1, s0, s1, o0, o1]
        };
        assert_eq!(received(header(&|_| {}), &whole, 1518).len(), 2);
        assert!(received(header(&|o| o.gso_size = 0), &whole, 1518).is_empty());
        assert!(received(header(&|o| o.gso_type = 3), &whole, 1518).is_empty());
        assert!(received(header(&|_| {}), &whole[..60], 1518).is_empty());
        let complete = |start, offset| {
            header(&|o| (o.gso_type, o.csum_start, o.csum_offset) = (0, start, offset))
        };
        assert!(received(complete(u16::MAX, u16::MAX), &whole, 1518).is_empty());
        assert!(received(complete(34, 131), &whole, 1518).is_empty());
        assert_eq!(received(complete(34, 130), &whole, 1518).len(), 1);
    }
}
