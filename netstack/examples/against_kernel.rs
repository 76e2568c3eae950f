//! The stack's TCP against the kernel's over a bad path:
//! `cargo run --release -p netstack --example against_kernel` (root, `unshare` and `ip`).
//!
//! Each run moves octets for some seconds (`RUN_SECONDS`, 8) over a path of 50 ms there and back, which
//! this program plays: frames between two TAP interfaces, or between one and the stack, wait 25 ms
//! each way, and some are lost in both directions. The same path carries kernel to kernel, stack to
//! kernel and kernel to stack; the ratios are to the first. Every figure is the median of `ROUNDS`
//! (3) runs with different losses. `MTUS` and `LOSSES` (in hundredths of a percent) choose rows. The kernel's congestion control is `CONGESTION`, CUBIC as the
//! stack's own if it is not set.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_possible_truncation
)]

#[path = "../tests/support/mod.rs"]
mod support;
#[path = "../tests/support/tap.rs"]
mod tap;

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use netstack::{Capabilities, Device, InterfaceConfig, Limits, Stack};
use support::{Dice, at, ip};
use tap::Tap;

const ONE_WAY: Duration = Duration::from_millis(25);
const PORT: u16 = 5001;
/// Both ends may hold what the kernel's defaults allow, or the stack would be limited by less.
const BUFFER: usize = 6 << 20;

/// Frames that wait for their time; some never come.
struct Path50 {
    waiting: VecDeque<(Instant, Vec<u8>)>,
    dice: Dice,
    loss: u64,
}

impl Path50 {
    fn new(seed: u64, loss: u64) -> Self {
        let mut dice = Dice(seed * 2 + 1);
        for _ in 0..20 {
            dice.roll();
        }
        Self { waiting: VecDeque::new(), dice, loss }
    }
    fn push(&mut self, frame: Vec<u8>) {
        if self.dice.roll() % 10_000 >= self.loss {
            self.waiting.push_back((Instant::now() + ONE_WAY, frame));
        }
    }
    fn pop(&mut self) -> Option<Vec<u8>> {
        self.waiting.front().filter(|(due, _)| *due <= Instant::now())?;
        self.waiting.pop_front().map(|(_, frame)| frame)
    }
}

fn put(tap: &mut Tap, frame: &[u8]) {
    tap.transmit(frame.len(), |target| target.copy_from_slice(frame));
}

/// The stack's device: a TAP interface at the end of the path.
struct Far {
    tap: Tap,
    to_stack: Path50,
    to_tap: Path50,
    mtu: usize,
}

impl Far {
    fn carry(&mut self) {
        while let Some(frame) = self.tap.receive() {
            self.to_stack.push(frame);
        }
        while let Some(frame) = self.to_tap.pop() {
            put(&mut self.tap, &frame);
        }
    }
}

impl Device for Far {
    type Frame = Vec<u8>;
    fn receive(&mut self) -> Option<Vec<u8>> {
        self.to_stack.pop()
    }
    fn can_transmit(&self) -> bool {
        true
    }
    fn transmit<F: FnOnce(&mut [u8])>(&mut self, length: usize, fill: F) {
        let mut frame = vec![0; length];
        fill(&mut frame);
        self.to_tap.push(frame);
    }
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            hardware_address: [2, 0, 0, 0, 0, 0x42],
            mtu: self.mtu,
            trusted_checksums: false,
        }
    }
}

/// Writes for as long as it is told.
fn kernel_sends(mut stream: TcpStream, seconds: u64) {
    let congestion = std::env::var("CONGESTION").unwrap_or_else(|_| String::from("cubic"));
    socket2::SockRef::from(&stream).set_tcp_congestion(congestion.as_bytes()).unwrap();
    let end = Instant::now() + Duration::from_secs(seconds);
    stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let block = vec![7; 1 << 18];
    while Instant::now() < end && stream.write(&block).is_ok() {}
}

/// Reads for as long as it is told; KiB per second.
fn kernel_receives(mut stream: TcpStream, seconds: u64) -> u64 {
    let start = Instant::now();
    let mut buffer = vec![0; 1 << 18];
    let mut count = 0;
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    while start.elapsed().as_secs() < seconds {
        count += stream.read(&mut buffer).unwrap_or(0) as u64;
    }
    count / 1024 / seconds
}

/// The stack at one end of the path, the kernel at the other.
fn stack_and_kernel(sends: bool, mtu: usize, loss: u64, seed: u64, seconds: u64) -> u64 {
    let listener = TcpListener::bind(("10.9.0.1", PORT)).unwrap();
    let kernel = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        if sends {
            kernel_receives(stream, seconds)
        } else {
            kernel_sends(stream, seconds);
            0
        }
    });
    let limits = Limits { receive_buffer: BUFFER, send_buffer: BUFFER, ..Limits::default() };
    let mut stack = Stack::new(limits, [5; 16]);
    let far = Far {
        tap: Tap::open(),
        to_stack: Path50::new(seed, loss),
        to_tap: Path50::new(seed + 1000, loss),
        mtu,
    };
    let config = InterfaceConfig { addresses: vec![(ip("10.9.0.2"), 24)], routes: vec![] };
    stack.add_interface(far, config).unwrap();
    let start = Instant::now();
    let socket = stack.connect(None, at("10.9.0.1", PORT), start.elapsed()).unwrap();
    let block = vec![7; 1 << 18];
    let mut buffer = vec![0; 1 << 18];
    let (mut count, mut began) = (0u64, None);
    while began.is_none_or(|began: Instant| began.elapsed().as_secs() < seconds) {
        assert!(start.elapsed().as_secs() < seconds + 20, "no connection");
        stack.device_mut(0).unwrap().carry();
        stack.receive(start.elapsed());
        while stack.next_event().is_some() {}
        if sends {
            while stack.send(socket, &block).is_ok() {}
        }
        while let Ok(read @ 1..) = stack.recv(socket, &mut buffer) {
            count += read as u64;
        }
        if stack.peer_addr(socket).is_ok() {
            began.get_or_insert_with(Instant::now);
        }
        stack.transmit(start.elapsed());
        if stack.next_deadline().is_none_or(|due| due > start.elapsed()) {
            std::thread::sleep(Duration::from_micros(100));
        }
    }
    if std::env::var_os("VERBOSE").is_some() {
        eprintln!("{:?}", stack.counters());
    }
    if sends { kernel.join().unwrap() } else { count / 1024 / seconds }
}

/// One end of a path between two kernels; the sending end plays the path.
fn kernel_end(folder: &Path, sends: bool, loss: u64, seed: u64, seconds: u64) -> u64 {
    let names = if sends { ["a", "b"] } else { ["b", "a"] };
    let [own, peer] = names.map(|name| folder.join(name));
    let socket = UnixDatagram::bind(&own).unwrap();
    socket.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let mut tap = Tap::open();
        let (mut out, mut back) = (Path50::new(seed, loss), Path50::new(seed + 1000, loss));
        let mut buffer = vec![0; 1 << 16];
        let mut held: Option<Vec<u8>> = None;
        loop {
            let mut idle = true;
            while let Some(frame) = tap.receive() {
                idle = false;
                if sends {
                    out.push(frame);
                } else {
                    out.waiting.push_back((Instant::now(), frame));
                }
            }
            while let Some(frame) = held.take().or_else(|| out.pop()) {
                // A full socket holds frames back; it loses none.
                if socket.send_to(&frame, &peer).is_err() {
                    held = Some(frame);
                    break;
                }
                idle = false;
            }
            while let Ok(length) = socket.recv(&mut buffer) {
                idle = false;
                let frame = buffer[..length].to_vec();
                if sends {
                    back.push(frame);
                } else {
                    put(&mut tap, &frame);
                }
            }
            while let Some(frame) = back.pop() {
                put(&mut tap, &frame);
            }
            if idle {
                std::thread::sleep(Duration::from_micros(100));
            }
        }
    });
    if !sends {
        let listener = TcpListener::bind(("10.9.0.2", PORT)).unwrap();
        return kernel_receives(listener.accept().unwrap().0, seconds);
    }
    let until = Instant::now() + Duration::from_secs(20);
    let stream = loop {
        match TcpStream::connect(("10.9.0.2", PORT)) {
            Ok(stream) => break stream,
            Err(error) => assert!(Instant::now() < until, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    kernel_sends(stream, seconds + 1);
    0
}

/// Runs this program in a network namespace of its own.
fn inside(role: &str, address: &str, mtu: usize, arguments: &[String]) -> Child {
    let script = format!(
        "ip link set lo up; ip tuntap add tap0 mode tap; ip link set tap0 mtu {mtu} txqueuelen 10000; \
         ip addr add {address}/24 dev tap0; ip link set tap0 up; exec \"$0\" \"$@\""
    );
    Command::new("unshare")
        .args(["--net", "/bin/sh", "-ec", &script])
        .arg(std::env::current_exe().unwrap())
        .arg(role)
        .args(arguments)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn result(child: Child) -> u64 {
    let output = child.wait_with_output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().parse().unwrap_or_else(|_| panic!("no figure"))
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

fn list(name: &str, default: &str) -> Vec<u64> {
    let text = std::env::var(name).unwrap_or_else(|_| String::from(default));
    text.split(',').map(|item| item.parse().unwrap()).collect()
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(role) = arguments.get(1) {
        let value = |index: usize| arguments[index].parse::<u64>().unwrap();
        let rate = match role.as_str() {
            "send" | "receive" => {
                let mtu = value(2) as usize;
                stack_and_kernel(role == "send", mtu, value(3), value(4), value(5))
            }
            _ => {
                kernel_end(&PathBuf::from(&arguments[2]), role == "a", value(3), value(4), value(5))
            }
        };
        return println!("{rate}");
    }
    let (seconds, rounds) = (number("RUN_SECONDS", 8), number("ROUNDS", 3));
    let median = |mut rates: Vec<u64>| {
        rates.sort_unstable();
        rates[rates.len() / 2]
    };
    println!(
        "KiB/s over 50 ms there and back, median of {rounds}; in brackets the ratio to kernel to kernel"
    );
    println!(
        "{:>6} {:>7} {:>18} {:>18} {:>18}",
        "MTU", "loss", "kernel to kernel", "stack to kernel", "kernel to stack"
    );
    for mtu in list("MTUS", "1500,9000") {
        let mtu = mtu as usize;
        for loss in list("LOSSES", "0,10,100") {
            let ours = |role: &str| {
                let rates = (0..rounds).map(|round| {
                    let parameters = [mtu as u64, loss, 77 + round, seconds];
                    let parameters = parameters.map(|value| value.to_string());
                    result(inside(role, "10.9.0.1", mtu, &parameters))
                });
                median(rates.collect())
            };
            let kernels = (0..rounds).map(|round| {
                let folder =
                    std::env::temp_dir().join(format!("against-kernel-{}", std::process::id()));
                std::fs::create_dir_all(&folder).unwrap();
                let parameters = [loss, 77 + round, seconds].map(|value| value.to_string());
                let parameters = [&[folder.display().to_string()], &parameters[..]].concat();
                let receiver = inside("b", "10.9.0.2", mtu, &parameters);
                let sender = inside("a", "10.9.0.1", mtu, &parameters);
                let rate = result(receiver);
                result(sender);
                std::fs::remove_dir_all(&folder).unwrap();
                rate
            });
            let kernel = median(kernels.collect());
            let (send, receive) = (ours("send"), ours("receive"));
            let ratio = |rate: u64| rate as f64 / kernel.max(1) as f64;
            println!(
                "{mtu:>6} {:>6}% {kernel:>18} {send:>11} ({:.2}) {receive:>11} ({:.2})",
                loss as f64 / 100.0,
                ratio(send),
                ratio(receive),
            );
        }
    }
}
