//! Entry points of fuzzing: arbitrary input must never make the stack panic, hang or hold more than
//! its limits. The property tests call the same functions.

mod streams;

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::net::Ipv6Addr;
use core::time::Duration;

use smoltcp::wire::{
    Icmpv6Packet, IpProtocol, Ipv4Packet, Ipv6Packet, Ipv6Repr, TcpControl, TcpPacket,
};

use crate::flow::FlowKey;
use crate::packet::{
    ETHERNET, TYPE_IPV4, TYPE_IPV6, bare_segment, number, parse_ip, parse_tcp, tcp_packet,
    udp_packet,
};
use crate::{
    AddressSource, Capabilities, Census, Close, Device, InterfaceConfig, Limits, Route, Stack,
};

pub use streams::streams;

const OWN: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PEER: [u8; 6] = [2, 0, 0, 0, 0, 2];

#[derive(Clone)]
struct Memory {
    hardware: [u8; 6],
    trusted: bool,
    inbox: Rc<RefCell<VecDeque<Vec<u8>>>>,
    outbox: Rc<RefCell<VecDeque<Vec<u8>>>>,
}

impl Default for Memory {
    fn default() -> Self {
        Self { hardware: OWN, trusted: false, inbox: Rc::default(), outbox: Rc::default() }
    }
}

impl Device for Memory {
    type Frame = Vec<u8>;
    fn receive(&mut self) -> Option<Vec<u8>> {
        self.inbox.borrow_mut().pop_front()
    }
    fn can_transmit(&self) -> bool {
        self.outbox.borrow().len() < 4096
    }
    fn transmit<F: FnOnce(&mut [u8])>(&mut self, length: usize, fill: F) {
        let mut frame = vec![0; length];
        fill(&mut frame);
        self.outbox.borrow_mut().push_back(frame);
    }
    fn capabilities(&self) -> Capabilities {
        let (hardware_address, trusted_checksums) = (self.hardware, self.trusted);
        Capabilities { hardware_address, mtu: 1500, trusted_checksums }
    }
}

/// Frames from a hostile network: each record of `input` is a length, a kind, and octets, which are
/// taken as a frame, or mended into a segment of an open connection with numbers close to its own,
/// an answer of a DHCP server, or an advertisement of a router.
pub fn frames(input: &[u8]) {
    let limits = Limits {
        half_open: 8,
        sockets: 24,
        neighbors: 8,
        time_wait_count: 4,
        receive_buffer: 4096,
        send_buffer: 4096,
        ..Limits::default()
    };
    let device = Memory { trusted: true, ..Memory::default() };
    let mut stack = Stack::new(limits.clone(), [7; 16]);
    let (local, remote) = ([10, 0, 0, 1], [10, 0, 0, 2]);
    let config = InterfaceConfig {
        addresses: vec![(local.into(), 24), ([0xfd00u16, 0, 0, 0, 0, 0, 0, 1].into(), 64)],
        routes: vec![Route { network: [0; 4].into(), prefix: 0, gateway: remote.into() }],
    };
    if stack.add_interface(device.clone(), config).is_err() {
        return;
    }
    for source in [AddressSource::Dhcp, AddressSource::Slaac] {
        if stack.obtain_addresses(0, source).is_err() {
            return;
        }
    }
    let mut now = Duration::from_secs(5);
    let listener = stack.listen(([0; 4], 80).into(), false, 4);
    let udp = stack.udp_bind(([0; 4], 53).into(), false);
    let _ = stack.connect(None, (remote, 81).into(), now);
    let key = FlowKey { local: (local, 80).into(), remote: (remote, 9999).into() };
    let (mut own, mut peer) = handshake(&device, &mut stack, &key, now);
    let open = listener.and_then(|listener| stack.accept(listener));

    let mut rest = input;
    while let Some((&[low, kind], tail)) = rest.split_first_chunk::<2>() {
        let length = (usize::from(low) * 2).min(tail.len());
        let (record, next) = tail.split_at(length);
        rest = next;
        let frame = match kind % 6 {
            0 => record.to_vec(),
            1 => around(TYPE_IPV4, &mend_ip(record)),
            2 => around(TYPE_IPV6, record),
            4 => around(TYPE_IPV4, &mend_lease(record)),
            5 => around(TYPE_IPV6, &mend_advertisement(record)),
            _ => around(TYPE_IPV4, &mend_segment(record, &key, own, peer)),
        };
        device.inbox.borrow_mut().push_back(frame);
        if let Ok((socket, _)) = open {
            let _ = stack.send(socket, record);
            let _ = stack.recv(socket, &mut [0; 700]);
        }
        now += Duration::from_millis(u64::from(kind >> 2) * 37);
        stack.turn(now);
        while stack.next_event().is_some() {}
        for sent in device.outbox.borrow_mut().drain(..) {
            note(&sent, &key, &mut own, &mut peer);
        }
        let census = stack.census();
        assert!(census.half_open <= limits.half_open && census.time_wait <= 4 + 24);
        assert!(census.buffers <= limits.sockets * 4 * 8192);
    }
    if let (Ok((socket, _)), Ok(udp)) = (open, udp) {
        let _ = stack.close(socket, Close::Graceful);
        let _ = stack.close(udp, Close::Graceful);
    }
    // Left alone, the stack comes to rest.
    for _ in 0..2000 {
        // A DHCP client without a server never rests; what else there is does.
        if stack.census() == Census::default() {
            return;
        }
        let Some(next) = stack.next_deadline() else { return };
        now = now.max(next) + Duration::from_millis(1);
        stack.turn(now);
        device.outbox.borrow_mut().clear();
    }
    assert_eq!(stack.census(), Census::default(), "the stack does not rest");
}

fn handshake(
    device: &Memory,
    stack: &mut Stack<Memory>,
    key: &FlowKey,
    now: Duration,
) -> (u32, u32) {
    let send = |segment: &_| {
        let packet = tcp_packet(key.remote.ip(), key.local.ip(), segment);
        device.inbox.borrow_mut().push_back(around(TYPE_IPV4, &packet));
    };
    let swapped = FlowKey { local: key.remote, remote: key.local };
    let mut opening = bare_segment(&swapped, TcpControl::Syn, 1000, None, 9000);
    (opening.max_seg_size, opening.window_scale) = (Some(1460), Some(3));
    opening.sack_permitted = true;
    send(&opening);
    stack.turn(now);
    let (mut own, mut peer) = (0, 0);
    for sent in device.outbox.borrow_mut().drain(..) {
        note(&sent, key, &mut own, &mut peer);
    }
    send(&bare_segment(&swapped, TcpControl::None, 1001, Some(own), 9000));
    stack.turn(now);
    (own, 1001)
}

/// Reads the connection's numbers off a sent frame.
fn note(frame: &[u8], key: &FlowKey, own: &mut u32, peer: &mut u32) {
    let Some(packet) = frame.get(ETHERNET..) else { return };
    let Ok(header) = parse_ip(TYPE_IPV4, packet) else { return };
    let Ok(segment) = parse_tcp(&header, &packet[header.payload.clone()], true) else { return };
    if segment.dst_port == key.remote.port() && segment.src_port == key.local.port() {
        let length = u32::try_from(segment.segment_len()).unwrap_or(0);
        *own = number(segment.seq_number).wrapping_add(length);
        *peer = segment.ack_number.map_or(*peer, number);
    }
}

fn around(ether_type: u16, packet: &[u8]) -> Vec<u8> {
    [&OWN[..], &PEER, &ether_type.to_be_bytes(), packet].concat()
}

fn mend_ip(record: &[u8]) -> Vec<u8> {
    let mut packet = record.to_vec();
    if packet.len() >= 20 {
        packet[0] = 0x45;
        packet[12..16].copy_from_slice(&[10, 0, 0, 2]);
        packet[16..20].copy_from_slice(&[10, 0, 0, 1]);
        let length = u16::try_from(packet.len()).unwrap_or(u16::MAX);
        let mut view = Ipv4Packet::new_unchecked(&mut packet[..]);
        view.set_total_len(length);
        view.fill_checksum();
    }
    packet
}

/// A datagram from a DHCP server.
fn mend_lease(record: &[u8]) -> Vec<u8> {
    let local = ([10, 0, 0, 2], 67).into();
    udp_packet(local, ([255; 4], 68).into(), record)
}

/// A router's advertisement.
fn mend_advertisement(record: &[u8]) -> Vec<u8> {
    let source = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 9);
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let mut packet = vec![0; 40];
    Ipv6Repr {
        src_addr: source,
        dst_addr: group,
        next_header: IpProtocol::Icmpv6,
        payload_len: record.len(),
        hop_limit: 255,
    }
    .emit(&mut Ipv6Packet::new_unchecked(&mut packet[..]));
    packet.extend_from_slice(record);
    if record.len() >= 4 {
        (packet[40], packet[41]) = (134, 0);
        Icmpv6Packet::new_unchecked(&mut packet[40..]).fill_checksum(&source, &group);
    }
    packet
}

/// A segment of the connection, its numbers displaced by what the record says.
fn mend_segment(record: &[u8], key: &FlowKey, own: u32, peer: u32) -> Vec<u8> {
    let mut packet = vec![0; 20];
    packet[8] = 64;
    packet[9] = 6;
    packet.extend_from_slice(record);
    if record.len() >= 20 {
        let mut view = TcpPacket::new_unchecked(&mut packet[20..]);
        view.set_src_port(key.remote.port());
        view.set_dst_port(key.local.port());
        let near = |value: u32| value.cast_signed() >> 12;
        let sequence = peer.wrapping_add_signed(near(number(view.seq_number())));
        let acknowledgement = own.wrapping_add_signed(near(number(view.ack_number())));
        view.set_seq_number(crate::packet::sequence_number(sequence));
        view.set_ack_number(crate::packet::sequence_number(acknowledgement));
        if record[12] >> 4 < 5 {
            view.set_header_len(20);
        }
    }
    mend_ip(&packet)
}
