//! What smoltcp answers for an interface: ARP, neighbour solicitations and pings; and its DHCP
//! client (RFC 2131).
//!
//! Frames go in by [`Control::input`], time by [`Control::poll`]; both return the frames that go
//! out. Nothing here belongs to a connection.

use alloc::vec::Vec;
use core::net::IpAddr;
use core::time::Duration;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::dhcpv4;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr};

use crate::packet::ETHERNET;

/// What a DHCP server gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) address: Option<(IpAddr, u8)>,
    pub(crate) gateway: Option<IpAddr>,
    pub(crate) name_servers: Vec<IpAddr>,
}

/// smoltcp's side of an interface.
pub(crate) struct Control {
    interface: Interface,
    sockets: SocketSet<'static>,
    dhcp: Option<SocketHandle>,
    mtu: usize,
}

impl Control {
    /// An interface without addresses; `seed` makes what it chooses unlike others'.
    pub(crate) fn new(hardware: [u8; 6], mtu: usize, seed: u64) -> Self {
        let mut outbox = Outbox::default();
        let mut device = Splice { input: None, output: &mut outbox, mtu };
        let mut settings = Config::new(HardwareAddress::Ethernet(EthernetAddress(hardware)));
        settings.random_seed = seed;
        let interface = Interface::new(settings, &mut device, Instant::ZERO);
        Self { interface, sockets: SocketSet::new(Vec::new()), dhcp: None, mtu }
    }

    /// Answers for these addresses from now on; `gateway` is the way to a DHCP server elsewhere.
    pub(crate) fn set_addresses(&mut self, own: &[(IpAddr, u8)], gateway: Option<IpAddr>) {
        self.interface.update_ip_addrs(|addresses| {
            addresses.clear();
            for &(address, prefix) in own {
                // Never full: the caller keeps to `ADDRESSES_MAX`.
                let _ = addresses.push(IpCidr::new(address.into(), prefix));
            }
        });
        self.interface.routes_mut().remove_default_ipv4_route();
        if let Some(IpAddr::V4(gateway)) = gateway {
            let _ = self.interface.routes_mut().add_default_ipv4_route(gateway);
        }
    }

    /// Begins to ask for an address.
    pub(crate) fn start_dhcp(&mut self) {
        let mut client = dhcpv4::Socket::new();
        // The first question is sent again before a second has passed twice, not after ten.
        let mut retries = client.get_retry_config();
        retries.discover_timeout = smoltcp::time::Duration::from_secs(2);
        retries.initial_request_timeout = smoltcp::time::Duration::from_secs(2);
        client.set_retry_config(retries);
        self.dhcp.get_or_insert_with(|| self.sockets.add(client));
    }

    /// Whether the DHCP client waits for answers.
    pub(crate) fn speaks_dhcp(&self) -> bool {
        self.dhcp.is_some()
    }

    /// Takes the lease if it changed; an empty one stands for none.
    pub(crate) fn take_lease(&mut self) -> Option<Lease> {
        let client = self.sockets.get_mut::<dhcpv4::Socket<'_>>(self.dhcp?);
        Some(match client.poll()? {
            dhcpv4::Event::Deconfigured => Lease::default(),
            dhcpv4::Event::Configured(config) => Lease {
                address: Some((config.address.address().into(), config.address.prefix_len())),
                gateway: config.router.map(IpAddr::from),
                name_servers: config.dns_servers.iter().map(|&server| server.into()).collect(),
            },
        })
    }

    /// Takes a frame; returns the answers.
    pub(crate) fn input(&mut self, frame: &[u8], now: Duration) -> Outbox {
        let mut outbox = Outbox::default();
        let mut device = Splice { input: Some(frame), output: &mut outbox, mtu: self.mtu };
        self.interface.poll_ingress_single(instant(now), &mut device, &mut self.sockets);
        if self.dhcp.is_some() {
            self.interface.poll_egress(instant(now), &mut device, &mut self.sockets);
        }
        outbox
    }

    /// Lets the DHCP client do what is due.
    pub(crate) fn poll(&mut self, now: Duration) -> Outbox {
        let mut outbox = Outbox::default();
        let mut device = Splice { input: None, output: &mut outbox, mtu: self.mtu };
        self.interface.poll_egress(instant(now), &mut device, &mut self.sockets);
        outbox
    }

    /// When [`Control::poll`] is due.
    pub(crate) fn deadline(&mut self, now: Duration) -> Option<Duration> {
        self.dhcp?;
        let at = self.interface.poll_at(instant(now), &self.sockets)?;
        Some(Duration::from_micros(u64::try_from(at.total_micros()).unwrap_or(0)))
    }
}

/// The time in smoltcp's measure.
fn instant(now: Duration) -> Instant {
    Instant::from_micros(i64::try_from(now.as_micros()).unwrap_or(i64::MAX))
}

/// Frames that smoltcp wrote, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    octets: Vec<u8>,
    ends: Vec<usize>,
}

impl Outbox {
    pub(crate) fn frames(&self) -> impl Iterator<Item = &[u8]> {
        let starts = core::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| &self.octets[start..end])
    }
}

/// A smoltcp device of at most one received frame, which writes to an [`Outbox`].
struct Splice<'a> {
    input: Option<&'a [u8]>,
    output: &'a mut Outbox,
    mtu: usize,
}

impl smoltcp::phy::Device for Splice<'_> {
    type RxToken<'t>
        = Received<'t>
    where
        Self: 't;
    type TxToken<'t>
        = Sent<'t>
    where
        Self: 't;

    fn receive(&mut self, _: Instant) -> Option<(Received<'_>, Sent<'_>)> {
        let input = self.input.take()?;
        Some((Received(input), Sent(self.output)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sent<'_>> {
        Some(Sent(self.output))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.mtu + ETHERNET;
        capabilities
    }
}

/// The one received frame.
struct Received<'a>(&'a [u8]);

impl RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

/// Room for one frame in the outbox.
struct Sent<'a>(&'a mut Outbox);

impl TxToken for Sent<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let start = self.0.octets.len();
        self.0.octets.resize(start + length, 0);
        self.0.ends.push(start + length);
        f(&mut self.0.octets[start..])
    }
}
