//! The table of sockets: places that are used again, with generations that tell their tenants apart.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::net::SocketAddr;

use crate::connection::Connection;
use crate::readiness::{Edges, Readiness, SocketId};
use crate::timers::TimerOwner;
use crate::udp::UdpSocket;

/// What is in a place.
#[derive(Debug)]
pub(crate) enum Entry {
    Listener(Listener),
    Connection(Box<Connection>),
    Udp(UdpSocket),
}

/// A listening socket.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) local: SocketAddr,
    /// Listens on IPv4 as well, if `local` is the unspecified IPv6 address.
    pub(crate) dual_stack: bool,
    pub(crate) backlog: usize,
    pub(crate) queue: VecDeque<u32>,
    pub(crate) edges: Edges,
}

impl Listener {
    pub(crate) fn readiness(&self) -> Readiness {
        if self.queue.is_empty() { Readiness::NONE } else { Readiness::READABLE }
    }
}

#[derive(Debug, Default)]
struct Place {
    generation: u32,
    entry: Option<Entry>,
}

/// All sockets.
#[derive(Debug, Default)]
pub(crate) struct Table {
    places: Vec<Place>,
    free: Vec<u32>,
}

impl Table {
    pub(crate) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub(crate) fn insert(&mut self, entry: Entry) -> SocketId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            u32::try_from(self.places.len() - 1).unwrap_or(u32::MAX)
        });
        let place = &mut self.places[index as usize];
        place.entry = Some(entry);
        SocketId { index, generation: place.generation }
    }

    pub(crate) fn remove(&mut self, index: u32) -> Option<Entry> {
        let place = self.places.get_mut(index as usize)?;
        let entry = place.entry.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(index);
        Some(entry)
    }

    pub(crate) fn id(&self, index: u32) -> SocketId {
        let generation = self.places.get(index as usize).map_or(0, |place| place.generation);
        SocketId { index, generation }
    }

    pub(crate) fn entry(&self, id: SocketId) -> Option<&Entry> {
        let place = self.places.get(id.index as usize)?;
        place.entry.as_ref().filter(|_| place.generation == id.generation)
    }

    pub(crate) fn entry_mut(&mut self, id: SocketId) -> Option<&mut Entry> {
        let place = self.places.get_mut(id.index as usize)?;
        place.entry.as_mut().filter(|_| place.generation == id.generation)
    }

    pub(crate) fn connection(&self, index: u32) -> Option<&Connection> {
        match self.places.get(index as usize)?.entry.as_ref()? {
            Entry::Connection(connection) => Some(connection),
            _ => None,
        }
    }

    pub(crate) fn connection_mut(&mut self, index: u32) -> Option<&mut Connection> {
        match self.places.get_mut(index as usize)?.entry.as_mut()? {
            Entry::Connection(connection) => Some(connection),
            _ => None,
        }
    }

    pub(crate) fn listener_mut(&mut self, index: u32) -> Option<&mut Listener> {
        match self.places.get_mut(index as usize)?.entry.as_mut()? {
            Entry::Listener(listener) => Some(listener),
            _ => None,
        }
    }

    pub(crate) fn udp_mut(&mut self, index: u32) -> Option<&mut UdpSocket> {
        match self.places.get_mut(index as usize)?.entry.as_mut()? {
            Entry::Udp(socket) => Some(socket),
            _ => None,
        }
    }

    pub(crate) fn timer_owner(&mut self, owner: TimerOwner) -> Option<&mut Connection> {
        let place = self.places.get(owner.index as usize)?;
        if place.generation != owner.generation {
            return None;
        }
        self.connection_mut(owner.index)
    }

    pub(crate) fn connections(&self) -> impl Iterator<Item = &Connection> {
        self.places.iter().filter_map(|place| match place.entry.as_ref()? {
            Entry::Connection(connection) => Some(&**connection),
            _ => None,
        })
    }
}
