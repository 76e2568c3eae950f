//! From options to the end of the guest: one chain, each link in its own module.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use hvt_abi::boot::{FEATURE_RING_IO, GUEST_MAX_MEMORY};
use hvt_abi::extension::{
    FEATURE_BLOCK_FLUSH, FEATURE_BOOT_EXTENSION, FEATURE_RING3, FEATURE_SHUTDOWN,
};
use hvt_abi::hypercall::{EXIT_ABORT, TrapFrame};
use vm_memory::MmapRegion;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EventFd};

use crate::boot::BootData;
use crate::border::Border;
use crate::crash::{End, Registers, report};
use crate::device::console::{Console, message};
use crate::device::ring::{self, RingQueue};
use crate::device::{Devices, transfer};
use crate::failure::{EXIT_CRASH, EXIT_MISUSE, EXIT_SIGNAL, Failure};
use crate::image::Image;
use crate::kvm::{Machine, Ring};
use crate::layout::{Layout, RING_RESERVE};
use crate::memory::GuestSpace;
use crate::options::Options;
use crate::sandbox;
use crate::shutdown::{self, Shutdown};

/// The extensions that the KVM backend offers.
const OFFERED: u32 =
    FEATURE_RING3 | FEATURE_BOOT_EXTENSION | FEATURE_BLOCK_FLUSH | FEATURE_SHUTDOWN;

/// Runs a guest to its end and gives the status to exit with.
///
/// # Errors
/// When the guest can't be started, or the host fails under it.
pub fn run(options: &Options) -> Result<u8, Failure> {
    let mut memory = options.memory_mib << 20;
    let image = Image::open(&options.image, memory)?;
    image.manifest.check_attached(options)?;
    let devices = Arc::new(Devices::attach(&image.manifest, options)?);

    let accepted = image.guest.map_or(FEATURE_RING_IO, |note| note.features);
    let privilege = if accepted & FEATURE_RING3 != 0 { Ring::Three } else { Ring::Zero };
    let ring = accepted & FEATURE_RING_IO != 0
        && devices.nets().next().is_some()
        && memory >= 2 * RING_RESERVE;
    if ring {
        // The ring lies above the guest's memory, but where a call can still point.
        memory = memory.min(GUEST_MAX_MEMORY - RING_RESERVE);
    }
    let features = accepted & if ring { OFFERED | FEATURE_RING_IO } else { OFFERED };
    let mut boot = BootData {
        kernel_end: image.kernel_end,
        cycles_per_second: 0,
        host_features: features,
        guest_features: image.guest.map_or(0, |note| note.features),
        process_call: 0,
        manifest: &image.manifest,
        devices: &devices,
        args: &options.args,
        env: &options.env,
    };
    boot.check()?;
    let layout = match (&image.guest, privilege) {
        (Some(note), Ring::Three) => Layout::guarded(&image, note, boot.end(), memory, ring)?,
        _ => Layout::stock(&image, memory, ring)?,
    };

    let host = |what| move |source| Failure::Host { what, source };
    let space = Arc::new(load(&image, &layout)?);
    let ring = layout.ring.map(|_| map(RING_RESERVE)).transpose()?.map(Arc::new);
    let mut machine =
        Machine::new(Arc::clone(&space), ring.clone(), layout.clone(), image.entry, privilege)?;
    boot.cycles_per_second = machine.cycles_per_second()?;
    boot.write(&space, &layout)?;
    // Signals must reach this thread, which runs the guest, so others block them.
    let blocked = shutdown::block_signals().map_err(host("signals"))?;
    let kick = match ring {
        None => None,
        Some(ring) => {
            let kick = EventFd::new(EFD_CLOEXEC).map_err(host("an event for the ring"))?;
            machine.register_kick(&kick)?;
            let fd = kick.as_raw_fd();
            ring::start(RingQueue::new(ring, Arc::clone(&space), Arc::clone(&devices)), kick)?;
            Some(fd)
        }
    };
    let shutdown = Shutdown::install().map_err(host("signal handlers"))?;
    blocked.restore().map_err(host("signals"))?;
    let console = Console::stdout().map_err(host("standard output"))?;
    let mut border =
        Border::new(Arc::clone(&space), Arc::clone(&devices), console, shutdown, features);

    machine.close_setup();
    let needs = sandbox::Needs {
        vcpu: Some(machine.raw_fd()),
        image: image.file.as_fd().as_raw_fd(),
        border: border.descriptors(),
        devices: &devices,
        kick,
    };
    sandbox::enter(&needs)?;
    let end = machine.run(&mut border)?;
    Ok(conclude(&end, &image, &space, &layout))
}

/// Reserves the guest's memory and copies the image into it.
fn load(image: &Image, layout: &Layout) -> Result<GuestSpace, Failure> {
    let host = |what| move |source| Failure::Host { what, source };
    let mut space = GuestSpace::new(map(layout.memory)?, 0);
    for segment in &image.segments {
        let slice = space.loader_slice(segment.address, segment.file_len)?;
        transfer::read_exact_at(image.file.as_fd(), &slice, segment.offset)
            .map_err(host("a segment of the image can't be read"))?;
    }
    space.permit(layout.permissions());
    Ok(space)
}

/// Reserves memory; the host gives pages when they are first touched.
fn map(len: u64) -> Result<MmapRegion, Failure> {
    let fail = |e: String| Failure::Host { what: "memory", source: std::io::Error::other(e) };
    let len = usize::try_from(len).map_err(|e| fail(e.to_string()))?;
    MmapRegion::new(len).map_err(|e| fail(e.to_string()))
}

/// Tells how the guest ended and gives the status for it.
fn conclude(end: &End, image: &Image, space: &GuestSpace, layout: &Layout) -> u8 {
    let tell = |cause: &str, registers: &Registers| {
        message(report(cause, registers, image, space, layout).trim_end());
    };
    match end {
        // As a process's own status: the low eight bits.
        End::Halted { status, cookie } => {
            if *status == EXIT_ABORT
                && let Some(frame) = cookie.and_then(|at| space.read::<TrapFrame>(at).ok())
            {
                let mut registers = Registers::default();
                registers.apply(&frame);
                let code = frame.error_code;
                tell(
                    &format!("the guest aborted after a fault (error code {code:#x})"),
                    &registers,
                );
            }
            status.to_le_bytes()[0]
        }
        End::Crashed(crash) => {
            let cause = crash.fault.describe(layout, &crash.registers);
            tell(&format!("the guest crashed: {cause}"), &crash.registers);
            EXIT_CRASH
        }
        End::Misused(misuse, registers) => {
            tell(&format!("the guest was ended: {misuse}"), registers);
            EXIT_MISUSE
        }
        End::Signal(signal) => {
            message(&format!("ended by signal {signal}"));
            EXIT_SIGNAL.wrapping_add(signal.to_le_bytes()[0])
        }
    }
}
