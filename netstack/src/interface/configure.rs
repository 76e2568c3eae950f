//! Where an interface's addresses come from: the operator, a DHCP server, routers, or all of them.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv6Addr};
use core::time::Duration;

use smoltcp::wire::{EthernetAddress, Icmpv6Message, Icmpv6Packet, NdiscRepr};

use super::{Port, Wire};
use crate::config::{ADDRESSES_MAX, InterfaceConfig, Route, is_host};
use crate::device::Device;
use crate::packet::Header;
use crate::slaac::{Question, Slaac};

/// The begin of a datagram from a DHCP server to a client (RFC 2131 §4.1).
const DHCP_PORTS: [u8; 4] = [0, 67, 0, 68];

impl<D: Device> Port<D> {
    /// Replaces what was configured by hand.
    pub(crate) fn give(&mut self, config: InterfaceConfig) {
        self.given = config;
        self.reconfigure();
        self.due = [self.due, self.next_announcement()].into_iter().flatten().min();
    }

    /// Begins to ask a DHCP server.
    pub(crate) fn start_dhcp(&mut self) {
        self.control.start_dhcp();
        self.due = Some(Duration::ZERO);
    }

    /// Begins to configure itself for IPv6.
    pub(crate) fn start_slaac(&mut self, delay: Duration) {
        let hardware = self.capabilities.hardware_address;
        self.slaac.get_or_insert_with(|| Slaac::new(hardware, delay));
        self.due = Some(Duration::ZERO);
    }

    /// Name servers that the network named.
    pub(crate) fn name_servers(&self) -> Vec<IpAddr> {
        let own = self.slaac.iter().flat_map(Slaac::name_servers);
        self.lease.name_servers.iter().copied().chain(own).collect()
    }

    /// Brings together what is known of addresses and routes.
    pub(super) fn reconfigure(&mut self) {
        let mut config = self.given.clone();
        config.addresses.extend(self.lease.address.filter(|&(address, _)| is_host(address)));
        let everywhere = |gateway| Route { network: [0; 4].into(), prefix: 0, gateway };
        // Of equal routes the last one wins: those given by hand.
        let mut routes: Vec<_> = self.lease.gateway.map(everywhere).into_iter().collect();
        if let Some(slaac) = &self.slaac {
            config.addresses.extend(slaac.addresses());
            routes.extend(slaac.route());
        }
        config.addresses.truncate(ADDRESSES_MAX);
        routes.append(&mut config.routes);
        config.routes = routes;
        self.control.set_addresses(&config.addresses, self.lease.gateway);
        self.changed |= config != self.config;
        self.config = config;
        self.plan_announcements();
    }

    /// Does what is due for the configuration.
    pub(crate) fn poll(&mut self, wire: &mut Wire<'_>) {
        if self.control.speaks_dhcp() {
            let frames = self.control.poll(wire.now);
            self.transmit_all(&frames, wire);
        }
        let questions = self.slaac.as_mut().map(|slaac| slaac.poll(wire.now)).unwrap_or_default();
        for question in questions {
            self.ask(question, wire);
        }
        self.announce(wire);
        self.follow_changes(wire.now);
    }

    pub(super) fn follow_changes(&mut self, now: Duration) {
        let lease = self.control.take_lease();
        let changed = self.slaac.as_mut().is_some_and(Slaac::take_change);
        if changed || lease.is_some() {
            self.lease = lease.unwrap_or_else(|| core::mem::take(&mut self.lease));
            self.reconfigure();
        }
        let slaac = self.slaac.as_ref().and_then(Slaac::deadline);
        let dues = [self.control.deadline(now), slaac, self.next_announcement()];
        self.due = dues.into_iter().flatten().min();
    }

    /// Whether a packet is the answer of a DHCP server that this interface asked.
    pub(crate) fn awaits(&self, header: &Header, payload: &[u8]) -> bool {
        self.control.speaks_dhcp() && header.source.is_ipv4() && payload.starts_with(&DHCP_PORTS)
    }

    /// Takes what a neighbour message says about this host's own configuration.
    pub(crate) fn hear(&mut self, header: &Header, packet: &[u8], now: Duration) {
        let (Some(slaac), IpAddr::V6(source), IpAddr::V6(destination)) =
            (&mut self.slaac, header.source, header.destination)
        else {
            return;
        };
        let message = &packet[header.payload.clone()];
        let Ok(view) = Icmpv6Packet::new_checked(message) else { return };
        let hop_limit = packet[7];
        if !view.verify_checksum(&source, &destination) || hop_limit != 255 {
            return;
        }
        let target = message.get(8..24).and_then(<[u8]>::first_chunk::<16>);
        match (view.msg_type(), target) {
            (Icmpv6Message::RouterAdvert, _) => {
                slaac.advertised(source, hop_limit, message, now);
            }
            (Icmpv6Message::NeighborSolicit, Some(target)) if source.is_unspecified() => {
                slaac.conflict((*target).into());
            }
            (Icmpv6Message::NeighborAdvert, Some(target)) => slaac.conflict((*target).into()),
            _ => return,
        }
        self.follow_changes(now);
    }

    /// Sends a question of the host's own configuration.
    fn ask(&mut self, question: Question, wire: &mut Wire<'_>) {
        let own = EthernetAddress(self.capabilities.hardware_address);
        match question {
            Question::Duplicate(address) => self.solicit(Ipv6Addr::UNSPECIFIED, address, wire),
            Question::Routers(source) => {
                let routers = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
                let message = NdiscRepr::RouterSolicit { lladdr: Some(own.into()) };
                self.send_ndisc(source, routers, message, wire);
            }
        }
    }
}
