//! Devices that complete checksums and cut segments, and frames that were never cut.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

mod support;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use netstack::{
    Capabilities, Device, FrameOffload, InterfaceConfig, Limits, MTU_MAX, Offload, Stack,
};
use smoltcp::wire::{IpAddress, Ipv4Packet, Ipv6Packet, TcpPacket, TcpSeqNumber};
use support::{A4, A6, B4, B6, at};

type Queue = Rc<RefCell<VecDeque<(Vec<u8>, FrameOffload)>>>;

/// A device as virtio-net is one.
struct Virtio {
    inbox: Queue,
    outbox: Queue,
    mtu: usize,
    hardware: [u8; 6],
}

impl Device for Virtio {
    type Frame = Frame;
    fn receive(&mut self) -> Option<Frame> {
        self.inbox.borrow_mut().pop_front().map(|(octets, rest)| Frame { octets, rest })
    }
    fn can_transmit(&self) -> bool {
        true
    }
    fn transmit<F: FnOnce(&mut [u8])>(&mut self, length: usize, fill: F) {
        self.transmit_offloaded(length, &FrameOffload::default(), fill);
    }
    fn transmit_offloaded<F: FnOnce(&mut [u8])>(
        &mut self,
        length: usize,
        rest: &FrameOffload,
        fill: F,
    ) {
        let mut frame = vec![0; length];
        fill(&mut frame);
        self.outbox.borrow_mut().push_back((frame, *rest));
    }
    fn capabilities(&self) -> Capabilities {
        let (hardware_address, mtu) = (self.hardware, self.mtu);
        Capabilities { hardware_address, mtu, trusted_checksums: false }
    }
    fn offload(&self) -> Offload {
        Offload { checksum: true, segmentation: MTU_MAX }
    }
    fn is_verified(&self, frame: &Frame) -> bool {
        frame.rest.checksum.is_some()
    }
}

struct Frame {
    octets: Vec<u8>,
    rest: FrameOffload,
}

impl AsRef<[u8]> for Frame {
    fn as_ref(&self) -> &[u8] {
        &self.octets
    }
}

impl AsMut<[u8]> for Frame {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.octets
    }
}

fn host(number: u8, mtu: usize) -> (Stack<Virtio>, Queue, Queue) {
    let (inbox, outbox) = (Queue::default(), Queue::default());
    let hardware = [2, 0, 0, 0, 0, number];
    let device = Virtio { inbox: inbox.clone(), outbox: outbox.clone(), mtu, hardware };
    let mut stack = Stack::new(Limits::default(), [number; 16]);
    let v4 = IpAddr::from([10, 0, 0, number]);
    let v6 = IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(number)]);
    let config = InterfaceConfig { addresses: vec![(v4, 24), (v6, 64)], routes: vec![] };
    stack.add_interface(device, config).unwrap();
    (stack, inbox, outbox)
}

/// What a device makes of a frame: by the fields of its header alone, as hardware does it.
fn complete(frame: &[u8], rest: &FrameOffload) -> Vec<Vec<u8>> {
    let Some(checksum) = rest.checksum else { return vec![frame.to_vec()] };
    let start = usize::from(checksum.start);
    let field = start + usize::from(checksum.offset);
    let ipv6 = frame[12..14] == [0x86, 0xdd];
    let pieces: Vec<Vec<u8>> = match rest.segmentation {
        None => vec![frame.to_vec()],
        Some(cut) => {
            assert_eq!(cut.ipv6, ipv6);
            let (headers, data) = frame.split_at(usize::from(cut.headers));
            let size = usize::from(cut.size);
            assert!(data.len() > size, "nothing to cut");
            let count = data.len().div_ceil(size);
            data.chunks(size)
                .enumerate()
                .map(|(index, chunk)| {
                    let mut piece = [headers, chunk].concat();
                    let length = piece.len();
                    if ipv6 {
                        let mut ip = Ipv6Packet::new_unchecked(&mut piece[14..]);
                        ip.set_payload_len((length - 54) as u16);
                    } else {
                        let mut ip = Ipv4Packet::new_unchecked(&mut piece[14..]);
                        ip.set_total_len((length - 14) as u16);
                        ip.fill_checksum();
                    }
                    let mut tcp = TcpPacket::new_unchecked(&mut piece[start..]);
                    let number: TcpSeqNumber = tcp.seq_number();
                    tcp.set_seq_number(number + index * size);
                    if index + 1 < count {
                        tcp.set_psh(false);
                        tcp.set_fin(false);
                    }
                    piece
                })
                .collect()
        }
    };
    let addresses = |piece: &[u8]| -> (IpAddress, IpAddress) {
        if ipv6 {
            let ip = Ipv6Packet::new_unchecked(&piece[14..]);
            (ip.src_addr().into(), ip.dst_addr().into())
        } else {
            let ip = Ipv4Packet::new_unchecked(&piece[14..]);
            (ip.src_addr().into(), ip.dst_addr().into())
        }
    };
    pieces
        .into_iter()
        .map(|mut piece| {
            let (from, to) = addresses(&piece);
            assert_eq!(field, start + 16);
            TcpPacket::new_unchecked(&mut piece[start..]).fill_checksum(&from, &to);
            piece
        })
        .collect()
}

/// Moves a megabyte; returns how many frames the sender handed over, and the longest on the wire.
fn transfer(to: &str, peer_mtu: usize, cut: bool) -> (usize, usize) {
    let (mut a, a_in, a_out) = host(1, 1500);
    let (mut b, b_in, b_out) = host(2, peer_mtu);
    let listener = b.listen(at(to, 80), false, 4).unwrap();
    let mut now = Duration::from_secs(5);
    let client = a.connect(None, at(to, 80), now).unwrap();
    let data: Vec<u8> = (0..1u32 << 20).map(|n| ((n * 7) >> 3) as u8).collect();
    let (mut sent, mut server, mut got) = (0, None, Vec::new());
    let (mut frames, mut longest) = (0, 0);
    let mut buffer = vec![0; 1 << 16];
    while got.len() < data.len() {
        assert!(now < Duration::from_secs(60), "{} of {}", got.len(), data.len());
        sent += a.send(client, &data[sent..]).unwrap_or(0);
        a.turn(now);
        now += Duration::from_millis(1);
        for (frame, rest) in a_out.borrow_mut().drain(..) {
            frames += 1;
            if cut {
                for piece in complete(&frame, &rest) {
                    longest = longest.max(piece.len());
                    b_in.borrow_mut().push_back((piece, FrameOffload::default()));
                }
            } else {
                b_in.borrow_mut().push_back((frame, rest));
            }
        }
        b.receive(now);
        server = server.or_else(|| b.accept(listener).ok().map(|(id, _)| id));
        while let Some(Ok(count @ 1..)) = server.map(|id| b.recv(id, &mut buffer)) {
            got.extend_from_slice(&buffer[..count]);
        }
        b.transmit(now);
        for (frame, rest) in b_out.borrow_mut().drain(..) {
            let pieces = complete(&frame, &rest).into_iter();
            a_in.borrow_mut().extend(pieces.map(|piece| (piece, FrameOffload::default())));
        }
    }
    assert!(got == data);
    (frames, longest)
}

#[test]
fn segments_are_cut_to_the_size_of_the_smaller_end() {
    for (to, own) in [(B4, A4), (B6, A6)] {
        assert_ne!(to, own);
        for peer_mtu in [1500, 1400, 9000] {
            let (frames, longest) = transfer(to, peer_mtu, true);
            assert_eq!(longest, 14 + peer_mtu.min(1500));
            assert!(frames < 200, "{frames} frames for a megabyte");
        }
    }
}

#[test]
fn frames_that_were_never_cut_are_taken_whole() {
    for to in [B4, B6] {
        let (frames, _) = transfer(to, 1500, false);
        assert!(frames < 200, "{frames} frames for a megabyte");
    }
}
