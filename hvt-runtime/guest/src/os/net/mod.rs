//! The network of the image: its interfaces, its turns, and the calls on its sockets.
//!
//! Where the program waits, `thread` asks for a [`turn`]: what the program has left to send goes out, one call to the
//! tender carries frames both ways and waits, and what came in wakes whom it concerns. So acknowledgements ride on
//! answers, and a busy server leaves the machine once for many requests.
//!
//! [`device`] is the way of frames to the tender, in one of three ways; [`calls`] and [`message`] are the C symbols, [`resolve`] is what there
//! is of `getaddrinfo`.

mod calls;
mod device;
mod exchange;
mod message;
mod plain;
mod resolve;
mod ring;

use alloc::vec::Vec;
use core::ffi::c_int;

use hvt_abi::manifest::{Entry, NET_BASIC};
use netstack::{AddressSource, Census, InterfaceConfig, Limits, Stack};

use crate::files::{Errno, FileId, Kind};
use crate::net::interfaces::{self, Parsed};
use crate::net::{Network, Socket, moment};

use super::file::with_files;
use super::single::Single;
use super::{console, entropy, hypercall, process, time};

pub(super) use calls::{receive, send};
use device::Port;
pub(super) use device::counters;

/// Wrong usage (sysexits(3), EX_USAGE).
const USAGE: i32 = 64;

/// The part of memory that the buffers of connections may fill.
const BUFFERS_PART: u64 = 2;

static NETWORK: Single<Option<Network<Port>>> = Single::new(None);
/// Names of the devices, in the order of their interfaces, before which the loopback stands.
static DEVICES: Single<Vec<Vec<u8>>> = Single::new(Vec::new());
static NAME: Single<&'static [u8]> = Single::new(b"hvt");

/// Brings the network devices of the manifest up as the arguments say, and gives the other arguments back. Arguments that
/// make no sense end the program with exit code 64.
pub(super) fn start<'a>(entries: &'static [Entry], arguments: &[&'a [u8]]) -> Vec<&'a [u8]> {
    let devices: Vec<(u16, &Entry)> = (0..)
        .zip(entries)
        .filter(|(_, entry)| entry.kind == NET_BASIC && entry.attached != 0)
        .collect();
    let names: Vec<&[u8]> = devices.iter().map(|(_, entry)| name_of(entry)).collect();
    let Parsed { interfaces, name, help, rest } = match interfaces::parse(arguments, &names) {
        Ok(parsed) => parsed,
        Err(wrong) => refuse(&wrong.0),
    };
    if help && !devices.is_empty() {
        hypercall::puts(interfaces::HELP.as_bytes());
        hypercall::puts(b"\n");
    }
    if let Some(name) = name {
        NAME.with(|slot| *slot = name.to_vec().leak());
    }
    device::start(&devices);
    let buffers = usize::try_from(process::memory_size() / BUFFERS_PART).unwrap_or(usize::MAX);
    let limits = Limits { buffers_total: buffers, ..Limits::default() };
    let mut secret = [0; 16];
    entropy::fill(&mut secret);
    let mut stack = Stack::new(limits, secret);
    let mut add = |port: Port, config: InterfaceConfig, [dhcp, slaac]: [bool; 2], name: &[u8]| {
        let added = stack.add_interface(port, config).and_then(|number| {
            if dhcp {
                stack.obtain_addresses(number, AddressSource::Dhcp)?;
            }
            if slaac {
                stack.obtain_addresses(number, AddressSource::Slaac)?;
            }
            match name {
                b"loopback" => Ok(()),
                _ => stack.announce_addresses(number),
            }
        });
        if let Err(error) = added {
            refuse(&alloc::format!("interface {}: {error}", text(name)));
        }
    };
    add(Port::loopback(), InterfaceConfig::loopback(), [false; 2], b"loopback");
    for (index, ((handle, entry), interface)) in devices.iter().zip(&interfaces).enumerate() {
        let port = Port::tender(index, *handle, entry);
        let sources = [interface.dhcp, interface.slaac];
        add(port, interface.config.clone(), sources, &interface.device);
    }
    DEVICES.with(|slot| *slot = interfaces.into_iter().map(|interface| interface.device).collect());
    NETWORK.with(|slot| *slot = Some(Network::new(stack, entropy::word())));
    rest
}

/// Says which addresses an interface has got from the network.
fn tell_changes() {
    while let Some((number, config)) = with_network(|network| {
        let stack = network.stack();
        let number = stack.next_change()?;
        Some((number, stack.interface_config(number).cloned()?))
    }) {
        let name = DEVICES.with(|devices| devices.get(number.checked_sub(1)?).cloned());
        let (Some(name), Some((first, bits))) = (name, config.addresses.first()) else { continue };
        let others = config.addresses.len() - 1;
        console::say(format_args!("interface {}: {first}/{bits} and {others} more", text(&name)));
    }
}

fn name_of(entry: &Entry) -> &[u8] {
    let end = entry.name.iter().position(|&byte| byte == 0).unwrap_or(entry.name.len());
    &entry.name[..end]
}

fn text(bytes: &[u8]) -> &str {
    core::str::from_utf8(bytes).unwrap_or("?")
}

fn refuse(why: &str) -> ! {
    console::say(format_args!("{why}"));
    hypercall::halt(USAGE)
}

/// Whether there is a device to look at.
pub(super) fn has_devices() -> bool {
    device::has_any()
}

/// The host name.
pub(super) fn host_name() -> &'static [u8] {
    NAME.with(|name| *name)
}

/// Lets the stack work, and waits up to `timeout` nanoseconds for frames when there is nothing to do. Gives the set of
/// devices with events as a poll does.
pub(super) fn turn(timeout: u64, now: u64) -> u64 {
    let deadline = with_network(|network| {
        let stack = network.stack();
        stack.transmit(moment(now));
        stack.next_deadline()
    });
    let mut wait = timeout;
    if deliver() || device::loops() {
        wait = 0;
    } else if let Some(deadline) = deadline {
        let at = u64::try_from(deadline.as_nanos()).unwrap_or(u64::MAX);
        wait = wait.min(at.saturating_sub(now));
    }
    // What keeps this host from waiting is its own, so there is no need to ask.
    let ready = if wait == 0 && timeout > 0 && !device::has_frames_to_send() {
        0
    } else {
        device::cross(wait)
    };
    with_network(|network| network.stack().receive(moment(time::now())));
    deliver();
    tell_changes();
    ready
}

/// The end of the program: what it has sent leaves.
pub(super) fn finish() {
    if !has_devices() {
        return;
    }
    with_network(|network| network.stack().transmit(moment(time::now())));
    if device::has_frames_to_send() {
        device::cross(0);
    }
    device::finish();
}

/// Connections by state, and deadlines in the heap of timers.
pub(super) fn census() -> (Census, usize) {
    with_network(|network| (network.stack().census(), network.stack().timers()))
}

/// Uses the network, inside or outside of a use of the files.
fn with_network<R>(body: impl FnOnce(&mut Network<Port>) -> R) -> R {
    NETWORK.with(|network| match network {
        Some(network) => body(network),
        None => console::fatal(format_args!("a socket is used before there is a network")),
    })
}

/// The file of a socket is closed.
pub(super) fn close(file: FileId, socket: &Socket) {
    with_network(|network| network.close(file, socket));
}

/// How many received octets wait in a socket.
pub(super) fn octets_waiting(socket: &Socket) -> Result<usize, Errno> {
    with_network(|network| network.waiting(socket))
}

fn deliver() -> bool {
    with_files(|files| with_network(|network| network.deliver(files)))
}

/// Does something with a descriptor's socket.
fn on_socket<R>(
    fd: c_int,
    body: impl FnOnce(&mut Network<Port>, FileId, &mut Socket) -> Result<R, Errno>,
) -> Result<R, Errno> {
    with_files(|files| {
        let id = files.id(fd)?;
        match &mut files.get(fd)?.kind {
            Kind::Socket(socket) => with_network(|network| body(network, id, socket)),
            _ => Err(Errno(libc::ENOTSOCK)),
        }
    })
}
