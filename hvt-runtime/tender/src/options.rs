//! The command line: solo5-hvt's options with the same meaning, and ours.
//!
//! It parses and checks the form of what was typed; whether a device exists is for [`crate::device`] to find out.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use hvt_abi::boot::FEATURE_RING_IO;
use hvt_abi::extension::{
    ARGS_MAX, FEATURE_BLOCK_COMMIT, FEATURE_BLOCK_FLUSH, FEATURE_EXCHANGE, FEATURE_MEMORY_RELEASE,
    FEATURE_SHUTDOWN, FEATURES_KNOWN,
};

/// The default of `--mem`, in MiB.
pub const DEFAULT_MEMORY_MIB: u64 = 512;
/// The least and the most that `--mem` takes, in MiB.
pub const MEMORY_RANGE_MIB: std::ops::RangeInclusive<u64> = 2..=4096;
/// The default of `--poll`, in microseconds.
pub const DEFAULT_POLL_MICROS: u64 = 50;
/// The default of `--block-poll`, in microseconds.
pub const DEFAULT_BLOCK_POLL_MICROS: u64 = 200;
/// The most that `--poll` and `--block-poll` take, in microseconds.
pub const MAX_POLL_MICROS: u64 = 1000;
/// The longest name of a device (`MFT_NAME_MAX` in Solo5's `mft_abi.h`).
pub const MAX_DEVICE_NAME: usize = 67;
/// The longest name of a network interface (`IFNAMSIZ` without the zero byte).
pub const MAX_INTERFACE_NAME: usize = 15;

/// What `--without` takes, and the bits that a guest is then not offered.
const WITHOUT: [(&str, u32); 7] = [
    ("exchange", FEATURE_EXCHANGE),
    ("ring", FEATURE_RING_IO),
    ("block-flush", FEATURE_BLOCK_FLUSH),
    ("block-commit", FEATURE_BLOCK_COMMIT),
    ("memory-release", FEATURE_MEMORY_RELEASE),
    ("shutdown", FEATURE_SHUTDOWN),
    ("extensions", FEATURES_KNOWN),
];

/// What `--help` prints.
pub const HELP: &str = include_str!("help.txt");

/// A complete request to run a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The guest's memory, in MiB.
    pub memory_mib: u64,
    /// `--net:NAME=`, by device name, with what belongs to the device.
    pub nets: BTreeMap<String, NetOption>,
    /// `--block:NAME=`, by device name.
    pub blocks: BTreeMap<String, BlockOption>,
    /// What runs the guest.
    pub backend: Backend,
    /// Where to put a core file when the guest dies.
    pub dumpcore: Option<PathBuf>,
    /// Tell the counters at the end.
    pub stats: bool,
    /// How long to look for frames before sleeping, at most.
    pub poll: Duration,
    /// Bits of the ABI's features that the guest is not offered.
    pub withheld: u32,
    /// How long a thread looks for the next call for a block device before sleeping, at most; zero for no such thread.
    pub block_poll: Duration,
    /// Wait for gdb here before the guest starts.
    pub gdb: Option<String>,
    /// The image.
    pub image: PathBuf,
    /// The guest's arguments.
    pub args: Vec<String>,
    /// The guest's environment, `NAME=VALUE`.
    pub env: Vec<String>,
}

/// What runs a guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// A virtual machine.
    #[default]
    Kvm,
    /// A process under a seccomp filter.
    Process,
}

/// A network device of the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetOption {
    /// What to attach.
    pub attach: NetAttach,
    /// The guest's hardware address; random if not given.
    pub mac: Option<[u8; 6]>,
    /// The host is trusted with checksums and segments of this device, and trusts the guest with them.
    pub offload: bool,
    /// The MTU of a socket; an interface has its own.
    pub mtu: Option<u16>,
    /// Record its frames here.
    pub pcap: Option<PathBuf>,
}

/// What a network device is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetAttach {
    /// A TAP interface by name.
    Interface(String),
    /// A descriptor that the tender was started with.
    Descriptor(i32),
    /// The UNIX socket on which passt listens.
    Passt(PathBuf),
}

/// A block device of the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockOption {
    /// File or raw device.
    pub path: PathBuf,
    /// Size of a block in bytes.
    pub sector_size: u16,
}

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Run a guest.
    Run(Box<Options>),
    /// Print [`HELP`].
    Help,
    /// Print the version.
    Version,
}

/// Why a command line is refused. Whoever typed it has to change it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// No such option.
    #[error("unknown option {0}; hvt --help lists them")]
    Unknown(String),
    /// No image was named.
    #[error("no image given: hvt [OPTIONS] [--] IMAGE [ARGUMENTS]")]
    NoImage,
    /// The value does not fit the option.
    #[error("{option}: {why}")]
    BadValue {
        /// The option as typed.
        option: String,
        /// What it takes.
        why: String,
    },
    /// The same thing twice.
    #[error("{0} is given twice")]
    Twice(String),
    /// `--net-mac:` or the like for a device that no `--net:` names.
    #[error("{option} is about a device that is not attached: --{kind}:{name}=… is missing")]
    NoSuchDevice {
        /// The option as typed.
        option: String,
        /// `net` or `block`.
        kind: &'static str,
        /// The device.
        name: String,
    },
    /// A file named on the command line can't be read.
    #[error("{path}: {why}")]
    File {
        /// The file.
        path: String,
        /// What the host says.
        why: String,
    },
    /// More arguments than a guest can be given.
    #[error("the guest's {what} are {len} bytes, more than the {max} that fit")]
    TooLong {
        /// Arguments or environment.
        what: &'static str,
        /// How many bytes there are.
        len: usize,
        /// How many there may be.
        max: usize,
    },
}

/// Parses the command line, without the program's name.
///
/// # Errors
/// See [`OptionsError`]; each names the option and what it takes.
pub fn parse(words: impl IntoIterator<Item = String>) -> Result<Command, OptionsError> {
    let mut parser = Parser::default();
    let mut words = words.into_iter();
    let image = loop {
        let Some(word) = words.next() else { return Err(OptionsError::NoImage) };
        match word.as_str() {
            "--help" | "-h" => return Ok(Command::Help),
            "--version" => return Ok(Command::Version),
            "--" => break words.next().ok_or(OptionsError::NoImage)?,
            _ if word.starts_with('-') => parser.option(&word)?,
            _ => break word,
        }
    };
    parser.finish(image, words.collect()).map(|options| Command::Run(Box::new(options)))
}

#[derive(Default)]
struct Parser {
    memory_mib: Option<u64>,
    nets: BTreeMap<String, NetAttach>,
    macs: BTreeMap<String, [u8; 6]>,
    offloads: BTreeMap<String, bool>,
    mtus: BTreeMap<String, u16>,
    pcaps: BTreeMap<String, PathBuf>,
    blocks: BTreeMap<String, PathBuf>,
    sector_sizes: BTreeMap<String, u16>,
    backend: Option<Backend>,
    dumpcore: Option<PathBuf>,
    stats: bool,
    poll: Option<Duration>,
    withheld: Option<u32>,
    block_poll: Option<Duration>,
    gdb: Option<String>,
    args_file: Option<PathBuf>,
    env: Vec<String>,
}

impl Parser {
    fn option(&mut self, word: &str) -> Result<(), OptionsError> {
        let (key, value) = match word.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (word, None),
        };
        let bad = |why: &str| OptionsError::BadValue { option: word.into(), why: why.into() };
        let twice = || OptionsError::Twice(key.into());
        let value_of = || value.filter(|v| !v.is_empty()).ok_or_else(|| bad("a value is missing"));

        if let Some((kind, name)) = key.split_once(':') {
            let legal = (1..=MAX_DEVICE_NAME).contains(&name.len())
                && name.bytes().all(|b| b.is_ascii_alphanumeric());
            if !legal {
                return Err(bad("a device's name is 1 to 67 letters and digits"));
            }
            let name = name.to_owned();
            let fresh = match kind {
                "--net" => self.nets.insert(name, net_attach(value_of()?).map_err(bad)?).is_none(),
                "--net-mac" => self.macs.insert(name, mac(value_of()?).map_err(bad)?).is_none(),
                "--net-offload" if value.is_some() => return Err(bad("takes no value")),
                "--net-offload" => self.offloads.insert(name, true).is_none(),
                "--net-mtu" => self.mtus.insert(name, mtu(value_of()?).map_err(bad)?).is_none(),
                "--pcap" => self.pcaps.insert(name, value_of()?.into()).is_none(),
                "--block" => self.blocks.insert(name, value_of()?.into()).is_none(),
                "--block-sector-size" => {
                    let size = sector_size(value_of()?).map_err(bad)?;
                    self.sector_sizes.insert(name, size).is_none()
                }
                _ => return Err(OptionsError::Unknown(word.into())),
            };
            return if fresh { Ok(()) } else { Err(twice()) };
        }
        match key {
            "--mem" => {
                let mib = value_of()?.parse().ok().filter(|mib| MEMORY_RANGE_MIB.contains(mib));
                let mib = mib.ok_or_else(|| bad("a number of MiB from 2 to 4096"))?;
                // Solo5 maps memory in pages of 2 MiB and rounds down to them.
                self.memory_mib.replace(mib & !1).map_or(Ok(()), |_| Err(twice()))
            }
            "--backend" => {
                let backend = match value_of()? {
                    "kvm" => Backend::Kvm,
                    "process" => Backend::Process,
                    _ => return Err(bad("kvm or process")),
                };
                self.backend.replace(backend).map_or(Ok(()), |_| Err(twice()))
            }
            "--dumpcore" => {
                let folder = value.unwrap_or(".");
                self.dumpcore.replace(folder.into()).map_or(Ok(()), |_| Err(twice()))
            }
            "--stats" if value.is_some() => Err(bad("takes no value")),
            "--stats" => {
                self.stats = true;
                Ok(())
            }
            "--poll" | "--block-poll" => {
                let micros = value_of()?.parse().ok().filter(|n| *n <= MAX_POLL_MICROS);
                let micros = micros.ok_or_else(|| bad("a number of microseconds, 0 to 1000"))?;
                let poll = if key == "--poll" { &mut self.poll } else { &mut self.block_poll };
                let old = poll.replace(Duration::from_micros(micros));
                old.map_or(Ok(()), |_| Err(twice()))
            }
            "--without" => {
                let bits = withheld(value_of()?).map_err(|why| bad(&why))?;
                self.withheld.replace(bits).map_or(Ok(()), |_| Err(twice()))
            }
            "--gdb" => {
                let at = value.unwrap_or("127.0.0.1:1234");
                self.gdb.replace(at.into()).map_or(Ok(()), |_| Err(twice()))
            }
            "--gdb-port" => {
                let port: u16 = value_of()?.parse().map_err(|_| bad("a port number"))?;
                self.gdb.replace(format!("127.0.0.1:{port}"));
                Ok(())
            }
            "--args-file" => {
                self.args_file.replace(value_of()?.into()).map_or(Ok(()), |_| Err(twice()))
            }
            "--env" => {
                let pair = value_of()?;
                let named = pair.split_once('=').is_some_and(|(name, _)| !name.is_empty());
                if !named {
                    return Err(bad("NAME=VALUE"));
                }
                self.env.push(pair.to_owned());
                Ok(())
            }
            _ => Err(OptionsError::Unknown(word.into())),
        }
    }

    fn finish(mut self, image: String, mut args: Vec<String>) -> Result<Options, OptionsError> {
        if let Some(path) = &self.args_file {
            args.extend(args_from_file(path)?);
        }
        if self.gdb.is_some() && self.backend == Some(Backend::Process) {
            return Err(OptionsError::BadValue {
                option: "--gdb".into(),
                why: "works with --backend=kvm only".into(),
            });
        }
        let withheld = self.withheld.unwrap_or_default();
        if withheld == FEATURES_KNOWN && self.backend == Some(Backend::Process) {
            return Err(OptionsError::BadValue {
                option: "--without=extensions".into(),
                why: "works with --backend=kvm only: a process is an extension itself".into(),
            });
        }
        fits("arguments", &args)?;
        fits("environment", &self.env)?;
        let mut nets = BTreeMap::new();
        for (name, attach) in std::mem::take(&mut self.nets) {
            let mac = self.macs.remove(&name);
            let pcap = self.pcaps.remove(&name);
            let offload = self.offloads.remove(&name).unwrap_or_default();
            let mtu = self.mtus.remove(&name);
            nets.insert(name, NetOption { attach, mac, offload, mtu, pcap });
        }
        let mut blocks = BTreeMap::new();
        for (name, path) in std::mem::take(&mut self.blocks) {
            let sector_size = self.sector_sizes.remove(&name).unwrap_or(512);
            blocks.insert(name, BlockOption { path, sector_size });
        }
        let left = (self.macs.keys().map(|name| ("net-mac", "net", name)))
            .chain(self.offloads.keys().map(|name| ("net-offload", "net", name)))
            .chain(self.mtus.keys().map(|name| ("net-mtu", "net", name)))
            .chain(self.pcaps.keys().map(|name| ("pcap", "net", name)))
            .chain(self.sector_sizes.keys().map(|name| ("block-sector-size", "block", name)))
            .next();
        if let Some((option, kind, name)) = left {
            let option = format!("--{option}:{name}");
            return Err(OptionsError::NoSuchDevice { option, kind, name: name.clone() });
        }
        Ok(Options {
            memory_mib: self.memory_mib.unwrap_or(DEFAULT_MEMORY_MIB),
            nets,
            blocks,
            backend: self.backend.unwrap_or_default(),
            dumpcore: self.dumpcore,
            stats: self.stats,
            poll: self.poll.unwrap_or(Duration::from_micros(DEFAULT_POLL_MICROS)),
            withheld,
            block_poll: self.block_poll.unwrap_or(Duration::from_micros(DEFAULT_BLOCK_POLL_MICROS)),
            gdb: self.gdb,
            image: image.into(),
            args,
            env: self.env,
        })
    }
}

fn net_attach(value: &str) -> Result<NetAttach, &'static str> {
    // The kernel allows no colon in the name of an interface.
    if let Some(path) = value.strip_prefix("passt:") {
        return match path {
            "" => Err("after passt: comes the path of its socket"),
            path => Ok(NetAttach::Passt(path.into())),
        };
    }
    match value.strip_prefix('@') {
        Some(number) => match number.parse() {
            Ok(fd) if fd > 2 => Ok(NetAttach::Descriptor(fd)),
            _ => Err("after @ comes the number of an open descriptor, from 3"),
        },
        None if value.len() <= MAX_INTERFACE_NAME && !value.contains('/') => {
            Ok(NetAttach::Interface(value.to_owned()))
        }
        None => Err(
            "a TAP interface's name of at most 15 characters, or @ and a descriptor, or passt: and a socket",
        ),
    }
}

fn mac(value: &str) -> Result<[u8; 6], &'static str> {
    const FORM: &str = "six bytes in hexadecimal, as in 02:00:00:00:00:01";
    let mut mac = [0; 6];
    let mut parts = value.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|p| p.len() == 2).ok_or(FORM)?;
        *byte = u8::from_str_radix(part, 16).map_err(|_| FORM)?;
    }
    if parts.next().is_some() {
        return Err(FORM);
    }
    match mac[0] & 1 {
        0 => Ok(mac),
        _ => Err("the lowest bit of the first byte is set: that is a group address"),
    }
}

/// RFC 791 and RFC 8200 let no link have less than 68 and 1280.
fn mtu(value: &str) -> Result<u16, &'static str> {
    let mtu = value.parse().ok().filter(|mtu| *mtu >= 68);
    mtu.ok_or("a number of bytes from 68 to 65535; IPv6 needs 1280")
}

fn sector_size(value: &str) -> Result<u16, &'static str> {
    let size: Option<u16> = value.parse().ok();
    size.filter(|s| s.is_power_of_two() && *s >= 512).ok_or("a power of two from 512 to 32768")
}

fn withheld(value: &str) -> Result<u32, String> {
    value.split(',').try_fold(0, |bits, word| {
        let known = WITHOUT.iter().find(|(name, _)| *name == word);
        let names = || WITHOUT.map(|(name, _)| name).join(", ");
        known.map(|(_, bit)| bits | bit).ok_or_else(|| format!("a list of: {}", names()))
    })
}

/// One argument a line; empty lines are left out. A file keeps secrets out of the list of processes.
fn args_from_file(path: &PathBuf) -> Result<Vec<String>, OptionsError> {
    use std::io::Read;
    let error = |why: String| OptionsError::File { path: path.display().to_string(), why };
    let file = std::fs::File::open(path).map_err(|e| error(e.to_string()))?;
    let mut text = String::new();
    let limit = ARGS_MAX as u64 + 1;
    file.take(limit).read_to_string(&mut text).map_err(|e| error(e.to_string()))?;
    let lines = text.lines().filter(|line| !line.is_empty());
    Ok(lines.map(str::to_owned).collect())
}

fn fits(what: &'static str, words: &[String]) -> Result<(), OptionsError> {
    let len = words.iter().map(|w| w.len() + 1).sum();
    if len > ARGS_MAX {
        return Err(OptionsError::TooLong { what, len, max: ARGS_MAX });
    }
    match words.iter().find(|w| w.contains('\0')) {
        Some(word) => Err(OptionsError::BadValue {
            option: word.replace('\0', "\\0"),
            why: format!("the guest's {what} can't contain a zero byte"),
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &str) -> Result<Options, OptionsError> {
        match parse(line.split_whitespace().map(str::to_owned))? {
            Command::Run(options) => Ok(*options),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_line_written_for_solo5_means_the_same() {
        let line = "--mem=33 --net:service=tap0 --net-mac:service=02:00:00:00:00:0a --block:store=/x \
                    --block-sector-size:store=4096 --net:back=@7 -- guest.hvt --ipv4=10.0.0.2/24 -l debug";
        let options = run(line).unwrap();
        assert_eq!(options.memory_mib, 32);
        assert_eq!(options.nets["service"].attach, NetAttach::Interface("tap0".into()));
        assert_eq!(options.nets["service"].mac, Some([2, 0, 0, 0, 0, 10]));
        assert_eq!(options.nets["back"].attach, NetAttach::Descriptor(7));
        let store = BlockOption { path: "/x".into(), sector_size: 4096 };
        assert_eq!(options.blocks["store"], store);
        assert_eq!(options.image, PathBuf::from("guest.hvt"));
        assert_eq!(options.args, ["--ipv4=10.0.0.2/24", "-l", "debug"]);
    }

    #[test]
    fn what_solo5_does_not_have() {
        let line =
            "--net:a=passt:/run/a.sock --net-mtu:a=9000 --net:b=tap1 --net-offload:b --stats x";
        let options = run(line).unwrap();
        let passt = NetAttach::Passt("/run/a.sock".into());
        let a = &options.nets["a"];
        assert_eq!((&a.attach, a.mtu, a.offload), (&passt, Some(9000), false));
        assert!(options.nets["b"].offload && options.stats);
        assert_eq!(options.poll, Duration::from_micros(DEFAULT_POLL_MICROS));
        assert!(run("--poll=0 x").unwrap().poll.is_zero());
        assert_eq!(options.block_poll, Duration::from_micros(DEFAULT_BLOCK_POLL_MICROS));
        let both = run("--block-poll=7 --poll=0 x").unwrap();
        assert_eq!((both.block_poll.as_micros(), both.poll.as_micros()), (7, 0));
    }

    #[test]
    fn what_a_guest_is_not_offered() {
        assert_eq!(run("x").unwrap().withheld, 0);
        let both = run("--without=exchange,ring x").unwrap().withheld;
        assert_eq!(both, FEATURE_EXCHANGE | FEATURE_RING_IO);
        let solo5 = run("--without=extensions x").unwrap().withheld;
        assert_eq!((solo5 & FEATURE_RING_IO, solo5), (0, FEATURES_KNOWN));
    }

    #[test]
    fn everything_after_the_image_is_the_guests() {
        let options = run("guest.hvt --mem=7 -- --help").unwrap();
        assert_eq!(options.memory_mib, DEFAULT_MEMORY_MIB);
        assert_eq!(options.args, ["--mem=7", "--", "--help"]);
    }

    #[test]
    fn each_mistake_has_its_message() {
        for (line, part) in [
            ("", "no image"),
            ("--", "no image"),
            ("--mem=1 x", "2 to 4096"),
            ("--mem=4097 x", "2 to 4096"),
            ("--mem= x", "missing"),
            ("--mem x", "missing"),
            ("--mem=4 --mem=4 x", "twice"),
            ("--frob x", "unknown option --frob"),
            ("--net:a-b=tap0 x", "letters and digits"),
            ("--net:=tap0 x", "letters and digits"),
            ("--net:a=abcdefghijklmnop x", "15 characters"),
            ("--net:a=@1 x", "from 3"),
            ("--net:a=@x x", "from 3"),
            ("--net:a=passt: x", "path of its socket"),
            ("--net:a=t --net:a=t x", "twice"),
            ("--net:a=t --net-offload:a=on x", "no value"),
            ("--net-offload:a x", "--net:a=… is missing"),
            ("--net-mtu:a=1500 x", "--net:a=… is missing"),
            ("--net:a=@3 --net-mtu:a=67 x", "68 to 65535"),
            ("--net:a=@3 --net-mtu:a=65536 x", "68 to 65535"),
            ("--stats=1 x", "no value"),
            ("--poll=1001 x", "0 to 1000"),
            ("--poll=5 --poll=5 x", "twice"),
            ("--without=frob x", "a list of: exchange, ring"),
            ("--without= x", "missing"),
            ("--without=ring --without=ring x", "twice"),
            ("--without=extensions --backend=process x", "--backend=kvm only"),
            ("--block-poll=1001 x", "0 to 1000"),
            ("--block-poll=5 --block-poll=5 x", "twice"),
            ("--net-mac:a=02:00:00:00:00:01 x", "--net:a=… is missing"),
            ("--net:a=t --net-mac:a=02:00:00:00:00 x", "six bytes"),
            ("--net:a=t --net-mac:a=01:00:00:00:00:01 x", "group address"),
            ("--block:a=f --block-sector-size:a=513 x", "power of two"),
            ("--block:a=f --block-sector-size:a=65536 x", "power of two"),
            ("--block-sector-size:a=512 x", "--block:a=… is missing"),
            ("--pcap:a=f x", "--net:a=… is missing"),
            ("--backend=spt x", "kvm or process"),
            ("--env=FOO x", "NAME=VALUE"),
            ("--gdb --backend=process x", "--backend=kvm only"),
            ("--args-file=/nonexistent/file x", "/nonexistent/file"),
        ] {
            let message = run(line).unwrap_err().to_string();
            assert!(message.contains(part), "{line}: {message}");
        }
        let many = std::iter::once("x".to_owned()).chain((0..ARGS_MAX).map(|_| "a".to_owned()));
        assert!(matches!(parse(many), Err(OptionsError::TooLong { what: "arguments", .. })));
    }

    #[test]
    fn arguments_from_a_file_come_last() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "--secret=a b\n\n--last\n").unwrap();
        let options = run(&format!("--args-file={} x --first", file.path().display())).unwrap();
        assert_eq!(options.args, ["--first", "--secret=a b", "--last"]);
    }
}
