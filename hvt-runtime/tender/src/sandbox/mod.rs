//! What is taken away before guest code runs.
//!
//! In this order: every descriptor that is not needed is closed; capabilities are dropped and can't come back; landlock
//! forbids all files and TCP; seccomp leaves the few system calls that serving a guest takes, on the descriptors that it
//! takes them on. So a guest that took over the tender could still only do what a guest may do anyway: run, print, and
//! use its own devices.

mod descriptors;
mod files;
mod privileges;
mod seccomp;

use std::io;

use seccompiler::BpfProgram;

use crate::border::BorderDescriptors;
use crate::device::Devices;
use crate::device::console::message;

/// Why the sandbox can't be set up. The guest is not started without it.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The kernel refuses a step.
    #[error("{step}: {source}")]
    Step {
        /// Which step.
        step: &'static str,
        /// What the host says.
        source: io::Error,
    },
    /// Landlock is there but refuses.
    #[error("landlock: {0}")]
    Landlock(String),
    /// The filter can't be built or loaded.
    #[error("seccomp: {0}")]
    Seccomp(String),
}

/// What serving the guest takes from here on.
#[derive(Clone, Copy, Debug)]
pub struct Needs<'a> {
    /// The processor of the virtual machine, when there is one.
    pub vcpu: Option<i32>,
    /// The image's file, for names in a crash report.
    pub image: i32,
    /// Console and wake-up.
    pub border: BorderDescriptors,
    /// The guest's devices.
    pub devices: &'a Devices,
    /// Whether a forbidden call is reported by a signal to this process, which a guest in it may have made, rather than
    /// ending it without a word.
    pub trap: bool,
    /// The folder where a core file may be made.
    pub core_folder: Option<i32>,
    /// The connection to gdb.
    pub debugger: Option<i32>,
    /// What wakes the ring's thread, when there is a ring, and the slot's.
    pub kicks: [Option<i32>; 2],
}

/// Sandboxes the thread that serves the guest, and closes descriptors for the whole process; there is no way back.
///
/// # Errors
/// When a step fails. A kernel without landlock is told about and accepted: the filter alone already leaves no system
/// call that opens anything.
pub fn enter(needs: &Needs<'_>) -> Result<(), SandboxError> {
    let filter = Filter::new(needs)?;
    prepare(needs)?;
    filter.load()
}

/// All of [`enter`] but the filter: from here on nothing can be opened, but the process can still be arranged.
///
/// # Errors
/// As [`enter`].
pub fn prepare(needs: &Needs<'_>) -> Result<(), SandboxError> {
    descriptors::close_others(&needs.descriptors())?;
    privileges::drop_all()?;
    if !files::forbid(needs.core_folder)? {
        message("note: this kernel has no landlock; the sandbox is the seccomp filter alone");
    }
    Ok(())
}

/// A filter that is ready to be loaded.
#[derive(Debug)]
pub struct Filter(BpfProgram);

impl Filter {
    /// The filter for these needs.
    ///
    /// # Errors
    /// When it can't be built.
    pub fn new(needs: &Needs<'_>) -> Result<Self, SandboxError> {
        seccomp::serving(needs).map(Self)
    }

    /// Loads it for the calling thread; the last step of [`enter`].
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn load(&self) -> Result<(), SandboxError> {
        seccomp::load(&self.0)
    }
}

/// Sandboxes the calling thread to serve the ring: it may only move frames. To be called before [`enter`].
///
/// # Errors
/// As [`enter`].
pub fn enter_ring_thread(kick: i32, devices: &Devices) -> Result<(), SandboxError> {
    enter_thread(&seccomp::moving_frames(kick, devices)?)
}

/// Sandboxes the calling thread to serve the slot for block calls: it may only use the block devices. To be called before
/// [`enter`].
///
/// # Errors
/// As [`enter`].
pub fn enter_slot_thread(kick: i32, devices: &Devices) -> Result<(), SandboxError> {
    enter_thread(&seccomp::serving_blocks(kick, devices)?)
}

fn enter_thread(filter: &BpfProgram) -> Result<(), SandboxError> {
    privileges::drop_all()?;
    // Whether the kernel has landlock is told once, by the thread that serves the guest.
    _ = files::forbid(None)?;
    seccomp::load(filter)
}

impl Needs<'_> {
    fn descriptors(&self) -> Vec<i32> {
        let mut all = vec![libc::STDERR_FILENO, self.image, self.border.console, self.border.wake];
        all.extend(self.vcpu);
        all.extend(self.kicks.into_iter().flatten());
        all.extend(self.core_folder);
        all.extend(self.debugger);
        for (_, device) in self.devices.iter() {
            all.push(device.raw_fd());
        }
        all.extend(self.devices.nets().filter_map(|(_, net)| net.pcap_fd()));
        all
    }
}
