//! What an interface tells its link unasked: that an address is now at this hardware address (ARP announcements, RFC 5227
//! §2.3; unsolicited neighbour advertisements, RFC 4861 §7.2.6).
//!
//! A guest that starts again has another hardware address, and its neighbours would send to the old one until they have
//! found out by themselves. Some (passt) learn where a guest is from nothing else than what it sends.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv6Addr};
use core::time::Duration;

use smoltcp::wire::{ArpOperation, EthernetAddress, NdiscNeighborFlags, NdiscRepr};

use super::{Port, Wire};
use crate::device::Device;

/// How often, and after which pause (RFC 5227 §1.1: ANNOUNCE_NUM, ANNOUNCE_INTERVAL).
const TIMES: u8 = 2;
const PAUSE: Duration = Duration::from_secs(2);

/// One address, and what is left to say about it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Announcement {
    address: IpAddr,
    left: u8,
    due: Duration,
}

impl<D: Device> Port<D> {
    /// Begins to announce what addresses the interface has and gets.
    pub(crate) fn start_announcing(&mut self) {
        self.announces = true;
        self.plan_announcements();
        self.due = [self.due, self.next_announcement()].into_iter().flatten().min();
    }

    /// Makes the announcements those of the present addresses; what is new is due at once.
    pub(super) fn plan_announcements(&mut self) {
        if !self.announces {
            return;
        }
        let addresses = &self.config.addresses;
        self.announcements.retain(|known| addresses.iter().any(|(own, _)| *own == known.address));
        for &(address, _) in addresses {
            if !self.announcements.iter().any(|known| known.address == address) {
                let due = Duration::ZERO;
                self.announcements.push(Announcement { address, left: TIMES, due });
            }
        }
    }

    /// When the next announcement is to be made.
    pub(super) fn next_announcement(&self) -> Option<Duration> {
        let open = self.announcements.iter().filter(|announcement| announcement.left > 0);
        open.map(|announcement| announcement.due).min()
    }

    /// Makes the announcements that are due.
    pub(super) fn announce(&mut self, wire: &mut Wire<'_>) {
        let own = EthernetAddress(self.capabilities.hardware_address);
        let mut said = Vec::new();
        for announcement in &mut self.announcements {
            if announcement.left > 0 && announcement.due <= wire.now {
                announcement.left -= 1;
                announcement.due = wire.now + PAUSE;
                said.push(announcement.address);
            }
        }
        for address in said {
            match address {
                IpAddr::V4(address) => {
                    // Both addresses are the own one: RFC 5227 §2.3.
                    self.send_arp(ArpOperation::Request, address, address, wire);
                }
                IpAddr::V6(address) => {
                    let everybody = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
                    let message = NdiscRepr::NeighborAdvert {
                        flags: NdiscNeighborFlags::OVERRIDE,
                        target_addr: address,
                        lladdr: Some(own.into()),
                    };
                    self.send_ndisc(address, everybody, message, wire);
                }
            }
        }
    }
}
