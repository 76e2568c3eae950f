//! Attaching network devices: TAP interfaces by name, descriptors that the tender was started with, passt's socket.

use std::ffi::CString;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use hvt_abi::manifest::NetProperties;

use super::AttachError;
use super::console::message;
use super::net::{Framing, NetDevice};
use super::offload::Header;
use super::pcap::Pcap;
use crate::options::{NetAttach, NetOption};

/// The MTU of a socket, which has none of its own, unless `--net-mtu` says otherwise.
const SOCKET_MTU: u16 = 1500;
/// The same for passt, whose default it is (passt(1), `--mtu`): it ends TCP connections itself, so packets on the way to
/// it may be as long as they like.
const PASST_MTU: u16 = 65_520;

/// A descriptor that is ready to be used.
struct Link {
    fd: OwnedFd,
    framing: Framing,
    /// The interface's own, when it is one.
    mtu: Option<u16>,
}

/// Attaches what the command line names. `understands_offload` says whether the guest could use offload.
///
/// # Errors
/// Says what is wrong with the interface or descriptor, and the command that puts it right.
pub fn attach(
    name: &str,
    option: &NetOption,
    understands_offload: bool,
) -> Result<NetDevice, AttachError> {
    let fail = |why: String| AttachError { what: format!("--net:{name}"), why };
    let offload = option.offload && understands_offload;
    if option.offload && !understands_offload {
        message(&format!("--net-offload:{name}: the image does not understand it; it is left out"));
    }
    let link = match &option.attach {
        NetAttach::Interface(interface) => by_name(interface, offload),
        NetAttach::Descriptor(number) => by_descriptor(*number, offload),
        NetAttach::Passt(path) => passt(path),
    };
    let Link { fd, framing, mtu: own } = link.map_err(fail)?;
    if offload && !matches!(framing, Framing::Headers { .. }) {
        return Err(fail(format!("--net-offload:{name} is for TAP interfaces only")));
    }
    let mtu = match (own, option.mtu) {
        (Some(_), Some(_)) => {
            let why =
                "is for sockets: an interface has its own, ip link set IFACE mtu N changes it";
            return Err(fail(format!("--net-mtu:{name} {why}")));
        }
        (Some(mtu), None) | (None, Some(mtu)) => mtu,
        (None, None) if matches!(option.attach, NetAttach::Passt(_)) => PASST_MTU,
        (None, None) => SOCKET_MTU,
    };
    let mac = match option.mac {
        Some(mac) => mac,
        None => random_mac().map_err(|e| fail(format!("no random hardware address: {e}")))?,
    };
    let pcap = option.pcap.as_ref().map(|path| Pcap::create(name, path)).transpose()?;
    Ok(NetDevice::new(name, fd, NetProperties { mac, mtu }, framing, pcap))
}

/// passt takes one connection after it has started, and speaks frames over it.
fn passt(path: &Path) -> Result<Link, String> {
    let shown = path.display();
    let stream = UnixStream::connect(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => format!("there is no socket {shown}: passt --socket {shown}"),
        io::ErrorKind::ConnectionRefused => {
            format!("nobody listens on {shown} any more: passt --socket {shown}")
        }
        _ => format!("{shown}: {error}"),
    })?;
    stream.set_nonblocking(true).map_err(|error| format!("{shown}: {error}"))?;
    Ok(Link { fd: stream.into(), framing: Framing::Stream, mtu: None })
}

fn by_name(interface: &str, offload: bool) -> Result<Link, String> {
    let socket = control_socket().map_err(|e| format!("no socket to ask for interfaces: {e}"))?;
    let mut request = Request::new(interface)?;
    // TUNSETIFF would make an interface that does not exist, so existence is asked first.
    if let Err(error) = request.ask(&socket, libc::SIOCGIFFLAGS) {
        return Err(match error.raw_os_error() {
            Some(libc::ENODEV) => format!(
                "there is no interface {interface}: \
                 ip tuntap add {interface} mode tap && ip link set {interface} up"
            ),
            _ => format!("{interface}: {error}"),
        });
    }
    if request.flags() & libc::IFF_UP == 0 {
        return Err(format!("{interface} exists but is down: ip link set {interface} up"));
    }
    let tun = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .map_err(|e| format!("/dev/net/tun: {e}"))?;
    let tun = OwnedFd::from(tun);
    let mut request = Request::new(interface)?;
    request.set_flags(libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR);
    if let Err(error) = request.ask(&tun, libc::TUNSETIFF) {
        return Err(match error.raw_os_error() {
            Some(libc::EBUSY) => format!("{interface} is in use by another process"),
            Some(libc::EINVAL) => format!(
                "{interface} is not a plain TAP interface: ip tuntap add NAME mode tap makes one"
            ),
            Some(libc::EPERM) => format!(
                "{interface} may not be used by this user: \
                 ip tuntap add {interface} mode tap user NAME makes one that may"
            ),
            _ => format!("{interface}: {error}"),
        });
    }
    let framing = Framing::Headers { offload };
    set_offload(&tun, framing).map_err(|e| format!("{interface}: offload: {e}"))?;
    Ok(Link { mtu: Some(mtu(&socket, interface)?), fd: tun, framing })
}

/// Tells the kernel what is taken: plain frames, or, with a header that describes them, also such without a checksum and
/// TCP segments longer than the MTU. Without trust they are cut here.
fn set_offload(tun: &OwnedFd, framing: Framing) -> io::Result<()> {
    let done = |result| match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    };
    if framing != Framing::Packets {
        let size = libc::c_int::try_from(size_of::<Header>()).unwrap_or(libc::c_int::MAX);
        let request = libc::TUNSETVNETHDRSZ as libc::Ioctl;
        // SAFETY: the descriptor is open, and the kernel reads one int, which lives through the call.
        done(unsafe { libc::ioctl(tun.as_raw_fd(), request, &raw const size) })?;
    }
    let taken = match framing {
        Framing::Headers { .. } => libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6,
        _ => 0,
    };
    // SAFETY: the descriptor is open; the request takes a number and no memory.
    done(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETOFFLOAD as libc::Ioctl, taken) })
}

fn by_descriptor(number: RawFd, offload: bool) -> Result<Link, String> {
    // SAFETY: asks for flags only; a number that is not open is answered with an error.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFL) };
    if flags < 0 {
        return Err(format!("descriptor {number} is not open in this process"));
    }
    // Everything that this process opened, and what it took over before, is marked so.
    // SAFETY: asks for flags of an open descriptor.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } & libc::FD_CLOEXEC != 0 {
        return Err(format!(
            "descriptor {number} was not handed to this process, or is used twice"
        ));
    }
    // SAFETY: the descriptor is open and came with the start of the process, the user names it as the tender's to use,
    // and no value of this process owns it: what this process owns was refused above.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    let prepared = |request: libc::c_int, value: libc::c_int| {
        // SAFETY: sets flags of an open descriptor; no memory is involved.
        match unsafe { libc::fcntl(fd.as_raw_fd(), request, value) } {
            0 => Ok(()),
            _ => Err(format!("descriptor {number}: {}", io::Error::last_os_error())),
        }
    };
    prepared(libc::F_SETFL, flags | libc::O_NONBLOCK)?;
    prepared(libc::F_SETFD, libc::FD_CLOEXEC)?;
    let mut request = Request::new("")?;
    if request.ask(&fd, libc::TUNGETIFF).is_ok() {
        let flags = request.flags();
        if flags & libc::IFF_TAP == 0 || flags & libc::IFF_NO_PI == 0 {
            return Err(format!("descriptor {number} is not a TAP opened with IFF_TAP|IFF_NO_PI"));
        }
        let framing = match flags & libc::IFF_VNET_HDR {
            0 => Framing::Packets,
            _ => Framing::Headers { offload },
        };
        if offload && framing == Framing::Packets {
            return Err(format!(
                "descriptor {number} is a TAP without IFF_VNET_HDR, which offload needs from its opening on"
            ));
        }
        set_offload(&fd, framing).map_err(|e| format!("descriptor {number}: offload: {e}"))?;
        let socket = control_socket().map_err(|e| e.to_string())?;
        return Ok(Link { mtu: Some(mtu(&socket, &request.name())?), fd, framing });
    }
    let framing = match socket_type(&fd) {
        Some(libc::SOCK_DGRAM | libc::SOCK_SEQPACKET) => Framing::Packets,
        Some(libc::SOCK_STREAM) => Framing::Stream,
        _ => return Err(format!("descriptor {number} is neither a TAP nor a socket")),
    };
    Ok(Link { fd, framing, mtu: None })
}

fn control_socket() -> io::Result<OwnedFd> {
    // SAFETY: no memory is involved, and a new descriptor is owned by nobody else.
    unsafe {
        match libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}

fn mtu(socket: &OwnedFd, interface: &str) -> Result<u16, String> {
    let mut request = Request::new(interface)?;
    request.ask(socket, libc::SIOCGIFMTU).map_err(|e| format!("{interface} has no MTU: {e}"))?;
    u16::try_from(request.mtu()).map_err(|_| format!("{interface} has an MTU above 65535"))
}

fn socket_type(fd: &OwnedFd) -> Option<i32> {
    let mut kind: libc::c_int = 0;
    let mut len = libc::socklen_t::try_from(size_of_val(&kind)).ok()?;
    // SAFETY: `kind` has the `len` bytes that the kernel may write.
    let result = unsafe {
        let at = (&raw mut kind).cast();
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_TYPE, at, &raw mut len)
    };
    (result == 0).then_some(kind)
}

/// A random, locally administered address of one station (IEEE 802, clause 8.4).
fn random_mac() -> io::Result<[u8; 6]> {
    let mut mac = [0_u8; 6];
    // SAFETY: the array has the bytes that the kernel is told to fill.
    let got = unsafe { libc::getrandom(mac.as_mut_ptr().cast(), mac.len(), 0) };
    if usize::try_from(got) != Ok(mac.len()) {
        return Err(io::Error::last_os_error());
    }
    mac[0] = mac[0] & 0xfe | 0x02;
    Ok(mac)
}

/// `struct ifreq`: a name and 24 bytes whose meaning depends on the request.
#[repr(C, align(8))]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    value: [u8; 24],
}

impl Request {
    fn new(interface: &str) -> Result<Self, String> {
        let text = CString::new(interface).map_err(|_| "a zero byte in a name".to_owned())?;
        let bytes = text.as_bytes();
        let mut name = [0; libc::IFNAMSIZ];
        match name.get_mut(..bytes.len()) {
            Some(start) if bytes.len() < libc::IFNAMSIZ => start.copy_from_slice(bytes),
            _ => return Err(format!("{interface} is too long for the name of an interface")),
        }
        Ok(Self { name, value: [0; 24] })
    }

    fn ask(&mut self, fd: &OwnedFd, request: impl TryInto<libc::Ioctl>) -> io::Result<()> {
        let request =
            request.try_into().map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        // SAFETY: all requests used here read and write one `struct ifreq`, whose size this structure has.
        match unsafe { libc::ioctl(fd.as_raw_fd(), request, &raw mut *self) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }

    fn flags(&self) -> i32 {
        i32::from(u16::from_ne_bytes([self.value[0], self.value[1]]))
    }

    fn set_flags(&mut self, flags: i32) {
        let low = flags.to_le_bytes();
        self.value[..2].copy_from_slice(&low[..2]);
    }

    fn mtu(&self) -> i32 {
        i32::from_ne_bytes([self.value[0], self.value[1], self.value[2], self.value[3]])
    }

    fn name(&self) -> String {
        let len = self.name.iter().position(|b| *b == 0).unwrap_or(self.name.len());
        String::from_utf8_lossy(&self.name[..len]).into_owned()
    }
}

const _: () = assert!(size_of::<Request>() == size_of::<libc::ifreq>());
