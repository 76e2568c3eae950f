//! From options to the end of the guest: one chain, each link in its own module.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use hvt_abi::boot::{FEATURE_RING_IO, GUEST_MAX_MEMORY};
use hvt_abi::extension::{
    FEATURE_BLOCK_COMMIT, FEATURE_BLOCK_FLUSH, FEATURE_BLOCK_SLOT, FEATURE_BOOT_EXTENSION,
    FEATURE_EXCHANGE, FEATURE_MEMORY_RELEASE, FEATURE_PROCESS, FEATURE_RING3, FEATURE_SHUTDOWN,
    SLOT_WAKE,
};
use hvt_abi::hypercall::{self, EXIT_ABORT, TrapFrame};
use hvt_abi::ring::KICK_PORT;
use vm_memory::MmapRegion;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EventFd};

use crate::boot::BootData;
use crate::border::Border;
use crate::border::slot::{self, CallSlot};
use crate::crash::{End, Registers, report};
use crate::device::console::{Console, message};
use crate::device::ring::{self, RingQueue};
use crate::device::{Device, Devices, transfer};
use crate::dump::CoreFolder;
use crate::failure::{EXIT_CRASH, EXIT_MISUSE, EXIT_SIGNAL, Failure};
use crate::gdb::{self, Connection};
use crate::image::Image;
use crate::kvm::{Machine, Ring};
use crate::layout::{Layout, RING_RESERVE};
use crate::memory::GuestSpace;
use crate::options::{Backend, Options, OptionsError};
use crate::process::{self, Process};
use crate::sandbox;
use crate::shutdown::{self, Shutdown};

/// The extensions that both backends offer.
const OFFERED: u32 = FEATURE_RING3
    | FEATURE_BOOT_EXTENSION
    | FEATURE_BLOCK_FLUSH
    | FEATURE_SHUTDOWN
    | FEATURE_EXCHANGE
    | FEATURE_MEMORY_RELEASE
    | FEATURE_BLOCK_COMMIT;

/// Runs a guest to its end and gives the status to exit with.
///
/// # Errors
/// When the guest can't be started, or the host fails under it.
pub fn run(options: &Options) -> Result<u8, Failure> {
    let memory = options.memory_mib << 20;
    let image = Image::open(&options.image, memory)?;
    image.manifest.check_attached(options)?;
    let exchanges =
        image.guest.is_some_and(|note| note.features & !options.withheld & FEATURE_EXCHANGE != 0);
    let devices = Arc::new(Devices::attach(&image.manifest, options, exchanges)?);
    let core = options.dumpcore.as_deref().map(open_core_folder).transpose()?;
    let guest = Guest { options, image, devices, core };
    match options.backend {
        Backend::Kvm => guest.run_in_machine(memory),
        Backend::Process => guest.run_as_process(memory),
    }
}

/// What both backends start from.
struct Guest<'a> {
    options: &'a Options,
    image: Image,
    devices: Arc<Devices>,
    core: Option<CoreFolder>,
}

impl Guest<'_> {
    fn run_in_machine(self, mut memory: u64) -> Result<u8, Failure> {
        let accepted = self.image.guest.map_or(FEATURE_RING_IO, |note| note.features);
        let accepted = accepted & !self.options.withheld;
        let privilege = if accepted & FEATURE_RING3 != 0 { Ring::Three } else { Ring::Zero };
        // A guest that can exchange has no use for it, and it would cost a thread.
        let ring = accepted & FEATURE_RING_IO != 0
            && accepted & FEATURE_EXCHANGE == 0
            && self.devices.nets().next().is_some()
            && memory >= 2 * RING_RESERVE;
        if ring {
            // The ring lies above the guest's memory, but where a call can still point.
            memory = memory.min(GUEST_MAX_MEMORY - RING_RESERVE);
        }
        let mut offered = OFFERED;
        offered |= if ring { FEATURE_RING_IO } else { 0 };
        offered |= if self.slot_can_pay(accepted) { FEATURE_BLOCK_SLOT } else { 0 };
        let features = accepted & offered;
        let mut boot = self.boot_data(features);
        boot.check()?;
        let layout = match (&self.image.guest, privilege) {
            (Some(note), Ring::Three) => {
                let slot = features & FEATURE_BLOCK_SLOT != 0;
                Layout::guarded(&self.image, note, boot.end(), memory, ring, slot)?
            }
            _ => Layout::stock(&self.image, memory, ring)?,
        };

        let mut space = GuestSpace::new(map(layout.memory)?, 0);
        prefer_large_pages(&space, self.image.end)?;
        self.load(&mut space, &layout)?;
        let space = Arc::new(space);
        let ring = layout.ring.map(|_| map(RING_RESERVE)).transpose()?.map(Arc::new);
        let entry = self.image.entry;
        let mut machine =
            Machine::new(Arc::clone(&space), ring.clone(), layout.clone(), entry, privilege)?;
        boot.cycles_per_second = machine.cycles_per_second()?;
        boot.write(&space, &layout)?;
        // Signals must reach this thread, which runs the guest, so others block them.
        let blocked = shutdown::block_signals().map_err(host("signals"))?;
        let new_kick = || EventFd::new(EFD_CLOEXEC).map_err(host("an event"));
        let mut kicks = [None, None];
        if let Some(ring) = ring {
            let kick = new_kick()?;
            machine.register_kick(&kick, KICK_PORT)?;
            kicks[0] = Some(kick.as_raw_fd());
            let queue = RingQueue::new(ring, Arc::clone(&space), Arc::clone(&self.devices));
            ring::start(queue, kick)?;
        }
        let mut call_slot = None;
        if let Some(at) = layout.slot {
            let kick = new_kick()?;
            machine.register_kick(&kick, hypercall::port(SLOT_WAKE))?;
            kicks[1] = Some(kick.as_raw_fd());
            let (shared, devices) = (Arc::clone(&space), Arc::clone(&self.devices));
            let look = self.options.block_poll;
            let slot = Arc::new(CallSlot::new(shared, devices, features, at, look)?);
            slot::start(Arc::clone(&slot), kick, look)?;
            call_slot = Some(slot);
        }
        let shutdown = Shutdown::install().map_err(host("signal handlers"))?;
        blocked.restore().map_err(host("signals"))?;
        let mut border = self.border(&space, shutdown, features)?;
        if let Some(slot) = call_slot {
            border.share(slot);
        }

        let understands = border.understands_shutdown();
        let wait = |address| Connection::wait(address, understands);
        let gdb = match self.options.gdb.as_deref().map(wait).transpose() {
            Ok(gdb) => gdb,
            Err(error) => {
                let signal = Shutdown::must_end(false).ok_or_else(|| host("--gdb")(error))?;
                let Self { image, core, .. } = self;
                return Ok(Ending { image, core, space, layout }.conclude(&End::Signal(signal)));
            }
        };
        machine.close_setup();
        sandbox::enter(&sandbox::Needs {
            vcpu: Some(machine.raw_fd()),
            debugger: gdb.as_ref().map(Connection::raw_fd),
            kicks,
            ..self.needs(&border)
        })?;
        let end = match gdb {
            Some(connection) => gdb::run(&mut machine, &mut border, connection)?,
            None => machine.run(&mut border)?,
        };
        if self.options.stats {
            message(&border.statistics());
        }
        let Self { image, core, .. } = self;
        Ok(Ending { image, core, space, layout }.conclude(&end))
    }

    fn run_as_process(self, memory: u64) -> Result<u8, Failure> {
        let Some(note) = self.image.guest.filter(|note| note.features & FEATURE_PROCESS != 0)
        else {
            return Err(Failure::Backend(
                "--backend=process: this image is made for a virtual machine only; images of hvt-image run both ways",
            ));
        };
        let offered = OFFERED & !self.options.withheld | FEATURE_PROCESS;
        let features = note.features & offered | FEATURE_BOOT_EXTENSION;
        let mut boot = self.boot_data(features);
        boot.process_call = process::call_address();
        boot.cycles_per_second = process::cycles_per_second();
        let layout = Layout::guarded(&self.image, &note, boot.end(), memory, false, false)?;

        let mut space = process::map(memory)?;
        self.load(&mut space, &layout)?;
        boot.write(&space, &layout)?;
        process::protect(&layout)?;
        let space = Arc::new(space);
        let shutdown = Shutdown::install().map_err(host("signal handlers"))?;
        let border = self.border(&space, shutdown, features)?;
        let needs = sandbox::Needs { trap: true, ..self.needs(&border) };
        sandbox::prepare(&needs)?;
        let filter = sandbox::Filter::new(&needs)?;
        let entry = self.image.entry;
        let stack = layout.stack.end;
        let stats = self.options.stats;
        let Self { image, core, .. } = self;
        let ending = Ending { image, core, space, layout };
        let process = Process::new(border, stats, move |end| ending.conclude(end))?;
        filter.load()?;
        process.run(entry, stack);
        Ok(0)
    }

    /// Whether a thread for the guest's calls for block devices can be of use: it takes a layout with room for the slot,
    /// and a processor besides the one that the guest keeps busy meanwhile.
    fn slot_can_pay(&self, accepted: u32) -> bool {
        let needed = FEATURE_RING3 | FEATURE_BOOT_EXTENSION | FEATURE_BLOCK_SLOT;
        let mut devices = self.devices.iter();
        accepted & needed == needed
            && !self.options.block_poll.is_zero()
            && devices.any(|(_, device)| matches!(device, Device::Block(_)))
            && std::thread::available_parallelism().is_ok_and(|processors| processors.get() > 1)
    }

    fn boot_data(&self, features: u32) -> BootData<'_> {
        BootData {
            kernel_end: self.image.kernel_end,
            cycles_per_second: 0,
            host_features: features,
            guest_features: self.image.guest.map_or(0, |note| note.features),
            process_call: 0,
            manifest: &self.image.manifest,
            devices: &self.devices,
            args: &self.options.args,
            env: &self.options.env,
        }
    }

    /// Copies the image into the guest's memory.
    fn load(&self, space: &mut GuestSpace, layout: &Layout) -> Result<(), Failure> {
        for segment in &self.image.segments {
            let slice = space.loader_slice(segment.address, segment.file_len)?;
            transfer::read_exact_at(self.image.file.as_fd(), &slice, segment.offset)
                .map_err(host("a segment of the image can't be read"))?;
        }
        space.permit(layout.permissions());
        Ok(())
    }

    fn border(
        &self,
        space: &Arc<GuestSpace>,
        shutdown: Shutdown,
        features: u32,
    ) -> Result<Border, Failure> {
        let console = Console::stdout().map_err(host("standard output"))?;
        let (space, devices) = (Arc::clone(space), Arc::clone(&self.devices));
        let mut border = Border::new(space, devices, console, shutdown, features);
        border.look_for(self.options.poll);
        Ok(border)
    }

    fn needs(&self, border: &Border) -> sandbox::Needs<'_> {
        sandbox::Needs {
            vcpu: None,
            image: self.image.file.as_fd().as_raw_fd(),
            border: border.descriptors(),
            devices: &self.devices,
            trap: false,
            core_folder: self.core.as_ref().map(CoreFolder::raw_fd),
            debugger: None,
            kicks: [None, None],
        }
    }
}

fn host(what: &'static str) -> impl Fn(std::io::Error) -> Failure {
    move |source| Failure::Host { what, source }
}

/// Reserves memory; the host gives pages when they are first touched.
fn map(len: u64) -> Result<MmapRegion, Failure> {
    let fail = |e: String| Failure::Host { what: "memory", source: std::io::Error::other(e) };
    let len = usize::try_from(len).map_err(|e| fail(e.to_string()))?;
    MmapRegion::new(len).map_err(|e| fail(e.to_string()))
}

/// Lets the host give pages of 2 MiB, where it has some, for what lies below `end`, the image, and the part of the heap that
/// shares the last one. All of the image is filled, so large pages waste nothing there, and each small one would cost a way
/// through KVM and the host when the guest first touches it. The rest of the heap stays in small pages, most of which an
/// idle guest never touches.
fn prefer_large_pages(space: &GuestSpace, end: u64) -> Result<(), Failure> {
    const LARGE: u64 = 2 << 20;
    let len = end.next_multiple_of(LARGE).min(space.end());
    let slice = space.loader_slice(0, len)?;
    let guard = slice.ptr_guard_mut();
    // SAFETY: the range lies in a private anonymous mapping, and the advice changes nothing of what is in it. A host
    // without such pages refuses, which does not matter.
    _ = unsafe { libc::madvise(guard.as_ptr().cast(), slice.len(), libc::MADV_HUGEPAGE) };
    Ok(())
}

fn open_core_folder(path: &std::path::Path) -> Result<CoreFolder, Failure> {
    let error = |e: std::io::Error| OptionsError::File {
        path: path.display().to_string(),
        why: format!("no folder for core files: {e}"),
    };
    CoreFolder::open(path).map_err(|e| error(e).into())
}

/// What is told when the guest has ended, and from what.
struct Ending {
    image: Image,
    core: Option<CoreFolder>,
    space: Arc<GuestSpace>,
    layout: Layout,
}

impl Ending {
    /// Tells how the guest ended and gives the status for it.
    fn conclude(&self, end: &End) -> u8 {
        match end {
            End::Halted { status, cookie, registers } => {
                if *status == EXIT_ABORT {
                    self.aborted(*cookie, *registers);
                }
                // As a process's own status: the low eight bits.
                status.to_le_bytes()[0]
            }
            End::Crashed(crash) => {
                let cause = crash.fault.describe(&self.layout, &crash.registers);
                self.tell(&format!("the guest crashed: {cause}"), &crash.registers);
                self.dump(&crash.registers);
                EXIT_CRASH
            }
            End::Misused(misuse, registers) => {
                self.tell(&format!("the guest was ended: {misuse}"), registers);
                self.dump(registers);
                EXIT_MISUSE
            }
            End::Signal(signal) => {
                message(&format!("ended by signal {signal}"));
                EXIT_SIGNAL.wrapping_add(signal.to_le_bytes()[0])
            }
        }
    }

    /// The guest gave up by itself, perhaps after a fault that it caught and told of in a trap frame.
    fn aborted(&self, cookie: Option<u64>, mut registers: Registers) {
        if let Some(frame) = cookie.and_then(|at| self.space.read::<TrapFrame>(at).ok()) {
            registers.apply(&frame);
            let code = frame.error_code;
            let cause = format!("the guest aborted after a fault (error code {code:#x})");
            self.tell(&cause, &registers);
        }
        self.dump(&registers);
    }

    fn tell(&self, cause: &str, registers: &Registers) {
        let text = report(cause, registers, &self.image, &self.space, &self.layout);
        message(text.trim_end());
    }

    fn dump(&self, registers: &Registers) {
        let Some(core) = &self.core else { return };
        match core.write(&self.space, &self.layout, registers) {
            Ok(name) => message(&format!("core file: {name}")),
            Err(error) => message(&format!("no core file: {error}")),
        }
    }
}
