//! The seccomp filter: an allow list with arguments. Anything else ends the process.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::{Needs, SandboxError};
use crate::device::{Device, Devices};
use crate::dump::{CORE_FD, OPEN_FLAGS};

/// `_IO(0xAE, 0x80)`.
const KVM_RUN: u64 = 0xae80;
/// `_IOR(0xAE, 0x81, struct kvm_regs)`, 144 bytes.
const KVM_GET_REGS: u64 = 0x8090_ae81;
/// `_IOR(0xAE, 0x83, struct kvm_sregs)`, 312 bytes.
const KVM_GET_SREGS: u64 = 0x8138_ae83;

/// `_IOW(0xAE, 0x9b, struct kvm_guest_debug)`, 72 bytes.
const KVM_SET_GUEST_DEBUG: u64 = 0x4048_ae9b;
/// `_IOW(0xAE, 0x82, struct kvm_regs)`, 144 bytes.
const KVM_SET_REGS: u64 = 0x4090_ae82;
/// `_IOW(0xAE, 0x84, struct kvm_sregs)`, 312 bytes.
const KVM_SET_SREGS: u64 = 0x4138_ae84;
/// `_IOR(0xAE, 0x8c, struct kvm_fpu)`, 416 bytes.
const KVM_GET_FPU: u64 = 0x81a0_ae8c;

/// The filter of the thread that serves the guest.
pub(super) fn serving(needs: &Needs<'_>) -> Result<BpfProgram, SandboxError> {
    let (mut blocks, mut nets) = (Vec::new(), Vec::new());
    for (_, device) in needs.devices.iter() {
        match device {
            Device::Block(_) => blocks.push(device.raw_fd()),
            Device::Net(_) => nets.push(device.raw_fd()),
        }
    }
    let border = needs.border;
    let mut list = AllowList::default();

    for request in [KVM_RUN, KVM_GET_REGS, KVM_GET_SREGS] {
        if let Some(vcpu) = needs.vcpu {
            list.with(libc::SYS_ioctl, &[fd_is(vcpu), argument_is(1, request)])?;
        }
    }
    if let (Some(vcpu), Some(debugger)) = (needs.vcpu, needs.debugger) {
        for request in [KVM_SET_GUEST_DEBUG, KVM_SET_REGS, KVM_SET_SREGS, KVM_GET_FPU] {
            list.with(libc::SYS_ioctl, &[fd_is(vcpu), argument_is(1, request)])?;
        }
        for call in [libc::SYS_read, libc::SYS_write] {
            list.with(call, &[fd_is(debugger)])?;
        }
    }
    for fd in nets.iter().chain([&border.wake]) {
        list.with(libc::SYS_read, &[fd_is(*fd)])?;
    }
    for fd in &nets {
        list.with(libc::SYS_readv, &[fd_is(*fd)])?;
        list.with(libc::SYS_writev, &[fd_is(*fd)])?;
    }
    let recordings = needs.devices.nets().filter_map(|(_, net)| net.pcap_fd());
    let written = [libc::STDERR_FILENO, border.console, border.wake];
    for fd in nets.iter().copied().chain(written).chain(recordings) {
        list.with(libc::SYS_write, &[fd_is(fd)])?;
    }
    for fd in blocks {
        list.block(fd)?;
    }
    list.with(libc::SYS_pread64, &[fd_is(needs.image)])?;

    if let Some(folder) = needs.core_folder {
        let flags = u64::from(OPEN_FLAGS.unsigned_abs());
        list.with(libc::SYS_openat, &[fd_is(folder), argument_is(2, flags)])?;
        list.with(libc::SYS_pwrite64, &[fd_is(CORE_FD)])?;
        list.always(libc::SYS_getpid);
    }
    list.every_thread()?;
    for call in [
        libc::SYS_ppoll,
        libc::SYS_clock_gettime,
        libc::SYS_getcpu,
        libc::SYS_restart_syscall,
        libc::SYS_rt_sigreturn,
    ] {
        list.always(call);
    }
    list.compile(if needs.trap { SeccompAction::Trap } else { SeccompAction::KillProcess })
}

/// The filter of the ring's thread.
pub(super) fn moving_frames(kick: i32, devices: &Devices) -> Result<BpfProgram, SandboxError> {
    let mut list = AllowList::default();
    list.with(libc::SYS_read, &[fd_is(kick)])?;
    list.with(libc::SYS_write, &[fd_is(libc::STDERR_FILENO)])?;
    for (_, net) in devices.nets() {
        let fd = net.as_fd().as_raw_fd();
        for call in [libc::SYS_read, libc::SYS_readv, libc::SYS_write, libc::SYS_writev] {
            list.with(call, &[fd_is(fd)])?;
        }
        if let Some(recording) = net.pcap_fd() {
            list.with(libc::SYS_write, &[fd_is(recording)])?;
        }
    }
    list.always(libc::SYS_ppoll);
    list.always(libc::SYS_clock_gettime);
    list.every_thread()?;
    list.compile(SeccompAction::KillProcess)
}

/// The filter of the slot's thread.
pub(super) fn serving_blocks(kick: i32, devices: &Devices) -> Result<BpfProgram, SandboxError> {
    let mut list = AllowList::default();
    list.with(libc::SYS_read, &[fd_is(kick)])?;
    list.with(libc::SYS_write, &[fd_is(libc::STDERR_FILENO)])?;
    for (_, device) in devices.iter().filter(|(_, device)| matches!(device, Device::Block(_))) {
        list.block(device.raw_fd())?;
    }
    list.always(libc::SYS_clock_gettime);
    list.always(libc::SYS_getcpu);
    // Itself only.
    list.with(libc::SYS_sched_setaffinity, &[argument_is(0, 0)])?;
    list.every_thread()?;
    list.compile(SeccompAction::KillProcess)
}

/// Loads a filter for this thread.
pub(super) fn load(filter: &BpfProgram) -> Result<(), SandboxError> {
    seccompiler::apply_filter(filter).map_err(|e| SandboxError::Seccomp(e.to_string()))
}

/// Calls and the conditions under which each is allowed.
#[derive(Default)]
struct AllowList {
    rules: BTreeMap<i64, Vec<SeccompRule>>,
}

type Condition = Result<SeccompCondition, seccompiler::BackendError>;

impl AllowList {
    fn always(&mut self, call: i64) {
        self.rules.insert(call, Vec::new());
    }

    /// Allows a call also when all of the conditions hold.
    fn with(&mut self, call: i64, conditions: &[Condition]) -> Result<(), SandboxError> {
        let broken = |e: &seccompiler::BackendError| SandboxError::Seccomp(e.to_string());
        let all: Result<Vec<_>, _> = conditions.iter().map(Result::as_ref).collect();
        let all = all.map_err(broken)?.into_iter().cloned().collect();
        let rule = SeccompRule::new(all).map_err(|e| broken(&e))?;
        self.rules.entry(call).or_default().push(rule);
        Ok(())
    }

    /// What serving a block device takes.
    fn block(&mut self, fd: i32) -> Result<(), SandboxError> {
        for call in [libc::SYS_pread64, libc::SYS_pwrite64, libc::SYS_fdatasync] {
            self.with(call, &[fd_is(fd)])?;
        }
        Ok(())
    }

    /// What any thread of a Rust program needs: memory, never executable and never from a file, locks, and its end.
    fn every_thread(&mut self) -> Result<(), SandboxError> {
        let anonymous = u64::from(libc::MAP_ANONYMOUS.unsigned_abs());
        let (prot, flags) = (masked(2, executable(), 0), masked(3, anonymous, anonymous));
        self.with(libc::SYS_mmap, &[prot, flags])?;
        self.with(libc::SYS_mprotect, &[masked(2, executable(), 0)])?;
        // The standard library looks whether a descriptor is open before it closes it.
        let look = argument_is(1, u64::from(libc::F_GETFD.unsigned_abs()));
        self.with(libc::SYS_fcntl, &[look])?;
        for call in [
            libc::SYS_munmap,
            libc::SYS_mremap,
            libc::SYS_madvise,
            libc::SYS_brk,
            libc::SYS_futex,
            libc::SYS_rt_sigprocmask,
            libc::SYS_sigaltstack,
            libc::SYS_close,
            libc::SYS_exit,
            libc::SYS_exit_group,
        ] {
            self.always(call);
        }
        Ok(())
    }

    fn compile(self, otherwise: SeccompAction) -> Result<BpfProgram, SandboxError> {
        let filter =
            SeccompFilter::new(self.rules, otherwise, SeccompAction::Allow, TargetArch::x86_64);
        let program = filter.and_then(BpfProgram::try_from);
        program.map_err(|e| SandboxError::Seccomp(e.to_string()))
    }
}

fn fd_is(fd: i32) -> Condition {
    SeccompCondition::new(
        0,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::Eq,
        u64::from(fd.cast_unsigned()),
    )
}

fn argument_is(index: u8, value: u64) -> Condition {
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
}

fn masked(index: u8, mask: u64, value: u64) -> Condition {
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(mask), value)
}

fn executable() -> u64 {
    u64::from(libc::PROT_EXEC.unsigned_abs())
}
