//! What the guest finds in memory when it starts: boot information, manifest, arguments ([`hvt_abi::boot`]).

use hvt_abi::PAGE_SIZE;
use hvt_abi::boot::{
    BOOT_INFO_ADDRESS, BootExtension, BootInfo, CMDLINE_SIZE, GUEST_MIN_BASE, SEED_LEN,
};
use hvt_abi::extension::FEATURE_BOOT_EXTENSION;
use hvt_abi::manifest::{self, Entry};
use vm_memory::Bytes;

use crate::device::{Device, Devices};
use crate::layout::Layout;
use crate::manifest::Manifest;
use crate::memory::{GuestSpace, PointerFault};

/// Everything that goes in, apart from the layout.
#[derive(Debug)]
pub struct BootData<'a> {
    /// See [`BootInfo::kernel_end`].
    pub kernel_end: u64,
    /// See [`BootInfo::cpu_cycle_freq`].
    pub cycles_per_second: u64,
    /// See [`BootInfo::host_features`].
    pub host_features: u32,
    /// See [`BootInfo::guest_features`].
    pub guest_features: u32,
    /// See [`BootExtension::process_call`].
    pub process_call: u64,
    /// The devices that the image declares.
    pub manifest: &'a Manifest,
    /// What is attached to it.
    pub devices: &'a Devices,
    /// The guest's arguments.
    pub args: &'a [String],
    /// The guest's environment.
    pub env: &'a [String],
}

/// The arguments do not fit into a stock guest's command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the guest's arguments have {0} bytes; this image can take at most 8191")]
pub struct CmdlineError(usize);

/// Where each part goes.
struct Places {
    manifest: u64,
    cmdline: u64,
    args: u64,
    env: u64,
    end: u64,
}

impl BootData<'_> {
    /// The end of what [`BootData::write`] writes. It is below [`GUEST_MIN_BASE`]: the limits on the parts see to it.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.places().end
    }

    /// Checks that the arguments reach the guest whole.
    ///
    /// # Errors
    /// When the guest only knows the command line and they do not fit into it.
    pub fn check(&self) -> Result<(), CmdlineError> {
        let len = self.args.join(" ").len();
        match self.is_extended() || len < CMDLINE_SIZE {
            true => Ok(()),
            false => Err(CmdlineError(len)),
        }
    }

    /// Writes everything at [`BOOT_INFO_ADDRESS`].
    ///
    /// # Errors
    /// When the memory ends before; it never does for the least memory that a guest can have.
    pub fn write(&self, space: &GuestSpace, layout: &Layout) -> Result<(), PointerFault> {
        let places = self.places();
        let info = BootInfo {
            mem_size: layout.memory,
            kernel_end: self.kernel_end,
            cpu_cycle_freq: self.cycles_per_second,
            cmdline: places.cmdline,
            mft: places.manifest,
            host_features: self.host_features,
            guest_features: self.guest_features,
            net_ring: layout.ring.unwrap_or(0),
        };
        space.loader_write(BOOT_INFO_ADDRESS, info)?;
        self.write_manifest(space, places.manifest)?;

        let cmdline = Some(self.args.join(" ")).filter(|text| text.len() < CMDLINE_SIZE);
        write_bytes(space, places.cmdline, cmdline.unwrap_or_default().as_bytes())?;
        if !self.is_extended() {
            return Ok(());
        }
        let (args, env) = (zero_ended(self.args), zero_ended(self.env));
        write_bytes(space, places.args, &args)?;
        write_bytes(space, places.env, &env)?;
        let seed = random_bytes::<SEED_LEN>();
        if let Some(seed) = &seed {
            write_bytes(space, layout.stack.start, seed)?;
        }
        let extension = BootExtension {
            size: size_of::<BootExtension>() as u64,
            heap_end: layout.heap_end,
            stack_base: layout.stack.start,
            stack_end: layout.stack.end,
            thread_stacks: layout.thread_stacks.base,
            thread_stack_stride: layout.thread_stacks.stride,
            thread_stack_count: layout.thread_stacks.count,
            process_call: self.process_call,
            args: places.args,
            args_len: args.len() as u64,
            env: places.env,
            env_len: env.len() as u64,
            net_offload: self.devices.offload_set(),
            seed: if seed.is_some() { layout.stack.start } else { 0 },
            seed_len: if seed.is_some() { SEED_LEN as u64 } else { 0 },
            block_slot: layout.slot.unwrap_or(0),
        };
        space.loader_write(hvt_abi::boot::BOOT_EXTENSION_ADDRESS, extension)
    }

    fn write_manifest(&self, space: &GuestSpace, at: u64) -> Result<(), PointerFault> {
        let mut entries = self.manifest.entries().to_vec();
        for (handle, device) in self.devices.iter() {
            let Some(entry) = entries.get_mut(handle) else { continue };
            entry.attached = 1;
            match device {
                Device::Block(block) => entry.set_block(block.properties()),
                Device::Net(net) => entry.set_net(net.properties()),
            }
        }
        let count = u32::try_from(entries.len()).unwrap_or(u32::MAX);
        let header = manifest::Header { version: manifest::VERSION, entries: count };
        space.loader_write(at, header)?;
        let mut at = at + size_of::<manifest::Header>() as u64;
        for entry in entries {
            space.loader_write(at, entry)?;
            at += size_of::<Entry>() as u64;
        }
        Ok(())
    }

    fn is_extended(&self) -> bool {
        self.host_features & FEATURE_BOOT_EXTENSION != 0
    }

    /// A stock guest finds things exactly where a stock tender puts them.
    fn places(&self) -> Places {
        let extension = if self.is_extended() { size_of::<BootExtension>() } else { 0 };
        let manifest = BOOT_INFO_ADDRESS + (size_of::<BootInfo>() + extension) as u64;
        let entries = size_of_val(self.manifest.entries());
        let cmdline = manifest + (size_of::<manifest::Header>() + entries) as u64;
        let args = cmdline + CMDLINE_SIZE as u64;
        let (args_len, env_len) = match self.is_extended() {
            true => (zero_ended(self.args).len() as u64, zero_ended(self.env).len() as u64),
            false => (0, 0),
        };
        Places { manifest, cmdline, args, env: args + args_len, end: args + args_len + env_len }
    }
}

/// Randomness of the host's kernel; none when it has none yet.
fn random_bytes<const N: usize>() -> Option<[u8; N]> {
    let mut bytes = [0; N];
    // SAFETY: the array has the bytes that the kernel is told to fill.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), N, libc::GRND_NONBLOCK) };
    (usize::try_from(got) == Ok(N)).then_some(bytes)
}

fn zero_ended(words: &[String]) -> Vec<u8> {
    words.iter().flat_map(|word| word.bytes().chain([0])).collect()
}

fn write_bytes(space: &GuestSpace, at: u64, bytes: &[u8]) -> Result<(), PointerFault> {
    let len = bytes.len() as u64;
    let slice = space.loader_slice(at, len)?;
    slice.write_slice(bytes, 0).map_err(|_| PointerFault::Outside { address: at, len })
}

const _: () = {
    let most = size_of::<BootInfo>()
        + size_of::<BootExtension>()
        + size_of::<manifest::Header>()
        + manifest::MAX_ENTRIES as usize * size_of::<Entry>()
        + CMDLINE_SIZE
        + 2 * hvt_abi::extension::ARGS_MAX;
    // The slot's page may follow.
    let end = (BOOT_INFO_ADDRESS + most as u64).next_multiple_of(PAGE_SIZE) + PAGE_SIZE;
    assert!(end <= GUEST_MIN_BASE);
};
