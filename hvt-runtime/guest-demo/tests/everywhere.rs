//! The same program on the host, in a virtual machine and as a confined process.
//!
//! The peers are `/dev/kvm` and the command `hvt`, which `HVT` names or which lies beside this test's programs. Without
//! them the tests say so and pass, unless `REQUIRE_PEERS=1`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;

use acceptance::unikernel;

const STORAGE: u64 = 8 << 20;

/// A folder with an empty storage file.
struct Storage(tempfile::TempDir);

impl Storage {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        File::create(folder.path().join("storage")).unwrap().set_len(STORAGE).unwrap();
        Self(folder)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("storage")
    }
}

/// The tender, or `None` and a word about it.
fn hvt(needs_kvm: bool) -> Option<PathBuf> {
    unikernel::tender(env!("CARGO_BIN_EXE_guest-demo"), needs_kvm, false)
}

/// The image, built once.
fn image() -> &'static Path {
    static IMAGE: OnceLock<PathBuf> = OnceLock::new();
    IMAGE.get_or_init(|| unikernel::image("hvt-guest-demo"))
}

fn guest(hvt: &Path, options: &[&str], storage: &Storage, arguments: &[&str]) -> Command {
    let mut command = Command::new(hvt);
    command.arg("--mem=64").args(options);
    command.arg(format!("--block:storage={}", storage.path().display()));
    command.arg("--").arg(image()).args(arguments).stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Standard output of the program on the host.
fn on_host() -> String {
    let storage = Storage::new();
    let program = Command::new(env!("CARGO_BIN_EXE_guest-demo")).arg(storage.path()).output();
    let output = program.unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

fn assert_same_as_on_host(output: &Output) {
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    assert_eq!(text(&output.stdout), on_host());
}

#[test]
fn a_virtual_machine_gives_the_output_of_the_host() {
    let Some(hvt) = hvt(true) else { return };
    assert_same_as_on_host(&guest(&hvt, &[], &Storage::new(), &[]).output().unwrap());
}

#[test]
fn a_confined_process_gives_the_output_of_the_host() {
    let Some(hvt) = hvt(false) else { return };
    let options = ["--backend=process"];
    assert_same_as_on_host(&guest(&hvt, &options, &Storage::new(), &[]).output().unwrap());
}

/// What the guest leaves on its storage is what the host finds there.
#[test]
fn storage_written_in_the_guest_opens_on_the_host() {
    use blockdev::{FileDevice, OpenOptions, Store, StoreError, Table};
    let Some(hvt) = hvt(true) else { return };
    let storage = Storage::new();
    assert!(guest(&hvt, &[], &storage, &[]).output().unwrap().status.success());
    let device = std::sync::Arc::new(FileDevice::open(storage.path()).unwrap());
    let store = Store::open(device, OpenOptions::default()).unwrap();
    let count = store.read(|transaction| transaction.len(Table("demo"))).map_err(|e: StoreError| e);
    assert_eq!(count.unwrap(), 500);
}

/// What a program wrote is in the file when it has ended, whether it flushed or not.
#[test]
fn writes_that_wait_are_not_lost_at_the_end() {
    for (backend, needs_kvm) in [("--backend=kvm", true), ("--backend=process", false)] {
        let Some(hvt) = hvt(needs_kvm) else { return };
        let storage = Storage::new();
        let output = guest(&hvt, &[backend, "--stats"], &storage, &["write"]).output().unwrap();
        assert_eq!(text(&output.stdout), "written\n");
        let said = text(&output.stderr);
        assert!(said.contains("block-commit=1") && !said.contains("block-write"), "{said}");
        let bytes = std::fs::read(storage.path()).unwrap();
        for sector in 0..5 {
            let expected = if (1..4).contains(&sector) { sector } else { 0 };
            let start = usize::from(sector) * 512;
            assert_eq!(bytes[start..start + 512], [expected; 512]);
        }
    }
}

/// Whatever was said to be durable is there after the tender was killed, and the store is whole: by plain calls, by the
/// slot, and in a process. Where the machine can't show the slot at work, it shows the rest.
#[test]
fn commits_survive_the_end_of_the_tender() {
    use blockdev::{FileDevice, OpenOptions, Store, StoreError, Table};
    for options in [
        &["--backend=kvm"][..],
        &["--backend=kvm", "--block-poll=1000"],
        &["--backend=kvm", "--block-poll=0"],
        &["--backend=process"],
    ] {
        for numbers in [1, 40, 150, 400] {
            let Some(hvt) = hvt(options[0].ends_with("kvm")) else { return };
            let storage = Storage::new();
            let mut command = guest(&hvt, options, &storage, &["count"]);
            let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            for expected in 1..=numbers {
                assert_eq!(lines.next().unwrap().unwrap(), expected.to_string());
            }
            child.kill().unwrap();
            child.wait().unwrap();
            let said = lines.map_while(Result::ok).filter_map(|line| line.parse().ok()).last();
            let said: u64 = said.unwrap_or(numbers);
            let device = std::sync::Arc::new(FileDevice::open(storage.path()).unwrap());
            let store = Store::open(device, OpenOptions::default()).unwrap();
            let count = store.read(|transaction| transaction.get(Table("demo"), b"count"));
            let count = count.map_err(|e: StoreError| e).unwrap().unwrap();
            let count = u64::from_be_bytes(count[..].try_into().unwrap());
            assert!(count >= said, "{options:?}: {count} of {said}");
            assert!(store.check().unwrap(), "{options:?}");
        }
    }
}

#[test]
fn ends_are_told_apart() {
    let Some(hvt) = hvt(true) else { return };
    let run = |word: &[&str]| {
        let output = guest(&hvt, &[], &Storage::new(), word).output().unwrap();
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    };
    assert_eq!(run(&["exit", "7"]).0, Some(7));

    let (status, said) = run(&["panic"]);
    assert_eq!(status, Some(101), "{said}");
    assert!(
        said.contains("a panic in main") && said.contains("guest_demo::failures::innermost"),
        "{said}"
    );

    let (status, said) = run(&["memory"]);
    assert_eq!(status, Some(255), "{said}");
    assert!(said.contains("hvt-guest: out of memory: 1048576 bytes asked for"), "{said}");

    for (word, place) in
        [("overflow", "the first stack"), ("thread-overflow", "the stack of thread")]
    {
        let (status, said) = run(&[word]);
        assert_eq!(status, Some(80), "{said}");
        assert!(said.contains("stack overflow") && said.contains(place), "{said}");
        assert!(said.contains("guest_demo::failures::descend"), "{said}");
    }
}

/// A stack without a guard page has a mark at its end, which is looked at whenever the thread gives way.
#[test]
fn an_overflow_of_a_large_stack_is_called_by_its_name() {
    let Some(hvt) = hvt(true) else { return };
    let output = guest(&hvt, &[], &Storage::new(), &["large-thread-overflow"]).output().unwrap();
    let said = text(&output.stdout) + &text(&output.stderr);
    assert!(
        said.contains("stack overflow: thread 1 has run below its stack of 4096 KiB"),
        "{said}"
    );
    assert!(!output.status.success(), "{said}");
}

/// Memory that a program does not use any more goes back to the host, in a machine and in a process.
#[test]
fn memory_that_ebbs_goes_back_to_the_host() {
    for (backend, needs_kvm) in [("--backend=kvm", true), ("--backend=process", false)] {
        let Some(hvt) = hvt(needs_kvm) else { return };
        let storage = Storage::new();
        let mut child =
            guest(&hvt, &[backend], &storage, &["ebb"]).stdout(Stdio::piped()).spawn().unwrap();
        let resident_kib = |child: &Child| -> u64 {
            let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
            let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "high");
        let high = resident_kib(&child);
        assert!(high > 40_000, "{backend}: {high} KiB");
        assert_eq!(lines.next().unwrap().unwrap(), "low");
        // One tenth stays in use. However long it takes, it must come to that without anything else happening.
        let mut low = high;
        while low > high / 2 {
            assert_eq!(child.try_wait().unwrap(), None);
            std::thread::sleep(std::time::Duration::from_millis(50));
            low = resident_kib(&child);
        }
        println!("{backend}: {high} KiB, then {low} KiB");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

/// Neither of two threads that never wait starves the other.
#[test]
fn busy_threads_take_turns() {
    let Some(hvt) = hvt(true) else { return };
    let output = guest(&hvt, &[], &Storage::new(), &["spin"]).output().unwrap();
    let said = text(&output.stdout);
    let first_end = said.find("thread 0 at 4000000").expect("thread 0 ends");
    let second_start = said.find("thread 1 at 0").expect("thread 1 starts");
    assert!(second_start < first_end, "{said}");
}

#[test]
fn a_request_to_stop_ends_a_program_that_does_not_handle_it() {
    let Some(hvt) = hvt(true) else { return };
    let storage = Storage::new();
    let mut command = guest(&hvt, &["--env=HVT_GUEST_LOG=debug"], &storage, &["wait"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    // The runtime's first words: the program is about to run.
    let mut byte = [0];
    child.stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    assert_eq!(wait(child), Some(143));
}

#[test]
fn a_request_to_stop_reaches_tokio_s_signals() {
    let Some(hvt) = hvt(true) else { return };
    let storage = Storage::new();
    let mut child = guest(&hvt, &[], &storage, &["drain"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "drain: at work");
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    assert_eq!(rest, ["drain: asked to stop", "drain: done"]);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

fn wait(mut child: Child) -> Option<i32> {
    let mut rest = String::new();
    child.stdout.take().unwrap().read_to_string(&mut rest).unwrap();
    println!("{rest}");
    child.wait().unwrap().code()
}
