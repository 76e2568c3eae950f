//! What a guest finds when it starts.
//!
//! The entry point is called as `extern "C" fn(info: *const BootInfo) -> !`: the address is in `rdi`, the stack pointer is
//! eight below a multiple of 16, as after a `call`.
//!
//! At ring 0 (stock `solo5-hvt`, and ours for an image without the note of [`crate::note::GuestNote`]) the processor has
//! CR4 = 0x620 and EFER = 0x500: no FSGSBASE, no OSXSAVE, no NX, no interrupt table, and the stack is at the top of
//! memory without a guard page. At ring 3 (`cs & 3 == 3`) CR4 also has FSGSBASE and OSXSAVE, XCR0 is set to what CPUID
//! offers, NX is on, and every page has the rights of its segment.

use core::mem::{offset_of, size_of};

/// Where the tender puts [`BootInfo`] (guest-physical, and virtual: the mapping is one to one).
pub const BOOT_INFO_ADDRESS: u64 = 0x10000;

/// The lowest address at which a segment of an image may lie (`HVT_GUEST_MIN_BASE` in `hvt_abi.h`).
pub const GUEST_MIN_BASE: u64 = 0x10_0000;

/// The most memory a guest can have, in bytes: hypercalls carry 32-bit addresses.
pub const GUEST_MAX_MEMORY: u64 = 4 << 30;

/// Room for the command line with its final zero byte (`HVT_CMDLINE_SIZE` in `hvt_abi.h`).
pub const CMDLINE_SIZE: usize = 8192;

/// The tender offers the ring of [`crate::ring`] (`HVT_FEATURE_RING_IO` in `hvt_abi.h`). Ours offers it to stock images,
/// and to images that name this bit and can't use [`crate::extension::FEATURE_EXCHANGE`] or are not offered it.
///
/// A tender older than Solo5 0.11 has the manifest where the feature fields are now, and its version number 1 reads as
/// this bit. So a guest must also see [`BootInfo::net_ring`] to be other than zero.
pub const FEATURE_RING_IO: u32 = 1 << 0;

/// The boot information (`struct hvt_boot_info` in `hvt_abi.h`). Read-only to the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct BootInfo {
    /// The end of the guest's memory: it has the addresses below this one, in bytes.
    pub mem_size: u64,
    /// The end of the highest segment that has bytes in the file. It may leave out a `.bss` of its own segment, so a heap
    /// starts at the linker's `_end`, never here.
    pub kernel_end: u64,
    /// The rate of the time stamp counter, in Hz. The counter is invariant, or the tender refuses to start.
    pub cpu_cycle_freq: u64,
    /// Address of the command line: the arguments joined by single spaces, ended by a zero byte.
    pub cmdline: u64,
    /// Address of the manifest ([`crate::manifest`]) with the properties of the attached devices filled in.
    pub mft: u64,
    /// What the tender offers: [`FEATURE_RING_IO`] and the bits of [`crate::extension`].
    pub host_features: u32,
    /// What the guest accepts. Stock tenders leave zero; ours repeats [`crate::note::GuestNote::features`].
    pub guest_features: u32,
    /// Address of the [`crate::ring`], zero when there is none.
    pub net_ring: u64,
}

/// What our tender tells beyond Solo5's boot information. It lies directly behind [`BootInfo`], at
/// [`BOOT_EXTENSION_ADDRESS`], **only** when [`crate::extension::FEATURE_BOOT_EXTENSION`] is in
/// [`BootInfo::host_features`]; elsewhere that place holds something else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct BootExtension {
    /// How many bytes of this structure the tender filled in. It grows at the end; a guest reads no field beyond.
    pub size: u64,
    /// The end of the heap: `[_end, heap_end)` is readable and writable, the page at `heap_end` is not mapped (ring 3).
    pub heap_end: u64,
    /// The lowest address of the first stack; the page below is a guard. The stack pointer starts eight below
    /// `stack_end`.
    pub stack_base: u64,
    /// The end of the first stack.
    pub stack_end: u64,
    /// The lowest address of the area of guarded thread stacks that [`crate::note::GuestNote`] asked for; zero when none.
    ///
    /// Stack `i` has the bytes `[thread_stacks + i * thread_stack_stride + 4096, thread_stacks + (i + 1) *
    /// thread_stack_stride)`; the page below each is a guard.
    pub thread_stacks: u64,
    /// Distance from one thread stack to the next, in bytes, with its guard page.
    pub thread_stack_stride: u64,
    /// How many thread stacks there are.
    pub thread_stack_count: u64,
    /// The function that makes a hypercall where there is no virtual machine; see
    /// [`crate::extension::FEATURE_PROCESS`]. Zero under KVM.
    pub process_call: u64,
    /// Address of the arguments, exact: each one's bytes and a zero byte, one after the other. Unlike
    /// [`BootInfo::cmdline`] this keeps spaces and empty arguments. The program's own name is not among them.
    pub args: u64,
    /// Bytes at `args`.
    pub args_len: u64,
    /// Address of the environment: `NAME=VALUE` and a zero byte, one after the other.
    pub env: u64,
    /// Bytes at `env`.
    pub env_len: u64,
    /// Bit `1 << handle` for each network device with offload: see [`crate::exchange::Offload`].
    pub net_offload: u64,
    /// Address of [`SEED_LEN`] random bytes of the host's, different at each start, in the lowest bytes of the first stack:
    /// the guest may write there, so it takes them and leaves none. It mixes what it makes of them into what it takes from
    /// the processor's own generator: then its secrets depend on two sources. Zero where the tender has none to give.
    pub seed: u64,
    /// How many bytes there are: [`SEED_LEN`], or zero.
    pub seed_len: u64,
    /// Address of the [`crate::slot`] when [`crate::extension::FEATURE_BLOCK_SLOT`] is offered, else zero.
    pub block_slot: u64,
}

/// Bytes at [`BootExtension::seed`].
pub const SEED_LEN: usize = 32;

/// Where [`BootExtension`] lies when it is there.
pub const BOOT_EXTENSION_ADDRESS: u64 = BOOT_INFO_ADDRESS + size_of::<BootInfo>() as u64;

const _: () = {
    assert!(size_of::<BootInfo>() == 56);
    assert!(offset_of!(BootInfo, kernel_end) == 8);
    assert!(offset_of!(BootInfo, cpu_cycle_freq) == 16);
    assert!(offset_of!(BootInfo, cmdline) == 24);
    assert!(offset_of!(BootInfo, mft) == 32);
    assert!(offset_of!(BootInfo, host_features) == 40);
    assert!(offset_of!(BootInfo, guest_features) == 44);
    assert!(offset_of!(BootInfo, net_ring) == 48);
    assert!(offset_of!(BootExtension, net_offload) == 96);
    assert!(offset_of!(BootExtension, seed) == 104);
    assert!(offset_of!(BootExtension, seed_len) == 112);
    assert!(offset_of!(BootExtension, block_slot) == 120);
    assert!(size_of::<BootExtension>() == 128);
    assert!(BOOT_EXTENSION_ADDRESS == 0x10038);
};
