//! The exchange: frames in both directions in one call. Most tests play the guest against the border without a machine.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::Arc;

use hvt_abi::exchange::{Exchange, Frame, MAX_FRAME_LEN, MAX_FRAMES, Offload};
use hvt_abi::extension::{EXCHANGE, FEATURE_EXCHANGE, FEATURE_SHUTDOWN, POLL_SHUTDOWN};
use hvt_abi::hypercall::{PUTS, RESULT_AGAIN, RESULT_INVALID, RESULT_OK, RESULT_UNSPECIFIED};
use hvt_abi::manifest::{NET_BASIC, NetProperties};
use hvt_tender::border::{Border, Misuse};
use hvt_tender::device::console::Console;
use hvt_tender::device::net::{Framing, NetDevice};
use hvt_tender::device::{Device, Devices};
use hvt_tender::memory::{GuestSpace, Permission};
use hvt_tender::shutdown::Shutdown;
use support::*;
use vm_memory::{Bytes, MmapRegion};

const SIZE: u64 = 4 << 20;
const READ_ONLY: u64 = 0x1000;
/// The structure, the two arrays, and buffers of 4 KiB each for frames of a number.
const CALL: u64 = 0x2000;
const OUT: u64 = 0x1_0000;
const IN: u64 = 0x2_0000;
const SECOND: u64 = 1_000_000_000;

fn out_buffer(i: u64) -> u64 {
    0x10_0000 + i * 0x1000
}

fn in_buffer(i: u64) -> u64 {
    0x20_0000 + i * 0x1000
}

/// A guest with devices from handle 1 on.
struct Play {
    space: Arc<GuestSpace>,
    border: Border,
}

impl Play {
    fn new(devices: Vec<(OwnedFd, Framing)>) -> Self {
        let mut space = GuestSpace::new(MmapRegion::new(SIZE as usize).unwrap(), 0);
        space.permit(vec![
            Permission { addresses: READ_ONLY..READ_ONLY + 0x1000, write: false },
            Permission { addresses: CALL..SIZE, write: true },
        ]);
        let space = Arc::new(space);
        let mut slots = vec![None];
        for (fd, framing) in devices {
            let properties = NetProperties { mac: [2; 6], mtu: 1500 };
            slots.push(Some(Device::Net(NetDevice::new("lan", fd, properties, framing, None))));
        }
        let null = File::options().write(true).open("/dev/null").unwrap();
        let border = Border::new(
            Arc::clone(&space),
            Arc::new(Devices::new(slots)),
            Console::new(null.into()),
            Shutdown::never().unwrap(),
            FEATURE_EXCHANGE | FEATURE_SHUTDOWN,
        );
        Self { space, border }
    }

    /// One datagram device, and its other end.
    fn with_wires<const N: usize>() -> (Self, [UnixDatagram; N]) {
        let pairs = [(); N].map(|()| {
            let (ours, theirs) = UnixDatagram::pair().unwrap();
            ours.set_nonblocking(true).unwrap();
            theirs.set_nonblocking(true).unwrap();
            (ours, theirs)
        });
        let (mut ours, mut fds) = (Vec::new(), Vec::new());
        for (our, their) in pairs {
            ours.push(our);
            fds.push((their.into(), Framing::Packets));
        }
        (Self::new(fds), ours.try_into().unwrap())
    }

    /// Puts a frame of `len` bytes of a value into the array of frames to send.
    fn put_frame(&self, i: u64, handle: u16, len: u32, value: u8) {
        let frame = Frame { data: out_buffer(i), len, handle, ..Frame::default() };
        self.space.write(OUT + 32 * i, frame).unwrap();
        let bytes = vec![value; len.min(0x1000) as usize];
        self.space.loader_slice(out_buffer(i), bytes.len() as u64).unwrap().copy_from(&bytes);
    }

    fn put_rooms(&self, count: u64, len: u32) {
        for i in 0..count {
            let frame =
                Frame { data: in_buffer(i), len, handle: 77, status: 77, ..Frame::default() };
            self.space.write(IN + 32 * i, frame).unwrap();
        }
    }

    fn try_call(&mut self, call: Exchange) -> Result<Exchange, Misuse> {
        let call = Exchange { send: OUT, receive: IN, sent: 99, received: 99, ret: 99, ..call };
        self.space.write(CALL, call).unwrap();
        self.border.call(EXCHANGE, CALL)?;
        Ok(self.space.read(CALL).unwrap())
    }

    #[track_caller]
    fn call(&mut self, call: Exchange) -> Exchange {
        let call = self.try_call(call).unwrap();
        assert_eq!((call.ret, call.pad), (RESULT_OK, 0));
        call
    }

    fn sent(&self, i: u64) -> Frame {
        self.space.read(OUT + 32 * i).unwrap()
    }

    fn received(&self, i: u64) -> (Frame, u8) {
        let frame: Frame = self.space.read(IN + 32 * i).unwrap();
        (frame, self.space.loader_slice(in_buffer(i), 1).unwrap().read_obj(0).unwrap())
    }
}

#[test]
fn frames_go_both_ways_in_one_call() {
    let (mut play, [a, b]) = Play::with_wires();
    play.put_frame(0, 1, 60, 0xa0);
    play.put_frame(1, 2, 61, 0xb0);
    play.put_frame(2, 1, 1514, 0xa1);
    play.put_rooms(8, 2048);
    for byte in 1..=3 {
        a.send(&[byte; 100]).unwrap();
    }
    b.send(&[9; 200]).unwrap();
    let all = Exchange { receive_set: u64::MAX, ..Exchange::default() };
    let done =
        play.call(Exchange { send_count: 3, receive_count: 8, timeout_nsecs: SECOND, ..all });
    assert_eq!((done.sent, done.received, done.ready_set), (3, 4, 0));
    let mut frame = [0; 2048];
    for (wire, len, byte) in [(&a, 60, 0xa0), (&a, 1514, 0xa1), (&b, 61, 0xb0)] {
        assert_eq!((wire.recv(&mut frame).unwrap(), frame[0], frame[len - 1]), (len, byte, byte));
    }
    // In turns, and in order for each device.
    let got: Vec<_> = (0..4).map(|i| play.received(i)).collect();
    let seen: Vec<_> = got.iter().map(|(f, byte)| (f.handle, f.len, f.status, *byte)).collect();
    assert_eq!(seen, [(1, 100, 0, 1), (2, 200, 0, 9), (1, 100, 0, 2), (1, 100, 0, 3)]);
    assert!(got.iter().all(|(f, _)| f.offload == Offload::default()));
    // The next room is as it was.
    assert_eq!((play.received(4).0.len, play.received(4).0.status), (2048, 77));
    // Nothing is there any more, and nobody waits.
    let done = play.call(Exchange { receive_count: 8, ..all });
    assert_eq!((done.sent, done.received, done.ready_set), (0, 0, 0));
    let counted = play.border.statistics();
    assert!(counted.contains("exchange=2"), "{counted}");
    assert!(counted.contains("sent=2 sent-bytes=1574 refused=0 received=3"), "{counted}");
}

#[test]
fn devices_take_turns_when_rooms_are_few() {
    let (mut play, [a, b]) = Play::with_wires();
    for byte in 1..=6 {
        a.send(&[byte; 60]).unwrap();
    }
    for byte in 11..=13 {
        b.send(&[byte; 60]).unwrap();
    }
    play.put_rooms(1, 2048);
    let one = Exchange { receive_set: 0b110, receive_count: 1, ..Exchange::default() };
    let mut order = Vec::new();
    loop {
        let done = play.call(Exchange { timeout_nsecs: 1, ..one });
        if done.received == 0 {
            assert_eq!(done.ready_set, 0);
            break;
        }
        order.push(play.received(0).1);
        play.put_rooms(1, 2048);
        assert_eq!(done.ready_set & 1, 0);
    }
    assert_eq!(order, [1, 11, 2, 12, 3, 13, 4, 5, 6]);
    // A device that is not wanted keeps its frames.
    b.send(&[20; 60]).unwrap();
    let done = play.call(Exchange { receive_set: 0b010, timeout_nsecs: 1000, ..one });
    assert_eq!((done.received, done.ready_set), (0, 0));
    // Without rooms it is a poll.
    let done = play.call(Exchange { receive_count: 0, ..one });
    assert_eq!((done.received, done.ready_set), (0, 0b100));
    let done = play.call(Exchange { receive_count: 0, timeout_nsecs: u64::MAX, ..one });
    assert_eq!((done.received, done.ready_set), (0, 0b100));
    assert_eq!(play.call(one).received, 1);
}

#[test]
fn what_a_wait_is_for_ends_it() {
    let (mut play, [a]) = Play::with_wires();
    play.put_rooms(1, 2048);
    let forever = Exchange {
        receive_set: 0b10,
        receive_count: 1,
        timeout_nsecs: u64::MAX,
        ..Exchange::default()
    };
    let sender = std::thread::spawn({
        let a = a.try_clone().unwrap();
        move || {
            std::thread::sleep(std::time::Duration::from_millis(30));
            a.send(&[5; 60]).unwrap();
        }
    });
    assert_eq!(play.call(forever).received, 1);
    sender.join().unwrap();
    // A datagram socket takes few frames; those that are left say so, and its reader makes it writable again.
    let (done, full) = (0..100)
        .find_map(|round| {
            for i in 0..64 {
                play.put_frame(i, 1, 60, round);
            }
            let done = play.call(Exchange { send_count: 64, ..Exchange::default() });
            (done.sent < 64).then_some((done, round))
        })
        .unwrap();
    let taken = u64::from(done.sent);
    assert!((0..taken).all(|i| play.sent(i).status == 0));
    assert!((taken..64).all(|i| play.sent(i).status == RESULT_AGAIN as u16));
    let reader = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(30));
        let mut frame = [0; 64];
        let mut bytes = Vec::new();
        while a.recv(&mut frame).is_ok() {
            bytes.push(frame[0]);
        }
        (a, bytes)
    });
    let done = play.call(Exchange { writable_set: 0b10, receive_count: 1, ..forever });
    assert_eq!((done.received, done.ready_set), (0, 0));
    let (a, bytes) = reader.join().unwrap();
    let all = u64::from(full) * 64 + taken;
    assert_eq!(bytes, (0..all).map(|i| (i / 64) as u8).collect::<Vec<_>>());
    play.put_frame(0, 1, 60, 0xee);
    assert_eq!(play.call(Exchange { send_count: 1, ..Exchange::default() }).sent, 1);
    let mut frame = [0; 64];
    while a.recv(&mut frame).is_ok() {}
    assert_eq!(frame[0], 0xee);
}

#[test]
fn a_frame_that_can_not_be_sent_does_not_keep_the_others() {
    let (mut play, [a]) = Play::with_wires();
    let offload = Offload { flags: Offload::NEEDS_CSUM, csum_start: 14, ..Offload::default() };
    for (i, (handle, len, offload)) in [
        (1, 60, Offload::default()),
        (0, 60, Offload::default()),
        (2, 60, Offload::default()),
        (u16::MAX, 60, Offload::default()),
        (1, 13, Offload::default()),
        (1, MAX_FRAME_LEN + 1, Offload::default()),
        (1, 60, offload),
        (1, 61, Offload::default()),
    ]
    .into_iter()
    .enumerate()
    {
        let frame = Frame { data: out_buffer(0), len, handle, offload, ..Frame::default() };
        play.space.write(OUT + 32 * i as u64, frame).unwrap();
    }
    let done = play.call(Exchange { send_count: 8, ..Exchange::default() });
    assert_eq!(done.sent, 2);
    let status: Vec<_> = (0..8).map(|i| i32::from(play.sent(i).status)).collect();
    let bad = RESULT_INVALID;
    assert_eq!(status, [RESULT_OK, bad, bad, bad, bad, bad, bad, RESULT_OK]);
    let mut frame = [0; 64];
    assert_eq!((a.recv(&mut frame).unwrap(), a.recv(&mut frame).unwrap()), (60, 61));
    // The other end goes away: the host fails.
    drop(a);
    play.put_frame(0, 1, 60, 1);
    assert_eq!(play.call(Exchange { send_count: 1, ..Exchange::default() }).sent, 0);
    assert_eq!(i32::from(play.sent(0).status), RESULT_UNSPECIFIED);
}

#[test]
fn a_frame_longer_than_its_room_is_marked() {
    let (mut play, [a]) = Play::with_wires();
    play.put_rooms(3, 100);
    play.space.write(IN + 64, Frame::default()).unwrap();
    for len in [100, 101, 60] {
        a.send(&vec![len as u8; len]).unwrap();
    }
    let call = Exchange { receive_set: 0b10, receive_count: 3, ..Exchange::default() };
    assert_eq!(play.call(call).received, 3);
    let seen = [0, 1, 2].map(|i| (play.received(i).0.len, i32::from(play.received(i).0.status)));
    assert_eq!(seen, [(100, RESULT_OK), (100, RESULT_INVALID), (0, RESULT_INVALID)]);
    // The byte behind the room is nobody's.
    let behind: u8 = play.space.loader_slice(in_buffer(1) + 100, 1).unwrap().read_obj(0).unwrap();
    assert_eq!(behind, 0);
}

#[test]
fn counts_and_places_that_make_no_sense() {
    let (mut play, [a]) = Play::with_wires();
    play.put_frame(0, 1, 60, 1);
    play.put_rooms(4, 2048);
    a.send(&[1; 60]).unwrap();
    let both =
        Exchange { receive_set: 0b10, send_count: 1, receive_count: 4, ..Exchange::default() };
    for call in [
        Exchange { send_count: MAX_FRAMES + 1, ..both },
        Exchange { receive_count: MAX_FRAMES + 1, ..both },
    ] {
        let done = play.try_call(call).unwrap();
        assert_eq!((done.ret, done.sent, done.received), (RESULT_INVALID, 0, 0));
    }
    assert!(a.recv(&mut [0; 64]).is_err(), "nothing was sent");
    let misuse = |play: &mut Play, call| {
        play.space.write(CALL, call).unwrap();
        let misuse = play.border.call(EXCHANGE, CALL).unwrap_err();
        assert!(matches!(misuse, Misuse::Pointer { call: "exchange", .. }), "{misuse:?}");
    };
    for address in [0, READ_ONLY, SIZE - 31, SIZE, u64::MAX - 31, u64::MAX] {
        misuse(&mut play, Exchange { send: address, receive: IN, ..both });
        misuse(&mut play, Exchange { receive: address, send: OUT, ..both });
        let frame = Frame { data: address, len: 2048, handle: 1, ..Frame::default() };
        if address != READ_ONLY {
            play.space.write(OUT, frame).unwrap();
            misuse(&mut play, Exchange { send: OUT, receive: IN, ..both });
            play.put_frame(0, 1, 60, 1);
        }
        play.space.write(IN, frame).unwrap();
        misuse(&mut play, Exchange { send: OUT, receive: IN, ..both });
        play.put_rooms(1, 2048);
    }
    for address in [READ_ONLY, SIZE - 71] {
        let misuse = play.border.call(EXCHANGE, address).unwrap_err();
        assert!(matches!(misuse, Misuse::Pointer { part: "its structure", .. }), "{misuse:?}");
    }
    // Rooms behind the first that stays empty are not looked at, and arrays of nothing may be anywhere.
    let wild = Frame { data: 1, len: u32::MAX, ..Frame::default() };
    play.space.write(IN + 64, wild).unwrap();
    let done = play.call(Exchange { send_count: 0, ..both });
    assert_eq!(done.received, 1);
    play.space.write(CALL, Exchange { send: 3, receive: u64::MAX, ..Exchange::default() }).unwrap();
    play.border.call(EXCHANGE, CALL).unwrap();
}

#[test]
fn an_array_over_the_structure_hurts_only_the_guest() {
    let (mut play, [a]) = Play::with_wires();
    for byte in 0..4 {
        a.send(&[byte; 60]).unwrap();
    }
    let call = Exchange {
        send: CALL,
        receive: CALL,
        receive_set: u64::MAX,
        send_count: MAX_FRAMES,
        receive_count: MAX_FRAMES,
        ..Exchange::default()
    };
    play.space.write(CALL, call).unwrap();
    play.space.write(CALL + 96, Frame::default()).unwrap();
    // Whatever comes of it is an answer or misuse.
    _ = play.border.call(EXCHANGE, CALL);
}

#[test]
fn a_stream_carries_frames_with_their_lengths() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let mut play = Play::new(vec![(theirs.into(), Framing::Stream)]);
    let mut ours = ours;
    for i in 0..3 {
        play.put_frame(i, 1, 1000 + i as u32, i as u8);
    }
    let call = Exchange { receive_set: 0b10, ..Exchange::default() };
    assert_eq!(play.call(Exchange { send_count: 3, ..call }).sent, 3);
    let mut bytes = [0; 3 * 1004 + 3];
    ours.read_exact(&mut bytes).unwrap();
    assert_eq!((&bytes[..4], &bytes[1004..1008]), (&[0, 0, 3, 0xe8][..], &[0, 0, 3, 0xe9][..]));
    // Two frames and a half: the second stays readable though the socket is empty.
    ours.write_all(
        &[[0, 0, 0, 60].as_slice(), &[1; 60], &[0, 0, 0, 61], &[2; 61], &[0; 2]].concat(),
    )
    .unwrap();
    play.put_rooms(1, 2048);
    let one = Exchange { receive_count: 1, timeout_nsecs: u64::MAX, ..call };
    assert_eq!((play.call(one).received, play.received(0).0.len), (1, 60));
    play.put_rooms(1, 2048);
    let done = play.call(Exchange { receive_count: 0, timeout_nsecs: u64::MAX, ..call });
    assert_eq!(done.ready_set, 0b10);
    assert_eq!((play.call(one).received, play.received(0).0.len), (1, 61));
    play.put_rooms(1, 2048);
    assert_eq!(play.call(Exchange { timeout_nsecs: 1000, ..one }).received, 0);
    // A part of a frame is nothing to tell of, and ends no wait.
    let writer = std::thread::spawn({
        let mut ours = ours.try_clone().unwrap();
        move || {
            for part in [[0, 60].as_slice(), &[3; 40], &[3; 20]] {
                std::thread::sleep(std::time::Duration::from_millis(20));
                ours.write_all(part).unwrap();
            }
        }
    });
    assert_eq!((play.call(one).received, play.received(0).1), (1, 3));
    writer.join().unwrap();
    // A reader that stops makes the device full at some point, and writable when it goes on.
    let mut pushed = 0_u64;
    loop {
        for i in 0..64 {
            play.put_frame(i, 1, 4000, 7);
        }
        let sent = u64::from(play.call(Exchange { send_count: 64, ..call }).sent);
        pushed += sent;
        if sent < 64 {
            assert_eq!(i32::from(play.sent(63).status), RESULT_AGAIN);
            break;
        }
    }
    let reader = std::thread::spawn(move || {
        let mut frame = [0; 4004];
        for _ in 0..pushed {
            ours.read_exact(&mut frame).unwrap();
            assert_eq!(frame[..5], [0, 0, 0x0f, 0xa0, 7]);
        }
        ours
    });
    let wait = Exchange { writable_set: 0b10, timeout_nsecs: u64::MAX, ..call };
    while !reader.is_finished() {
        let done = play.call(Exchange { timeout_nsecs: 1_000_000, ..wait });
        assert_eq!((done.sent, done.received), (0, 0));
    }
    // What is no frame ends the connection, and waiting for it does not spin.
    let mut ours = reader.join().unwrap();
    ours.write_all(&[0xff; 8]).unwrap();
    play.put_rooms(1, 2048);
    assert_eq!(play.call(one_with(call, SECOND)).received, 0);
    assert_eq!(play.call(one_with(call, 1000)).received, 0);
    play.put_frame(0, 1, 60, 1);
    assert_eq!(play.call(Exchange { send_count: 1, ..call }).sent, 0);
    assert_eq!(i32::from(play.sent(0).status), RESULT_UNSPECIFIED);
}

fn one_with(call: Exchange, timeout_nsecs: u64) -> Exchange {
    Exchange { receive_count: 1, timeout_nsecs, ..call }
}

/// Sends a frame, waits for one without limit and prints it, by one exit.
fn echo(guest: Guest) -> Guest {
    let (call, out, room) = (DATA, DATA + 0x100, DATA + 0x140);
    let frame = |at, len: u64| [at, len | 1 << 32, 0, 0];
    guest
        .device("lan", NET_BASIC)
        .put_words(call, &[out, room, u64::MAX, 0b10, 0, 0, 1 | 1 << 32])
        .put_words(out, &frame(DATA + 0x200, 60))
        .put_words(room, &frame(DATA + 0x400, 1514))
        .put(DATA + 0x200, b"from the guest")
        .put_words(DATA + 0x180, &[DATA + 0x400, 10])
        .call(EXCHANGE, call)
        .call(PUTS, DATA + 0x180)
}

#[test]
fn under_both_backends() {
    for (guest, backend) in
        [(Guest::new(), "--backend=kvm"), (Guest::process(), "--backend=process")]
    {
        if backend == "--backend=kvm" && !kvm() {
            continue;
        }
        let guest = echo(guest).halt_with(DATA + 60);
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        ours.send(b"0123456789abcdef").unwrap();
        let options = [backend, "--stats"];
        let ended = run_with_descriptor_and(&guest, &guest.file(), &theirs.into(), &options);
        // The status is the number of received frames.
        ended
            .is(1)
            .says("exchange=1")
            .says("stats net=lan sent=1 sent-bytes=60 refused=0 received=1");
        ended.says("stats exits=3 puts=1 halt=1 exchange=1");
        assert_eq!(ended.out, "0123456789");
        let mut frame = [0; 64];
        assert_eq!(ours.recv(&mut frame).unwrap(), 60);
        assert!(frame.starts_with(b"from the guest"));
    }
}

#[test]
fn signals_ask_for_counters_and_for_the_end() {
    use std::io::BufRead;
    for (guest, backend) in
        [(Guest::new(), "--backend=kvm"), (Guest::process(), "--backend=process")]
    {
        if backend == "--backend=kvm" && !kvm() {
            continue;
        }
        // Prints, then exchanges until a request to stop is told: test byte [DATA + 40], 1; jz back.
        let at = |guest: &Guest| guest.code.len();
        let guest = guest.put_words(DATA, &[0, 0, u64::MAX, 0, 0, 0, 0]).print("up\n");
        let again = at(&guest);
        let guest = guest.call(EXCHANGE, DATA).raw(&[0xf6, 0x04, 0x25]);
        let guest = guest.raw(&(DATA as u32 + 40).to_le_bytes()).raw(&[POLL_SHUTDOWN as u8, 0x74]);
        let back = (again as i64 - at(&guest) as i64 - 1) as i8;
        let guest = guest.raw(&back.to_le_bytes()).halt(3);
        let file = guest.file();
        let mut child = guest.command(&[backend], &file).spawn().unwrap();
        let pid = child.id() as i32;
        let signal = |signal| {
            // SAFETY: a signal to the child, which has not been waited for.
            unsafe { libc::kill(pid, signal) };
        };
        let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut String::new()).unwrap();
        let mut err = std::io::BufReader::new(child.stderr.take().unwrap());
        for _ in 0..2 {
            signal(libc::SIGUSR1);
            let mut line = String::new();
            // A note about the host may come first.
            while !line.starts_with("hvt: stats") {
                line.clear();
                assert_ne!(err.read_line(&mut line).unwrap(), 0);
            }
            assert!(line.starts_with("hvt: stats exits=") && line.contains(" puts=1"), "{line}");
        }
        signal(libc::SIGTERM);
        assert_eq!(child.wait().unwrap().code(), Some(3));
    }
}
