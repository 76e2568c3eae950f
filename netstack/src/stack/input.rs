//! Frames in: the demultiplexer, and what it answers itself.
//!
//! A TCP segment goes to the connection of its flow, to a handshake, to a remembered end, or to a
//! listener, in this order, each found by one look into a table.

use core::net::SocketAddr;
use core::time::Duration;

use smoltcp::wire::{IpProtocol, TcpControl, TcpRepr, TcpTimestampRepr};

use super::Stack;
use crate::config::is_host;
use crate::connection::Connection;
use crate::counters::DropReason;
use crate::device::Device;
use crate::flow::FlowKey;
use crate::half_open::{HalfOpen, Syn, completes};
use crate::icmp;
use crate::interface::{Direction, Wire};
use crate::packet::{
    ETHERNET, Header, TYPE_ARP, TYPE_IPV4, TYPE_IPV6, bare_segment, number, parse_ip, parse_tcp,
    parse_udp,
};
use crate::tcp::{Answer, Tcp, stamp};

/// Where a packet came from: the interface, and the neighbour.
type From = (usize, [u8; 6]);

impl<D: Device> Stack<D> {
    /// Takes one frame.
    pub(super) fn input(&mut self, interface: usize, frame: &D::Frame, now: Duration) {
        self.counters.frames_received += 1;
        let octets = frame.as_ref();
        if let Some(capture) = &mut self.capture {
            capture(interface, Direction::Received, octets, now);
        }
        let port = &self.ports[interface];
        let verify = !port.capabilities.trusted_checksums && !port.device.is_verified(frame);
        if let Err(reason) = self.frame(interface, octets, verify, now) {
            self.counters.drop(reason);
        }
    }

    fn frame(
        &mut self,
        interface: usize,
        frame: &[u8],
        verify: bool,
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
                let verify = Verify { unicast, checksums: verify };
                self.packet(from, &header, verify, frame, now)
            }
            _ => Err(DropReason::Protocol),
        }
    }

    fn packet(
        &mut self,
        from: From,
        header: &Header,
        verify: Verify,
        frame: &[u8],
        now: Duration,
    ) -> Result<(), DropReason> {
        let port = &self.ports[from.0];
        let loopback = port.config.is_loopback();
        let has = |address| match loopback {
            true => self.ports.iter().any(|port| port.config.has(address)),
            false => port.config.has(address),
        };
        let ours = has(header.destination);
        let solicits = header.protocol == IpProtocol::Icmpv6;
        // Duplicate address detection solicits from the unspecified address (RFC 4862 §5.4.2).
        let plausible = is_host(header.source) || (solicits && header.source.is_unspecified());
        // Only this host sends from its own addresses (RFC 1122 §3.2.1.3).
        let own = has(header.source) || header.source.is_loopback();
        if !plausible || own != loopback {
            return Err(DropReason::Address);
        }
        let payload = ETHERNET + header.payload.start..ETHERNET + header.payload.end;
        let Verify { unicast, checksums } = verify;
        match header.protocol {
            IpProtocol::Tcp if ours && unicast => {
                let segment = parse_tcp(header, &frame[payload], checksums)?;
                self.segment(from, header, &segment, now)
            }
            IpProtocol::Udp if port.awaits(header, &frame[payload.clone()]) => {
                self.control(from.0, frame, now);
                Ok(())
            }
            IpProtocol::Udp if ours && unicast => {
                let (source, destination, data) =
                    parse_udp(header, &frame[payload.clone()], checksums)?;
                let start = payload.start;
                let data = &frame[start + data.start..start + data.end];
                let remote = SocketAddr::new(header.source, source);
                let local = SocketAddr::new(header.destination, destination);
                let taken = self.datagram(local, remote, data);
                if taken == Err(DropReason::NoSocket) && source != 0 && self.may_reply(now) {
                    let packet = &frame[ETHERNET..ETHERNET + header.payload.end];
                    let answer = icmp::port_unreachable(header.source, header.destination, packet);
                    let mut wire =
                        Wire { counters: &mut self.counters, capture: &mut self.capture, now };
                    self.ports[from.0].send_to(from.1, &answer, &mut wire);
                }
                taken
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
                let neighbor = matches!(frame[payload].first(), Some(134..=136));
                if neighbor {
                    self.ports[from.0].hear(header, &frame[ETHERNET..], now);
                    self.learn(from.0, TYPE_IPV6, &frame[ETHERNET..], now);
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
        segment: &TcpRepr<'_>,
        now: Duration,
    ) -> Result<(), DropReason> {
        let key = FlowKey {
            local: SocketAddr::new(header.destination, segment.dst_port),
            remote: SocketAddr::new(header.source, segment.src_port),
        };
        if let Some(&index) = self.flows.get(&key) {
            return self.connection_segment(index, from, segment, now);
        }
        if self.half_open.get(&key).is_some() {
            return self.handshake_segment(&key, from, segment, now);
        }
        let opens = segment.control == TcpControl::Syn && segment.ack_number.is_none();
        if let Some(stub) = self.time_wait.get(&key)
            && !(opens && self.time_wait.give_way(&key, &Syn::read(segment)))
        {
            // A reset does not end TIME-WAIT (RFC 1337); anything else may be a lost last
            // acknowledgement.
            if segment.control != TcpControl::Rst && self.may_reply(now) {
                let (sequence, next) = (stub.send_next, Some(stub.receive_next));
                let mut answer = bare_segment(&key, TcpControl::None, sequence, next, stub.window);
                answer.timestamp = stub.stamps.map(|(offset, recent)| TcpTimestampRepr {
                    tsval: stamp(offset, now),
                    tsecr: recent,
                });
                self.reply(&key, &answer, from, now);
            }
            return Ok(());
        }
        let Some(listener) = self.listener_of(key.local) else {
            self.refuse(&key, segment, from, now);
            return Ok(());
        };
        if opens {
            return self.open(&key, &Syn::read(segment), from, now);
        }
        let redeemed = self.half_open.redeem(&key, segment, now);
        let Some((syn, sequence)) = redeemed.filter(|_| segment.control != TcpControl::Rst) else {
            self.refuse(&key, segment, from, now);
            return Ok(());
        };
        self.admit(listener, &key, (&syn, sequence), from.0, None, now)?;
        self.counters.cookies_accepted += 1;
        self.deliver(&key, from, segment, now)
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
        let cookie = !self.half_open.insert(*key, *syn, sequence, from, now);
        if cookie {
            sequence = self.half_open.cookie(key, syn, now);
            self.counters.cookies_sent += 1;
        }
        self.counters.handshakes += 1;
        self.answer_syn(key, syn, (sequence, cookie), from, now);
        Ok(())
    }

    fn handshake_segment(
        &mut self,
        key: &FlowKey,
        from: From,
        segment: &TcpRepr<'_>,
        now: Duration,
    ) -> Result<(), DropReason> {
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
                    self.half_open.answered_again(key);
                    self.answer_syn(key, &entry.syn, (entry.sequence, false), from, now);
                    return Ok(());
                }
                // The peer began anew, and remembers nothing of the old handshake.
                self.half_open.remove(key);
                self.open(key, &Syn::read(segment), from, now)
            }
            _ if completes(&entry, segment) => {
                let Some(listener) = self.listener_of(key.local) else {
                    self.half_open.remove(key);
                    self.refuse(key, segment, from, now);
                    return Ok(());
                };
                let HalfOpen { syn, sequence, since, again, .. } = entry;
                let trip = (!again).then(|| now.saturating_sub(since));
                self.admit(listener, key, (&syn, sequence), from.0, trip, now)?;
                self.half_open.remove(key);
                self.deliver(key, from, segment, now)
            }
            _ => {
                self.refuse(key, segment, from, now);
                Ok(())
            }
        }
    }

    fn deliver(
        &mut self,
        key: &FlowKey,
        from: From,
        segment: &TcpRepr<'_>,
        now: Duration,
    ) -> Result<(), DropReason> {
        let Some(&index) = self.flows.get(key) else { return Ok(()) };
        self.connection_segment(index, from, segment, now)?;
        self.counters.accepted += 1;
        self.announce(index);
        Ok(())
    }

    fn connection_segment(
        &mut self,
        index: u32,
        from: From,
        segment: &TcpRepr<'_>,
        now: Duration,
    ) -> Result<(), DropReason> {
        let room = self.room();
        let Some(connection) = self.table.connection_mut(index) else { return Ok(()) };
        let taken = connection.tcp.receive(segment, room, now);
        let key = connection.key;
        self.account(index);
        self.mark(index);
        let Err(refusal) = taken else { return Ok(()) };
        match refusal.answer {
            Answer::Nothing => {}
            Answer::Challenge => self.challenge(index, from, now),
            Answer::Reset => self.send_reset(&key, segment, from, now),
        }
        Err(refusal.reason)
    }

    /// Tells the peer where the connection stands (RFC 5961 §3.2).
    fn challenge(&mut self, index: u32, from: From, now: Duration) {
        let Some(connection) = self.table.connection_mut(index) else { return };
        let key = connection.key;
        let answer = connection.tcp.challenge(&key, now);
        self.counters.challenges += 1;
        self.reply(&key, &answer, from, now);
    }

    /// Makes the connection of a completed handshake: the peer's SYN and the own number, and how
    /// long the peer took to answer.
    fn admit(
        &mut self,
        listener: u32,
        key: &FlowKey,
        (syn, sequence): (&Syn, u32),
        number: usize,
        trip: Option<Duration>,
        now: Duration,
    ) -> Result<(), DropReason> {
        let full = self.table.listener_mut(listener).is_none_or(|l| l.queue.len() >= l.backlog);
        if full {
            return Err(DropReason::BacklogFull);
        }
        if !self.has_buffers() {
            return Err(DropReason::NoBuffers);
        }
        let settings = self.settings(key, number, now);
        let tcp = Tcp::accept(&settings, syn, sequence, trip, now);
        let mut connection = Connection::new(*key, number, tcp);
        connection.backlog_of = Some(listener);
        self.keep_connection(connection);
        Ok(())
    }
}

/// What is checked of a packet.
#[derive(Clone, Copy)]
struct Verify {
    /// Its frame was for this host alone.
    unicast: bool,
    /// The checksums of TCP and UDP are to be verified.
    checksums: bool,
}

fn sender(frame: &[u8]) -> Option<[u8; 6]> {
    frame.get(6..12)?.first_chunk().copied()
}
