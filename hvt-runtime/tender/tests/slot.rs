//! The slot for block calls: a guest of instructions that uses it in a machine, and a hostile one against the slot alone.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

mod support;

use std::io::Read;
use std::mem::offset_of;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hvt_abi::boot::{BOOT_EXTENSION_ADDRESS, BOOT_INFO_ADDRESS, BootExtension};
use hvt_abi::extension::*;
use hvt_abi::hypercall::{
    BLOCK_READ, BLOCK_WRITE, POLL, PUTS, RESULT_INVALID, RESULT_OK, RESULT_UNSPECIFIED,
};
use hvt_abi::manifest::BLOCK_BASIC;
use hvt_abi::slot::Slot;
use hvt_tender::border::Misuse;
use hvt_tender::border::slot::CallSlot;
use hvt_tender::device::block::BlockDevice;
use hvt_tender::device::{Device, Devices};
use hvt_tender::memory::{GuestSpace, Permission};
use support::*;
use vm_memory::{Bytes, MmapRegion};

const MISUSE: i32 = 81;
const AT: u64 = DATA;
const READ_AT: u64 = DATA + 0x40;
const WRITES: u64 = DATA + 0x100;
const BUFFER: u64 = DATA + 0x1000;
/// The field of the boot extension that says where the slot is.
const FIELD: u64 = BOOT_EXTENSION_ADDRESS + offset_of!(BootExtension, block_slot) as u64;

/// Whether there are a machine and a second processor, without which a tender offers no slot.
fn able() -> bool {
    let two = std::thread::available_parallelism().is_ok_and(|n| n.get() > 1);
    kvm() && needs(two, "a second processor is missing")
}

fn disk(size: u64) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(size).unwrap();
    file
}

fn option(disk: &tempfile::NamedTempFile) -> String {
    format!("--block:disk={}", disk.path().display())
}

fn guest() -> Guest {
    Guest { features: Some(ALL | FEATURE_BLOCK_SLOT), ..Guest::new() }.device("disk", BLOCK_BASIC)
}

trait BySlot {
    fn submits(self, number: u32, call: u32, address: u64) -> Self;
    fn wakes(self) -> Self;
    fn waits(self) -> Self;
    fn looks(self, number: u32) -> Self;
}

impl BySlot for Guest {
    /// Puts a call into the slot: `mov rbx, [FIELD]; mov dword [rbx + 4], call; mov dword [rbx + 8], address;
    /// mov dword [rbx + 12], 0; mov dword [rbx], number; mfence`
    fn submits(self, number: u32, call: u32, address: u64) -> Self {
        self.raw(&[0x48, 0x8b, 0x1c, 0x25])
            .raw(&(FIELD as u32).to_le_bytes())
            .raw(&[0xc7, 0x43, 0x04])
            .raw(&call.to_le_bytes())
            .raw(&[0xc7, 0x43, 0x08])
            .raw(&(address as u32).to_le_bytes())
            .raw(&[0xc7, 0x43, 0x0c, 0, 0, 0, 0, 0xc7, 0x03])
            .raw(&number.to_le_bytes())
            .raw(&[0x0f, 0xae, 0xf0])
    }

    fn wakes(self) -> Self {
        self.call(SLOT_WAKE, 0)
    }

    fn waits(self) -> Self {
        self.call(SLOT_WAIT, 0)
    }

    /// Looks for the answer, very often, and gives up with an invalid instruction: `mov ecx, -1; again: cmp dword
    /// [rbx + 64], number; je done; pause; dec ecx; jnz again; ud2; done:`
    fn looks(self, number: u32) -> Self {
        self.raw(&[0xb9, 0xff, 0xff, 0xff, 0xff, 0x81, 0x7b, 0x40])
            .raw(&number.to_le_bytes())
            .raw(&[0x74, 0x08, 0xf3, 0x90, 0xff, 0xc9, 0x75, 0xf1, 0x0f, 0x0b])
    }
}

/// A guest whose call at [`AT`] commits two writes with a flush, and whose call at [`READ_AT`] reads the second one back
/// to where it is printed from.
fn committing() -> Guest {
    guest()
        .put(BUFFER, b"first")
        .put(BUFFER + 512, b"second\n")
        .put_words(AT, &[1, WRITES, 2 | 1 << 32, 99])
        .put_words(WRITES, &[0, BUFFER, 512, 4096, BUFFER + 512, 512])
        .put_words(READ_AT, &[1, 4096, BUFFER + 1024, 512, 99])
        .put_words(READ_AT + 0x40, &[BUFFER + 1024, 7])
}

#[test]
fn the_thread_serves_calls_while_the_guest_stays_in_its_machine() {
    if !able() {
        return;
    }
    let disk = disk(8192);
    let ended = committing()
        .wakes()
        .submits(1, BLOCK_COMMIT.into(), AT)
        .looks(1)
        .submits(2, BLOCK_READ.into(), READ_AT)
        .wakes()
        .looks(2)
        .call(PUTS, READ_AT + 0x40)
        .halt_with(AT + 24)
        .run(&[&option(&disk), "--stats"]);
    ended.is(RESULT_OK).says("stats slot block-read=1 block-commit=1 served-by-wait=0");
    assert_eq!(ended.out, "second\n");
    assert!(!ended.err.contains("slot-wake"), "a wake-up leaves no machine: {ended:#?}");
    assert!(std::fs::read(disk.path()).unwrap().starts_with(b"first"));
}

#[test]
fn a_guest_that_waits_depends_on_no_thread() {
    if !able() {
        return;
    }
    let disk = disk(8192);
    let ended = committing()
        .submits(7, BLOCK_COMMIT.into(), AT)
        .waits()
        // What is served is served once.
        .waits()
        .looks(7)
        .halt_with(AT + 24)
        .run(&[&option(&disk), "--stats"]);
    ended.is(RESULT_OK).says("stats slot block-commit=1 served-by-wait=1");
    assert!(std::fs::read(disk.path()).unwrap().starts_with(b"first"));
}

#[test]
fn answers_and_misuse_are_those_of_the_plain_calls() {
    if !able() {
        return;
    }
    let disk = disk(8192);
    for (words, ret) in [
        ([1, WRITES, 257, 99], RESULT_INVALID),
        ([3, WRITES, 2, 99], RESULT_INVALID),
        ([1, WRITES, 2, 99], RESULT_OK),
    ] {
        let guest = committing().put_words(AT, &words).wakes().submits(1, BLOCK_COMMIT.into(), AT);
        guest.looks(1).halt_with(AT + 24).run(&[&option(&disk)]).is(ret);
    }
    // Behind boot information, manifest and command line, which take three pages here.
    let slot = BOOT_INFO_ADDRESS + 0x3000;
    let page = guest().halt_with(FIELD + 1).run(&[&option(&disk)]);
    page.is(i32::from(slot.to_le_bytes()[1]));
    for (call, words, says) in [
        (u32::from(PUTS), [1, WRITES, 2, 99], "there is no hypercall 2"),
        (u32::from(SLOT_WAIT), [1, WRITES, 2, 99], "there is no hypercall 14"),
        (0x1_0000 | u32::from(BLOCK_COMMIT), [1, WRITES, 2, 99], "there is no hypercall 65535"),
        (BLOCK_COMMIT.into(), [1, 8, 2, 99], "hypercall block commit: its array of writes"),
        // Not even its own slot.
        (BLOCK_COMMIT.into(), [1, slot, 2, 99], "hypercall block commit: its array of writes"),
    ] {
        for wakes in [true, false] {
            let guest = committing().put_words(AT, &words);
            let guest = if wakes { guest.wakes() } else { guest };
            let ended = guest.submits(1, call, AT).waits().waits().halt(0).run(&[&option(&disk)]);
            ended.is(MISUSE).says(says).says("rip");
        }
    }
    let ended =
        committing().submits(1, BLOCK_COMMIT.into(), 8).waits().halt(0).run(&[&option(&disk)]);
    ended.is(MISUSE).says("hypercall block commit: its structure");
}

/// What the host refuses comes through, as from a plain call.
#[test]
fn a_host_that_fails_is_an_answer() {
    if !able() {
        return;
    }
    let disk = disk(1 << 20);
    let guest = committing().put_words(WRITES, &[0, BUFFER, 512, 65536, BUFFER, 512]);
    let plain = guest.clone().call(BLOCK_COMMIT, AT);
    let by_slot = guest.wakes().submits(1, BLOCK_COMMIT.into(), AT).looks(1);
    for guest in [plain, by_slot] {
        let guest = guest.halt_with(AT + 24);
        let file = guest.file();
        let mut command = guest.command(&[&option(&disk)], &file);
        // SAFETY: the two calls are safe between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
                let limit = libc::rlimit { rlim_cur: 32768, rlim_max: 32768 };
                match libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                }
            });
        }
        let ended = Ended::from(command.output().unwrap());
        ended.is(RESULT_UNSPECIFIED).says("block device disk: write: File too large");
        assert!(
            std::fs::read(disk.path()).unwrap().starts_with(b"first"),
            "the one before is done"
        );
        disk.as_file().set_len(0).unwrap();
        disk.as_file().set_len(1 << 20).unwrap();
    }
}

#[test]
fn it_is_offered_only_where_it_can_be_of_use() {
    if !able() {
        return;
    }
    let disk = disk(4096);
    let (disk, features) = (option(&disk), BOOT_INFO_ADDRESS + 43);
    let bit =
        |guest: Guest, options: &[&str]| guest.copy32(features, AT).halt_with(AT).run(options);
    let asked = Some(ALL | FEATURE_BLOCK_SLOT);
    bit(guest(), &[&disk]).is(1);
    bit(Guest { features: Some(ALL), ..guest() }, &[&disk]).is(0);
    bit(guest(), &[&disk, "--block-poll=0"]).is(0);
    bit(Guest { features: asked, ..Guest::new() }, &[]).is(0);
    bit(Guest { features: Some(FEATURE_BLOCK_SLOT | FEATURE_RING3), ..guest() }, &[&disk]).is(0);
    let features = Some(ALL | FEATURE_BLOCK_SLOT | FEATURE_PROCESS);
    let process = Guest { features, ..Guest::process() }.device("disk", BLOCK_BASIC);
    bit(process, &[&disk, "--backend=process"]).is(0);
    guest().copy32(FIELD, AT).halt_with(AT).run(&[&disk, "--block-poll=0"]).is(0);
    guest().waits().halt(0).run(&[&disk, "--block-poll=0"]).is(MISUSE).says("did not ask for it");
    guest().wakes().halt(0).run(&[&disk, "--block-poll=0"]).is(MISUSE).says("did not ask for it");

    let one = guest().copy32(BOOT_INFO_ADDRESS + 43, AT).halt_with(AT);
    let file = one.file();
    let mut command = one.command(&[&disk], &file);
    // SAFETY: the calls are safe between fork and exec, and the set is whole.
    unsafe {
        command.pre_exec(|| {
            let mut set = std::mem::zeroed();
            let here = usize::try_from(libc::sched_getcpu()).unwrap_or(0);
            libc::CPU_SET(here, &mut set);
            match libc::sched_setaffinity(0, size_of_val(&set), &raw const set) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
    Ended::from(command.output().unwrap()).is(0);
}

/// The state letter and the time in ticks of the thread with this name, and its status file.
fn thread(child: &Child, name: &str) -> Option<(String, String)> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", child.id())).unwrap();
    tasks.filter_map(Result::ok).find_map(|task| {
        let status = std::fs::read_to_string(task.path().join("status")).ok()?;
        let stat = std::fs::read_to_string(task.path().join("stat")).ok()?;
        let mine = status.starts_with(&format!("Name:\t{name}\n"));
        let rest = mine.then(|| stat.rsplit_once(") "))??.1.to_owned();
        Some((rest.chars().take(1).collect(), status))
    })
}

fn wait_for(what: &str, mut there: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if there() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{what} does not come");
}

#[test]
fn the_thread_sleeps_when_nothing_comes_and_has_a_sandbox_of_its_own() {
    if !able() {
        return;
    }
    let disk = disk(8192);
    let guest = committing()
        .wakes()
        .submits(1, BLOCK_COMMIT.into(), AT)
        .looks(1)
        .print("up\n")
        .put_words(AT + 0x200, &[u64::MAX, 0, 0])
        .call(POLL, AT + 0x200)
        .halt(0);
    let file = guest.file();
    let mut child = guest.command(&[&option(&disk)], &file).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
    wait_for("sleep", || thread(&child, "slot").is_some_and(|(state, _)| state == "S"));
    let (_, status) = thread(&child, "slot").unwrap();
    for line in ["Seccomp:\t2", "NoNewPrivs:\t1", "CapEff:\t0000000000000000"] {
        assert!(status.contains(line), "{line}: {status}");
    }
    // SAFETY: signals a child that has not been waited for.
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGTERM) }, 0);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn signals_and_kill_end_a_guest_in_the_middle_of_its_calls() {
    if !able() {
        return;
    }
    let signals: [&[i32]; 2] = [&[libc::SIGTERM, libc::SIGTERM], &[libc::SIGKILL]];
    for (signals, status) in signals.into_iter().zip([Some(143), None]) {
        let disk = disk(8192);
        let endless = committing().print("up\n").wakes();
        let start = endless.code.len();
        // The same number again is no call, so they alternate.
        let endless = endless.submits(1, BLOCK_COMMIT.into(), AT).looks(1);
        let endless = endless.submits(2, BLOCK_COMMIT.into(), AT).looks(2);
        let back = (start as i64 - endless.code.len() as i64 - 5) as i32;
        let endless = endless.raw(&[0xe9]).raw(&back.to_le_bytes());
        let file = endless.file();
        let mut child = endless.command(&[&option(&disk)], &file).spawn().unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
        wait_for("a commit", || std::fs::read(disk.path()).unwrap().starts_with(b"first"));
        for signal in signals {
            // SAFETY: signals a child that has not been waited for.
            assert_eq!(unsafe { libc::kill(child.id() as i32, *signal) }, 0);
            let taken = format!("/proc/{}/status", child.id());
            wait_for("the signal", || !pending(Path::new(&taken)));
        }
        assert_eq!(child.wait().unwrap().code(), status);
    }
}

/// Whether a signal was sent and not taken: two at the same moment are one.
fn pending(status: &Path) -> bool {
    let text = std::fs::read_to_string(status).unwrap_or_default();
    let set = |line: &str| line.contains("Pnd:") && line.trim_end().ends_with("4000");
    text.lines().any(set)
}

const SIZE: u64 = 1 << 20;
const DISK: u64 = 64 * 1024;
/// The slot of the guests below, in memory that they may not name.
const SLOT: u64 = SIZE;

/// A slot of a guest without a machine.
fn played() -> (Arc<GuestSpace>, Arc<CallSlot>, std::fs::File) {
    let mut space = GuestSpace::new(MmapRegion::new(SIZE as usize + 4096).unwrap(), 0);
    space.permit(vec![
        Permission { addresses: 0x1000..0x2000, write: false },
        Permission { addresses: 0x2000..SIZE, write: true },
    ]);
    let disk = tempfile::tempfile().unwrap();
    disk.set_len(DISK).unwrap();
    let block = BlockDevice::new("disk", disk.try_clone().unwrap(), 512).unwrap();
    let devices = Arc::new(Devices::new(vec![None, Some(Device::Block(block))]));
    let space = Arc::new(space);
    let features = FEATURE_BLOCK_FLUSH | FEATURE_BLOCK_COMMIT | FEATURE_BLOCK_SLOT;
    let look = Duration::from_micros(200);
    let slot = CallSlot::new(Arc::clone(&space), devices, features, SLOT, look).unwrap();
    (space, Arc::new(slot), disk)
}

fn put<T: vm_memory::ByteValued>(space: &GuestSpace, at: u64, value: T) {
    space.loader_slice(at, size_of::<T>() as u64).unwrap().write_obj(value, 0).unwrap();
}

#[test]
fn misuse_ends_all_service_and_a_slot_outside_of_memory_is_none() {
    let (space, slot, _disk) = played();
    assert_eq!(slot.serve(), Ok(false));
    put(&space, 0x2000, [1_u64, 0, 0x3000, 512, 99]);
    put(&space, SLOT + 4, u32::from(BLOCK_WRITE));
    put(&space, SLOT + 8, 0x2000_u64);
    put(&space, SLOT, u32::MAX);
    assert_eq!(slot.serve(), Ok(true));
    assert_eq!(slot.serve(), Ok(false));
    assert_eq!(space.read::<u64>(0x2020), Ok(0));
    put(&space, SLOT + 4, u32::MAX);
    put(&space, SLOT, 0_u32);
    assert_eq!(slot.serve(), Err(Misuse::UnknownCall(u16::MAX)));
    put(&space, SLOT + 4, u32::from(BLOCK_WRITE));
    assert_eq!(slot.serve(), Err(Misuse::UnknownCall(u16::MAX)), "for good");

    let devices = Arc::new(Devices::default());
    let at = SLOT + 4096 - size_of::<Slot>() as u64 + 8;
    assert!(CallSlot::new(space, devices, 0, at, Duration::ZERO).is_err());
}

/// A guest that changes the slot, the structures and the data at any time, while two threads serve.
#[test]
fn a_guest_that_changes_everything_meanwhile_gets_nothing_for_it() {
    let rounds: u64 =
        std::env::var("HVT_FUZZ_CALLS").ok().map_or(200_000, |n| n.parse().unwrap()) / 100;
    let mut state = 0x1234_5678_9abc_def1_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let (mut served, mut misused) = (0_u64, 0_u64);
    while served + misused < rounds {
        let (space, slot, disk) = played();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let serve = || {
                let mut count = 0;
                while !over.load(Ordering::Relaxed) {
                    match slot.serve() {
                        Ok(here) => count += u64::from(here),
                        Err(Misuse::Pointer { .. } | Misuse::UnknownCall(_)) => return (count, 1),
                        Err(other) => panic!("{other:?}"),
                    }
                }
                (count, 0)
            };
            let servers = [scope.spawn(serve), scope.spawn(serve)];
            for number in 1..2000_u32 {
                let good = !next().is_multiple_of(512);
                // A flush costs time and has nothing in it for the fuzzer.
                let call = [BLOCK_WRITE, BLOCK_READ, BLOCK_COMMIT][next() as usize % 3];
                let argument = if good { 0x2000 + next() % 0x100 * 8 } else { next() };
                for i in 0..6 {
                    let at = 0x2000 + next() % 0x1000 / 8 * 8;
                    put(&space, at, [1 + next() % 64 / 63, 0x3000 + next() % DISK][i % 2]);
                    put(&space, 0x3000 + next() % 0x1000 / 8 * 8, next() % DISK);
                }
                put(&space, SLOT + 4, if good { u32::from(call) } else { next() as u32 % 20 });
                put(&space, SLOT + 8, argument);
                put(&space, SLOT, if next().is_multiple_of(64) { next() as u32 } else { number });
                if next().is_multiple_of(64) {
                    put(&space, SLOT + 64 + next() % 8 * 8, next());
                }
            }
            over.store(true, Ordering::Relaxed);
            for server in servers {
                let (count, ends) = server.join().unwrap();
                (served, misused) = (served + count, misused + ends);
            }
        });
        assert_eq!(disk.metadata().unwrap().len(), DISK);
        for range in [0..0x2000, SLOT + size_of::<Slot>() as u64..SIZE + 4096] {
            let mut bytes = vec![1; (range.end - range.start) as usize];
            let slice = space.loader_slice(range.start, range.end - range.start).unwrap();
            slice.read_slice(&mut bytes, 0).unwrap();
            assert!(bytes.iter().all(|b| *b == 0), "{range:x?} was written");
        }
    }
    println!("{served} calls served, {misused} ended");
    assert!(served > 0 && misused > 0);
}
