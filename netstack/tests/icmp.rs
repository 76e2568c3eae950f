//! ICMP: pings, and what routers say about connections.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

mod support;

use std::time::Duration;

use netstack::{Limits, SocketError};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    Icmpv4DstUnreachable, Icmpv4Packet, Icmpv4Repr, IpProtocol, Ipv4Packet, Ipv4Repr,
};
use support::*;

/// The frame of a router's complaint about `packet` (an IPv4 packet of stack 1).
fn complaint(packet: &[u8], reason: Icmpv4DstUnreachable, mtu: u16) -> Vec<u8> {
    let caps = ChecksumCapabilities::default();
    let ip = Ipv4Packet::new_checked(packet).unwrap();
    let message = Icmpv4Repr::DstUnreachable {
        reason,
        header: Ipv4Repr::parse(&ip, &caps).unwrap(),
        data: &ip.payload()[..20],
    };
    let outer = Ipv4Repr {
        src_addr: "10.0.0.254".parse().unwrap(),
        dst_addr: ip.src_addr(),
        next_header: IpProtocol::Icmp,
        payload_len: message.buffer_len(),
        hop_limit: 64,
    };
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 99, 8, 0];
    frame.resize(14 + 20 + message.buffer_len(), 0);
    outer.emit(&mut Ipv4Packet::new_unchecked(&mut frame[14..]), &caps);
    message.emit(&mut Icmpv4Packet::new_unchecked(&mut frame[34..]), &caps);
    frame[38..42].copy_from_slice(&u32::from(mtu).to_be_bytes());
    Icmpv4Packet::new_unchecked(&mut frame[34..]).fill_checksum();
    frame
}

/// A path that carries 1,000 octets, with a router that says so, between the stacks.
#[test]
fn a_narrow_path_is_found_and_data_passes() {
    let (mut a, a_in, a_out) = stack(1, Limits::default(), 1500);
    let (mut b, b_in, b_out) = stack(2, Limits::default(), 1500);
    let mut now = Duration::from_secs(5);
    let listener = b.listen(at(B4, 80), false, 4).unwrap();
    let client = a.connect(None, at(B4, 80), now).unwrap();
    let data: Vec<u8> = (0..300_000u32).map(|n| ((n * 7) >> 3) as u8).collect();
    let (mut sent, mut server, mut got, mut complaints) = (0, None, Vec::new(), 0);
    for _ in 0..20_000 {
        sent += a.send(client, &data[sent..]).unwrap_or(0);
        a.turn(now);
        for frame in a_out.borrow_mut().drain(..) {
            if frame.len() > 1014 {
                complaints += 1;
                let reason = Icmpv4DstUnreachable::FragRequired;
                a_in.borrow_mut().push_back(complaint(&frame[14..], reason, 1000));
            } else {
                b_in.borrow_mut().push_back(frame);
            }
        }
        b.turn(now);
        a_in.borrow_mut().extend(b_out.borrow_mut().drain(..));
        server = server.or_else(|| b.accept(listener).ok().map(|(id, _)| id));
        let mut buffer = [0; 4096];
        while let Some(Ok(count @ 1..)) = server.map(|id| b.recv(id, &mut buffer)) {
            got.extend_from_slice(&buffer[..count]);
        }
        if got.len() == data.len() {
            break;
        }
        now += Duration::from_millis(1);
    }
    assert_eq!(got, data);
    assert!((1..=10).contains(&complaints), "{complaints} packets were too long");
    assert!(now < Duration::from_secs(10), "it took until {now:?}");
}

#[test]
fn an_attempt_ends_when_a_router_names_its_syn_and_only_then() {
    let (mut a, a_in, a_out) = stack(1, Limits::default(), 1500);
    let now = Duration::from_secs(5);
    // The neighbour is learned from its request.
    let mut arp = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1];
    arp.extend([2, 0, 0, 0, 0, 2, 10, 0, 0, 2, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1]);
    a_in.borrow_mut().push_back(arp);
    a.turn(now);
    a_out.borrow_mut().clear();
    let client = a.connect(None, at(B4, 80), now).unwrap();
    a.turn(now);
    let syn = a_out.borrow_mut().pop_front().unwrap();
    let mut forged = syn[14..].to_vec();
    forged[24] ^= 1;
    for (packet, expected) in
        [(&forged[..], None), (&syn[14..], Some(SocketError::HostUnreachable))]
    {
        let frame = complaint(packet, Icmpv4DstUnreachable::HostUnreachable, 0);
        a_in.borrow_mut().push_back(frame);
        a.turn(now);
        assert_eq!(a.take_error(client), Ok(expected));
    }
}
