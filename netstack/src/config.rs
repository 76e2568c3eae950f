//! Limits of a stack, and the addresses and routes of an interface.

use alloc::vec;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::time::Duration;

use crate::error::ConfigError;

/// Most addresses of one interface; smoltcp is built for as many.
pub const ADDRESSES_MAX: usize = 7;

/// The bounds within which a stack works. Nothing that peers do makes it hold more than this.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Most sockets of all kinds, orphaned connections included.
    pub sockets: usize,
    /// Most octets in the buffers of all connections. Beyond half of it, windows grow no more; at
    /// the limit, handshakes stay unanswered, `connect` fails, `send` would block, and received
    /// data is dropped until something is read. Buffers own memory only for what they hold.
    pub buffers_total: usize,
    /// How large the receive buffer of a connection may grow, in octets: the largest window that
    /// it offers. It begins with 64 KiB and grows with what the application reads.
    pub receive_buffer: usize,
    /// How large the send buffer of a connection may grow, in octets. It begins with 64 KiB and
    /// grows to twice the congestion window.
    pub send_buffer: usize,
    /// Most handshakes of all listeners that wait for the peer's last acknowledgement. Beyond,
    /// handshakes are held by the peer alone (SYN cookies).
    pub half_open: usize,
    /// How long a handshake may wait for the peer's last acknowledgement.
    pub handshake: Duration,
    /// How long a connection attempt may take.
    pub connect: Duration,
    /// How long sent data may stay unacknowledged before the connection ends (RFC 5482).
    pub user_timeout: Duration,
    /// How long a closed connection may wait for the peer's end (the kernel's `tcp_fin_timeout`).
    pub fin_wait: Duration,
    /// How long the end of a connection is remembered (TIME-WAIT).
    pub time_wait: Duration,
    /// Most ends remembered; beyond, the oldest is forgotten.
    pub time_wait_count: usize,
    /// Most received octets that wait in one UDP socket.
    pub udp_buffer: usize,
    /// Most frames taken from one device in one turn.
    pub frames_per_turn: usize,
    /// Most segments that one connection sends in a row before others have their turn.
    pub segments_per_turn: usize,
    /// Most answers per second to packets that concern nobody: resets and ICMP.
    pub replies_per_second: u32,
    /// Most neighbours remembered per interface.
    pub neighbors: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sockets: 65_536,
            buffers_total: 256 << 20,
            receive_buffer: 1 << 20,
            send_buffer: 1 << 20,
            half_open: 4096,
            handshake: Duration::from_secs(30),
            connect: Duration::from_secs(60),
            user_timeout: Duration::from_secs(120),
            fin_wait: Duration::from_secs(60),
            time_wait: Duration::from_secs(30),
            time_wait_count: 65_536,
            udp_buffer: 256 << 10,
            frames_per_turn: 256,
            segments_per_turn: 64,
            replies_per_second: 1000,
            neighbors: 1024,
        }
    }
}

/// How an idle peer is asked whether it lives, and when it is given up (RFC 9293 §3.8.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// Silence before the first probe.
    pub idle: Duration,
    /// Between probes.
    pub interval: Duration,
    /// Silence after which the peer is given up, once it has let a probe pass for an interval.
    pub give_up: Duration,
}

/// Where the addresses of an interface come from. Several sources add up.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AddressSource {
    /// From the operator. Replaces what was given before.
    Static(InterfaceConfig),
    /// From a DHCP server (RFC 2131): an IPv4 address, a default route, name servers.
    Dhcp,
    /// From routers' advertisements (RFC 4862): IPv6 addresses, a default route, name servers
    /// (RFC 8106), the link's MTU; and a link-local address.
    Slaac,
}

/// The addresses of an interface and what lies behind it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InterfaceConfig {
    /// Addresses with their prefix lengths, at most [`ADDRESSES_MAX`].
    pub addresses: Vec<(IpAddr, u8)>,
    /// Networks behind a gateway; the longest prefix wins. `0.0.0.0/0` and `::/0` are defaults.
    pub routes: Vec<Route>,
}

/// A network that is reached through a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Any address of the network.
    pub network: IpAddr,
    /// How many leading bits belong to the network.
    pub prefix: u8,
    /// The neighbour that forwards.
    pub gateway: IpAddr,
}

impl InterfaceConfig {
    /// The interface by which a host talks to itself (RFC 1122 §3.2.1.3, RFC 4291 §2.5.3). Its
    /// device must give back every frame that it is given. Packets to addresses of the other
    /// interfaces go this way too.
    #[must_use]
    pub fn loopback() -> Self {
        let addresses =
            vec![(Ipv4Addr::LOCALHOST.into(), 8), (IpAddr::from(Ipv6Addr::LOCALHOST), 128)];
        Self { addresses, ..Self::default() }
    }

    /// Whether the addresses are those of [`InterfaceConfig::loopback`].
    pub(crate) fn is_loopback(&self) -> bool {
        self.addresses.first().is_some_and(|(address, _)| address.is_loopback())
    }

    /// Checks that hosts can have the addresses, and that gateways are neighbours.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.addresses.len() > ADDRESSES_MAX {
            return Err(ConfigError::TooManyAddresses(ADDRESSES_MAX));
        }
        for &(address, prefix) in &self.addresses {
            let bits = if address.is_ipv4() { 32 } else { 128 };
            let fits = address.is_loopback() == self.is_loopback();
            if prefix > bits || !is_host(address) || !fits {
                return Err(ConfigError::Address(address, prefix));
            }
        }
        for route in &self.routes {
            let bits = if route.network.is_ipv4() { 32 } else { 128 };
            if route.prefix > bits || route.network.is_ipv4() != route.gateway.is_ipv4() {
                return Err(ConfigError::Address(route.network, route.prefix));
            }
            let near =
                |&(address, prefix): &(IpAddr, u8)| in_network(route.gateway, address, prefix);
            if !is_host(route.gateway) || !self.addresses.iter().any(near) {
                return Err(ConfigError::Gateway(route.gateway));
            }
        }
        Ok(())
    }

    /// The neighbour to which packets for `destination` go, and how many bits of a route or
    /// network spoke for it.
    pub(crate) fn next_hop(&self, destination: IpAddr) -> Option<(IpAddr, u8)> {
        let near = self.addresses.iter().filter(|(a, p)| in_network(destination, *a, *p));
        let near = near.map(|&(_, prefix)| (destination, prefix));
        let far = self.routes.iter().filter(|r| in_network(destination, r.network, r.prefix));
        let far = far.map(|route| (route.gateway, route.prefix));
        far.chain(near).max_by_key(|&(_, prefix)| prefix)
    }

    /// The address from which packets to `destination` come: of its own scope, else of the network
    /// of the next hop, else the most alike; of equals the first (RFC 6724 §5, rules 2, 3 and 8).
    pub(crate) fn source_for(&self, destination: IpAddr) -> Option<IpAddr> {
        let (hop, _) = self.next_hop(destination)?;
        let family = self.addresses.iter().filter(|(a, _)| a.is_ipv4() == hop.is_ipv4());
        let rank = |&&(address, prefix): &&(IpAddr, u8)| {
            let same_scope = is_link_local(address) == is_link_local(destination);
            let alike = (0..=128).rev().find(|&bits| in_network(address, destination, bits));
            (same_scope, in_network(hop, address, prefix), alike)
        };
        // Of equals `max_by_key` takes the last.
        family.rev().max_by_key(rank).map(|&(address, _)| address)
    }

    pub(crate) fn has(&self, address: IpAddr) -> bool {
        let is = |&(own, prefix): &(IpAddr, u8)| {
            own == address || (own.is_loopback() && in_network(address, own, prefix))
        };
        self.addresses.iter().any(is)
    }
}

/// Whether `address` lies in the network of `other/prefix`.
pub(crate) fn in_network(address: IpAddr, other: IpAddr, prefix: u8) -> bool {
    let (a, b, bits) = match (address, other) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(a.to_bits()), u128::from(b.to_bits()), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits(), b.to_bits(), 128),
        _ => return false,
    };
    let host = u32::saturating_sub(bits, u32::from(prefix));
    host == 128 || (a ^ b) >> host == 0
}

/// Whether an address is good on one link only (RFC 4291 §2.5.6).
fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// Whether a host can have this address.
pub(crate) fn is_host(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !broadcast && !address.is_unspecified() && !address.is_multicast()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn routes_are_chosen_by_the_longest_prefix() {
        let route = |network, prefix, gateway| Route {
            network: address(network),
            prefix,
            gateway: address(gateway),
        };
        let config = InterfaceConfig {
            addresses: vec![(address("10.0.0.2"), 24), (address("fd00::2"), 64)],
            routes: vec![
                route("0.0.0.0", 0, "10.0.0.1"),
                route("192.168.0.0", 16, "10.0.0.7"),
                route("::", 0, "fd00::1"),
            ],
        };
        config.validate().unwrap();
        for (to, hop) in [
            ("10.0.0.9", "10.0.0.9"),
            ("192.168.3.4", "10.0.0.7"),
            ("1.1.1.1", "10.0.0.1"),
            ("2001:db8::1", "fd00::1"),
        ] {
            assert_eq!(config.next_hop(address(to)).unwrap().0, address(hop), "{to}");
        }
        assert_eq!(config.source_for(address("1.1.1.1")), Some(address("10.0.0.2")));
        assert_eq!(config.source_for(address("2001:db8::1")), Some(address("fd00::2")));
    }

    #[test]
    fn impossible_configurations_are_refused() {
        let with = |text: &str, prefix| InterfaceConfig {
            addresses: vec![(address(text), prefix)],
            routes: vec![],
        };
        for (text, prefix) in [("0.0.0.0", 8), ("224.0.0.1", 8), ("10.0.0.1", 33), ("ff02::1", 64)]
        {
            assert!(with(text, prefix).validate().is_err(), "{text}/{prefix}");
        }
        let mut mixed = with("10.0.0.1", 24);
        mixed.addresses.push((address("127.0.0.1"), 8));
        assert!(mixed.validate().is_err());
        assert!(InterfaceConfig::loopback().validate().is_ok());
        let mut config = with("10.0.0.1", 24);
        config.routes.push(Route {
            network: address("0.0.0.0"),
            prefix: 0,
            gateway: address("10.0.1.1"),
        });
        assert_eq!(config.validate(), Err(ConfigError::Gateway(address("10.0.1.1"))));
    }
}
