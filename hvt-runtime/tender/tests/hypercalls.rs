//! Each hypercall under a real machine: what it does, and what hostile arguments lead to.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

mod support;

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use hvt_abi::extension::{
    BLOCK_COMMIT, BLOCK_FLUSH, EXCHANGE, FEATURE_PROCESS, FEATURE_RING3, MEMORY_RELEASE,
    POLL_SHUTDOWN,
};
use hvt_abi::hypercall::{
    BLOCK_READ, BLOCK_WRITE, HALT, NET_READ, NET_WRITE, POLL, PUTS, RESULT_AGAIN, RESULT_INVALID,
    RESULT_OK, WALLTIME,
};
use hvt_abi::manifest::{BLOCK_BASIC, NET_BASIC};
use support::*;

const MISUSE: i32 = 81;
/// Where structures and buffers of these guests are.
const AT: u64 = DATA;
const BUFFER: u64 = DATA + 0x1000;

#[test]
fn structures_and_buffers_must_be_the_guests_own() {
    if !kvm() {
        return;
    }
    let calls = [
        (WALLTIME, 8),
        (PUTS, 16),
        (POLL, 24),
        (BLOCK_WRITE, 40),
        (BLOCK_READ, 40),
        (NET_WRITE, 32),
        (NET_READ, 32),
        (HALT, 16),
        (BLOCK_FLUSH, 16),
        (BLOCK_COMMIT, 32),
        (EXCHANGE, 72),
    ];
    for (call, len) in calls {
        let past_end = STACK_END - len + 1;
        for address in [0, 8, 0x5000, 0xf_f000, past_end, STACK_END, 0xffff_fff8, STACK_BASE - 8] {
            let ended = Guest::new().call(call, address).halt(0).run(&[]);
            assert_eq!(ended.status, Some(MISUSE), "call {call} at {address:#x}: {ended:#?}");
            assert!(ended.err.contains("its structure"), "{ended:#?}");
        }
        // What the tender would write, the guest must be allowed to write.
        if call != PUTS && call != HALT {
            let ended = Guest::new().call(call, RODATA).halt(0).run(&[]);
            assert_eq!(ended.status, Some(MISUSE), "call {call}: {ended:#?}");
            assert!(ended.err.contains("may not write"), "{ended:#?}");
        }
    }
    for (data, len) in [
        (0, 1),
        (0x1000, 8),
        (DATA, u64::MAX),
        (u64::MAX, 2),
        (STACK_END - 1, 2),
        (STACK_BASE - 1, 2),
        (0x1_0000_0000, 4096),
        (DATA, 1 << 40),
    ] {
        let ended = Guest::new().put_words(AT, &[data, len]).call(PUTS, AT).halt(0).run(&[]);
        assert_eq!(ended.status, Some(MISUSE), "puts {data:#x}+{len:#x}: {ended:#?}");
        assert_eq!(ended.out, "");
    }
    // No bytes are fine, wherever they are.
    Guest::new().put_words(AT, &[1, 0]).call(PUTS, AT).halt(0).run(&[]).is(0);
    // The cookie needs its 512 bytes.
    Guest::new().put_words(AT, &[STACK_END - 511, 0]).call(HALT, AT).run(&[]).is(MISUSE);
    Guest::new().put_words(AT, &[STACK_END - 512, 5]).call(HALT, AT).run(&[]).is(5);
}

#[test]
fn the_tender_writes_nothing_for_the_guest_that_the_guest_may_not() {
    if !kvm() {
        return;
    }
    let disk = disk(4096);
    let option = format!("--block:disk={}", disk.path().display());
    let disk_guest = || Guest::new().device("disk", BLOCK_BASIC);
    for target in [TEXT, RODATA, hvt_abi::boot::BOOT_INFO_ADDRESS, DATA - 256] {
        let guest = disk_guest().io(AT, &[1, 0, target, 512]).call(BLOCK_READ, AT).halt(0);
        let ended = guest.run(&[&option]);
        ended.is(MISUSE).says("may not write");
    }
}

#[test]
fn time_of_day_is_that_of_the_host() {
    if !kvm() {
        return;
    }
    // Prints the eight bytes.
    let guest =
        Guest::new().put_words(BUFFER, &[AT, 8]).call(WALLTIME, AT).call(PUTS, BUFFER).halt(0);
    let file = guest.file();
    let before = std::time::SystemTime::now();
    let output = guest.command(&[], &file).output().unwrap();
    let after = std::time::SystemTime::now();
    let nsecs = u64::from_le_bytes(output.stdout.try_into().unwrap());
    let told = std::time::UNIX_EPOCH + Duration::from_nanos(nsecs);
    assert!(before <= told && told <= after, "{before:?} {told:?} {after:?}");
}

#[test]
fn blocks_are_read_written_and_flushed() {
    if !kvm() {
        return;
    }
    let disk = disk(4096);
    let option = format!("--block:disk={}", disk.path().display());
    let guest = || Guest::new().device("disk", BLOCK_BASIC).put(BUFFER, b"written by the guest");
    let read_and_print = |g: Guest| {
        g.put_words(AT + 0x100, &[BUFFER + 0x200, 24])
            .call(BLOCK_READ, AT + 0x40)
            .call(PUTS, AT + 0x100)
    };
    let guest_writes = guest()
        .io(AT, &[1, 1024, BUFFER, 1024, 99])
        .io(AT + 0x40, &[1, 1024, BUFFER + 0x200, 512, 99])
        .put_words(AT + 0x80, &[1, 99])
        .call(BLOCK_WRITE, AT)
        .call(BLOCK_FLUSH, AT + 0x80);
    let ended = read_and_print(guest_writes.clone()).halt_with(AT + 32).run(&[&option]);
    ended.is(RESULT_OK);
    assert!(ended.out.starts_with("written by the guest"), "{ended:#?}");
    guest_writes.halt_with(AT + 0x88).run(&[&option]).is(RESULT_OK);
    let bytes = std::fs::read(disk.path()).unwrap();
    assert!(bytes[1024..].starts_with(b"written by the guest"));
    assert_eq!(bytes.len(), 4096);

    // What the guest learns of the device stands in the manifest: capacity at offset 72 of entry 1.
    let entry = MANIFEST + 8 + 104;
    guest().copy32(entry + 72, AT).halt_with(AT).run(&[&option]).is(4096 & 0xff);
    guest().copy32(entry + 73, AT).halt_with(AT).run(&[&option]).is(4096 >> 8);

    for (what, words) in [
        ("the reserved handle", [0, 0, BUFFER, 512]),
        ("no such handle", [2, 0, BUFFER, 512]),
        ("a huge handle", [u64::MAX, 0, BUFFER, 512]),
        ("behind the end", [1, 4096, BUFFER, 512]),
        ("over the end", [1, 3584, BUFFER, 1024]),
        ("far behind", [1, u64::MAX, BUFFER, 512]),
        ("too long", [1, 0, BUFFER, u64::MAX]),
        ("an overflow", [1, 512, BUFFER, u64::MAX - 256]),
    ] {
        for call in [BLOCK_READ, BLOCK_WRITE] {
            let ended = guest().io(AT, &words).call(call, AT).halt_with(AT + 32).run(&[&option]);
            assert_eq!(ended.status, Some(RESULT_INVALID), "{what}: {ended:#?}");
        }
    }
    assert_eq!(std::fs::read(disk.path()).unwrap(), bytes, "nothing was written by invalid calls");
    guest()
        .put_words(AT, &[7, 0])
        .call(BLOCK_FLUSH, AT)
        .halt_with(AT + 8)
        .run(&[&option])
        .is(RESULT_INVALID);
    // Network calls on a block device.
    guest()
        .io(AT, &[1, BUFFER, 60, 0])
        .call(NET_WRITE, AT)
        .halt_with(AT + 24)
        .run(&[&option])
        .is(RESULT_INVALID);
}

#[test]
fn a_locked_or_misfit_disk_is_refused() {
    if !kvm() {
        return;
    }
    let guest = Guest::new().device("disk", BLOCK_BASIC).halt(0);
    let odd = disk(1000);
    let ended = guest.run(&[&format!("--block:disk={}", odd.path().display())]);
    ended.is(66).says("not a multiple of the block size 512");
    let good = disk(4096);
    let option = format!("--block:disk={}", good.path().display());
    guest.run(&[&option, "--block-sector-size:disk=4096"]).is(0);
    let held = std::fs::File::open(good.path()).unwrap();
    held.lock().unwrap();
    guest.run(&[&option]).is(66).says("in use by another process");
    guest.run(&["--block:disk=/nonexistent/disk"]).is(66).says("/nonexistent/disk");
    guest.run(&[]).is(64).says("needs block device disk: attach with --block:disk=FILE");
    guest.run(&[&option, "--net:lan=tap0"]).is(64).says("has no network device lan");
}

#[test]
fn frames_pass_through_a_descriptor() {
    if !kvm() {
        return;
    }
    let frame = b"\xff\xff\xff\xff\xff\xff\x02\0\0\0\0\x01\x88\xb5hello, wire";
    let words = [1, BUFFER, frame.len() as u64, 99];
    let guest = Guest::new().device("lan", NET_BASIC).put(BUFFER, frame);
    let send = guest.clone().io(AT, &words).call(NET_WRITE, AT).halt_with(AT + 24);
    let (ended, received) = with_socket(&send, &[], None);
    ended.is(RESULT_OK);
    assert_eq!(received.as_deref(), Some(frame.as_slice()));

    // Polls, reads, prints what came; status: the set of poll.
    let receive = guest
        .clone()
        .put_words(AT, &[10_000_000_000, 0, 0])
        .io(AT + 0x40, &[1, BUFFER + 0x100, 1514, 99])
        .put_words(AT + 0x80, &[BUFFER + 0x100, 25])
        .call(POLL, AT)
        .call(NET_READ, AT + 0x40)
        .call(PUTS, AT + 0x80)
        .halt_with(AT + 8);
    let (ended, _) = with_socket(&receive, &[], Some(frame));
    ended.is(1 << 1);
    assert!(ended.out.ends_with("hello, wire"), "{ended:#?}");

    let none = guest.clone().io(AT, &[1, BUFFER, 1514, 0]).call(NET_READ, AT).halt_with(AT + 24);
    with_socket(&none, &[], None).0.is(RESULT_AGAIN);
    let short = guest.clone().io(AT, &[1, BUFFER, 13, 0]).call(NET_WRITE, AT).halt_with(AT + 24);
    with_socket(&short, &[], None).0.is(RESULT_INVALID);
    let wild = guest.io(AT, &[1, STACK_END - 10, 60, 0]).call(NET_WRITE, AT).halt(0);
    with_socket(&wild, &[], None).0.is(MISUSE).says("net write: its buffer");
}

#[test]
fn an_empty_datagram_is_no_end_and_a_closed_connection_no_endless_loop() {
    use std::os::fd::{FromRawFd, OwnedFd};
    if !kvm() {
        return;
    }
    // Reads an empty datagram, then the frame behind it.
    let guest = Guest::new()
        .device("lan", NET_BASIC)
        .io(AT, &[1, BUFFER, 1514, 99])
        .io(AT + 0x40, &[1, BUFFER, 1514, 99])
        .call(NET_READ, AT)
        .call(NET_READ, AT + 0x40)
        .halt_with(AT + 0x40 + 16);
    let (ours, theirs) = std::os::unix::net::UnixDatagram::pair().unwrap();
    ours.send(&[]).unwrap();
    ours.send(&[1; 77]).unwrap();
    run_with_descriptor(&guest, &guest.file(), &theirs.into()).is(77);

    // The other end of a seqpacket socket is closed: the first read notes it, and a poll then waits its time.
    let mut pair = [0; 2];
    // SAFETY: the array has room for two descriptors, and nobody else owns them afterwards.
    let (ours, theirs) = unsafe {
        let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
        assert_eq!(libc::socketpair(libc::AF_UNIX, kind, 0, pair.as_mut_ptr()), 0);
        (OwnedFd::from_raw_fd(pair[0]), OwnedFd::from_raw_fd(pair[1]))
    };
    drop(ours);
    let guest = Guest::new()
        .device("lan", NET_BASIC)
        .io(AT, &[1, BUFFER, 1514, 99])
        .put_words(AT + 0x40, &[1_000_000, 7, 7])
        .call(NET_READ, AT)
        .call(POLL, AT + 0x40)
        .halt_with(AT + 0x48);
    run_with_descriptor(&guest, &guest.file(), &theirs).is(0).says("the other end is gone");
}

#[test]
fn frames_are_recorded() {
    if !kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lan.pcap");
    let frame = [0x55; 60];
    let guest = Guest::new().device("lan", NET_BASIC).put(BUFFER, &frame);
    let guest = guest.io(AT, &[1, BUFFER, 60, 99]).call(NET_WRITE, AT).halt_with(AT + 24);
    with_socket(&guest, &[&format!("--pcap:lan={}", path.display())], None).0.is(RESULT_OK);
    let bytes = std::fs::read(path).unwrap();
    assert_eq!(bytes[..4], 0xa1b2_3c4d_u32.to_le_bytes());
    assert_eq!(bytes.len(), 24 + 16 + 60);
    assert_eq!(bytes[40..], frame);
}

#[test]
fn poll_returns_after_its_time() {
    if !kvm() {
        return;
    }
    for nsecs in [0, 1, 30_000_000] {
        let guest = Guest::new().put_words(AT, &[nsecs, u64::MAX, u64::MAX]).call(POLL, AT);
        guest.clone().halt_with(AT + 8).run(&[]).is(0);
        guest.halt_with(AT + 16).run(&[]).is(0);
    }
}

#[test]
fn a_guest_is_asked_before_it_is_ended() {
    if !kvm() {
        return;
    }
    let forever = u64::MAX;
    let poll = |g: Guest| g.print("up\n").put_words(AT, &[forever, 0, 0]).call(POLL, AT);
    // It understands: poll tells, the guest ends by itself with what poll told.
    let polite = poll(Guest::new()).halt_with(AT + 8);
    signalled(&polite, 1).is(POLL_SHUTDOWN as i32);
    // It goes on: the second signal ends it, in a poll and in a loop.
    let deaf = poll(Guest::new()).print("told\n").call(POLL, AT).halt(0);
    signalled(&deaf, 2).is(143).says("ended by signal 15");
    let looping = Guest::new().print("up\n").raw(&[0xeb, 0xfe]);
    signalled(&looping, 2).is(143);
    // It does not understand: the first signal ends it.
    let plain = Guest { features: Some(FEATURE_RING3), ..poll(Guest::new()) };
    signalled(&plain, 1).is(143);
    let stock = Guest { features: None, ..looping };
    signalled(&stock, 1).is(143);
}

#[test]
fn nobody_reading_the_console_does_not_keep_a_guest_alive() {
    if !kvm() {
        return;
    }
    // Prints for ever; nobody reads more than the start, so that the pipe fills and the write waits.
    let text = "x".repeat(2000);
    let guest = Guest::new().print(&text);
    let back = -(guest.code.len() as i32 + 5);
    let guest = guest.raw(&[0xe9]).raw(&back.to_le_bytes());
    for (features, signals) in [(FEATURE_RING3, 1), (ALL, 2)] {
        let guest = Guest { features: Some(features), ..guest.clone() };
        let file = guest.file();
        let mut child = guest.command(&[], &file).spawn().unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
        for _ in 0..signals {
            terminate(&child);
        }
        assert_eq!(child.wait().unwrap().code(), Some(143));
    }
    // A reader that goes away is no reason to end.
    let guest = Guest::new().print(&text).print(&text).halt(5);
    let file = guest.file();
    let mut child = guest.command(&[], &file).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(5));
}

#[test]
fn released_memory_is_zero_and_only_the_guests_own() {
    if !kvm() {
        return;
    }
    let release = |guest: Guest, address: u64, len: u64| {
        guest.put_words(AT, &[address, len, 99]).call(MEMORY_RELEASE, AT)
    };
    for (guest, option) in
        [(Guest::new(), "--backend=kvm"), (Guest::process(), "--backend=process")]
    {
        let options = [option];
        let touched = guest.clone().store_byte(HEAP, 7).store_byte(HEAP + 0x1000, 9);
        release(touched.clone(), HEAP, 0x1000).halt_with(HEAP).run(&options).is(0);
        release(touched.clone(), HEAP, 0x1000).halt_with(HEAP + 0x1000).run(&options).is(9);
        release(touched.clone(), HEAP, 0x2000).halt_with(AT + 16).run(&options).is(RESULT_OK);
        release(touched.clone(), HEAP + 8, 0x1000)
            .halt_with(AT + 16)
            .run(&options)
            .is(RESULT_INVALID);
        release(touched, HEAP, 8).halt_with(AT + 16).run(&options).is(RESULT_INVALID);
        for address in [TEXT, RODATA, 0x10000, STACK_BASE - 0x1000, STACK_END, 1 << 40] {
            release(guest.clone(), address, 0x1000).halt(0).run(&options).is(MISUSE);
        }
    }
}

/// Several writes and a flush by one call, in order, up to the first that can't be carried out.
#[test]
fn blocks_are_committed_together() {
    if !kvm() {
        return;
    }
    let disk = disk(8192);
    let option = format!("--block:disk={}", disk.path().display());
    let writes = AT + 0x100;
    let commit = |words: [u64; 3], list: &[[u64; 3]]| {
        Guest::new()
            .device("disk", BLOCK_BASIC)
            .put(BUFFER, b"first")
            .put(BUFFER + 512, b"second")
            .put_words(AT, &[words[0], words[1], words[2], 99])
            .put_words(writes, &list.concat())
            .call(BLOCK_COMMIT, AT)
            .halt_with(AT + 24)
    };
    let (two, flush) = (2, 1 << 32);
    let good = [[0, BUFFER, 512], [4096, BUFFER + 512, 512], [0, BUFFER + 512, 512]];
    for (words, list, ret) in [
        ([1, writes, two | flush], good, RESULT_OK),
        ([1, writes, two], good, RESULT_OK),
        ([1, 3, flush], good, RESULT_OK),
        ([2, writes, two], good, RESULT_INVALID),
        ([1, writes, 257], good, RESULT_INVALID),
        ([1, writes, 2], [[512, BUFFER, 512], [8192, BUFFER, 512], good[2]], RESULT_INVALID),
        ([1, writes, 2], [[0, BUFFER, u64::MAX], good[1], good[2]], RESULT_INVALID),
        ([1, writes, 2], [good[0], [7680, BUFFER, 513], good[2]], RESULT_INVALID),
    ] {
        commit(words, &list).run(&[&option]).is(ret);
    }
    let bytes = std::fs::read(disk.path()).unwrap();
    assert!(bytes.starts_with(b"first") && bytes[4096..].starts_with(b"second"));
    assert!(bytes[512..].starts_with(b"first"), "what lies before the bad one is written");
    commit([1, writes, 3], &good).run(&[&option]).is(RESULT_OK);
    assert!(std::fs::read(disk.path()).unwrap().starts_with(b"second"), "in order");
    for (words, list) in [
        ([1, 0, 1], good),
        ([1, u64::MAX - 8, 1], good),
        ([1, STACK_END - 8, 1], good),
        ([1, writes, 1], [[0, 0, 512], good[1], good[2]]),
        ([1, writes, 1], [[0, STACK_END - 1, 512], good[1], good[2]]),
    ] {
        commit(words, &list).run(&[&option]).is(MISUSE).says("hypercall block commit");
    }
}

#[test]
fn extensions_are_only_there_when_asked_for() {
    if !kvm() {
        return;
    }
    let features = hvt_abi::boot::BOOT_INFO_ADDRESS + 40;
    for asked in [None, Some(0), Some(FEATURE_RING3), Some(ALL), Some(!FEATURE_PROCESS)] {
        for shift in [0, 1, 2, 3] {
            let guest = Guest { features: asked, ..Guest::new() };
            let ended = guest.copy32(features + shift, AT).halt_with(AT).run(&[]);
            let expected = asked.unwrap_or(0) & ALL;
            ended.is(i32::from(expected.to_le_bytes()[shift as usize]));
        }
    }
    let guest = Guest { features: Some(FEATURE_RING3), ..Guest::new() };
    guest.call(BLOCK_FLUSH, AT).halt(0).run(&[]).is(MISUSE).says("did not ask for it");
}

/// The seed is where the guest can wipe it, and another one each time.
#[test]
fn a_seed_of_the_host_lies_in_the_stack() {
    if !kvm() {
        return;
    }
    let field = hvt_abi::boot::BOOT_EXTENSION_ADDRESS + 104;
    let guest = Guest::new().put_words(AT, &[STACK_BASE, 32]).call(PUTS, AT);
    let seeds: Vec<String> = (0..3)
        .map(|byte| {
            let ended = guest.clone().halt_with(field + byte).run(&[]);
            ended.is(i32::from(STACK_BASE.to_le_bytes()[byte as usize]));
            ended.out
        })
        .collect();
    assert!(!seeds.iter().any(|seed| seed.trim_matches('\0').is_empty()));
    assert!(seeds[0] != seeds[1] && seeds[1] != seeds[2]);
    // mov qword [rax], 0
    let wiping = guest.clone().rax(STACK_BASE).raw(&[0x48, 0xc7, 0x00, 0, 0, 0, 0]);
    wiping.halt_with(STACK_BASE).run(&[]).is(0);
    guest.halt_with(field + 8).run(&[]).is(32);
}

#[test]
fn arguments_and_environment_arrive_whole() {
    if !kvm() {
        return;
    }
    // The extension's args, args_len, env, env_len are at offset 64; both are printed. The zero bytes end each word.
    let fields = hvt_abi::boot::BOOT_EXTENSION_ADDRESS + 64;
    let guest = Guest::new().call(PUTS, fields).call(PUTS, fields + 16).halt(0);
    let file = guest.file();
    let mut command = guest.command(&["--env=A=b c", "--env=D="], &file);
    let ended = Ended::from(command.args(["one", "", "two words"]).output().unwrap());
    ended.is(0);
    assert_eq!(ended.out, "one\0\0two words\0A=b c\0D=\0");
    // A stock image gets one line, and is refused what does not fit into it.
    let stock = Guest::stock().halt(0);
    let file = stock.file();
    let long = "x".repeat(8192);
    Ended::from(stock.command(&[], &file).arg(&long).output().unwrap()).is(64).says("8191");
    Ended::from(stock.command(&[], &file).arg(&long[1..]).output().unwrap()).is(0);
}

fn disk(size: u64) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(size).unwrap();
    file
}

/// Runs a guest whose device `lan` is one end of a pair of sockets; the other sends `send` and gives what it received.
fn with_socket(guest: &Guest, options: &[&str], send: Option<&[u8]>) -> (Ended, Option<Vec<u8>>) {
    let (ours, theirs) = std::os::unix::net::UnixDatagram::pair().unwrap();
    if let Some(bytes) = send {
        ours.send(bytes).unwrap();
    }
    let ended = run_with_descriptor_and(guest, &guest.file(), &theirs.into(), options);
    ours.set_nonblocking(true).unwrap();
    let mut buffer = [0; 2048];
    let received = ours.recv(&mut buffer).ok().map(|len| buffer[..len].to_vec());
    (ended, received)
}

/// Runs a guest that first prints a line, and sends it SIGTERM that many times.
fn signalled(guest: &Guest, times: u32) -> Ended {
    let file = guest.file();
    let mut child = guest.command(&[], &file).spawn().unwrap();
    let mut line = [0; 3];
    child.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    for _ in 0..times {
        terminate(&child);
    }
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.signal(), None);
    Ended::from(output)
}

/// Sends SIGTERM, and waits until it is taken: two signals at the same moment are one.
fn terminate(child: &std::process::Child) {
    // SAFETY: signals a child that has not been waited for.
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGTERM) }, 0);
    let status = format!("/proc/{}/status", child.id());
    while std::fs::read_to_string(&status).is_ok_and(|s| pending(&s)) {
        std::thread::yield_now();
    }
}

fn pending(status: &str) -> bool {
    status.lines().any(|line| {
        (line.starts_with("SigPnd:") || line.starts_with("ShdPnd:"))
            && line.contains(['4', '6', 'c', 'e'])
    })
}
