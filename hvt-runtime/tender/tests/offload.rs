//! Checksum and segmentation offload on a TAP, against the kernel's own TCP and UDP. Each test has a network namespace of
//! its own (needs root and the command `ip`) and plays the guest there without a machine.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

mod support;

use std::fs::File;
use std::io::Write;
use std::net::{TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;

use hvt_abi::exchange::{Exchange, Frame, Offload};
use hvt_abi::extension::{EXCHANGE, FEATURE_EXCHANGE};
use hvt_abi::hypercall::{NET_READ, NET_WRITE, NetIo, RESULT_INVALID, RESULT_OK};
use hvt_tender::border::Border;
use hvt_tender::device::console::Console;
use hvt_tender::device::{Device, Devices, tap};
use hvt_tender::memory::{GuestSpace, Permission};
use hvt_tender::options::{NetAttach, NetOption};
use hvt_tender::shutdown::Shutdown;
use vm_memory::MmapRegion;

const SIZE: u64 = 1 << 20;
const CALL: u64 = 0x1000;
const OUT: u64 = 0x2000;
const IN: u64 = 0x3000;
const FRAME: u64 = 0x1_0000;
const ROOM: u64 = 0x4_0000;
const ROOM_LEN: u32 = 0x1_8000;

const GUEST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const GUEST: [u8; 4] = [10, 0, 0, 2];
const HOST: [u8; 4] = [10, 0, 0, 1];
const TCP: u8 = 6;
const UDP: u8 = 17;

fn able() -> bool {
    let mut probe = Command::new("unshare");
    probe.args(["--net", "ip", "tuntap", "add", "probe", "mode", "tap"]);
    let there = probe.output().is_ok_and(|output| output.status.success());
    if !there {
        let required = std::env::var_os("REQUIRE_PEERS").is_some_and(|v| v == "1");
        assert!(!required, "no TAP interfaces: root and the command ip are needed");
        eprintln!("no TAP interfaces can be made: this test did not run");
    }
    there
}

/// Runs a test in a thread with a namespace, in which the host has a TAP and the guest a neighbour entry.
fn in_namespace(body: impl FnOnce() + Send + 'static) {
    if !able() {
        return;
    }
    let thread = std::thread::spawn(move || {
        // SAFETY: changes the namespace of this thread, which is only this test's.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
        let script = "ip link set lo up; ip tuntap add tap0 mode tap; ip link set tap0 address 02:00:00:00:00:01; \
                      ip link set tap0 up; ip addr add 10.0.0.1/24 dev tap0; \
                      ip neigh add 10.0.0.2 lladdr 02:00:00:00:00:02 dev tap0";
        assert!(Command::new("sh").args(["-ec", script]).status().unwrap().success());
        body();
    });
    thread.join().unwrap();
}

struct Play {
    space: Arc<GuestSpace>,
    border: Border,
}

impl Play {
    fn new() -> Self {
        Self::with(true)
    }

    /// A guest on the TAP, which the user trusts or not.
    fn with(offload: bool) -> Self {
        let mut space = GuestSpace::new(MmapRegion::new(SIZE as usize).unwrap(), 0);
        space.permit(vec![Permission { addresses: 0x1000..SIZE, write: true }]);
        let space = Arc::new(space);
        let attach = NetAttach::Interface("tap0".into());
        let option = NetOption { attach, mac: None, offload, mtu: None, pcap: None };
        let net = tap::attach("lan", &option, true).unwrap();
        assert_eq!(net.has_offload(), offload);
        // Until the kernel has noticed that somebody is attached it drops what it would send.
        let up = "until ip link show tap0 | grep -q 'state UP'; do sleep 0.01; done";
        assert!(Command::new("sh").args(["-c", up]).status().unwrap().success());
        let devices = Arc::new(Devices::new(vec![None, Some(Device::Net(net))]));
        assert_eq!(devices.offload_set(), if offload { 0b10 } else { 0 });
        let null = File::options().write(true).open("/dev/null").unwrap();
        let (console, never) = (Console::new(null.into()), Shutdown::never().unwrap());
        let border = Border::new(Arc::clone(&space), devices, console, never, FEATURE_EXCHANGE);
        Self { space, border }
    }

    fn exchange(&mut self, call: Exchange) -> Exchange {
        let call = Exchange { send: OUT, receive: IN, receive_set: 0b10, ..call };
        self.space.write(CALL, call).unwrap();
        self.border.call(EXCHANGE, CALL).unwrap();
        self.space.read(CALL).unwrap()
    }

    fn send(&mut self, bytes: &[u8], offload: Offload) {
        self.space.loader_slice(FRAME, bytes.len() as u64).unwrap().copy_from(bytes);
        let len = bytes.len() as u32;
        let frame = Frame { data: FRAME, len, handle: 1, offload, ..Frame::default() };
        self.space.write(OUT, frame).unwrap();
        let done = self.exchange(Exchange { send_count: 1, ..Exchange::default() });
        assert_eq!((done.ret, done.sent), (RESULT_OK, 1), "{:?}", self.space.read::<Frame>(OUT));
    }

    /// The next IPv4 packet of a protocol and what the host's header said of it.
    fn receive(&mut self, protocol: u8) -> (Vec<u8>, Offload) {
        loop {
            let room = Frame { data: ROOM, len: ROOM_LEN, ..Frame::default() };
            self.space.write(IN, room).unwrap();
            let wait =
                Exchange { receive_count: 1, timeout_nsecs: 5_000_000_000, ..Exchange::default() };
            assert_eq!(self.exchange(wait).received, 1, "nothing came");
            let frame: Frame = self.space.read(IN).unwrap();
            assert_eq!(i32::from(frame.status), RESULT_OK);
            let mut bytes = vec![0; frame.len as usize];
            self.space.loader_slice(ROOM, frame.len.into()).unwrap().copy_to(&mut bytes);
            if bytes[12..14] == [8, 0] && bytes[23] == protocol {
                return (bytes, frame.offload);
            }
        }
    }
}

fn sum(bytes: &[u8]) -> u32 {
    let word = |pair: &[u8]| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}

/// An Ethernet frame with an IPv4 packet (RFC 791) whose payload's checksum field, at `field`, has only the sum over the
/// pseudo header.
fn packet(protocol: u8, mut payload: Vec<u8>, field: usize) -> Vec<u8> {
    let mut pseudo = [GUEST, HOST].concat();
    pseudo.extend([0, protocol]);
    pseudo.extend((payload.len() as u16).to_be_bytes());
    payload[field..field + 2].copy_from_slice(&(sum(&pseudo) as u16).to_be_bytes());
    let mut ip = vec![0x45, 0];
    ip.extend((20 + payload.len() as u16).to_be_bytes());
    ip.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
    ip.extend([GUEST, HOST].concat());
    let check = !(sum(&ip) as u16);
    ip[10..12].copy_from_slice(&check.to_be_bytes());
    [HOST_MAC.as_slice(), &GUEST_MAC, &[8, 0], &ip, &payload].concat()
}

fn partial(field: u16) -> Offload {
    Offload { flags: Offload::NEEDS_CSUM, csum_start: 34, csum_offset: field, ..Offload::default() }
}

/// The answer to the kernel's SYN (RFC 9293, section 3.5), with an MSS of 1460.
fn accept(syn: &[u8]) -> Vec<u8> {
    assert_eq!(syn[34 + 13], 2, "SYN");
    let sequence = u32::from_be_bytes(syn[38..42].try_into().unwrap());
    let mut answer = 80_u16.to_be_bytes().to_vec();
    answer.extend(&syn[34..36]);
    answer.extend([0, 0, 0, 9]);
    answer.extend((sequence + 1).to_be_bytes());
    answer.extend([0x60, 0x12, 0xff, 0xff, 0, 0, 0, 0, 2, 4, 0x05, 0xb4]);
    answer
}

#[test]
fn the_host_fills_in_checksums_and_leaves_its_own_out() {
    in_namespace(|| {
        let mut play = Play::new();
        let socket = UdpSocket::bind("10.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
        let port = socket.local_addr().unwrap().port();
        let text = b"without a checksum";
        let mut udp = 5000_u16.to_be_bytes().to_vec();
        udp.extend(port.to_be_bytes());
        udp.extend((8 + text.len() as u16).to_be_bytes());
        udp.extend([0, 0]);
        udp.extend(text);
        // A datagram whose checksum is wrong is dropped by the kernel, so the one that arrives is the second.
        let mut wrong = udp.clone();
        wrong[8] = b'W';
        play.send(&packet(UDP, wrong, 6), Offload::default());
        play.send(&packet(UDP, udp, 6), partial(6));
        let mut buffer = [0; 100];
        let (len, from) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..len], from.to_string()), (&text[..], "10.0.0.2:5000".into()));

        socket.send_to(b"the answer", from).unwrap();
        let (bytes, offload) = play.receive(UDP);
        assert!(bytes.ends_with(b"the answer"));
        assert_eq!((offload.flags, offload.csum_start, offload.csum_offset), (1, 34, 6));
        assert_eq!(offload.gso_type, Offload::GSO_NONE);
    });
}

#[test]
fn segments_stay_together_in_both_directions() {
    in_namespace(|| {
        let mut play = Play::new();
        // What no connection knows is answered with RST, which acknowledges all of its bytes (RFC 9293, section 3.10.7.1).
        let mut tcp = [5000_u16, 81].map(u16::to_be_bytes).concat();
        tcp.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x08, 0xff, 0xff, 0, 0, 0, 0]);
        tcp.extend([0x5a; 40_000]);
        let offload =
            Offload { gso_type: Offload::GSO_TCPV4, hdr_len: 54, gso_size: 1460, ..partial(16) };
        play.send(&packet(TCP, tcp, 16), offload);
        let (reset, _) = play.receive(TCP);
        assert_eq!(reset[34 + 13] & 4, 4, "RST");
        assert_eq!(reset[34 + 8..34 + 12], (40_001_u32).to_be_bytes());

        // The kernel connects, and we answer by hand.
        let listener = std::thread::spawn({
            // The thread inherits the namespace.
            || {
                let mut stream = TcpStream::connect("10.0.0.2:80").unwrap();
                stream.write_all(&[7; 14_000]).unwrap();
                stream
            }
        });
        let (syn, _) = play.receive(TCP);
        play.send(&packet(TCP, accept(&syn), 16), partial(16));
        let mut payload = 0;
        let mut longest = 0;
        while payload < 14_000 {
            let (bytes, offload) = play.receive(TCP);
            let len = usize::from(u16::from_be_bytes([bytes[16], bytes[17]])) - 40;
            payload += len;
            longest = longest.max(bytes.len());
            if len > 1460 {
                assert_eq!((offload.gso_type, offload.gso_size), (Offload::GSO_TCPV4, 1460));
                assert_eq!((offload.flags, offload.csum_start), (Offload::NEEDS_CSUM, 34));
            }
        }
        assert!(longest > 1514, "no segments came together");
        drop(listener.join().unwrap());
    });
}

/// Without trust the guest sends and gets plain frames, and the kernel nevertheless gets and gives many as one.
#[test]
fn the_tender_merges_and_cuts_for_a_guest_without_trust() {
    in_namespace(|| {
        let mut play = Play::with(false);
        // As above: one RST acknowledges what came as one; segments for themselves would get one each.
        let count = 20_u32;
        for i in 0..count {
            let mut tcp = [5000_u16, 81].map(u16::to_be_bytes).concat();
            tcp.extend((1 + i * 1000).to_be_bytes());
            tcp.extend([0, 0, 0, 9, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
            tcp.extend([0x5a; 1000]);
            let mut bytes = packet(TCP, tcp, 16);
            let check = !(sum(&bytes[34..]) as u16);
            bytes[50..52].copy_from_slice(&check.to_be_bytes());
            let at = FRAME + u64::from(i) * 2048;
            play.space.loader_slice(at, bytes.len() as u64).unwrap().copy_from(&bytes);
            let len = bytes.len() as u32;
            let frame = Frame { data: at, len, handle: 1, ..Frame::default() };
            play.space.write(OUT + u64::from(i) * size_of::<Frame>() as u64, frame).unwrap();
        }
        let done = play.exchange(Exchange { send_count: count, ..Exchange::default() });
        assert_eq!((done.ret, done.sent), (RESULT_OK, count));
        let (reset, _) = play.receive(TCP);
        assert_eq!(reset[34 + 13] & 4, 4, "RST");
        // RFC 9293, section 3.10.7.1: it has the number that the segments, which carry an ACK, expect.
        assert_eq!(reset[34 + 4..34 + 8], 9_u32.to_be_bytes());

        let sender = std::thread::spawn(|| {
            let mut stream = TcpStream::connect("10.0.0.2:80").unwrap();
            stream.write_all(&[7; 14_000]).unwrap();
            stream
        });
        // No second RST comes before the SYN.
        let (syn, _) = play.receive(TCP);
        let first = u32::from_be_bytes(syn[38..42].try_into().unwrap()) + 1;
        let mut answer = packet(TCP, accept(&syn), 16);
        let check = !(sum(&answer[34..]) as u16);
        answer[50..52].copy_from_slice(&check.to_be_bytes());
        play.send(&answer, Offload::default());
        let mut payload = 0;
        while payload < 14_000 {
            let (bytes, offload) = play.receive(TCP);
            assert_eq!(offload, Offload::default());
            assert!(bytes.len() <= 1514);
            let len = bytes.len() - 14;
            assert_eq!(sum(&bytes[14..34]), 0xffff, "IP's checksum");
            let mut pseudo = bytes[26..34].to_vec();
            pseudo.extend([0, TCP]);
            pseudo.extend((len as u16 - 20).to_be_bytes());
            pseudo.extend(&bytes[34..]);
            assert_eq!(sum(&pseudo), 0xffff, "TCP's checksum");
            let begins = u32::from_be_bytes(bytes[38..42].try_into().unwrap());
            if len > 40 {
                assert_eq!(begins, first + payload as u32, "in order");
                assert!(bytes[54..].iter().all(|byte| *byte == 7));
            }
            payload += len - 40;
        }
        drop(sender.join().unwrap());
    });
}

#[test]
fn plain_calls_have_no_place_for_it() {
    in_namespace(|| {
        let mut play = Play::new();
        for call in [NET_READ, NET_WRITE] {
            let io = NetIo { handle: 1, data: FRAME, len: 60, ..NetIo::default() };
            play.space.write(CALL, io).unwrap();
            play.border.call(call, CALL).unwrap();
            assert_eq!(play.space.read::<NetIo>(CALL).unwrap().ret, RESULT_INVALID);
        }
    });
}

/// The command line: who may have it, and that it reaches the guest.
#[test]
fn only_where_it_is_asked_for_and_understood() {
    use support::*;
    if !able() || !kvm() {
        return;
    }
    let offload = hvt_abi::boot::BOOT_EXTENSION_ADDRESS + 96;
    let tells = |guest: Guest| {
        guest.device("lan", hvt_abi::manifest::NET_BASIC).copy32(offload, DATA).halt_with(DATA)
    };
    let run = |guest: &Guest, options: &str| {
        let file = guest.file();
        let script = format!(
            "ip tuntap add tap0 mode tap; ip link set tap0 up; \
             exec $HVT --mem=16 {options} -- $IMAGE"
        );
        let output = Command::new("unshare")
            .args(["--net", "/bin/sh", "-ec", &script])
            .env("HVT", env!("CARGO_BIN_EXE_hvt"))
            .env("IMAGE", file.path())
            .output();
        Ended::from(output.unwrap())
    };
    let guest = tells(Guest::new());
    run(&guest, "--net:lan=tap0").is(0);
    run(&guest, "--net:lan=tap0 --net-offload:lan").is(0b10);
    let features = Some(ALL & !FEATURE_EXCHANGE);
    let other = tells(Guest { features, ..Guest::new() });
    run(&other, "--net:lan=tap0 --net-offload:lan").is(0).says("the image does not understand");
    run(&guest, "--net:lan=tap0 --net-mtu:lan=1400").is(66).says("ip link set IFACE mtu N");
}

/// A TAP of this namespace, opened as a service manager or a container runtime would before it starts `hvt`.
fn open_tap(flags: i32) -> std::os::fd::OwnedFd {
    use std::os::fd::AsRawFd;
    let tun = File::options().read(true).write(true).open("/dev/net/tun").unwrap();
    let mut request = [0_u8; size_of::<libc::ifreq>()];
    request[..4].copy_from_slice(b"tap0");
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | flags;
    request[16..18].copy_from_slice(&(flags.cast_unsigned() as u16).to_le_bytes());
    // SAFETY: the request reads and writes one `struct ifreq`, which has this size.
    let result = unsafe {
        libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF as libc::Ioctl, request.as_mut_ptr())
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    tun.into()
}

#[test]
fn a_tap_can_come_as_a_descriptor() {
    use support::*;
    if !kvm() {
        return;
    }
    crate::in_namespace(|| {
        let socket = UdpSocket::bind("10.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
        let mut udp = 5000_u16.to_be_bytes().to_vec();
        udp.extend(socket.local_addr().unwrap().port().to_be_bytes());
        udp.extend([0, 12, 0, 0]);
        udp.extend(b"text");
        // A checksum of zero is none (RFC 768).
        let mut bytes = packet(UDP, udp, 6);
        bytes[40..42].fill(0);
        let offload = hvt_abi::boot::BOOT_EXTENSION_ADDRESS + 96;
        let guest = Guest::new()
            .device("lan", hvt_abi::manifest::NET_BASIC)
            .put(DATA + 0x100, &bytes)
            .io(DATA, &[1, DATA + 0x100, bytes.len() as u64, 99])
            .call(NET_WRITE, DATA)
            .copy32(offload, DATA + 0x80)
            .halt_with(DATA + 0x80);
        let asked = ["--net-offload:lan"];
        for (flags, options, status) in [
            (0, &[][..], 0),
            (libc::IFF_VNET_HDR, &[], 0),
            (libc::IFF_VNET_HDR, &asked, 0b10),
            (0, &asked, 66),
        ] {
            let tap = open_tap(flags);
            let ended = run_with_descriptor_and(&guest, &guest.file(), &tap, options);
            ended.is(status);
            if status == 66 {
                ended.says("IFF_VNET_HDR");
            }
            // The plain call can't be used with offload.
            if status == 0 {
                let mut text = [0; 100];
                assert_eq!(socket.recv(&mut text).unwrap(), 4);
            }
        }
    });
}
