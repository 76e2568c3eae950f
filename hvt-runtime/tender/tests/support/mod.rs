//! Guests of a few machine instructions, made by the tests themselves: no toolchain is needed, and every byte of a guest
//! stands in the test that uses it.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation
)]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use hvt_abi::extension::*;
use hvt_abi::hypercall;
use hvt_abi::manifest::Entry;

/// The three segments of every guest here: code, read-only data, data with two pages.
pub const TEXT: u64 = 0x10_0000;
pub const RODATA: u64 = 0x10_1000;
pub const DATA: u64 = 0x10_2000;
/// Somewhere in the heap.
pub const HEAP: u64 = 0x30_0000;
/// The memory that guests get unless a test says otherwise, in MiB, and where their stack is then.
pub const MEM_MIB: u64 = 16;
pub const STACK_END: u64 = MEM_MIB << 20;
pub const STACK_BASE: u64 = STACK_END - DEFAULT_STACK_SIZE;
/// Where the tender puts the manifest: behind the boot information.
pub const MANIFEST: u64 =
    hvt_abi::boot::BOOT_EXTENSION_ADDRESS + size_of::<hvt_abi::boot::BootExtension>() as u64;
/// Where [`Guest::asks`] keeps the frame that it sends, the one that it receives, and the structure of receiving it.
pub const QUESTION: u64 = DATA + 0x1000;
pub const REPLY: u64 = DATA + 0x1200;
pub const ASKED: u64 = DATA + 0x80;
/// Where [`Guest::halt`] keeps its structure: the end of the data.
const HALT_AT: u64 = DATA + 0x1f00;

pub const ALL: u32 = FEATURE_RING3
    | FEATURE_BOOT_EXTENSION
    | FEATURE_BLOCK_FLUSH
    | FEATURE_SHUTDOWN
    | FEATURE_EXCHANGE
    | FEATURE_MEMORY_RELEASE
    | FEATURE_BLOCK_COMMIT;

/// A guest under construction.
#[derive(Clone)]
pub struct Guest {
    pub code: Vec<u8>,
    pub data: Vec<u8>,
    pub devices: Vec<Entry>,
    /// Features of the guest note; `None` makes a stock image.
    pub features: Option<u32>,
    pub stacks: [u32; 3],
    pub functions: Vec<(String, u64, u64)>,
    /// A packed table of names, in place of the functions above.
    pub packed_names: Option<Vec<u8>>,
}

impl Guest {
    pub fn new() -> Self {
        let data = vec![0; 0x2000];
        let devices = vec![Entry::RESERVED_FIRST];
        let features = Some(ALL);
        Self {
            code: Vec::new(),
            data,
            devices,
            features,
            stacks: [0; 3],
            functions: Vec::new(),
            packed_names: None,
        }
    }

    pub fn stock() -> Self {
        Self { features: None, ..Self::new() }
    }

    /// A guest for `--backend=process`. It keeps the stack aligned for calls.
    pub fn process() -> Self {
        // sub rsp, 8
        Self { features: Some(ALL | FEATURE_PROCESS), ..Self::new() }.raw(&[0x48, 0x83, 0xec, 0x08])
    }

    pub fn device(mut self, name: &str, kind: u32) -> Self {
        self.devices.push(Entry::declare(name, kind));
        self
    }

    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.code.extend(bytes);
        self
    }

    /// Bytes of the data segment at an address in it.
    pub fn put(mut self, address: u64, bytes: &[u8]) -> Self {
        let at = (address - DATA) as usize;
        self.data[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    pub fn put_words(self, address: u64, words: &[u64]) -> Self {
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        self.put(address, &bytes)
    }

    /// `mov rax, value`
    pub fn rax(self, value: u64) -> Self {
        self.raw(&[0x48, 0xb8]).raw(&value.to_le_bytes())
    }

    /// `mov eax, argument; mov edx, port; out dx, eax`
    pub fn out(self, port: u16, argument: u32) -> Self {
        let port = u32::from(port).to_le_bytes();
        self.raw(&[0xb8]).raw(&argument.to_le_bytes()).raw(&[0xba]).raw(&port).raw(&[0xef])
    }

    /// A hypercall: by `out`, or in a process by the function that the boot extension names.
    pub fn call(self, number: u16, address: u64) -> Self {
        if self.features.is_some_and(|features| features & FEATURE_PROCESS != 0) {
            let (number, address) =
                (u32::from(number).to_le_bytes(), (address as u32).to_le_bytes());
            let pointer = (hvt_abi::boot::BOOT_EXTENSION_ADDRESS as u32 + 56).to_le_bytes();
            // mov edi, number; mov esi, address; call [pointer]
            let arguments = self.raw(&[0xbf]).raw(&number).raw(&[0xbe]).raw(&address);
            return arguments.raw(&[0xff, 0x14, 0x25]).raw(&pointer);
        }
        self.out(hypercall::port(number), address as u32)
    }

    /// Prints text that lies in the code.
    pub fn print(self, text: &str) -> Self {
        let here = TEXT + self.code.len() as u64;
        // jmp over the structure and the text
        let len = 16 + text.len();
        let guest = self.raw(&[0xe9]).raw(&(len as u32).to_le_bytes());
        let structure = here + 5;
        guest
            .raw(&(structure + 16).to_le_bytes())
            .raw(&(text.len() as u64).to_le_bytes())
            .raw(text.as_bytes())
            .call(hypercall::PUTS, structure)
    }

    /// `mov byte [address], value`
    pub fn store_byte(self, address: u64, value: u8) -> Self {
        self.rax(address).raw(&[0xc6, 0x00, value])
    }

    /// `mov al, [address]`
    pub fn load_byte(self, address: u64) -> Self {
        self.rax(address).raw(&[0x8a, 0x00])
    }

    /// `jmp address`
    pub fn jump(self, address: u64) -> Self {
        self.rax(address).raw(&[0xff, 0xe0])
    }

    /// Copies 32 bits: `mov eax, [from]; mov [to], eax`
    pub fn copy32(self, from: u64, to: u64) -> Self {
        let (from, to) = ((from as u32).to_le_bytes(), (to as u32).to_le_bytes());
        self.raw(&[0x8b, 0x04, 0x25]).raw(&from).raw(&[0x89, 0x04, 0x25]).raw(&to)
    }

    pub fn halt(self, status: i32) -> Self {
        self.put(HALT_AT + 8, &status.to_le_bytes()).call(hypercall::HALT, HALT_AT)
    }

    /// Halts with the 32 bits at an address as status.
    pub fn halt_with(self, address: u64) -> Self {
        self.copy32(address, HALT_AT + 8).call(hypercall::HALT, HALT_AT)
    }

    /// A block or network call's structure.
    pub fn io(self, at: u64, words: &[u64]) -> Self {
        self.put_words(at, words)
    }

    /// Sends a frame to its first device and waits up to 20 seconds for one, which then lies at [`REPLY`].
    pub fn asks(self, frame: &[u8]) -> Self {
        self.put(QUESTION, frame)
            .io(DATA, &[1, QUESTION, frame.len() as u64, 99])
            .put_words(DATA + 0x40, &[20_000_000_000, 0, 0])
            .io(ASKED, &[1, REPLY, 1514, 99])
            .call(hypercall::NET_WRITE, DATA)
            .call(hypercall::POLL, DATA + 0x40)
            .call(hypercall::NET_READ, ASKED)
    }

    /// Prints the first bytes of [`REPLY`].
    pub fn prints_reply(self, len: u64) -> Self {
        self.put_words(DATA + 0xc0, &[REPLY, len]).call(hypercall::PUTS, DATA + 0xc0)
    }

    pub fn function(mut self, name: &str, start: u64, end: u64) -> Self {
        self.functions.push((name.into(), start, end - start));
        self
    }

    /// The guest as an ELF file.
    pub fn elf(&self) -> Vec<u8> {
        let mut file = vec![0; 0x1000];
        let rodata = vec![0x90; 0x1000];
        let mut headers: Vec<[u64; 7]> = Vec::new();
        let place = |file: &mut Vec<u8>, bytes: &[u8]| {
            file.resize(file.len().next_multiple_of(0x1000), 0);
            let at = file.len() as u64;
            file.extend(bytes);
            at
        };
        let (read, write, execute) = (4_u64, 6_u64, 5_u64);
        assert!(self.code.len() <= 0x1000);
        for (address, bytes, flags) in
            [(TEXT, &self.code, execute), (RODATA, &rodata, read), (DATA, &self.data, write)]
        {
            let at = place(&mut file, bytes);
            let len = bytes.len() as u64;
            headers.push([1 | flags << 32, at, address, address, len, len, 0x1000]);
        }
        for note in self.notes() {
            let at = place(&mut file, &note);
            headers.push([4 | 4 << 32, at, 0, 0, note.len() as u64, note.len() as u64, 8]);
        }
        let mut header = b"\x7fELF\x02\x01\x01".to_vec();
        header.resize(16, 0);
        header.extend([2_u8, 0, 62, 0, 1, 0, 0, 0]);
        let sections = self.symbols(&mut file);
        for word in [TEXT, 64, sections] {
            header.extend(word.to_le_bytes());
        }
        header.extend([0; 4]);
        let count = if sections == 0 { 0 } else { 3 };
        for half in [64, 56, headers.len() as u16, 64, count, 0] {
            header.extend(half.to_le_bytes());
        }
        header.extend(headers.iter().flatten().flat_map(|word| word.to_le_bytes()));
        file[..header.len()].copy_from_slice(&header);
        file
    }

    fn notes(&self) -> Vec<Vec<u8>> {
        let words = |words: &[u32]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<_>>();
        let mut abi = words(&[6, 16, 0x3149_4241]);
        abi.extend(b"Solo5\0\0\0");
        abi.extend(words(&[1, 2, 0, 0]));
        let count = self.devices.len() as u32;
        let mut manifest = words(&[6, 12 + 104 * count, 0x3154_464d]);
        manifest.extend(b"Solo5\0\0\0");
        manifest.extend(words(&[0, 1, count]));
        for entry in &self.devices {
            manifest.extend(entry.name);
            manifest.extend(entry.kind.to_le_bytes());
            manifest.extend([0; 32]);
        }
        let mut notes = vec![abi, manifest];
        if let Some(features) = self.features {
            let mut guest = words(&[4, 24, 1]);
            guest.extend(b"hvt\0");
            guest.extend(words(&[1, features, self.stacks[0], self.stacks[1], self.stacks[2], 0]));
            notes.push(guest);
        }
        notes
    }

    /// The functions as hvt-image writes them.
    pub fn pack_names(mut self) -> Self {
        let function = |(name, address, size): &(String, u64, u64)| {
            let name = format!("{:#}", rustc_demangle::demangle(name));
            (*address, *size, name)
        };
        let functions: Vec<_> = self.functions.iter().map(function).collect();
        let functions: Vec<_> = functions
            .iter()
            .map(|(address, size, name)| hvt_symbols::Function {
                address: *address,
                size: *size,
                name,
            })
            .collect();
        self.packed_names = Some(hvt_symbols::pack(&functions));
        self
    }

    /// Appends a symbol table and gives the place of the section headers.
    fn symbols(&self, file: &mut Vec<u8>) -> u64 {
        let section = |kind: u32, at: u64, len: u64, link: u32| {
            let mut s = vec![0; 64];
            s[4..8].copy_from_slice(&kind.to_le_bytes());
            s[24..32].copy_from_slice(&at.to_le_bytes());
            s[32..40].copy_from_slice(&len.to_le_bytes());
            s[40..44].copy_from_slice(&link.to_le_bytes());
            s
        };
        if let Some(packed) = &self.packed_names {
            let at = file.len() as u64;
            file.extend(packed);
            let sections = file.len() as u64;
            file.extend([0; 128]);
            file.extend(section(hvt_symbols::SECTION_TYPE, at, packed.len() as u64, 0));
            return sections;
        }
        if self.functions.is_empty() {
            return 0;
        }
        let (mut names, mut table) = (vec![0], vec![0; 24]);
        for (name, start, len) in &self.functions {
            table.extend((names.len() as u32).to_le_bytes());
            table.extend([0x12, 0, 1, 0]);
            table.extend(start.to_le_bytes());
            table.extend(len.to_le_bytes());
            names.extend(name.bytes().chain([0]));
        }
        let (table_at, table_len) = (file.len() as u64, table.len() as u64);
        file.extend(table);
        let (names_at, names_len) = (file.len() as u64, names.len() as u64);
        file.extend(names);
        let sections = file.len() as u64;
        file.extend([0; 64]);
        file.extend(section(2, table_at, table_len, 2));
        file.extend(section(3, names_at, names_len, 0));
        sections
    }

    pub fn file(&self) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&self.elf()).unwrap();
        file
    }

    /// Runs it under `hvt`.
    pub fn run(&self, options: &[&str]) -> Ended {
        let file = self.file();
        let output = self.command(options, &file).output().unwrap();
        Ended::from(output)
    }

    pub fn command(&self, options: &[&str], file: &tempfile::NamedTempFile) -> Command {
        let mut command = hvt();
        command.arg(format!("--mem={MEM_MIB}")).args(options).arg("--").arg(file.path());
        command
    }
}

pub fn hvt() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hvt"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a guest whose device `lan` is this descriptor.
pub fn run_with_descriptor(
    guest: &Guest,
    file: &tempfile::NamedTempFile,
    fd: &std::os::fd::OwnedFd,
) -> Ended {
    run_with_descriptor_and(guest, file, fd, &[])
}

/// The same with more options.
pub fn run_with_descriptor_and(
    guest: &Guest,
    file: &tempfile::NamedTempFile,
    fd: &std::os::fd::OwnedFd,
    options: &[&str],
) -> Ended {
    use std::os::fd::AsRawFd;
    use std::os::unix::process::CommandExt;
    let raw = fd.as_raw_fd();
    let option = format!("--net:lan=@{raw}");
    let mut all = vec![option.as_str()];
    all.extend(options);
    let mut command = guest.command(&all, file);
    // SAFETY: fcntl clears the flag of an open descriptor and is safe between fork and exec.
    unsafe {
        command.pre_exec(move || match libc::fcntl(raw, libc::F_SETFD, 0) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    Ended::from(command.output().unwrap())
}

/// How a run ended.
#[derive(Debug)]
pub struct Ended {
    pub status: Option<i32>,
    pub out: String,
    pub err: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { status: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Ended {
    #[track_caller]
    pub fn is(&self, status: i32) -> &Self {
        assert_eq!(self.status, Some(status), "{self:#?}");
        self
    }

    #[track_caller]
    pub fn says(&self, part: &str) -> &Self {
        assert!(self.err.contains(part), "{part:?} is not said: {self:#?}");
        self
    }
}

/// A command in a network namespace of its own, which finds the tender in `$HVT` and the guest in `$IMAGE`.
pub fn in_namespace(shell: [&str; 2], script: &str, image: &Path) -> Command {
    let mut command = Command::new("unshare");
    command.arg("--net").args(shell).arg(script);
    command.env("HVT", env!("CARGO_BIN_EXE_hvt")).env("IMAGE", image);
    command
}

/// An ARP request for the address `wanted` from `sender`, as a broadcast (IEEE 802.3, RFC 826).
pub fn arp_request(sender: ([u8; 6], [u8; 4]), wanted: [u8; 4]) -> Vec<u8> {
    let (hardware, address) = sender;
    let kinds = [8, 6, 0, 1, 8, 0, 6, 4, 0, 1];
    [&[0xff; 6][..], &hardware, &kinds, &hardware, &address, &[0; 6], &wanted].concat()
}

/// Whether what a test needs is there. Where peers are required, its lack is a failure.
pub fn needs(there: bool, missing: &str) -> bool {
    if !there {
        assert!(std::env::var_os("REQUIRE_PEERS").is_none_or(|v| v != "1"), "{missing}");
        eprintln!("{missing}: this test did not run");
    }
    there
}

/// Whether tests that need KVM can run here.
pub fn kvm() -> bool {
    let there = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
    needs(there, "/dev/kvm is missing")
}

/// Whether tests that need TAP interfaces can run here.
pub fn taps() -> bool {
    let mut probe = Command::new("unshare");
    probe.args(["--net", "ip", "tuntap", "add", "probe", "mode", "tap"]);
    let there = probe.output().is_ok_and(|output| output.status.success());
    needs(there, "no TAP interfaces: root and the command ip are needed")
}
