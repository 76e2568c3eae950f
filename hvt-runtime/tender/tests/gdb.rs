//! `--gdb` with the real gdb: breakpoints, steps, registers, memory, an interrupt, a crash, detaching.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

mod support;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use hvt_abi::extension::FEATURE_SHUTDOWN;
use hvt_abi::hypercall::POLL;
use support::*;

fn able() -> bool {
    needs(Command::new("gdb").arg("--version").output().is_ok(), "gdb is missing") && kvm()
}

/// Runs a guest and gdb with these commands; what gdb printed, and how the guest ended.
fn session(guest: &Guest, commands: &[&str]) -> (String, Ended) {
    let file = guest.file();
    let mut child = guest.command(&["--gdb=127.0.0.1:0"], &file).spawn().unwrap();
    let mut line = String::new();
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    errors.read_line(&mut line).unwrap();
    let address = line.trim().trim_end_matches('\'').rsplit(' ').next().unwrap();
    let mut gdb = Command::new("gdb");
    gdb.args(["-nx", "-batch", "-ex", "set pagination off"]);
    gdb.args(["-ex", &format!("target remote {address}")]);
    for command in commands {
        gdb.args(["-ex", command]);
    }
    let output = gdb.arg(file.path()).stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut errors, &mut rest).unwrap();
    let mut ended = Ended::from(child.wait_with_output().unwrap());
    ended.err = rest;
    (text, ended)
}

#[test]
fn breakpoints_steps_registers_and_memory() {
    if !able() {
        return;
    }
    // At 0: mov ebx, 0x12345. At 5: nop, nop. At 7: mov ebx, 0x54321. Then print and halt.
    let guest = Guest::new().raw(&[0xbb, 0x45, 0x23, 1, 0, 0x90, 0x90, 0xbb, 0x21, 0x43, 5, 0]);
    let guest = guest.put(DATA + 0x10, &[1, 2, 3, 4]).print("went on\n").halt(6);
    let (text, ended) = session(
        &guest,
        &[
            "info registers rip",
            "break *0x100005",
            "continue",
            "info registers rip rbx",
            "stepi",
            "info registers rip",
            "stepi",
            "stepi",
            "info registers rip rbx",
            "x/1xw 0x102010",
            "set {int}0x102010 = 0x11223344",
            "x/1xw 0x102010",
            "x/5xb 0x100005",
            "delete",
            "continue",
        ],
    );
    let seen =
        |part: &str| assert!(text.contains(part), "{part:?} is missing:\n{text}\n{ended:#?}");
    seen("rip            0x100000");
    seen("Breakpoint 1, 0x0000000000100005");
    seen("rbx            0x12345");
    seen("rip            0x100006");
    seen("rip            0x10000c");
    seen("rbx            0x54321");
    seen("0x102010:\t0x04030201");
    seen("0x102010:\t0x11223344");
    seen("0x100005:\t0x90\t0x90\t0xbb");
    seen("exited with code 06");
    ended.is(6);
    assert_eq!(ended.out, "went on\n");
}

#[test]
fn a_crash_stops_in_gdb_and_is_reported_after() {
    if !able() {
        return;
    }
    let guest = Guest::new().raw(&[0xbb, 0x45, 0x23, 1, 0]).store_byte(RODATA, 1).halt(0);
    let (text, ended) = session(&guest, &["continue", "info registers rip rbx", "continue"]);
    assert!(text.contains("SIGSEGV") && text.contains("rip            0x10000f"), "{text}");
    assert!(text.contains("rbx            0x12345"), "{text}");
    ended.is(80).says("write to a read-only page");
}

#[test]
fn a_guest_goes_on_when_gdb_goes_away() {
    if !able() {
        return;
    }
    let guest = Guest::new().put_words(DATA, &[1000, 0, 0]).call(POLL, DATA).print("on\n").halt(4);
    let (_, ended) = session(&guest, &["break *0x100000", "stepi", "detach"]);
    ended.is(4);
    assert_eq!(ended.out, "on\n");
    // Killing it from gdb.
    let (_, ended) = session(&guest, &["stepi", "kill"]);
    ended.is(128 + 9);
}

/// gdb's remote protocol by hand (gdb manual, appendix E): what a test without gdb needs.
struct Remote(std::net::TcpStream);

impl Remote {
    fn send(&mut self, packet: &str) {
        use std::io::Write;
        let sum = packet.bytes().fold(0_u8, u8::wrapping_add);
        write!(self.0, "${packet}#{sum:02x}").unwrap();
    }

    fn receive(&mut self) -> String {
        use std::io::{Read, Write};
        let mut text = Vec::new();
        let mut byte = [0];
        while !text.ends_with(b"#") {
            self.0.read_exact(&mut byte).unwrap();
            // Acknowledgements come between packets.
            if byte[0] != b'+' || !text.is_empty() {
                text.push(byte[0]);
            }
        }
        self.0.read_exact(&mut [0; 2]).unwrap();
        self.0.write_all(b"+").unwrap();
        let packed = String::from_utf8(text).unwrap();
        // Run-length encoding: `0*n` is a zero and as many more as n's code is above 29.
        let mut unpacked = String::new();
        let mut characters = packed.trim_start_matches('$').trim_end_matches('#').chars();
        while let Some(character) = characters.next() {
            match (character, unpacked.chars().last()) {
                ('*', Some(last)) => {
                    let count = characters.next().unwrap() as usize - 29;
                    unpacked.extend(std::iter::repeat_n(last, count));
                }
                _ => unpacked.push(character),
            }
        }
        unpacked
    }

    fn ask(&mut self, packet: &str) -> String {
        self.send(packet);
        self.receive()
    }
}

/// A guest that waits for gdb, and the address at which it does.
fn wait(guest: &Guest, file: &tempfile::NamedTempFile) -> (Child, String) {
    let mut child = guest.command(&["--gdb=127.0.0.1:0"], file).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().trim_end_matches('\'').rsplit(' ').next().unwrap();
    (child, address.to_owned())
}

/// The same with a connection.
fn start(guest: &Guest, file: &tempfile::NamedTempFile) -> (Child, Remote) {
    let (child, address) = wait(guest, file);
    (child, Remote(std::net::TcpStream::connect(address).unwrap()))
}

/// A debugger that dies says nothing: its guest must not run on, for ever and unseen.
#[test]
fn a_lost_connection_ends_the_guest() {
    if !kvm() {
        return;
    }
    let guest = Guest::new().raw(&[0xeb, 0xfe]);
    let file = guest.file();
    for running in [false, true] {
        let (child, mut remote) = start(&guest, &file);
        assert!(remote.ask("?").starts_with(['S', 'T']));
        if running {
            remote.send("c");
        }
        drop(remote);
        let ended = Ended::from(child.wait_with_output().unwrap());
        ended.is(128 + libc::SIGHUP).says("`detach` in gdb lets it run on");
    }
}

/// Whatever it waits for, a request to stop is heard.
#[test]
fn signals_end_a_guest_that_stands_still() {
    if !kvm() {
        return;
    }
    let terminate = |child: &Child| {
        // SAFETY: a signal to the child, which has not been waited for.
        unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
    };
    for features in [Some(ALL), Some(ALL & !FEATURE_SHUTDOWN)] {
        let guest = Guest { features, ..Guest::new() }.raw(&[0xeb, 0xfe]);
        let file = guest.file();
        // Before gdb comes there is no guest that could be asked.
        let (mut child, _) = wait(&guest, &file);
        terminate(&child);
        assert_eq!(child.wait().unwrap().code(), Some(128 + libc::SIGTERM));
        // Stopped by gdb, one that understands may be let go on to do what it was asked for; a second request ends it.
        let (mut child, mut remote) = start(&guest, &file);
        assert!(remote.ask("?").starts_with(['S', 'T']));
        terminate(&child);
        if features == Some(ALL) {
            assert_eq!(remote.ask("m100000,2"), "ebfe");
            terminate(&child);
        }
        assert_eq!(child.wait().unwrap().code(), Some(128 + libc::SIGTERM));
    }
}

/// Needs no gdb, so that it also shows breakpoints, steps and interrupts where there is none.
#[test]
fn the_protocol_by_hand() {
    use std::io::Write;
    if !kvm() {
        return;
    }
    let nops_then_loop = [0x90, 0x90, 0x90, 0xeb, 0xfe];
    let polls = Guest::new().put_words(DATA, &[u64::MAX, 0, 0]).raw(&[0x90; 3]).call(POLL, DATA);
    let polls = polls.raw(&[0xeb, 0xfe]);
    for guest in [Guest::new().raw(&nops_then_loop), polls] {
        let file = guest.file();
        let (mut child, mut remote) = start(&guest, &file);
        assert!(remote.ask("?").starts_with(['S', 'T']));
        let rip = |remote: &mut Remote| remote.ask("g")[16 * 16..16 * 17].to_owned();
        assert_eq!(rip(&mut remote), "0000100000000000");
        assert_eq!(remote.ask("m100000,3"), "909090");
        assert_eq!(remote.ask("Z0,100001,1"), "OK");
        assert!(remote.ask("c").contains("05"), "a trap");
        assert_eq!(rip(&mut remote), "0100100000000000");
        assert_eq!(remote.ask("z0,100001,1"), "OK");
        assert!(remote.ask("s").contains("05"));
        assert_eq!(rip(&mut remote), "0200100000000000");
        assert_eq!(remote.ask("m100000,3"), "909090");
        assert!(remote.ask("mffffffffff,8").starts_with('E'));
        // It runs for ever, computing or waiting: ^C stops it.
        for _ in 0..3 {
            remote.send("c");
            remote.0.write_all(&[3]).unwrap();
            assert!(remote.receive().contains("02"), "an interrupt");
        }
        remote.send("k");
        assert_eq!(child.wait().unwrap().code(), Some(128 + 9));
    }
}
