//! The kernel's TCP as the peer, across a TAP interface in a network namespace of the test's own
//! (needs root, `unshare` and `ip`).
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

mod support;
#[path = "support/tap.rs"]
mod tap;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use netstack::{Close, InterfaceConfig, Limits, Stack};
use sha2::{Digest, Sha256};
use support::{Dice, at, ip};
use tap::Tap;

/// The octets that both sides of a test know.
fn octets(seed: u64, count: usize) -> Vec<u8> {
    let mut dice = Dice(seed);
    (0..count).map(|_| dice.roll() as u8).collect()
}

/// Serves until `done`: port 7 echoes, port 9 swallows and answers with the digest; a datagram to
/// port 7 comes back. Meanwhile it connects to the kernel's port 5000 and reads it to its end.
fn serve(done: &AtomicBool, loss: u64) -> Vec<u8> {
    let tap = Tap::lossy(loss);
    let mut stack = Stack::new(Limits::default(), [5; 16]);
    let config = InterfaceConfig {
        addresses: vec![(ip("10.9.0.2"), 24), (ip("fd09::2"), 64)],
        routes: vec![],
    };
    stack.add_interface(tap, config).unwrap();
    let start = Instant::now();
    let echo = stack.listen(at("::", 7), true, 16).unwrap();
    let sink = stack.listen(at("::", 9), true, 16).unwrap();
    let udp = stack.udp_bind(at("::", 7), true).unwrap();
    let outgoing = stack.connect(None, at("10.9.0.1", 5000), start.elapsed()).unwrap();
    let mut fetched = Vec::new();
    let (mut echoes, mut sinks) = (Vec::new(), Vec::new());
    let mut buffer = vec![0; 1 << 16];
    let mut complete = false;
    while !done.load(Ordering::Relaxed) || !complete {
        assert!(start.elapsed() < Duration::from_secs(240), "{:?}", stack.census());
        stack.receive(start.elapsed());
        while stack.next_event().is_some() {}
        while let Ok((id, _)) = stack.accept(echo) {
            echoes.push((id, Vec::new(), false));
        }
        while let Ok((id, _)) = stack.accept(sink) {
            sinks.push((id, Sha256::new()));
        }
        while let Ok((data, from, _)) = stack.recv_from(udp) {
            stack.send_to(udp, Some(from), &data, start.elapsed()).unwrap();
        }
        while let Ok(count) = stack.recv(outgoing, &mut buffer) {
            fetched.extend_from_slice(&buffer[..count]);
            complete = count == 0;
            if complete {
                break;
            }
        }
        echoes.retain_mut(|(id, waiting, ended)| {
            while !*ended && waiting.len() < 1 << 17 {
                match stack.recv(*id, &mut buffer) {
                    Ok(0) => *ended = true,
                    Ok(count) => waiting.extend_from_slice(&buffer[..count]),
                    Err(_) => break,
                }
            }
            if let Ok(count) = stack.send(*id, waiting) {
                waiting.drain(..count);
            }
            let over = *ended && waiting.is_empty();
            if over {
                stack.close(*id, Close::Graceful).unwrap();
            }
            !over
        });
        sinks.retain_mut(|(id, digest)| {
            loop {
                match stack.recv(*id, &mut buffer) {
                    Ok(0) => {
                        let digest = std::mem::take(digest).finalize();
                        assert_eq!(stack.send(*id, &digest), Ok(digest.len()));
                        stack.close(*id, Close::Graceful).unwrap();
                        break false;
                    }
                    Ok(count) => digest.update(&buffer[..count]),
                    Err(_) => break true,
                }
            }
        });
        stack.transmit(start.elapsed());
        if stack.next_deadline().is_none_or(|at| at > start.elapsed()) {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
    fetched
}

/// Tells the stack to end.
struct EndOnDrop<'a>(&'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The kernel's side, run in the namespace; `loss` is of a thousand frames in either direction.
fn inside(loss: u64) {
    let fetch = octets(3, 300_000);
    let server = TcpListener::bind("10.9.0.1:5000").unwrap();
    let served = fetch.clone();
    let kernel = std::thread::spawn(move || server.accept().unwrap().0.write_all(&served));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stack = scope.spawn(|| serve(&done, loss));
        // A failed assertion must end the stack too, or the scope would wait for it for ever.
        let end = EndOnDrop(&done);
        let limit = Duration::from_secs(60);
        for address in ["10.9.0.2", "fd09::2"] {
            // The first ones are lost while the interface comes up; one answer of five is success.
            let ping = Command::new("ping").args(["-c5", "-i0.3", "-W5", address]).output();
            if let Ok(ping) = ping {
                assert!(ping.status.success(), "{}", String::from_utf8_lossy(&ping.stdout));
            }
            // A large upload, and its digest after the half-close.
            let data = octets(1, 3 << 20);
            let mut upload = TcpStream::connect(at(address, 9)).unwrap();
            upload.set_read_timeout(Some(limit)).unwrap();
            upload.write_all(&data).unwrap();
            upload.shutdown(std::net::Shutdown::Write).unwrap();
            let mut digest = Vec::new();
            upload.read_to_end(&mut digest).unwrap();
            assert_eq!(digest, Sha256::digest(&data).to_vec());
            // Echo in both directions at once.
            let data = octets(2, 2 << 20);
            let mut echo = TcpStream::connect(at(address, 7)).unwrap();
            echo.set_read_timeout(Some(limit)).unwrap();
            let mut writer = echo.try_clone().unwrap();
            let copy = data.clone();
            let writing = scope.spawn(move || {
                writer.write_all(&copy).unwrap();
                writer.shutdown(std::net::Shutdown::Write).unwrap();
            });
            let mut back = Vec::new();
            echo.read_to_end(&mut back).unwrap();
            writing.join().unwrap();
            assert_eq!(Sha256::digest(&back), Sha256::digest(&data));
            // Many short connections, and a port where nobody listens.
            for number in 0..100u32 {
                let mut short = TcpStream::connect(at(address, 7)).unwrap();
                short.set_read_timeout(Some(limit)).unwrap();
                short.write_all(&number.to_be_bytes()).unwrap();
                let mut back = [0; 4];
                short.read_exact(&mut back).unwrap();
                assert_eq!(back, number.to_be_bytes());
            }
            let refused = TcpStream::connect(at(address, 8)).unwrap_err();
            assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        }
        let socket = UdpSocket::bind("10.9.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let mut buffer = [0; 99];
        let answer = (0..30).find_map(|_| {
            socket.send_to(b"datagram", "10.9.0.2:7").unwrap();
            socket.recv_from(&mut buffer).ok()
        });
        let (count, from) = answer.unwrap();
        assert_eq!((&buffer[..count], from), (&b"datagram"[..], at("10.9.0.2", 7)));
        kernel.join().unwrap().unwrap();
        drop(end);
        assert_eq!(Sha256::digest(stack.join().unwrap()), Sha256::digest(&fetch));
    });
}

#[test]
fn the_kernel_and_the_stack_understand_each_other() {
    run("the_kernel_and_the_stack_understand_each_other", 0);
}

#[test]
fn and_they_do_over_a_cable_that_loses_three_frames_of_a_hundred() {
    run("and_they_do_over_a_cable_that_loses_three_frames_of_a_hundred", 30);
}

/// Runs this test in a namespace of its own.
fn run(name: &str, loss: u64) {
    if std::env::var_os("NETSTACK_INSIDE").is_some() {
        return inside(loss);
    }
    let setup = "ip link set lo up; ip tuntap add tap0 mode tap; \
        ip addr add 10.9.0.1/24 dev tap0; ip -6 addr add fd09::1/64 dev tap0 nodad; \
        ip link set tap0 up";
    let able = Command::new("unshare").args(["--net", "/bin/sh", "-ec", setup]).output();
    if !able.is_ok_and(|output| output.status.success()) {
        let required = std::env::var_os("REQUIRE_PEERS").is_some_and(|v| v == "1");
        assert!(!required, "no TAP interfaces: root and the commands ip and unshare are needed");
        eprintln!("no TAP interfaces can be made: this test did not run");
        return;
    }
    let own = std::env::current_exe().unwrap();
    let script = format!("{setup}; exec \"$0\" --exact {name} --nocapture");
    let output = Command::new("unshare")
        .args(["--net", "/bin/sh", "-ec", &script])
        .arg(own)
        .env("NETSTACK_INSIDE", "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 passed"), "{text}");
}
