//! A guest in a virtual machine.
//!
//! [`Machine::new`] makes a machine of one processor over the guest's memory, in the state of `processor`, for ring 3
//! under the pages of `supervisor`; [`Machine::run`] lets it run until it ends.

mod debug;
mod paging;
mod processor;
mod run;
mod supervisor;

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use kvm_bindings::{KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::{IoEventAddress, Kvm, NoDatamatch, VcpuFd, VmFd};
use paging::TablesFull;
pub use run::Turn;
use supervisor::{SUPERVISOR_BASE, Supervisor};
use vm_memory::MmapRegion;
use vmm_sys_util::eventfd::EventFd;

use crate::image::Rights;
use crate::layout::{Layout, RING_RESERVE, What};
use crate::memory::GuestSpace;

/// Why there is no machine.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// `/dev/kvm` is not usable.
    #[error("{0}")]
    Unavailable(String),
    /// KVM refuses something that every KVM can do.
    #[error("{call}: {source}")]
    Call {
        /// The request.
        call: &'static str,
        /// What the host says.
        source: io::Error,
    },
    /// No memory for the guest or for what it runs under.
    #[error("guest memory: {0}")]
    Memory(String),
    /// No room for page tables.
    #[error(transparent)]
    Tables(#[from] TablesFull),
    /// Clocks would run wrong.
    #[error(
        "the processor's time stamp counter does not run at a constant rate, which guests rely on"
    )]
    NoConstantClock,
}

/// At which privilege a guest starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ring {
    /// As Solo5 does it: the guest owns the processor of its machine.
    Zero,
    /// Under page tables that it can't reach.
    Three,
}

/// A machine with its guest. It keeps alive all memory that the machine uses.
#[derive(Debug)]
pub struct Machine {
    vcpu: VcpuFd,
    /// Until [`Machine::close_setup`].
    vm: Option<VmFd>,
    layout: Layout,
    space: Arc<GuestSpace>,
    privilege: Ring,
    supervisor: Arc<Supervisor>,
    ring: Option<Arc<MmapRegion>>,
    next_slot: u32,
    debugging: bool,
}

impl Machine {
    /// Makes a machine whose guest will start at `entry`.
    ///
    /// # Errors
    /// When KVM is not there, or refuses.
    pub fn new(
        space: Arc<GuestSpace>,
        ring: Option<Arc<MmapRegion>>,
        layout: Layout,
        entry: u64,
        privilege: Ring,
    ) -> Result<Self, KvmError> {
        let kvm = open()?;
        let vm = kvm.create_vm().map_err(step("KVM_CREATE_VM"))?;
        place_intel_pages(&vm, layout.ring.map_or(layout.memory, |ring| ring + RING_RESERVE));
        let vcpu = vm.create_vcpu(0).map_err(step("KVM_CREATE_VCPU"))?;
        let xcr0 = processor::set_features(&kvm, &vcpu)?;
        let supervisor = Arc::new(match privilege {
            Ring::Zero => Supervisor::ring0()?,
            Ring::Three => Supervisor::ring3(&layout)?,
        });
        let mut machine = Self {
            vcpu,
            vm: Some(vm),
            layout,
            space,
            privilege,
            supervisor,
            ring,
            next_slot: 0,
            debugging: false,
        };
        machine.plug_memory()?;
        let Self { vcpu, supervisor, space, layout, .. } = &machine;
        match privilege {
            Ring::Three => processor::start_ring3(vcpu, supervisor, xcr0, entry, layout)?,
            Ring::Zero => processor::start_ring0(vcpu, supervisor, space, entry, layout)?,
        }
        Ok(machine)
    }

    /// The rate of the guest's time stamp counter in Hz.
    ///
    /// # Errors
    /// When it is not constant.
    pub fn cycles_per_second(&self) -> Result<u64, KvmError> {
        match self.vcpu.get_tsc_khz() {
            Ok(khz) if khz > 0 => Ok(u64::from(khz) * 1000),
            _ => Err(KvmError::NoConstantClock),
        }
    }

    /// Makes the guest's `out` of 32 bits to a port signal this event instead of leaving the machine.
    ///
    /// # Errors
    /// When KVM can't, or [`Machine::close_setup`] was called before.
    pub fn register_kick(&self, event: &EventFd, port: u16) -> Result<(), KvmError> {
        let Some(vm) = &self.vm else {
            return Err(KvmError::Call {
                call: "KVM_IOEVENTFD",
                source: io::ErrorKind::NotConnected.into(),
            });
        };
        let address = IoEventAddress::Pio(port.into());
        vm.register_ioevent(event, &address, NoDatamatch).map_err(step("KVM_IOEVENTFD"))
    }

    /// Closes what is only needed to build a machine. The processor's descriptor keeps the machine alive.
    pub fn close_setup(&mut self) {
        self.vm = None;
    }

    /// The processor's descriptor, for the sandbox.
    #[must_use]
    pub fn raw_fd(&self) -> RawFd {
        self.vcpu.as_raw_fd()
    }

    /// Where everything lies.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    fn plug_memory(&mut self) -> Result<(), KvmError> {
        let memory = Arc::clone(&self.space);
        match self.privilege {
            // Page tables hold the rights.
            Ring::Three => self.plug(memory.region(), 0..self.layout.memory, 0, false)?,
            // The guest owns its page tables, so what it may not write is read-only to the machine.
            Ring::Zero => {
                let mut at = 0;
                for area in self.layout.areas.clone() {
                    let fixed = area.what == What::Segment && area.rights != Rights::Write;
                    if fixed {
                        self.plug(memory.region(), at..area.pages.start, at, false)?;
                        self.plug(memory.region(), area.pages.clone(), area.pages.start, true)?;
                        at = area.pages.end;
                    }
                }
                self.plug(memory.region(), at..self.layout.memory, at, false)?;
            }
        }
        if let (Some(ring), Some(at)) = (self.ring.clone(), self.layout.ring) {
            self.plug(&ring, at..at + RING_RESERVE, 0, false)?;
        }
        let supervisor = Arc::clone(&self.supervisor);
        let region = supervisor.region();
        let end = SUPERVISOR_BASE + region.size() as u64;
        self.plug(region, SUPERVISOR_BASE..end, 0, false)
    }

    /// Puts bytes of a region, from `offset` on, at these addresses of the machine.
    fn plug(
        &mut self,
        region: &MmapRegion,
        addresses: std::ops::Range<u64>,
        offset: u64,
        read_only: bool,
    ) -> Result<(), KvmError> {
        let len = addresses.end - addresses.start;
        if len == 0 {
            return Ok(());
        }
        if offset.checked_add(len).is_none_or(|end| end > region.size() as u64) {
            return Err(KvmError::Memory("a slot is larger than its memory".into()));
        }
        let slot = kvm_userspace_memory_region {
            slot: self.next_slot,
            flags: if read_only { KVM_MEM_READONLY } else { 0 },
            guest_phys_addr: addresses.start,
            memory_size: len,
            userspace_addr: region.as_ptr() as u64 + offset,
        };
        self.next_slot += 1;
        let Some(vm) = &self.vm else { return Ok(()) };
        // SAFETY: `offset` and `len` are inside the region (checked above), and the machine keeps every region that is
        // plugged in for as long as its processor can run: all in `Arc`s.
        // The guest may write to it at any time; nobody holds Rust references into these regions.
        unsafe { vm.set_user_memory_region(slot) }.map_err(step("KVM_SET_USER_MEMORY_REGION"))
    }
}

/// Intel processors without "unrestricted guest" (before 2010) need four pages of address space for KVM's own use, asked
/// for before there is a processor (Linux, `Documentation/virt/kvm/api.rst`, sections 4.33 and 4.34); others ignore it.
/// Other kinds of KVM may refuse, which does not matter to them; and when a guest has all 4 GiB there is no place.
fn place_intel_pages(vm: &VmFd, memory_end: u64) {
    if memory_end <= IDENTITY_MAP_ADDRESS {
        _ = vm.set_identity_map_address(IDENTITY_MAP_ADDRESS);
        _ = vm.set_tss_address(INTEL_TSS_ADDRESS);
    }
}

/// One page, and the three that follow, near the end of what 32 bits can name.
const IDENTITY_MAP_ADDRESS: u64 = 0xfffb_c000;
const INTEL_TSS_ADDRESS: usize = 0xfffb_d000;

fn open() -> Result<Kvm, KvmError> {
    let kvm = Kvm::new().map_err(|error| {
        let error = io::Error::from(error);
        KvmError::Unavailable(match error.kind() {
            io::ErrorKind::NotFound => {
                "there is no /dev/kvm: enable virtualization in the firmware, \
                 load the module kvm_intel or kvm_amd, or run with --backend=process"
                    .into()
            }
            io::ErrorKind::PermissionDenied => "/dev/kvm may not be opened by this user: \
                 put the user into the group kvm, or run with --backend=process"
                .into(),
            _ => format!("/dev/kvm: {error}"),
        })
    })?;
    match kvm.get_api_version() {
        12 => Ok(kvm),
        other => Err(KvmError::Unavailable(format!("/dev/kvm has interface {other}, not 12"))),
    }
}

fn step(call: &'static str) -> impl Fn(kvm_ioctls::Error) -> KvmError {
    move |error| KvmError::Call { call, source: error.into() }
}
