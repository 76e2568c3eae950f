//! Which stream sockets are bound to which addresses.
//!
//! The stack knows listeners and connections; a socket that is bound and does neither yet is known here alone. The rules
//! are Linux's: an address can be shared when every holder has said so (`SO_REUSEPORT`), or when every holder has set
//! `SO_REUSEADDR` and none of them listens.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::SocketAddr;

use crate::files::{Errno, FileId};

/// Ports that are chosen for programs which ask for any: the range of Linux.
const FIRST_FREE: u16 = 32_768;
const FREE_COUNT: u64 = 28_232;

#[derive(Debug)]
pub(super) struct Name {
    pub(super) file: FileId,
    pub(super) local: SocketAddr,
    /// The unspecified IPv6 address means IPv4 too.
    pub(super) dual_stack: bool,
    pub(super) reuse_address: bool,
    pub(super) reuse_port: bool,
    pub(super) listening: bool,
}

#[derive(Debug)]
pub(super) struct Names {
    by_port: BTreeMap<u16, Vec<Name>>,
    ports: BTreeMap<FileId, u16>,
    seed: u64,
}

impl Names {
    pub(super) fn new(seed: u64) -> Self {
        Self { by_port: BTreeMap::new(), ports: BTreeMap::new(), seed }
    }

    /// Takes an address; port zero becomes a free one that is not `used` by a connection either.
    ///
    /// # Errors
    /// `EADDRINUSE`.
    pub(super) fn bind(
        &mut self,
        mut name: Name,
        used: impl Fn(u16) -> bool,
    ) -> Result<SocketAddr, Errno> {
        if name.local.port() == 0 {
            let free = (0..FREE_COUNT).find_map(|_| {
                // A linear congruential step (Knuth, MMIX): the high bits are what is random enough.
                self.seed = self
                    .seed
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                let port = FIRST_FREE + u16::try_from((self.seed >> 33) % FREE_COUNT).ok()?;
                (!self.by_port.contains_key(&port) && !used(port)).then_some(port)
            });
            name.local.set_port(free.ok_or(Errno(libc::EADDRINUSE))?);
        } else if self.others(&name).any(|other| !shares(&name, other)) {
            return Err(Errno(libc::EADDRINUSE));
        }
        let local = name.local;
        self.ports.insert(name.file, local.port());
        self.by_port.entry(local.port()).or_default().push(name);
        Ok(local)
    }

    /// The file's address is one to listen on from now on.
    ///
    /// # Errors
    /// `EADDRINUSE` when another one listens there.
    pub(super) fn listen(&mut self, file: FileId) -> Result<(), Errno> {
        let Some(names) = self.ports.get(&file).and_then(|port| self.by_port.get_mut(port)) else {
            return Ok(());
        };
        let Some(own) = names.iter().find(|name| name.file == file) else { return Ok(()) };
        let taken = names.iter().any(|other| {
            other.file != file
                && other.listening
                && overlap(own, other)
                && !(own.reuse_port && other.reuse_port)
        });
        if taken {
            return Err(Errno(libc::EADDRINUSE));
        }
        for name in names.iter_mut().filter(|name| name.file == file) {
            name.listening = true;
        }
        Ok(())
    }

    /// The file is closed or listens no more.
    pub(super) fn forget(&mut self, file: FileId) {
        let Some(port) = self.ports.remove(&file) else { return };
        if let Some(names) = self.by_port.get_mut(&port) {
            names.retain(|name| name.file != file);
            if names.is_empty() {
                self.by_port.remove(&port);
            }
        }
    }

    fn others<'a>(&'a self, name: &'a Name) -> impl Iterator<Item = &'a Name> {
        let names = self.by_port.get(&name.local.port()).into_iter().flatten();
        names.filter(move |other| overlap(name, other))
    }
}

fn shares(a: &Name, b: &Name) -> bool {
    (a.reuse_port && b.reuse_port) || (a.reuse_address && b.reuse_address && !b.listening)
}

/// Whether there is an address that is both's.
fn overlap(a: &Name, b: &Name) -> bool {
    let (x, y) = (a.local.ip(), b.local.ip());
    if x.is_ipv4() == y.is_ipv4() {
        return x == y || x.is_unspecified() || y.is_unspecified();
    }
    let v6 = if x.is_ipv6() { a } else { b };
    v6.dual_stack && v6.local.ip().is_unspecified()
}
