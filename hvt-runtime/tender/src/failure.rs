//! What can keep a guest from running, and the exit status for each kind.

use std::io;

use crate::boot::CmdlineError;
use crate::device::AttachError;
use crate::image::ImageError;
use crate::kvm::KvmError;
use crate::layout::LayoutError;
use crate::manifest::MismatchError;
use crate::memory::PointerFault;
use crate::options::OptionsError;
use crate::process::ProcessError;
use crate::sandbox::SandboxError;

/// The guest crashed.
pub const EXIT_CRASH: u8 = 80;
/// The guest broke the rules of its border.
pub const EXIT_MISUSE: u8 = 81;
/// Added to the number of a signal that ended the guest, as shells do.
pub const EXIT_SIGNAL: u8 = 128;

/// Why no guest ran, or why the tender had to stop one.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The command line.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// Its devices are not those of the image.
    #[error(transparent)]
    Mismatch(#[from] MismatchError),
    /// Its arguments do not fit.
    #[error(transparent)]
    Cmdline(#[from] CmdlineError),
    /// The guest does not fit into its memory.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The image can't run without a virtual machine.
    #[error("{0}")]
    Backend(&'static str),
    /// A device.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The machine.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// A guest that runs as a process.
    #[error("--backend=process: {0}")]
    Process(#[from] ProcessError),
    /// The sandbox.
    #[error("sandbox: {0}")]
    Sandbox(#[from] SandboxError),
    /// Something of the host.
    #[error("{what}: {source}")]
    Host {
        /// What was being done.
        what: &'static str,
        /// What the host says.
        source: io::Error,
    },
    /// The loader wrote outside the guest's memory: a mistake in the tender.
    #[error("loading the image: {0}")]
    Load(#[from] PointerFault),
}

impl Failure {
    /// The exit status, as `--help` lists it.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Options(_) | Self::Mismatch(_) | Self::Cmdline(_) | Self::Layout(_) => 64,
            Self::Image(ImageError::Open { .. }) | Self::Attach(_) => 66,
            Self::Image(_) | Self::Backend(_) => 65,
            Self::Kvm(KvmError::Unavailable(_) | KvmError::NoConstantClock) => 69,
            Self::Process(ProcessError::NoFsBase) => 69,
            Self::Kvm(_) | Self::Process(_) | Self::Host { .. } | Self::Load(_) => 70,
            Self::Sandbox(_) => 71,
        }
    }
}
