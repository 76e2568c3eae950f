//! What the network can do to the stack: floods, blind attackers, and plain rubbish.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use netstack::{DropReason, Limits, SocketError};
use proptest::prelude::*;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{IpProtocol, IpRepr, Ipv4Packet, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber};
use support::*;

proptest! {
    #[test]
    fn arbitrary_frames_never_panic(input in proptest::collection::vec(any::<u8>(), 0..4000)) {
        netstack::fuzz::frames(&input);
    }

    #[test]
    fn any_wire_carries_the_exact_octets(
        input in proptest::collection::vec(any::<u8>(), 0..4000)
    ) {
        netstack::fuzz::streams(&input);
    }

    #[test]
    fn segments_of_an_open_connection_never_panic(
        records in proptest::collection::vec(
            (any::<[u8; 12]>(), 0u8..64, any::<u16>(), proptest::collection::vec(any::<u8>(), 0..90)),
            0..40,
        )
    ) {
        let mut input = Vec::new();
        for (start, flags, window, payload) in records {
            let length = 20 + payload.len();
            input.extend([(length / 2) as u8, 3]);
            let mut record = start.to_vec();
            record.extend([0x50, flags]);
            record.extend(window.to_be_bytes());
            record.extend([0; 4]);
            record.extend(payload);
            record.truncate(length / 2 * 2);
            input.extend(record);
        }
        netstack::fuzz::frames(&input);
    }
}

/// A segment from `source` as a frame for stack `b`.
fn frame(source: SocketAddr, to: SocketAddr, change: impl FnOnce(&mut TcpRepr<'_>)) -> Vec<u8> {
    let mut segment = TcpRepr {
        src_port: source.port(),
        dst_port: to.port(),
        control: TcpControl::None,
        seq_number: TcpSeqNumber(0),
        ack_number: None,
        window_len: 1000,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    };
    change(&mut segment);
    let caps = ChecksumCapabilities::default();
    let (from, dest) = (source.ip().into(), to.ip().into());
    let ip = IpRepr::new(from, dest, IpProtocol::Tcp, segment.buffer_len(), 64);
    let mut packet = vec![0; 14 + ip.buffer_len()];
    packet[..12].copy_from_slice(&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 9]);
    packet[12..14].copy_from_slice(&[8, 0]);
    ip.emit(&mut packet[14..], &caps);
    segment.emit(&mut TcpPacket::new_unchecked(&mut packet[34..]), &from, &dest, &caps);
    packet
}

/// The segments that stack `b` sent since the last call: flags, sequence and acknowledgement.
fn sent(out: &Lane) -> Vec<(TcpControl, i32, Option<i32>)> {
    let frames = out.borrow_mut().drain(..).collect::<Vec<_>>();
    let read = |frame: Vec<u8>| {
        let ip = Ipv4Packet::new_checked(&frame[14..]).ok()?;
        let (from, to) = (ip.src_addr().into(), ip.dst_addr().into());
        let tcp = TcpPacket::new_checked(ip.payload()).ok()?;
        let tcp = TcpRepr::parse(&tcp, &from, &to, &ChecksumCapabilities::default()).ok()?;
        Some((tcp.control, tcp.seq_number.0, tcp.ack_number.map(|n| n.0)))
    };
    frames.into_iter().filter_map(read).collect()
}

#[test]
fn a_flood_of_handshakes_is_bounded_and_shuts_nobody_out() {
    let limits = Limits { half_open: 100, ..Limits::default() };
    let mut world = World::new(1, Weather::default(), limits, 1500);
    let listener = world.b.listen(at(B4, 80), false, 64).unwrap();
    let mut dice = Dice(77);
    let (mut flood, inbox, out) = stack(2, Limits { half_open: 100, ..Limits::default() }, 1500);
    flood.listen(at(B4, 80), false, 64).unwrap();
    let now = Duration::from_secs(9);
    for round in 0..50 {
        for _ in 0..200 {
            let source = SocketAddr::from((
                [10, 0, 0, 10 + (dice.roll() % 200) as u8],
                dice.roll() as u16 | 1,
            ));
            let syn = frame(source, at(B4, 80), |segment| {
                segment.control = TcpControl::Syn;
                segment.seq_number = TcpSeqNumber(dice.roll() as i32);
            });
            inbox.borrow_mut().push_back(syn);
        }
        flood.turn(now);
        let answers = sent(&out);
        assert!(answers.len() <= 200, "round {round}: never more answers than questions");
        assert!(answers.iter().all(|(control, ..)| *control == TcpControl::Syn), "and no resets");
    }
    let census = flood.census();
    assert_eq!((census.half_open, census.buffers, census.established), (100, 0, 0));
    assert!(flood.counters().cookies_sent > 9_000);

    // With the table full, an honest client is let in by its cookie, and its data arrives.
    let flooded = world.b.counters().handshakes;
    assert_eq!(flooded, 0);
    let mut full =
        World::new(3, Weather::default(), Limits { half_open: 0, ..Limits::default() }, 1500);
    let door = full.b.listen(at(B4, 80), false, 64).unwrap();
    let client = full.a.connect(None, at(B4, 80), full.now).unwrap();
    full.settle();
    let (server, _) = full.b.accept(door).unwrap();
    let data = vec![9; 200_000];
    let (mut offset, mut got) = (0, 0);
    while got < data.len() {
        offset += full.a.send(client, &data[offset..]).unwrap_or(0);
        full.settle();
        got += full.b.recv(server, &mut vec![0; 70_000]).unwrap_or(0);
    }
    assert_eq!(full.b.counters().cookies_accepted, 1);
    world.b.close(listener, netstack::Close::Graceful).unwrap();
}

#[test]
fn blind_resets_and_data_do_not_reach_a_connection() {
    let (mut b, inbox, out) = stack(2, Limits::default(), 1500);
    let listener = b.listen(at(B4, 80), false, 4).unwrap();
    let (peer, to) = (at("10.0.0.9", 7777), at(B4, 80));
    let mut now = Duration::from_secs(9);
    let mut give = |b: &mut netstack::Stack<Plug>, change: &dyn Fn(&mut TcpRepr<'_>)| {
        now += Duration::from_secs(1);
        inbox.borrow_mut().push_back(frame(peer, to, |segment| change(segment)));
        b.turn(now);
        sent(&out)
    };
    // The resolution of the peer's address: its frames carry it, and the stack asks once.
    let answer = give(&mut b, &|s| {
        s.control = TcpControl::Syn;
        s.seq_number = TcpSeqNumber(1000);
    });
    let (_, isn, ack) = answer[0];
    assert_eq!(ack, Some(1001));
    let ours = isn.wrapping_add(1);
    give(&mut b, &|s| {
        (s.seq_number, s.ack_number) = (TcpSeqNumber(1001), Some(TcpSeqNumber(ours)))
    });
    let (server, _) = b.accept(listener).unwrap();
    // Resets near the right number, anywhere in the window: challenged, not obeyed.
    for offset in [1, 2, 500, 60_000] {
        let answer = give(&mut b, &|s| {
            (s.control, s.seq_number) = (TcpControl::Rst, TcpSeqNumber(1001 + offset));
        });
        assert_eq!(answer, [(TcpControl::None, ours, Some(1001))], "offset {offset}");
    }
    // Far outside they are ignored; a SYN is challenged.
    for offset in [-1, 70_000, i32::MIN] {
        let sequence = TcpSeqNumber(1001i32.wrapping_add(offset));
        assert_eq!(give(&mut b, &|s| (s.control, s.seq_number) = (TcpControl::Rst, sequence)), []);
    }
    let answer =
        give(&mut b, &|s| (s.control, s.seq_number) = (TcpControl::Syn, TcpSeqNumber(1001)));
    assert_eq!(answer, [(TcpControl::None, ours, Some(1001))]);
    // Data with an acknowledgement of what was never sent, or far too old, is not taken.
    for ack in [ours + 1, ours.wrapping_add(1 << 20), ours.wrapping_sub(1 << 20), ours ^ i32::MIN] {
        give(&mut b, &|s| {
            s.seq_number = TcpSeqNumber(1001);
            s.ack_number = Some(TcpSeqNumber(ack));
            s.payload = b"evil";
        });
    }
    assert_eq!(b.recv(server, &mut [0; 9]), Err(SocketError::WouldBlock));
    assert_eq!(b.counters().dropped(DropReason::BlindReset), 8);
    assert_eq!(b.counters().dropped(DropReason::BlindData), 4);
    // The real peer is still heard, and its own reset obeyed.
    give(&mut b, &|s| {
        (s.seq_number, s.ack_number) = (TcpSeqNumber(1001), Some(TcpSeqNumber(ours)));
        s.payload = b"good";
    });
    assert_eq!(b.recv(server, &mut [0; 9]), Ok(4));
    give(&mut b, &|s| (s.control, s.seq_number) = (TcpControl::Rst, TcpSeqNumber(1005)));
    assert_eq!(b.take_error(server), Ok(Some(SocketError::ConnectionReset)));
}

#[test]
fn challenges_of_one_connection_are_limited() {
    let (mut b, inbox, out) = stack(2, Limits::default(), 1500);
    b.listen(at(B4, 80), false, 4).unwrap();
    let (peer, to) = (at("10.0.0.9", 7777), at(B4, 80));
    let now = Duration::from_secs(9);
    let give = |b: &mut netstack::Stack<Plug>, change: &dyn Fn(&mut TcpRepr<'_>)| {
        inbox.borrow_mut().push_back(frame(peer, to, |segment| change(segment)));
        b.turn(now);
        sent(&out)
    };
    let (_, isn, _) =
        give(&mut b, &|s| (s.control, s.seq_number) = (TcpControl::Syn, TcpSeqNumber(0)))[0];
    let ours = TcpSeqNumber(isn.wrapping_add(1));
    give(&mut b, &|s| (s.seq_number, s.ack_number) = (TcpSeqNumber(1), Some(ours)));
    let reset =
        |s: &mut TcpRepr<'_>| (s.control, s.seq_number) = (TcpControl::Rst, TcpSeqNumber(9));
    let answers: usize = (0..1000).map(|_| give(&mut b, &reset).len()).sum();
    assert_eq!(answers, 1);
}

#[test]
fn unwanted_packets_are_answered_within_the_limit_only() {
    let limits = Limits { replies_per_second: 10, ..Limits::default() };
    let (mut b, inbox, out) = stack(2, limits, 1500);
    for port in 1..=1000 {
        let source = at("10.0.0.9", port);
        let syn = frame(source, at(B4, 81), |segment| segment.control = TcpControl::Syn);
        inbox.borrow_mut().push_back(syn);
    }
    for _ in 0..5 {
        b.turn(Duration::from_secs(1));
    }
    let answers = sent(&out);
    assert_eq!(answers.len(), 10);
    assert!(answers.iter().all(|(control, ..)| *control == TcpControl::Rst));
    assert_eq!(b.counters().dropped(DropReason::RateLimit), 990);
}

#[test]
fn segments_of_one_octet_cannot_be_demanded() {
    let (mut b, inbox, out) = stack(2, Limits::default(), 1500);
    let listener = b.listen(at(B4, 80), false, 4).unwrap();
    let (peer, to) = (at("10.0.0.9", 7777), at(B4, 80));
    let now = Duration::from_secs(9);
    // The neighbour is known, as it would be after any ARP exchange.
    let mut arp = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 9, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1];
    arp.extend([2, 0, 0, 0, 0, 9, 10, 0, 0, 9, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2]);
    inbox.borrow_mut().push_back(arp);
    inbox.borrow_mut().push_back(frame(peer, to, |s| {
        s.control = TcpControl::Syn;
        s.max_seg_size = Some(1);
    }));
    b.turn(now);
    let isn = sent(&out).iter().find(|s| s.0 == TcpControl::Syn).unwrap().1;
    inbox.borrow_mut().push_back(frame(peer, to, |s| {
        (s.seq_number, s.ack_number) = (TcpSeqNumber(1), Some(TcpSeqNumber(isn.wrapping_add(1))));
    }));
    b.turn(now);
    let (server, _) = b.accept(listener).unwrap();
    b.send(server, &[1; 880]).unwrap();
    b.turn(now);
    let count = sent(&out).len();
    assert!((1..=10).contains(&count), "880 octets in {count} segments");
}
