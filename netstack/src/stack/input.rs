//! Frames in: the demultiplexer, and what it answers itself.
//!
//! A TCP segment goes to the connection of its flow, to a handshake, to a remembered end, or to a
//! listener, in this order, each found by one look into a table. Nothing that matches none of them
//! reaches smoltcp, which would answer with a reset.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use smoltcp::wire::{IpProtocol, TcpControl};

use super::Stack;
use crate::config::is_host;
use crate::counters::DropReason;
use crate::device::Device;
use crate::flow::FlowKey;
use crate::guard::Verdict;
use crate::half_open::{SEGMENT_MIN, Syn, completes};
use crate::interface::{Direction, Splice, Wire, instant};
use crate::packet::{
    ETHERNET, Header, TYPE_ARP, TYPE_IPV4, TYPE_IPV6, bare_segment, distance, number, parse_ip,
    parse_tcp, parse_udp, shift_acknowledgement, show_window, tcp_packet,
};

/// Where a packet came from: the interface, and the neighbour.
type From = (usize, [u8; 6]);

impl<D: Device> Stack<D> {
    /// Takes one frame.
    pub(super) fn input(&mut self, interface: usize, mut frame: D::Frame, now: Duration) {
        self.counters.frames_received += 1;
        let octets = frame.as_mut();
        if let Some(capture) = &mut self.capture {
            capture(interface, Direction::Received, octets, now);
        }
        if let Err(reason) = self.frame(interface, octets, now) {
            self.counters.drop(reason);
        }
    }

    fn frame(
        &mut self,
        interface: usize,
        frame: &mut [u8],
        now: Duration,
    ) -> Result<(), DropReason> {
        let (Some(to), Some(hardware), Some(&[high, low])) = (
            frame.first_chunk::<6>(),
            sender(frame),
            frame.get(12..ETHERNET).and_then(<[u8]>::first_chunk),
        ) else {
            return Err(DropReason::Malformed);
        };
        let unicast = *to == self.ports[interface].capabilities.hardware_address;
        if hardware[0] & 1 != 0 || !(unicast || to[0] & 1 != 0) {
            return Err(DropReason::Address);
        }
        let from = (interface, hardware);
        let ether_type = u16::from_be_bytes([high, low]);
        match ether_type {
            TYPE_ARP => {
                self.learn(interface, ether_type, &frame[ETHERNET..], now);
                self.control(interface, frame, now);
                Ok(())
            }
            TYPE_IPV4 | TYPE_IPV6 => {
                let header = parse_ip(ether_type, &frame[ETHERNET..])?;
                self.packet(from, ether_type, &header, unicast, frame, now)
            }
            _ => Err(DropReason::Protocol),
        }
    }

    fn packet(
        &mut self,
        from: From,
        ether_type: u16,
        header: &Header,
        unicast: bool,
        frame: &mut [u8],
        now: Duration,
    ) -> Result<(), DropReason> {
        let port = &self.ports[from.0];
        let loopback = port.config.is_loopback();
        let has = |address| match loopback {
            true => self.ports.iter().any(|port| port.config.has(address)),
            false => port.config.has(address),
        };
        let ours = has(header.destination);
        let verify = !port.capabilities.trusted_checksums;
        let solicits = header.protocol == IpProtocol::Icmpv6;
        // Duplicate address detection solicits from the unspecified address (RFC 4862 §5.4.2).
        let plausible = is_host(header.source) || (solicits && header.source.is_unspecified());
        // Only this host sends from its own addresses (RFC 1122 §3.2.1.3).
        let own = has(header.source) || header.source.is_loopback();
        if !plausible || own != loopback {
            return Err(DropReason::Address);
        }
        let payload = ETHERNET + header.payload.start..ETHERNET + header.payload.end;
        match header.protocol {
            IpProtocol::Tcp if ours && unicast => {
                self.segment(from, header, &mut frame[ETHERNET..], verify, now)
            }
            IpProtocol::Udp if ours && unicast => {
                let (source, destination, data) =
                    parse_udp(header, &frame[payload.clone()], verify)?;
                let start = payload.start;
                let data = &frame[start + data.start..start + data.end];
                let remote = SocketAddr::new(header.source, source);
                self.datagram(SocketAddr::new(header.destination, destination), remote, data)
            }
            IpProtocol::Icmp if ours => {
                if self.complaint(header, &frame[payload], now) {
                    return Ok(());
                }
                if self.may_reply(now) {
                    self.control(from.0, frame, now);
                }
                Ok(())
            }
            IpProtocol::Icmpv6 if ours || header.destination.is_multicast() => {
                if ours && self.complaint(header, &frame[payload.clone()], now) {
                    return Ok(());
                }
                // Neighbour solicitations are answered without limit: a limit would let a flood of
                // pings cut this host off.
                let neighbor = matches!(frame[payload].first(), Some(135 | 136));
                if neighbor {
                    self.learn(from.0, ether_type, &frame[ETHERNET..], now);
                }
                if neighbor || self.may_reply(now) {
                    self.control(from.0, frame, now);
                }
                Ok(())
            }
            _ => Err(DropReason::Address),
        }
    }

    fn learn(&mut self, interface: usize, ether_type: u16, packet: &[u8], now: Duration) {
        let mut wire = Wire { counters: &mut self.counters, capture: &mut self.capture, now };
        self.ports[interface].learn_from(ether_type, packet, &mut wire);
    }

    fn control(&mut self, interface: usize, frame: &[u8], now: Duration) {
        let mut wire = Wire { counters: &mut self.counters, capture: &mut self.capture, now };
        self.ports[interface].control(frame, &mut wire);
    }

    fn segment(
        &mut self,
        from: From,
        header: &Header,
        packet: &mut [u8],
        verify: bool,
        now: Duration,
    ) -> Result<(), DropReason> {
        let segment = parse_tcp(header, &packet[header.payload.clone()], verify)?;
        let key = FlowKey {
            local: SocketAddr::new(header.destination, segment.dst_port),
            remote: SocketAddr::new(header.source, segment.src_port),
        };
        if let Some(&index) = self.flows.get(&key) {
            return self.connection_segment(index, from, header, packet, now);
        }
        if self.half_open.get(&key).is_some() {
            return self.handshake_segment(&key, from, header, packet, now);
        }
        let opens = segment.control == TcpControl::Syn && segment.ack_number.is_none();
        if let Some(stub) = self.time_wait.get(&key)
            && !(opens && self.time_wait.give_way(&key, number(segment.seq_number)))
        {
            // A reset does not end TIME-WAIT (RFC 1337); anything else may be a lost last
            // acknowledgement.
            if segment.control != TcpControl::Rst && self.may_reply(now) {
                let (sequence, next) = (stub.send_next, Some(stub.receive_next));
                let answer = bare_segment(&key, TcpControl::None, sequence, next, stub.window);
                self.reply(&key, &answer, from, now);
            }
            return Ok(());
        }
        let Some(listener) = self.listener_of(key.local) else {
            self.refuse(&key, &segment, from, now);
            return Ok(());
        };
        if opens {
            return self.open(&key, &Syn::read(&segment), from, now);
        }
        let redeemed = self.half_open.redeem(&key, &segment, now);
        let Some((syn, sequence)) = redeemed.filter(|_| segment.control != TcpControl::Rst) else {
            self.refuse(&key, &segment, from, now);
            return Ok(());
        };
        self.admit(listener, &key, &syn, sequence, from.0, now, now)?;
        self.counters.cookies_accepted += 1;
        self.deliver(&key, from, header, packet, now)
    }

    /// Answers a SYN to a listener.
    fn open(
        &mut self,
        key: &FlowKey,
        syn: &Syn,
        from: From,
        now: Duration,
    ) -> Result<(), DropReason> {
        if key.remote.port() == 0 {
            return Err(DropReason::Malformed);
        }
        let mut sequence = self.secret.initial_sequence(key, now);
        if !self.half_open.insert(*key, *syn, sequence, from, now) {
            sequence = self.half_open.cookie(key, syn, now);
            self.counters.cookies_sent += 1;
        }
        self.counters.handshakes += 1;
        self.answer_syn(key, syn, sequence, from, now);
        Ok(())
    }

    fn handshake_segment(
        &mut self,
        key: &FlowKey,
        from: From,
        header: &Header,
        packet: &mut [u8],
        now: Duration,
    ) -> Result<(), DropReason> {
        let segment = parse_tcp(header, &packet[header.payload.clone()], false)?;
        let Some(entry) = self.half_open.get(key).copied() else { return Ok(()) };
        match segment.control {
            TcpControl::Rst => {
                if number(segment.seq_number) != entry.syn.sequence.wrapping_add(1) {
                    return Err(DropReason::BlindReset);
                }
                self.half_open.remove(key);
                Ok(())
            }
            TcpControl::Syn if segment.ack_number.is_none() => {
                if number(segment.seq_number) == entry.syn.sequence {
                    self.answer_syn(key, &entry.syn, entry.sequence, from, now);
                    return Ok(());
                }
                // The peer began anew, and remembers nothing of the old handshake.
                self.half_open.remove(key);
                self.open(key, &Syn::read(&segment), from, now)
            }
            _ if completes(&entry, &segment) => {
                let Some(listener) = self.listener_of(key.local) else {
                    self.half_open.remove(key);
                    self.refuse(key, &segment, from, now);
                    return Ok(());
                };
                self.admit(listener, key, &entry.syn, entry.sequence, from.0, entry.since, now)?;
                self.half_open.remove(key);
                self.deliver(key, from, header, packet, now)
            }
            _ => {
                self.refuse(key, &segment, from, now);
                Ok(())
            }
        }
    }

    fn deliver(
        &mut self,
        key: &FlowKey,
        from: From,
        header: &Header,
        packet: &mut [u8],
        now: Duration,
    ) -> Result<(), DropReason> {
        let Some(&index) = self.flows.get(key) else { return Ok(()) };
        self.connection_segment(index, from, header, packet, now)?;
        self.counters.accepted += 1;
        self.announce(index);
        Ok(())
    }

    fn connection_segment(
        &mut self,
        index: u32,
        from: From,
        header: &Header,
        packet: &mut [u8],
        now: Duration,
    ) -> Result<(), DropReason> {
        let reset = {
            let segment = parse_tcp(header, &packet[header.payload.clone()], false)?;
            segment.control == TcpControl::Rst
        };
        if reset {
            // A reset must fit what was acknowledged last; so acknowledge all that has arrived.
            self.flush(index, now);
        }
        let Some(connection) = self.table.connection_mut(index) else { return Ok(()) };
        let (acknowledges, repeat, window) = {
            let segment = parse_tcp(header, &packet[header.payload.clone()], false)?;
            let before = connection.guard.unacknowledged;
            match connection.guard.judge(&segment) {
                Verdict::Pass => {}
                Verdict::Refuse { reason, challenge } => {
                    if challenge && connection.guard.may_challenge(now) {
                        self.challenge(index, from, now);
                    }
                    return Err(reason);
                }
            }
            let duplicate = segment.ack_number.map(number) == Some(before)
                && segment.payload.is_empty()
                && segment.control == TcpControl::None
                && distance(connection.guard.send_next, before) > 0;
            connection.received(&segment, now);
            // With nothing but a FIN outstanding, smoltcp loses its retransmission timer over three
            // duplicates; and they tell nothing new.
            if duplicate && connection.socket().send_queue() == 0 {
                return Ok(());
            }
            // The answer to a tail-loss probe that acknowledges nothing proves a loss before the
            // tail. smoltcp believes it only when it hears it three times.
            let repeat = duplicate && connection.tail.take_answer();
            let newly = connection.guard.unacknowledged.wrapping_sub(before);
            let window = connection.shown_window(&segment, newly);
            (segment.ack_number.is_some(), repeat, window)
        };
        show_window(&mut packet[header.payload.clone()], window);
        if acknowledges && let Some(shift) = connection.shift {
            shift_acknowledgement(&mut packet[header.payload.clone()], shift);
        }
        let raised = raise_segment_size(header, &packet[header.payload.clone()]);
        let packet = raised.as_deref().unwrap_or(packet);
        for _ in 0..if repeat { 3 } else { 1 } {
            self.outbox.clear();
            let Some(connection) = self.table.connection_mut(index) else { break };
            let port = &mut self.ports[connection.port];
            let mtu = port.capabilities.mtu;
            let mut device = Splice::flow(Some(packet), &mut self.outbox, mtu);
            port.flows.poll_ingress_single(instant(now), &mut device, &mut connection.set);
            let mut wire = Wire { counters: &mut self.counters, capture: &mut self.capture, now };
            for answer in self.outbox.packets_mut() {
                if connection.sent(answer, now) {
                    port.send_ip(answer, &mut wire);
                }
            }
        }
        self.mark(index);
        Ok(())
    }

    /// Tells the peer where the connection stands (RFC 5961 §3.2).
    fn challenge(&mut self, index: u32, from: From, now: Duration) {
        let Some(connection) = self.table.connection(index) else { return };
        let (key, guard) = (connection.key, &connection.guard);
        let (sequence, next, window) = (guard.send_next, guard.receive_next, guard.window_field);
        let answer = bare_segment(&key, TcpControl::None, sequence, next, window);
        self.counters.challenges += 1;
        self.reply(&key, &answer, from, now);
    }

    /// Makes the connection of a completed handshake: its socket is shown the SYN as if it came
    /// at `since`, and its SYN|ACK, which the peer has already, is thrown away.
    #[expect(clippy::too_many_arguments, reason = "what a handshake is made of")]
    fn admit(
        &mut self,
        listener: u32,
        key: &FlowKey,
        syn: &Syn,
        sequence: u32,
        number: usize,
        since: Duration,
        now: Duration,
    ) -> Result<(), DropReason> {
        let full = self.table.listener_mut(listener).is_none_or(|l| l.queue.len() >= l.backlog);
        if full {
            return Err(DropReason::BacklogFull);
        }
        if !self.has_buffers() {
            return Err(DropReason::NoBuffers);
        }
        let mut connection = self.make_connection(*key, number, sequence);
        if connection.socket_mut().listen(smoltcp_endpoint(key.local)).is_err() {
            return Err(DropReason::Malformed);
        }
        let mut opening = syn.replay(key);
        opening.window_len = connection.shown_window(&opening, 0);
        let packet = tcp_packet(key.remote.ip(), key.local.ip(), &opening);
        let port = &mut self.ports[number];
        self.outbox.clear();
        let mut device = Splice::flow(Some(&packet), &mut self.outbox, port.capabilities.mtu);
        let then = instant(since);
        port.flows.poll_ingress_single(then, &mut device, &mut connection.set);
        port.flows.poll_egress(then, &mut device, &mut connection.set);
        let mut answered = false;
        for answer in self.outbox.packets_mut() {
            answered |= connection.sent(answer, now);
        }
        if !answered || connection.shift.is_none() {
            return Err(DropReason::Malformed);
        }
        connection.guard.peer_opened(syn.window_scale);
        connection.heard(now);
        connection.tail.acknowledged(sequence.wrapping_add(1), true, now);
        connection.backlog_of = Some(listener);
        self.keep_connection(connection);
        Ok(())
    }
}

/// A packet with the SYN of `segment` whose segment size is too small to be served, raised to the
/// least that is; none if nothing is wrong with it.
fn raise_segment_size(header: &Header, segment: &[u8]) -> Option<Vec<u8>> {
    let mut syn = parse_tcp(header, segment, false).ok()?;
    let small =
        syn.control == TcpControl::Syn && syn.max_seg_size.is_some_and(|size| size < SEGMENT_MIN);
    small.then(|| {
        syn.max_seg_size = Some(SEGMENT_MIN);
        tcp_packet(header.source, header.destination, &syn)
    })
}

/// The address as smoltcp names what a socket listens on.
pub(super) fn smoltcp_endpoint(address: SocketAddr) -> smoltcp::wire::IpListenEndpoint {
    let ip: IpAddr = address.ip();
    smoltcp::wire::IpListenEndpoint { addr: Some(ip.into()), port: address.port() }
}

fn sender(frame: &[u8]) -> Option<[u8; 6]> {
    frame.get(6..12)?.first_chunk().copied()
}
