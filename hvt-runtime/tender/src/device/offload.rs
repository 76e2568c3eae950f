//! The header that a TAP with `IFF_VNET_HDR` puts before each frame, from and to the ABI's [`Offload`].
//!
//! A guest's claims are checked here for what they are worth against the frame's length, before the host's kernel checks
//! them again against its bytes.

use hvt_abi::exchange::Offload;

use super::net::MIN_FRAME;

/// `struct virtio_net_hdr` without the field of the merging variants.
pub type Header = [u8; 10];

/// The header for a frame to send, unless the claims make no sense for a frame of this length.
#[must_use]
pub fn header(offload: &Offload, frame_len: u64) -> Option<Header> {
    if *offload == Offload::default() {
        return Some(Header::default());
    }
    let needs_csum = match offload.flags {
        0 => false,
        Offload::NEEDS_CSUM => true,
        _ => return None,
    };
    let covers = u64::from(offload.csum_start);
    let field_end = covers + u64::from(offload.csum_offset) + 2;
    if needs_csum && (covers < MIN_FRAME || field_end > frame_len) {
        return None;
    }
    let segments = match offload.gso_type & !Offload::GSO_ECN {
        Offload::GSO_NONE if offload.gso_type == Offload::GSO_NONE => false,
        Offload::GSO_TCPV4 | Offload::GSO_TCPV6 => true,
        _ => return None,
    };
    if segments && (!needs_csum || offload.gso_size == 0 || u64::from(offload.hdr_len) > frame_len)
    {
        return None;
    }
    let [h0, h1] = offload.hdr_len.to_le_bytes();
    let [g0, g1] = offload.gso_size.to_le_bytes();
    let [s0, s1] = offload.csum_start.to_le_bytes();
    let [o0, o1] = offload.csum_offset.to_le_bytes();
    Some([offload.flags, offload.gso_type, h0, h1, g0, g1, s0, s1, o0, o1])
}

/// What the host's header says of a received frame.
#[must_use]
pub fn from_header(header: &Header) -> Offload {
    let [flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1] = *header;
    Offload {
        flags: flags & (Offload::NEEDS_CSUM | Offload::DATA_VALID),
        gso_type,
        hdr_len: u16::from_le_bytes([h0, h1]),
        gso_size: u16::from_le_bytes([g0, g1]),
        csum_start: u16::from_le_bytes([s0, s1]),
        csum_offset: u16::from_le_bytes([o0, o1]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENTS: Offload = Offload {
        flags: Offload::NEEDS_CSUM,
        gso_type: Offload::GSO_TCPV4,
        hdr_len: 54,
        gso_size: 1460,
        csum_start: 34,
        csum_offset: 16,
    };

    #[test]
    fn a_header_survives_the_way_there_and_back() {
        for offload in [Offload::default(), SEGMENTS, Offload { gso_type: 0x84, ..SEGMENTS }] {
            assert_eq!(from_header(&header(&offload, 60_000).unwrap()), offload);
        }
    }

    #[test]
    fn claims_that_the_frame_does_not_bear_are_refused() {
        for (offload, len) in [
            (Offload { flags: 2, ..SEGMENTS }, 1000),
            (Offload { flags: 0, ..SEGMENTS }, 1000),
            (Offload { gso_type: 2, ..SEGMENTS }, 1000),
            (Offload { gso_type: 3, ..SEGMENTS }, 1000),
            (Offload { gso_type: 0x80, ..SEGMENTS }, 1000),
            (Offload { gso_size: 0, ..SEGMENTS }, 1000),
            (Offload { hdr_len: 1001, ..SEGMENTS }, 1000),
            (Offload { csum_start: 13, ..SEGMENTS }, 1000),
            (Offload { csum_start: 983, ..SEGMENTS }, 1000),
            (Offload { csum_offset: u16::MAX, csum_start: u16::MAX, ..SEGMENTS }, 1000),
            (SEGMENTS, 51),
        ] {
            assert_eq!(header(&offload, len), None, "{offload:?}");
        }
        assert!(header(&Offload { csum_start: 982, ..SEGMENTS }, 1000).is_some());
    }
}
