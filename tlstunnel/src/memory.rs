//! How much memory this program can have: that of the machine, or less where a control group says so (systemd's
//! `MemoryMax=`, a container). Limits that nobody set are derived from it.
//!
//! Linux and the unikernel have `/proc/meminfo` (proc(5)), Linux the control groups (the kernel's cgroup-v2.rst).

use std::fs;
use std::path::Path;

/// Where control groups of version 2 are commonly mounted.
const GROUPS: &str = "/sys/fs/cgroup";

/// The bytes of memory that this program can have; none where the system does not say.
pub fn available() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total(&text));
    let group = fs::read_to_string("/proc/self/cgroup").ok().and_then(|text| {
        let own = own_group(&text)?;
        // A group has no more than each of those that it lies in.
        let groups = Path::new(own).ancestors();
        let limits = groups.filter_map(|group| {
            let group = group.strip_prefix("/").unwrap_or(group);
            fs::read_to_string(Path::new(GROUPS).join(group).join("memory.max")).ok()
        });
        limits.filter_map(|text| text.trim().parse().ok()).min()
    });
    machine.into_iter().chain(group).min()
}

/// The machine's memory in bytes, from `/proc/meminfo`.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// The control group of version 2, from `/proc/self/cgroup`.
fn own_group(cgroup: &str) -> Option<&str> {
    cgroup.lines().find_map(|line| line.strip_prefix("0::"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_told_in_kibibytes_and_groups_by_line() {
        assert_eq!(total("MemTotal:       16384 kB\nMemFree: 1 kB\n"), Some(16 << 20));
        assert_eq!(total("MemFree: 1 kB\n"), None);
        assert_eq!(total("MemTotal: many kB\n"), None);
        let groups = "4:memory:/old\n0::/system.slice/tlstunnel.service\n";
        assert_eq!(own_group(groups), Some("/system.slice/tlstunnel.service"));
        assert_eq!(own_group("4:memory:/old\n"), None);
    }

    #[test]
    fn this_machine_has_some() {
        if cfg!(target_os = "linux") {
            assert!(available().unwrap() > 1 << 20);
        }
    }
}
