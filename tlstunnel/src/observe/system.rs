//! What the system says of this program: its memory and threads from `/proc/self/status`, the sockets of its network from
//! `/proc/net/sockstat` (proc(5)). Linux and the unikernel have both files; where one is missing, its samples are too.
//!
//! The texts are read when somebody asks for the metrics, and parsed by pure functions.

use std::fs;

/// Memory and threads.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Process {
    /// Bytes by kind.
    pub(super) memory: Vec<(&'static str, u64)>,
    /// How many threads there are.
    pub(super) threads: Option<u64>,
}

/// One number about sockets.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sample {
    /// The section: `tcp`, `udp`, `sockets`, ...
    pub(super) of: String,
    /// What is counted: `inuse`, `orphan`, `tw`, ...
    pub(super) count: String,
    /// How many.
    pub(super) n: u64,
}

/// This program.
pub(super) fn process() -> Process {
    fs::read_to_string("/proc/self/status").map(|text| parse_status(&text)).unwrap_or_default()
}

/// The network of this program; on Linux that of its namespace.
pub(super) fn sockets() -> Vec<Sample> {
    fs::read_to_string("/proc/net/sockstat").map(|text| parse_sockets(&text)).unwrap_or_default()
}

/// Lines of `/proc/self/status` that are told, and the names that they get.
const MEMORY: [(&str, &str); 5] = [
    ("VmSize", "virtual"),
    ("VmRSS", "resident"),
    ("VmHWM", "resident_peak"),
    ("VmData", "data"),
    ("VmStk", "stack"),
];

fn parse_status(text: &str) -> Process {
    let mut process = Process::default();
    for (key, value) in text.lines().filter_map(|line| line.split_once(':')) {
        let mut words = value.split_whitespace();
        let Some(n) = words.next().and_then(|word| word.parse::<u64>().ok()) else { continue };
        if key == "Threads" {
            process.threads = Some(n);
        } else if let Some((_, kind)) = MEMORY.iter().find(|(name, _)| *name == key)
            && words.next() == Some("kB")
        {
            process.memory.push((kind, n.saturating_mul(1024)));
        }
    }
    process
}

fn parse_sockets(text: &str) -> Vec<Sample> {
    let mut samples = Vec::new();
    for (of, counts) in text.lines().filter_map(|line| line.split_once(':')) {
        let mut words = counts.split_whitespace();
        while let (Some(count), Some(n)) = (words.next(), words.next()) {
            if let Ok(n) = n.parse() {
                samples.push(Sample { of: of.to_lowercase(), count: count.to_owned(), n });
            }
        }
    }
    samples
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_a_process_is_in_kilobytes_there_and_in_bytes_here() {
        let text = "Name:\tgateway\nVmSize:\t  2048 kB\nVmRSS:\t 12 kB\nVmPTE:\t 1 kB\nThreads:\t3\nVmData: x\n";
        let process = parse_status(text);
        assert_eq!(process.memory, [("virtual", 2_097_152), ("resident", 12_288)]);
        assert_eq!(process.threads, Some(3));
        assert_eq!(parse_status(""), Process::default());
    }

    #[test]
    fn each_pair_of_words_is_a_sample() {
        let text = "sockets: used 7\nTCP: inuse 5 orphan 0 tw many alloc\nnonsense\n";
        let samples = parse_sockets(text);
        let shown: Vec<_> =
            samples.iter().map(|s| (s.of.as_str(), s.count.as_str(), s.n)).collect();
        assert_eq!(shown, [("sockets", "used", 7), ("tcp", "inuse", 5), ("tcp", "orphan", 0)]);
    }
}
