//! The headers of a TCP segment in an Ethernet frame, as far as merging and cutting segments need them.
//!
//! They are copied out of the frame before they are looked at, so that nobody can change them afterwards.

/// The longest headers: Ethernet without a tag, IPv6 without extensions, TCP with all options.
pub(super) const HEADERS_MAX: usize = ETHERNET + 40 + 60;

const ETHERNET: usize = 14;
const PROTOCOL_TCP: u8 = 6;
/// Flags of TCP (RFC 9293, section 3.1).
pub(super) const FIN: u8 = 0x01;
pub(super) const PSH: u8 = 0x08;
pub(super) const ACK: u8 = 0x10;
pub(super) const CWR: u8 = 0x80;

/// Headers of one segment, or of many that travel as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Headers {
    bytes: [u8; HEADERS_MAX],
    /// Where TCP's begins, and where its data does.
    tcp: usize,
    data: usize,
}

impl Headers {
    /// The headers of a frame of `len` bytes that begins with `first`: at least [`HEADERS_MAX`] of them, or all. None for
    /// everything but TCP in one IPv4 packet without options or one IPv6 packet without extensions, which fills the frame.
    pub(super) fn parse(first: &[u8], len: usize) -> Option<Self> {
        let packet = len.checked_sub(ETHERNET)?;
        let ip = first.get(ETHERNET..)?;
        let (says, protocol, header) = match (first[12], first[13], ip.first()?) {
            // No fragment, neither the first of some nor a later one.
            (0x08, 0x00, 0x45) if number(ip, 6)? & 0x3fff == 0 => {
                (usize::from(number(ip, 2)?), *ip.get(9)?, 20)
            }
            (0x86, 0xdd, 0x60..=0x6f) => (40 + usize::from(number(ip, 4)?), *ip.get(6)?, 40),
            _ => return None,
        };
        let tcp = ETHERNET + header;
        let data = tcp + usize::from(first.get(tcp + 12)? >> 4) * 4;
        if says != packet || protocol != PROTOCOL_TCP || data < tcp + 20 || data > len {
            return None;
        }
        let mut bytes = [0; HEADERS_MAX];
        bytes[..data].copy_from_slice(first.get(..data)?);
        Some(Self { bytes, tcp, data })
    }

    /// The bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.data]
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.data
    }

    /// Where TCP's begin.
    pub(super) fn tcp(&self) -> usize {
        self.tcp
    }

    pub(super) fn is_ipv6(&self) -> bool {
        self.tcp == ETHERNET + 40
    }

    pub(super) fn flags(&self) -> u8 {
        self.bytes[self.tcp + 13]
    }

    pub(super) fn set_flags(&mut self, flags: u8) {
        self.bytes[self.tcp + 13] = flags;
    }

    pub(super) fn sequence(&self) -> u32 {
        let at = &self.bytes[self.tcp + 4..];
        u32::from_be_bytes([at[0], at[1], at[2], at[3]])
    }

    pub(super) fn set_sequence(&mut self, sequence: u32) {
        let at = self.tcp + 4;
        self.bytes[at..at + 4].copy_from_slice(&sequence.to_be_bytes());
    }

    /// The identification of IPv4; IPv6 has none.
    pub(super) fn identification(&self) -> u16 {
        if self.is_ipv6() { 0 } else { number(&self.bytes, ETHERNET + 4).unwrap_or(0) }
    }

    /// Says how much data follows, at most what an IP packet can hold, and which identification the packet has.
    pub(super) fn set_payload(&mut self, len: usize, identification: u16) {
        let after = u16::try_from(self.data - self.tcp + len).unwrap_or(u16::MAX);
        if self.is_ipv6() {
            return self.put(ETHERNET + 4, after);
        }
        self.put(ETHERNET + 2, after.saturating_add(20));
        self.put(ETHERNET + 4, identification);
        self.put(ETHERNET + 10, 0);
        let checksum = !folded(sum(&self.bytes[ETHERNET..self.tcp]));
        self.put(ETHERNET + 10, checksum);
    }

    /// Puts the sum over the pseudo header where the checksum goes (RFC 9293, section 3.1): what offload asks for.
    pub(super) fn set_pseudo_checksum(&mut self, payload: usize) {
        self.put(self.tcp + 16, folded(self.pseudo(payload)));
    }

    /// Puts the checksum over these headers and this data.
    pub(super) fn set_checksum(&mut self, data: &[u8]) {
        self.put(self.tcp + 16, 0);
        let headers = self.pseudo(data.len()) + sum(&self.bytes[self.tcp..self.data]);
        // Headers are whole pairs of bytes, so the data's are counted the same way.
        self.put(self.tcp + 16, !folded(headers + sum(data)));
    }

    fn pseudo(&self, payload: usize) -> u64 {
        let addresses = if self.is_ipv6() { self.tcp - 32 } else { self.tcp - 8 };
        let len = (self.data - self.tcp + payload) as u64;
        sum(&self.bytes[addresses..self.tcp]) + u64::from(PROTOCOL_TCP) + len
    }

    /// These headers with what differs from one segment of a stream to the next left out.
    pub(super) fn kind(&self) -> Self {
        let mut kind = self.clone();
        kind.set_flags(self.flags() & !PSH);
        kind.set_sequence(0);
        kind.put(self.tcp + 16, 0);
        if self.is_ipv6() {
            kind.put(ETHERNET + 4, 0);
        } else {
            for field in [2, 4, 10] {
                kind.put(ETHERNET + field, 0);
            }
        }
        kind
    }

    fn put(&mut self, at: usize, value: u16) {
        self.bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

/// The sum of 16-bit numbers that a checksum is made of (RFC 1071), not folded. Of fewer than 2³² bytes.
pub(super) fn sum(bytes: &[u8]) -> u64 {
    let mut total = 0_u64;
    let (words, rest) = bytes.as_chunks::<4>();
    // Pairs of numbers are added as one; folding brings them together.
    for word in words {
        total += u64::from(u32::from_be_bytes(*word));
    }
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    total + u64::from(u32::from_be_bytes(last))
}

/// The sum in 16 bits.
pub(super) fn folded(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A frame with right checksums.
    pub(in super::super) fn frame(
        v6: bool,
        sequence: u32,
        flags: u8,
        id: u16,
        data: &[u8],
    ) -> Vec<u8> {
        let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        if v6 {
            bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, 6, 64]);
            bytes.extend([0xfd; 16]);
            bytes.extend([0xfc; 16]);
        } else {
            bytes.extend([
                8, 0, 0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
            ]);
        }
        bytes.extend([0x1f, 0x90, 0xc0, 0x01]);
        bytes.extend(sequence.to_be_bytes());
        bytes.extend([0, 0, 0, 9, 0x80, flags, 1, 2, 0, 0, 0, 0]);
        bytes.extend([1, 1, 8, 10, 0, 0, 0, 5, 0, 0, 0, 6]);
        let head = bytes.len();
        bytes.extend(data);
        let after = u16::try_from(bytes.len() - if v6 { 54 } else { 14 }).unwrap();
        let field = if v6 { 18 } else { 16 };
        bytes[field..field + 2].copy_from_slice(&after.to_be_bytes());
        let mut headers = Headers::parse(&bytes, bytes.len()).unwrap();
        headers.set_payload(data.len(), id);
        headers.set_checksum(data);
        bytes[..head].copy_from_slice(headers.bytes());
        bytes
    }

    #[test]
    fn checksums_are_those_of_rfc_1071() {
        assert_eq!(folded(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])), 0xddf2);
        assert_eq!(folded(sum(&[0xab])), 0xab00);
        assert_eq!(folded(sum(&[0xff; 7])), 0xff00);
        for v6 in [false, true] {
            for len in [0, 1, 2, 3, 1447] {
                let bytes = frame(v6, 7, ACK, 5, &vec![0xa7; len]);
                let headers = Headers::parse(&bytes, bytes.len()).unwrap();
                let tcp = headers.tcp();
                let over = headers.pseudo(len) + sum(&bytes[tcp..]);
                assert_eq!(folded(over), 0xffff, "TCP's checksum, {v6} {len}");
                assert!(v6 || folded(sum(&bytes[14..34])) == 0xffff, "IP's");
            }
        }
    }

    #[test]
    fn only_plain_segments_are_taken() {
        let good = frame(false, 7, ACK, 5, b"data");
        assert!(Headers::parse(&good, good.len()).is_some());
        assert!(Headers::parse(&good[..HEADERS_MAX.min(good.len())], good.len()).is_some());
        let changes: [(usize, u8); 7] =
            [(12, 0x81), (14, 0x46), (17, 200), (20, 0x20), (21, 1), (23, 17), (46, 0x40)];
        for (at, value) in changes {
            let mut bad = good.clone();
            bad[at] = value;
            assert!(Headers::parse(&bad, bad.len()).is_none(), "{at}");
        }
        for len in 0..good.len() {
            assert!(Headers::parse(&good[..len], len).is_none());
            assert!(Headers::parse(&good[..len], good.len()).is_none() || len >= 66);
        }
        let mut long = good.clone();
        long[46] = 0xf0;
        assert!(Headers::parse(&long, long.len()).is_none(), "headers longer than the frame");
    }
}
