//! Segments of one stream that go to the host as one.
//!
//! Each frame costs the host a walk through its network stack. Segments that follow each other differ only in what can be
//! worked out again, so a TAP takes them together, with a header that says how to cut them (`struct virtio_net_hdr`). The
//! guest sends plain frames and knows nothing of it; the header is made here, from headers that were checked here, so the
//! guest needs no trust for it. The checksum over the data is left to the host's kernel: a wrong one of the guest's, which
//! only this guest's own peer would miss, becomes right.

use hvt_abi::exchange::Offload;

use super::segment::{ACK, Headers, PSH};

/// The most frames that go as one.
const MOST_FRAMES: usize = 64;
/// The longest IP packet.
const MOST_BYTES: usize = 65_535;
const ETHERNET: usize = 14;

/// Segments that go as one, without their data.
#[derive(Debug)]
pub(crate) struct Merge {
    first: Headers,
    kind: Headers,
    /// Data of each segment, but the last, which may have less.
    size: usize,
    /// Data of all.
    payload: usize,
    count: usize,
    /// The last segment must stay the last.
    ended: bool,
}

impl Merge {
    /// Begins with a frame of `len` bytes that starts with `first`, if it is a segment that others can follow.
    pub(crate) fn begin(first: &[u8], len: usize) -> Option<Self> {
        let first = Headers::parse(first, len)?;
        let size = len - first.len();
        if size == 0 || first.flags() & !PSH != ACK {
            return None;
        }
        let ended = first.flags() & PSH != 0;
        Some(Self { kind: first.kind(), size, payload: size, count: 1, ended, first })
    }

    /// Takes the segment of `next` behind the others, if it follows them.
    pub(crate) fn append(&mut self, next: &Self) -> bool {
        let follows = next.count == 1
            && !self.ended
            && next.size <= self.size
            && self.count < MOST_FRAMES
            && self.first.len() - ETHERNET + self.payload + next.size <= MOST_BYTES
            && u32::try_from(self.payload).is_ok_and(|sent| {
                self.first.sequence().wrapping_add(sent) == next.first.sequence()
            })
            && self.kind == next.kind;
        if follows {
            self.ended = next.ended || next.size < self.size;
            self.payload += next.size;
            self.count += 1;
            self.first.set_flags(self.first.flags() | next.first.flags());
        }
        follows
    }

    /// How many bytes of each frame are headers.
    pub(crate) fn header_len(&self) -> usize {
        self.first.len()
    }

    /// What the host has to be told, and the headers in front of all data.
    pub(crate) fn finish(mut self) -> (Offload, Headers) {
        self.first.set_payload(self.payload, self.first.identification());
        self.first.set_pseudo_checksum(self.payload);
        let short = |number: usize| u16::try_from(number).unwrap_or(u16::MAX);
        let offload = Offload {
            flags: Offload::NEEDS_CSUM,
            gso_type: if self.first.is_ipv6() { Offload::GSO_TCPV6 } else { Offload::GSO_TCPV4 },
            hdr_len: short(self.first.len()),
            gso_size: short(self.size),
            csum_start: short(self.first.tcp()),
            csum_offset: 16,
        };
        (offload, self.first)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::cast_possible_truncation)]

    use super::super::segment::FIN;
    use super::super::segment::tests::frame;
    use super::*;

    fn begin(frame: &[u8]) -> Option<Merge> {
        Merge::begin(frame, frame.len())
    }

    fn follow(first: &[u8], next: &[u8]) -> bool {
        begin(next).is_some_and(|next| begin(first).unwrap().append(&next))
    }

    #[test]
    fn only_what_follows_is_taken() {
        let first = frame(false, u32::MAX - 1, ACK, 5, &[1; 100]);
        let next = |sequence, flags, len| frame(false, sequence, flags, 6, &vec![2; len]);
        assert!(follow(&first, &next(98, ACK, 100)));
        assert!(follow(&first, &next(98, ACK | PSH, 7)));
        assert!(!follow(&first, &next(99, ACK, 100)), "a gap");
        assert!(!follow(&first, &next(97, ACK, 100)), "an overlap");
        assert!(!follow(&first, &next(98, ACK, 101)), "larger than the first");
        assert!(!follow(&first, &next(98, ACK, 0)), "no data");
        for flags in [ACK | FIN, ACK | 2, ACK | 4, 0, ACK | 0x20, ACK | 0x40, ACK | 0x80] {
            assert!(!follow(&first, &next(98, flags, 100)), "{flags:#x}");
        }
        assert!(!follow(&frame(false, 0, ACK | PSH, 5, &[1; 9]), &next(9, ACK, 9)), "PSH ends");
        // Any other difference in the headers: addresses, ports, window, timestamps, life time.
        let good = next(98, ACK, 100);
        for at in
            (0..66).filter(|at| ![16, 17, 18, 19, 24, 25, 38, 39, 40, 41, 50, 51].contains(at))
        {
            let mut other = good.clone();
            other[at] ^= 1;
            assert!(!follow(&first, &other), "byte {at}");
        }
    }

    #[test]
    fn what_goes_as_one_fits_a_packet() {
        for (v6, len) in [(false, 1448), (true, 1428), (false, 1), (true, 30_000)] {
            let data = vec![3; len];
            let mut merge = begin(&frame(v6, 0, ACK, 0, &data)).unwrap();
            let mut count = 1;
            while merge.append(&begin(&frame(v6, (count * len) as u32, ACK, 0, &data)).unwrap()) {
                count += 1;
            }
            assert_eq!(count, MOST_FRAMES.min((MOST_BYTES - if v6 { 72 } else { 52 }) / len));
            let (offload, headers) = merge.finish();
            let whole = headers.len() + count * len;
            assert!(Headers::parse(headers.bytes(), whole).is_some(), "lengths are right");
            assert_eq!(usize::from(offload.gso_size), len);
            assert!(super::super::offload::header(&offload, whole as u64).is_some());
        }
    }

    #[test]
    fn a_short_segment_is_the_last() {
        let mut merge = begin(&frame(false, 0, ACK, 0, &[1; 10])).unwrap();
        assert!(merge.append(&begin(&frame(false, 10, ACK, 0, &[1; 9])).unwrap()));
        assert!(!merge.append(&begin(&frame(false, 19, ACK, 0, &[1; 9])).unwrap()));
    }
}
