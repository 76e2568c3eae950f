//! What the tender can still do once guest code runs: nothing but serve the guest.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

mod support;

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use hvt_abi::hypercall::POLL;
use hvt_tender::border::BorderDescriptors;
use hvt_tender::device::Devices;
use hvt_tender::sandbox::{self, Needs};
use support::*;

#[test]
fn a_running_tender_has_a_filter_no_privileges_and_few_descriptors() {
    if !kvm() {
        return;
    }
    let guest =
        Guest::new().print("up\n").put_words(DATA, &[u64::MAX, 0, 0]).call(POLL, DATA).halt(0);
    let file = guest.file();
    let mut child = guest.command(&[], &file).spawn().unwrap();
    let mut line = [0; 3];
    child.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line[name.len()..].trim().to_owned()
    };
    assert_eq!(field("Seccomp:"), "2");
    assert_eq!(field("NoNewPrivs:"), "1");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    // Readable by root only, because the tender is not dumpable.
    if let Ok(folder) = std::fs::read_dir(format!("/proc/{}/fd", child.id())) {
        let targets: Vec<_> = folder
            .map(|entry| std::fs::read_link(entry.unwrap().path()).unwrap().display().to_string())
            .collect();
        assert_eq!(targets.len(), 5, "stderr, console, image, processor, wake-up: {targets:?}");
        assert!(!targets.iter().any(|t| t == "/dev/kvm" || t.contains("kvm-vm")), "{targets:?}");
    }
    // SAFETY: signals a child that has not been waited for.
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGTERM) }, 0);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn the_rings_thread_has_a_sandbox_of_its_own() {
    use std::os::unix::process::CommandExt;
    if !kvm() {
        return;
    }
    // A guest that can exchange gets no ring.
    let plain = ALL & !hvt_abi::extension::FEATURE_EXCHANGE;
    let features = Some(plain | hvt_abi::boot::FEATURE_RING_IO);
    let guest = Guest { features, ..Guest::new() }.device("lan", hvt_abi::manifest::NET_BASIC);
    let guest = guest.print("up\n").put_words(DATA, &[u64::MAX, 0, 0]).call(POLL, DATA).halt(0);
    let file = guest.file();
    let (_ours, theirs) = std::os::unix::net::UnixDatagram::pair().unwrap();
    let fd = theirs.as_raw_fd();
    let mut command = guest.command(&[&format!("--net:lan=@{fd}")], &file);
    // SAFETY: fcntl clears the flag of an open descriptor and is safe between fork and exec.
    unsafe {
        command.pre_exec(move || {
            libc::fcntl(fd, libc::F_SETFD, 0);
            Ok(())
        });
    }
    let mut child = command.spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
    let tasks = std::fs::read_dir(format!("/proc/{}/task", child.id())).unwrap();
    let statuses: Vec<_> = tasks
        .map(|task| std::fs::read_to_string(task.unwrap().path().join("status")).unwrap())
        // Some kernels show a thread of KVM's own here.
        .filter(|status| status.starts_with("Name:\thvt\n") || status.starts_with("Name:\tring\n"))
        .collect();
    assert_eq!(statuses.len(), 2);
    for status in &statuses {
        for line in ["Seccomp:\t2", "NoNewPrivs:\t1", "CapEff:\t0000000000000000"] {
            assert!(status.contains(line), "{line}: {status}");
        }
    }
    // SAFETY: signals a child that has not been waited for.
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGTERM) }, 0);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// What a taken-over tender might try, each in a process of its own.
const ATTEMPTS: [&str; 14] = [
    "open",
    "socket",
    "exec",
    "fork",
    "kill",
    "ptrace",
    "unlink",
    "mmap-exec",
    "mprotect-exec",
    "mmap-file",
    "write-elsewhere",
    "read-elsewhere",
    "ioctl",
    "pwrite-image",
];

#[test]
fn every_way_out_is_closed() {
    for attempt in ATTEMPTS {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "inside", "--ignored", "--nocapture", "--test-threads=1"])
            .env("HVT_SANDBOX_ATTEMPT", attempt)
            .output()
            .unwrap();
        assert_eq!(output.status.signal(), Some(libc::SIGSYS), "{attempt}: {output:?}");
        assert!(
            String::from_utf8_lossy(&output.stderr).contains("inside the sandbox"),
            "{output:?}"
        );
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "inside", "--ignored", "--nocapture", "--test-threads=1"])
        .env("HVT_SANDBOX_ATTEMPT", "nothing")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(42), "{output:?}");
}

/// Not a test by itself: the process that [`every_way_out_is_closed`] starts.
#[test]
#[ignore = "run by every_way_out_is_closed"]
fn inside() {
    let Ok(attempt) = std::env::var("HVT_SANDBOX_ATTEMPT") else { return };
    let image = File::open("/proc/self/exe").unwrap();
    let other = File::options().read(true).write(true).open("/dev/null").unwrap();
    let (console, wake) = (File::create("/dev/null").unwrap(), File::open("/dev/null").unwrap());
    let border = BorderDescriptors { console: console.as_raw_fd(), wake: wake.as_raw_fd() };
    let devices = Devices::default();
    let image_fd = image.as_raw_fd();
    let needs = Needs {
        vcpu: None,
        image: image_fd,
        border,
        devices: &devices,
        trap: false,
        core_folder: None,
        debugger: None,
        kicks: [None, None],
    };
    sandbox::enter(&needs).unwrap();
    eprintln!("inside the sandbox");
    let page = 4096;
    let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let null = std::ptr::null_mut();
    // SAFETY: each call is either refused by killing the process or touches only memory of its own.
    unsafe {
        match attempt.as_str() {
            "open" => _ = libc::open(c"/etc/passwd".as_ptr(), libc::O_RDONLY),
            "socket" => _ = libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0),
            "exec" => _ = libc::execv(c"/bin/sh".as_ptr(), [std::ptr::null()].as_ptr()),
            "fork" => _ = libc::fork(),
            "kill" => _ = libc::kill(1, 0),
            "ptrace" => _ = libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0),
            "unlink" => _ = libc::unlink(c"/tmp/hvt-no-such-file".as_ptr()),
            "mmap-exec" => _ = libc::mmap(null, page, libc::PROT_EXEC, anonymous, -1, 0),
            "mprotect-exec" => {
                let at = libc::mmap(null, page, libc::PROT_READ, anonymous, -1, 0);
                _ = libc::mprotect(at, page, libc::PROT_READ | libc::PROT_EXEC);
            }
            "mmap-file" => {
                _ = libc::mmap(null, page, libc::PROT_READ, libc::MAP_PRIVATE, image_fd, 0);
            }
            "write-elsewhere" => _ = libc::write(other.as_raw_fd(), c"x".as_ptr().cast(), 1),
            "read-elsewhere" => {
                let mut byte = 0_u8;
                _ = libc::read(other.as_raw_fd(), (&raw mut byte).cast(), 1);
            }
            "ioctl" => _ = libc::ioctl(image_fd, libc::FIONREAD, 0),
            "pwrite-image" => _ = libc::pwrite(image_fd, c"x".as_ptr().cast(), 1, 0),
            "nothing" => {}
            other => panic!("{other}"),
        }
        libc::_exit(42);
    }
}
