//! Addresses that an IPv6 host gives itself (RFC 4862) from what routers advertise (RFC 4861 §6.3):
//! a link-local one, one per prefix, each after a check that nobody else has it; default routers
//! with their lifetimes, the link's MTU, and name servers (RFC 8106).
//!
//! Interface identifiers come from the hardware address (RFC 2464 §4), so that a server keeps its
//! addresses when it starts again. This module knows times and messages; it sends nothing itself.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv6Addr};
use core::time::Duration;

use smoltcp::wire::{
    Icmpv6Message, Icmpv6Packet, NdiscOption, NdiscOptionRepr, NdiscPrefixInfoFlags,
};

use crate::config::Route;
use crate::device::MTU_MIN;

/// Most prefixes, routers and name servers that are believed; advertisements beyond are ignored.
const PREFIXES_MAX: usize = 4;
const ROUTERS_MAX: usize = 4;
const SERVERS_MAX: usize = 4;
/// Solicitations of routers, and the pause between them (RFC 4861 §10).
const SOLICITATIONS: u32 = 3;
const SOLICITATION_PAUSE: Duration = Duration::from_secs(4);
/// How long to wait for somebody who has a tentative address (RFC 4862 §5.1: one probe, one second).
const TENTATIVE: Duration = Duration::from_secs(1);
/// An unauthenticated advertisement may not shorten what remains to less (RFC 4862 §5.5.3 e).
const LIFETIME_FLOOR: Duration = Duration::from_secs(7200);
/// The length of an interface identifier's prefix (RFC 4291 §2.5.1).
const PREFIX_LENGTH: u8 = 64;
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0);
/// The option of name servers (RFC 8106 §5.1).
const OPTION_SERVERS: u8 = 25;

/// What is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    /// Does anybody have this address? From the unspecified address.
    Duplicate(Ipv6Addr),
    /// Which routers are there? From this address.
    Routers(Ipv6Addr),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// To be asked for at this time.
    New(Duration),
    /// Asked for at this time; nobody answered yet.
    Tentative(Duration),
    Own,
    /// Somebody else has it. It is not tried again (RFC 4862 §5.4.5).
    Taken,
}

/// An address, and until when it may be used; none stands for ever.
#[derive(Clone, Copy, Debug)]
struct Address {
    prefix: Ipv6Addr,
    address: Ipv6Addr,
    /// 64 if the whole network is on the link, else 128 (RFC 5942 §4).
    length: u8,
    standing: Standing,
    deprecated: bool,
    preferred: Option<Duration>,
    valid: Option<Duration>,
}

/// The state of an interface's own configuration.
#[derive(Debug)]
pub(crate) struct Slaac {
    hardware: [u8; 6],
    /// How long this host waits before it does what all others do as well.
    delay: Duration,
    addresses: Vec<Address>,
    routers: Vec<(Ipv6Addr, Duration)>,
    servers: Vec<(Ipv6Addr, Option<Duration>)>,
    mtu: Option<usize>,
    solicited: u32,
    next_solicitation: Option<Duration>,
    changed: bool,
}

impl Slaac {
    pub(crate) fn new(hardware: [u8; 6], delay: Duration) -> Self {
        let mut slaac = Self {
            hardware,
            delay,
            addresses: Vec::new(),
            routers: Vec::new(),
            servers: Vec::new(),
            mtu: None,
            solicited: 0,
            next_solicitation: None,
            changed: false,
        };
        slaac.add(LINK_LOCAL, PREFIX_LENGTH, (None, None), Duration::ZERO);
        slaac
    }

    /// The addresses in use, with their prefix lengths; those that are not deprecated first.
    pub(crate) fn addresses(&self) -> Vec<(IpAddr, u8)> {
        let own = self.addresses.iter().filter(|address| address.standing == Standing::Own);
        let mut own: Vec<_> = own.collect();
        own.sort_by_key(|address| address.deprecated);
        own.iter().map(|address| (address.address.into(), address.length)).collect()
    }

    /// The way to everywhere: by the router that was heard first of those that still are one.
    pub(crate) fn route(&self) -> Option<Route> {
        let &(router, _) = self.routers.first()?;
        // A router is no neighbour before this host has an address on the link.
        let link = self.addresses.first().filter(|link| link.standing == Standing::Own);
        let network = Ipv6Addr::UNSPECIFIED.into();
        link.map(|_| Route { network, prefix: 0, gateway: router.into() })
    }

    /// Name servers that routers named.
    pub(crate) fn name_servers(&self) -> impl Iterator<Item = IpAddr> {
        self.servers.iter().map(|&(server, _)| server.into())
    }

    /// What routers say that the link carries.
    pub(crate) fn mtu(&self) -> Option<usize> {
        self.mtu
    }

    /// Whether addresses, routers or servers changed since the last call.
    pub(crate) fn take_change(&mut self) -> bool {
        core::mem::take(&mut self.changed)
    }

    /// Does what is due; returns what to send.
    pub(crate) fn poll(&mut self, now: Duration) -> Vec<Question> {
        let mut questions = Vec::new();
        self.expire(now);
        for address in &mut self.addresses {
            match address.standing {
                Standing::New(at) if at <= now => {
                    address.standing = Standing::Tentative(now);
                    questions.push(Question::Duplicate(address.address));
                }
                Standing::Tentative(at) if at + TENTATIVE <= now => {
                    address.standing = Standing::Own;
                    self.changed = true;
                    if address.prefix == LINK_LOCAL && self.routers.is_empty() {
                        self.next_solicitation = Some(now);
                    }
                }
                _ => {}
            }
        }
        if let (Some(at), Some(link)) = (self.next_solicitation, self.addresses.first())
            && at <= now
        {
            questions.push(Question::Routers(link.address));
            self.solicited += 1;
            let more = self.solicited < SOLICITATIONS;
            self.next_solicitation = more.then(|| now + SOLICITATION_PAUSE);
        }
        questions
    }

    /// When [`Slaac::poll`] is due.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        let standings = self.addresses.iter().filter_map(|address| match address.standing {
            Standing::New(at) => Some(at),
            Standing::Tentative(at) => Some(at + TENTATIVE),
            Standing::Own | Standing::Taken => None,
        });
        let fresh = self.addresses.iter().filter(|address| !address.deprecated);
        let preferred = fresh.filter_map(|address| address.preferred);
        let valid = self.addresses.iter().filter_map(|address| address.valid);
        let routers = self.routers.iter().map(|&(_, until)| until);
        let servers = self.servers.iter().filter_map(|&(_, until)| until);
        standings
            .chain(preferred)
            .chain(valid)
            .chain(routers)
            .chain(servers)
            .chain(self.next_solicitation)
            .min()
    }

    /// Somebody uses, or asks for, an address: if it is not this host's for sure, it never will be.
    pub(crate) fn conflict(&mut self, with: Ipv6Addr) {
        let tentative = |address: &&mut Address| {
            address.address == with
                && matches!(address.standing, Standing::New(_) | Standing::Tentative(_))
        };
        if let Some(address) = self.addresses.iter_mut().find(tentative) {
            address.standing = Standing::Taken;
        }
    }

    /// Takes a router's advertisement, an ICMPv6 message whose checksum is right, that came with
    /// these addresses and hop limit (RFC 4861 §6.1.2). False if it is not valid.
    pub(crate) fn advertised(
        &mut self,
        router: Ipv6Addr,
        hop_limit: u8,
        message: &[u8],
        now: Duration,
    ) -> bool {
        let Ok(advertisement) = Icmpv6Packet::new_checked(message) else { return false };
        let link_local = router.is_unicast_link_local();
        if hop_limit != 255
            || !link_local
            || advertisement.msg_type() != Icmpv6Message::RouterAdvert
            || advertisement.msg_code() != 0
            || message.len() < 16
        {
            return false;
        }
        let Some(options) = options(&message[16..]) else { return false };
        self.next_solicitation = None;
        let lifetime = Duration::from_micros(advertisement.router_lifetime().total_micros());
        self.take_router(router, lifetime, now);
        for option in options {
            match option {
                NdiscOptionRepr::PrefixInformation(prefix) => {
                    let seconds = |lifetime: smoltcp::time::Duration| lifetime.secs();
                    let valid = seconds(prefix.valid_lifetime);
                    let preferred = seconds(prefix.preferred_lifetime);
                    let usable = prefix.flags.contains(NdiscPrefixInfoFlags::ADDRCONF)
                        && prefix.prefix_len == PREFIX_LENGTH
                        && preferred <= valid
                        && !prefix.prefix.is_unicast_link_local()
                        && !prefix.prefix.is_multicast();
                    if usable {
                        let on_link = prefix.flags.contains(NdiscPrefixInfoFlags::ON_LINK);
                        let length = if on_link { PREFIX_LENGTH } else { 128 };
                        let lifetimes = (preferred, valid);
                        self.take_prefix(network(prefix.prefix), length, lifetimes, now);
                    }
                }
                NdiscOptionRepr::Mtu(mtu) => {
                    let mtu = usize::try_from(mtu).ok().filter(|mtu| *mtu >= MTU_MIN);
                    self.changed |= mtu != self.mtu;
                    self.mtu = mtu;
                }
                NdiscOptionRepr::Unknown { type_: OPTION_SERVERS, data, .. } => {
                    self.take_servers(data, now);
                }
                _ => {}
            }
        }
        true
    }

    fn take_router(&mut self, router: Ipv6Addr, lifetime: Duration, now: Duration) {
        let count = self.routers.len();
        let known = self.routers.iter_mut().find(|(address, _)| *address == router);
        match known {
            Some((_, until)) => *until = now + lifetime,
            None if count < ROUTERS_MAX && lifetime > Duration::ZERO => {
                self.routers.push((router, now + lifetime));
                self.changed = true;
            }
            None => {}
        }
        self.expire(now);
    }

    /// RFC 4862 §5.5.3.
    fn take_prefix(
        &mut self,
        prefix: Ipv6Addr,
        length: u8,
        (preferred, valid): (u64, u64),
        now: Duration,
    ) {
        let preferred_until = until(preferred, now);
        let valid_until = until(valid, now);
        let count = self.addresses.len();
        let Some(address) = self.addresses.iter_mut().find(|address| address.prefix == prefix)
        else {
            if valid > 0 && count <= PREFIXES_MAX {
                // RFC 4862 §5.4.2: all hosts hear the same advertisement, and shall not ask at once.
                let ask = now + self.delay;
                self.add(prefix, length, (preferred_until, valid_until), ask);
            }
            return;
        };
        let deprecated = passed(preferred_until, now);
        self.changed |= (address.deprecated, address.length) != (deprecated, length);
        (address.preferred, address.deprecated) = (preferred_until, deprecated);
        address.length = length;
        let remaining = address.valid.map_or(Duration::MAX, |at| at.saturating_sub(now));
        let offered = Duration::from_secs(valid);
        if offered > LIFETIME_FLOOR || offered > remaining {
            address.valid = valid_until;
        } else if remaining > LIFETIME_FLOOR {
            address.valid = Some(now + LIFETIME_FLOOR);
        }
    }

    fn take_servers(&mut self, data: &[u8], now: Duration) {
        let Some((head, servers)) = data.split_at_checked(6) else { return };
        let Some(lifetime) = head.last_chunk::<4>() else { return };
        let lifetime = u64::from(u32::from_be_bytes(*lifetime));
        for server in servers.chunks_exact(16) {
            let Some(octets) = server.first_chunk::<16>() else { continue };
            let server = Ipv6Addr::from(*octets);
            let count = self.servers.len();
            let known = self.servers.iter_mut().find(|(address, _)| *address == server);
            match known {
                Some((_, at)) => *at = until(lifetime, now),
                None if count < SERVERS_MAX && lifetime > 0 => {
                    self.servers.push((server, until(lifetime, now)));
                    self.changed = true;
                }
                None => {}
            }
        }
        self.expire(now);
    }

    fn add(
        &mut self,
        prefix: Ipv6Addr,
        length: u8,
        (preferred, valid): (Option<Duration>, Option<Duration>),
        ask: Duration,
    ) {
        self.addresses.push(Address {
            prefix,
            address: host_address(prefix, self.hardware),
            length,
            standing: Standing::New(ask),
            deprecated: false,
            preferred,
            valid,
        });
    }

    fn expire(&mut self, now: Duration) {
        let counts = (self.addresses.len(), self.routers.len(), self.servers.len());
        self.addresses.retain(|address| !passed(address.valid, now));
        self.routers.retain(|&(_, until)| until > now);
        self.servers.retain(|&(_, until)| !passed(until, now));
        self.changed |= counts != (self.addresses.len(), self.routers.len(), self.servers.len());
        for address in &mut self.addresses {
            let deprecated = passed(address.preferred, now);
            self.changed |= deprecated != address.deprecated;
            address.deprecated = deprecated;
        }
    }
}

/// The options of a neighbour message; none if one is broken (RFC 4861 §6.1.2).
fn options(mut octets: &[u8]) -> Option<Vec<NdiscOptionRepr<'_>>> {
    let mut found = Vec::new();
    while !octets.is_empty() {
        let length = usize::from(*octets.get(1)?) * 8;
        if length == 0 {
            return None;
        }
        let (option, rest) = octets.split_at_checked(length)?;
        // An option that cannot be read is passed over, as one that nobody knows.
        if let Ok(option) = NdiscOption::new_checked(option)
            && let Ok(option) = NdiscOptionRepr::parse(&option)
        {
            found.push(option);
        }
        octets = rest;
    }
    Some(found)
}

/// The time after a lifetime in seconds, all ones of which stand for ever.
fn until(seconds: u64, now: Duration) -> Option<Duration> {
    (seconds < u64::from(u32::MAX)).then(|| now + Duration::from_secs(seconds))
}

fn passed(until: Option<Duration>, now: Duration) -> bool {
    until.is_some_and(|until| until <= now)
}

/// The address of this hardware in a network (RFC 4291, appendix A).
fn host_address(prefix: Ipv6Addr, [a, b, c, d, e, f]: [u8; 6]) -> Ipv6Addr {
    let identifier = u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
    Ipv6Addr::from_bits(prefix.to_bits() | u128::from(identifier))
}

/// The first half of an address.
fn network(address: Ipv6Addr) -> Ipv6Addr {
    Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]
    use proptest::prelude::*;

    use super::*;

    const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    const PREFIX: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn new() -> Slaac {
        Slaac::new([2, 0, 0, 0, 0, 7], Duration::from_millis(300))
    }

    /// An advertisement: the router's lifetime, and the prefix's flags and lifetimes.
    fn advertisement(router: u16, flags: u8, valid: u32, preferred: u32) -> Vec<u8> {
        let mut message = vec![134, 0, 0, 0, 64, 0];
        message.extend(router.to_be_bytes());
        message.extend([0; 8]);
        message.extend([3, 4, 64, flags]);
        message.extend(valid.to_be_bytes());
        message.extend(preferred.to_be_bytes());
        message.extend([0; 4]);
        message.extend(PREFIX.octets());
        message.extend([5, 1, 0, 0, 0, 0, 5, 0xdc]);
        message.extend([25, 3, 0, 0, 0, 0, 2, 88]);
        message.extend(ROUTER.octets());
        message
    }

    fn run(slaac: &mut Slaac, until: Duration) -> Vec<(Duration, Question)> {
        let mut asked = Vec::new();
        while let Some(due) = slaac.deadline().filter(|due| *due <= until) {
            asked.extend(slaac.poll(due).into_iter().map(|question| (due, question)));
        }
        asked
    }

    #[test]
    fn a_host_checks_its_address_and_asks_for_routers_three_times() {
        let mut slaac = new();
        let own: Ipv6Addr = "fe80::ff:fe00:7".parse().unwrap();
        assert_eq!(slaac.addresses(), []);
        let asked = run(&mut slaac, at(100));
        let routers = |seconds| (at(seconds), Question::Routers(own));
        let expected = [(at(0), Question::Duplicate(own)), routers(1), routers(5), routers(9)];
        assert_eq!(asked, expected);
        assert_eq!((slaac.addresses(), slaac.deadline()), (vec![(own.into(), 64)], None));
    }

    #[test]
    fn an_advertisement_gives_address_route_servers_and_mtu_and_takes_them_back() {
        let mut slaac = new();
        run(&mut slaac, at(2));
        assert!(slaac.advertised(ROUTER, 255, &advertisement(1800, 0xc0, 3600, 1800), at(2)));
        assert_eq!(slaac.route().map(|route| route.gateway), Some(ROUTER.into()));
        assert_eq!((slaac.mtu(), slaac.name_servers().count()), (Some(1500), 1));
        assert_eq!(slaac.addresses().len(), 1, "not before it was checked");
        run(&mut slaac, at(4));
        let global: IpAddr = "2001:db8::ff:fe00:7".parse().unwrap();
        assert_eq!(slaac.addresses()[1], (global, 64));
        slaac.take_change();
        run(&mut slaac, at(603));
        assert_eq!((slaac.name_servers().count(), slaac.take_change()), (0, true));
        run(&mut slaac, at(1802));
        assert_eq!((slaac.route(), slaac.take_change()), (None, true));
        run(&mut slaac, at(3602));
        assert_eq!((slaac.addresses().len(), slaac.deadline()), (1, None));
        // A router that says zero is none.
        slaac.advertised(ROUTER, 255, &advertisement(1800, 0, 0, 0), at(4000));
        assert!(slaac.route().is_some());
        slaac.advertised(ROUTER, 255, &advertisement(0, 0, 0, 0), at(4001));
        assert!(slaac.route().is_none());
    }

    #[test]
    fn lifetimes_are_not_cut_short_by_anybody() {
        let mut slaac = new();
        slaac.advertised(ROUTER, 255, &advertisement(9, 0xc0, 100_000, 100_000), at(0));
        run(&mut slaac, at(3));
        slaac.advertised(ROUTER, 255, &advertisement(9, 0xc0, 1, 1), at(10));
        run(&mut slaac, at(10 + 7199));
        assert_eq!(slaac.addresses().len(), 2, "two hours are left");
        run(&mut slaac, at(10 + 7200));
        assert_eq!(slaac.addresses().len(), 1);
    }

    #[test]
    fn an_address_that_somebody_has_is_not_used() {
        let mut slaac = new();
        slaac.advertised(ROUTER, 255, &advertisement(9, 0xc0, 9000, 9000), at(0));
        run(&mut slaac, Duration::from_millis(500));
        slaac.conflict("2001:db8::ff:fe00:7".parse().unwrap());
        run(&mut slaac, at(100));
        assert_eq!(slaac.addresses().len(), 1);
    }

    #[test]
    fn only_neighbours_are_believed() {
        let mut slaac = new();
        let message = advertisement(9, 0xc0, 9000, 9000);
        assert!(!slaac.advertised(ROUTER, 254, &message, at(0)));
        assert!(!slaac.advertised(PREFIX, 255, &message, at(0)));
        let mut broken = message;
        broken[17] = 0;
        assert!(!slaac.advertised(ROUTER, 255, &broken, at(0)));
    }

    proptest! {
        #[test]
        fn rubbish_does_no_harm_and_is_bounded(
            messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 1..20)
        ) {
            let mut slaac = new();
            for (count, mut message) in messages.into_iter().enumerate() {
                if message.len() > 2 {
                    (message[0], message[1]) = (134, 0);
                }
                let mut router = ROUTER.octets();
                router[15] = count as u8;
                slaac.advertised(router.into(), 255, &message, at(count as u64));
                run(&mut slaac, at(count as u64));
                prop_assert!(slaac.addresses.len() <= 1 + PREFIXES_MAX);
                prop_assert!(slaac.routers.len() <= ROUTERS_MAX && slaac.servers.len() <= SERVERS_MAX);
            }
        }
    }
}
