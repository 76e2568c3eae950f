//! `--backend=process`: the same guests without a machine. No KVM is needed.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

mod support;

use std::io::Read;

use hvt_abi::extension::{BLOCK_FLUSH, POLL_SHUTDOWN};
use hvt_abi::hypercall::{BLOCK_READ, BLOCK_WRITE, POLL, PUTS, RESULT_OK};
use hvt_abi::manifest::BLOCK_BASIC;
use support::*;

const PROCESS: &[&str] = &["--backend=process"];
const CRASH: i32 = 80;
const MISUSE: i32 = 81;
const AT: u64 = DATA;
const BUFFER: u64 = DATA + 0x1000;

/// Whether programs may set their FS base here, which this backend needs.
fn able() -> bool {
    // SAFETY: reads a word that the kernel gave at start.
    let there = unsafe { libc::getauxval(libc::AT_HWCAP2) } & 2 != 0;
    needs(there, "FSGSBASE is missing")
}

#[test]
fn a_guest_starts_prints_and_halts_with_its_status() {
    if !able() {
        return;
    }
    let ended = Guest::process().print("hello\n").halt(7).run(PROCESS);
    ended.is(7);
    assert_eq!(ended.out, "hello\n");
    // Its own thread pointer is kept over a call: wrfsbase 0x1234, print, rdfsbase.
    let ended = Guest::process()
        .rax(0x1234)
        .raw(&[0xf3, 0x48, 0x0f, 0xae, 0xd0])
        .print("x")
        .raw(&[0xf3, 0x48, 0x0f, 0xae, 0xc0, 0x89, 0x04, 0x25])
        .raw(&(DATA as u32).to_le_bytes())
        .halt_with(DATA)
        .run(PROCESS);
    ended.is(0x34);
}

#[test]
fn an_image_for_machines_is_refused() {
    Guest::new().halt(0).run(PROCESS).is(65).says("made for a virtual machine only");
    Guest::stock().halt(0).run(PROCESS).is(65);
}

#[test]
fn pages_have_the_same_rights_as_in_a_machine() {
    if !able() {
        return;
    }
    let boot = hvt_abi::boot::BOOT_INFO_ADDRESS;
    let g = Guest::process;
    for (what, guest) in [
        ("read text", g().load_byte(TEXT)),
        ("read rodata", g().load_byte(RODATA)),
        ("write data", g().store_byte(DATA, 1)),
        ("write heap", g().store_byte(HEAP, 1)),
        ("write stack", g().store_byte(STACK_BASE, 1)),
        ("read boot information", g().load_byte(boot)),
    ] {
        let ended = guest.halt(0).run(PROCESS);
        assert_eq!(ended.status, Some(0), "{what}: {ended:#?}");
    }
    for (what, guest, cause) in [
        ("write text", g().store_byte(TEXT, 0), "write to a read-only page"),
        ("write rodata", g().store_byte(RODATA, 0), "write to a read-only page"),
        ("write boot information", g().store_byte(boot, 0), "write to a read-only page"),
        ("execute rodata", g().jump(RODATA), "execution of data"),
        ("execute data", g().jump(DATA), "execution of data"),
        ("execute heap", g().jump(HEAP), "execution of data"),
        ("execute stack", g().jump(STACK_BASE), "execution of data"),
        ("stack guard", g().store_byte(STACK_BASE - 1, 0), "stack overflow"),
        ("run off the stack", g().raw(&[0x50, 0xeb, 0xfd]), "stack overflow"),
        ("page zero", g().load_byte(0), "null pointer"),
        ("below the image", g().load_byte(0xf_f000), "memory that is not mapped"),
        ("above memory", g().load_byte(STACK_END), "outside the guest's memory"),
        ("ud2", g().raw(&[0x0f, 0x0b]), "invalid instruction"),
        ("division by zero", g().raw(&[0x31, 0xc9, 0xf7, 0xf1]), "division by zero"),
        ("out", g().out(0x501, DATA as u32), "privileged instruction"),
        ("hlt", g().raw(&[0xf4]), "privileged instruction"),
    ] {
        let ended = guest.halt(0).run(PROCESS);
        assert_eq!(ended.status, Some(CRASH), "{what}: {ended:#?}");
        assert!(ended.err.contains(cause), "{what}: {cause:?} is not said: {}", ended.err);
    }
}

#[test]
fn system_calls_end_the_guest() {
    if !able() {
        return;
    }
    let (getpid, open, execve, fork, socket, kill) = (39_u32, 2, 59, 57, 41, 62);
    for call in [getpid, open, execve, fork, socket, kill, 0xffff] {
        // mov eax, call; syscall
        let guest = Guest::process().raw(&[0xb8]).raw(&call.to_le_bytes()).raw(&[0x0f, 0x05]);
        let ended = guest.halt(0).run(PROCESS);
        ended.is(CRASH).says(&format!("it made system call {call}, which the sandbox forbids"));
    }
    // mprotect(TEXT, 4096, PROT_READ | PROT_EXEC) is one of them; xor edx with 5, rsi 4096, rdi TEXT.
    let guest = Guest::process()
        .raw(&[0xbf])
        .raw(&(DATA as u32).to_le_bytes())
        .raw(&[0xbe, 0, 0x10, 0, 0, 0xba, 5, 0, 0, 0, 0xb8, 10, 0, 0, 0, 0x0f, 0x05]);
    guest.halt(0).run(PROCESS).is(CRASH).says("system call 10");
}

#[test]
fn calls_are_checked_as_in_a_machine() {
    if !able() {
        return;
    }
    let puts = |data, len| Guest::process().put_words(AT, &[data, len]).call(PUTS, AT).halt(0);
    for (data, len) in
        [(0, 1), (DATA, u64::MAX), (STACK_END - 1, 2), (STACK_BASE - 1, 2), (1 << 40, 1)]
    {
        puts(data, len).run(PROCESS).is(MISUSE).says("puts: its buffer");
    }
    Guest::process().call(PUTS, 8).run(PROCESS).is(MISUSE).says("puts: its structure");
    Guest::process().call(77, AT).run(PROCESS).is(MISUSE).says("no hypercall 77");
}

#[test]
fn blocks_work() {
    if !able() {
        return;
    }
    let disk = tempfile::NamedTempFile::new().unwrap();
    disk.as_file().set_len(4096).unwrap();
    let option = format!("--block:disk={}", disk.path().display());
    let ended = Guest::process()
        .device("disk", BLOCK_BASIC)
        .put(BUFFER, b"written by the guest")
        .io(AT, &[1, 1024, BUFFER, 512, 99])
        .io(AT + 0x40, &[1, 1024, BUFFER + 0x200, 512, 99])
        .put_words(AT + 0x80, &[1, 99])
        .put_words(AT + 0x100, &[BUFFER + 0x200, 20])
        .call(BLOCK_WRITE, AT)
        .call(BLOCK_FLUSH, AT + 0x80)
        .call(BLOCK_READ, AT + 0x40)
        .call(PUTS, AT + 0x100)
        .halt_with(AT + 0x88)
        .run(&["--backend=process", &option]);
    ended.is(RESULT_OK);
    assert_eq!(ended.out, "written by the guest");
    assert!(std::fs::read(disk.path()).unwrap()[1024..].starts_with(b"written by the guest"));
}

#[test]
fn a_guest_is_asked_before_it_is_ended() {
    if !able() {
        return;
    }
    let poll = |g: Guest| g.print("up\n").put_words(AT, &[u64::MAX, 0, 0]).call(POLL, AT);
    assert_eq!(signalled(&poll(Guest::process()).halt_with(AT + 8), 1), POLL_SHUTDOWN as i32);
    // Computing for ever: the second signal ends it.
    assert_eq!(signalled(&Guest::process().print("up\n").raw(&[0xeb, 0xfe]), 2), 143);
}

fn signalled(guest: &Guest, times: u32) -> i32 {
    let file = guest.file();
    let mut child = guest.command(PROCESS, &file).spawn().unwrap();
    let mut line = [0; 3];
    child.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    for _ in 0..times {
        // Two signals at the same moment are one; wait until the first is taken.
        let status = format!("/proc/{}/status", child.id());
        let pending = |text: String| {
            text.lines().any(|l| l.starts_with("ShdPnd:") && l.contains(['4', '6', 'c', 'e']))
        };
        while std::fs::read_to_string(&status).is_ok_and(pending) {
            std::thread::yield_now();
        }
        // SAFETY: signals a child that has not been waited for.
        assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGTERM) }, 0);
    }
    child.wait().unwrap().code().unwrap()
}
