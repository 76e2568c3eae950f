//! The machine as gdb sees it: registers, memory, breakpoints, running and stepping.

use std::collections::BTreeMap;

use gdbstub::common::Signal;
use gdbstub::stub::SingleThreadStopReason;
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::singlethread::{
    SingleThreadBase, SingleThreadResume, SingleThreadResumeOps, SingleThreadSingleStep,
    SingleThreadSingleStepOps,
};
use gdbstub::target::ext::breakpoints::{
    Breakpoints, BreakpointsOps, SwBreakpoint, SwBreakpointOps,
};
use gdbstub::target::{Target, TargetError, TargetResult};
use gdbstub_arch::x86::X86_64_SSE;
use gdbstub_arch::x86::reg::X86_64CoreRegs;
use vm_memory::Bytes;

use crate::border::Border;
use crate::crash::{End, Registers};
use crate::kvm::{KvmError, Machine, Turn};

/// `int3`.
const BREAKPOINT: u8 = 0xcc;
/// The most breakpoints at a time.
const MAX_BREAKPOINTS: usize = 1024;

/// A guest under the debugger.
pub(super) struct Debugged<'a> {
    machine: &'a mut Machine,
    border: &'a mut Border,
    /// Address and the byte that was there.
    breakpoints: BTreeMap<u64, u8>,
    stepping: bool,
    /// How the guest ended. A crash is shown as a stop first, so that gdb can look at it.
    end: Option<End>,
}

impl<'a> Debugged<'a> {
    pub(super) fn new(machine: &'a mut Machine, border: &'a mut Border) -> Self {
        Self { machine, border, breakpoints: BTreeMap::new(), stepping: false, end: None }
    }

    pub(super) fn understands_shutdown(&self) -> bool {
        self.border.understands_shutdown()
    }

    pub(super) fn attach(&mut self) -> Result<(), KvmError> {
        self.machine.set_debugging(true, false)
    }

    /// Takes the breakpoints out. How the guest ended, if it did.
    pub(super) fn detach(self) -> Result<Option<End>, KvmError> {
        for (address, byte) in self.breakpoints {
            _ = self.machine.space().loader_slice(address, 1).map(|s| s.write_obj(byte, 0));
        }
        self.machine.set_debugging(false, false)?;
        Ok(self.end)
    }

    /// Lets the guest run until something happens that gdb may want to know; `None` when it does not.
    pub(super) fn turn(&mut self) -> Result<Option<SingleThreadStopReason<u64>>, KvmError> {
        match &self.end {
            Some(End::Halted { status, .. }) => {
                return Ok(Some(SingleThreadStopReason::Exited(status.to_le_bytes()[0])));
            }
            Some(_) => return Ok(Some(SingleThreadStopReason::Terminated(Signal::SIGSEGV))),
            None => {}
        }
        Ok(match self.machine.turn(self.border)? {
            Turn::Resumes => None,
            Turn::Debug if self.stepping => Some(SingleThreadStopReason::DoneStep),
            Turn::Debug => {
                self.step_back_onto_breakpoint()?;
                Some(SingleThreadStopReason::SwBreak(()))
            }
            Turn::Ended(end) => {
                let stop = match &*end {
                    End::Halted { status, .. } => {
                        SingleThreadStopReason::Exited(status.to_le_bytes()[0])
                    }
                    End::Signal(_) => SingleThreadStopReason::Terminated(Signal::SIGTERM),
                    _ => SingleThreadStopReason::Signal(Signal::SIGSEGV),
                };
                self.end = Some(*end);
                Some(stop)
            }
        })
    }

    /// gdb wants to see the guest at the breakpoint, not behind it.
    fn step_back_onto_breakpoint(&mut self) -> Result<(), KvmError> {
        let mut registers = self.machine.registers()?;
        let at = registers.rip.wrapping_sub(self.machine.breakpoint_offset());
        if at != registers.rip && self.breakpoints.contains_key(&at) {
            registers.rip = at;
            self.machine.set_registers(&registers)?;
        }
        Ok(())
    }

    /// The registers at the crash when there was one: the processor itself is in the fault stub then.
    fn registers(&self) -> Result<Registers, KvmError> {
        match &self.end {
            Some(End::Crashed(crash)) => Ok(crash.registers),
            _ => self.machine.registers(),
        }
    }
}

impl Target for Debugged<'_> {
    type Arch = X86_64_SSE;
    type Error = KvmError;

    fn base_ops(&mut self) -> BaseOps<'_, Self::Arch, Self::Error> {
        BaseOps::SingleThread(self)
    }

    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }
}

impl SingleThreadBase for Debugged<'_> {
    fn read_registers(&mut self, to: &mut X86_64CoreRegs) -> TargetResult<(), Self> {
        let r = self.registers().map_err(TargetError::Fatal)?;
        to.regs = [
            r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp, r.rsp, r.r8, r.r9, r.r10, r.r11,
            r.r12, r.r13, r.r14, r.r15,
        ];
        to.rip = r.rip;
        to.eflags = u32::try_from(r.rflags & 0xffff_ffff).unwrap_or(0);
        (to.xmm, to.mxcsr) = self.machine.vector_registers().map_err(TargetError::Fatal)?;
        Ok(())
    }

    fn write_registers(&mut self, from: &X86_64CoreRegs) -> TargetResult<(), Self> {
        let [rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15] =
            from.regs;
        let registers = Registers {
            rax,
            rbx,
            rcx,
            rdx,
            rsi,
            rdi,
            rbp,
            rsp,
            r8,
            r9,
            r10,
            r11,
            r12,
            r13,
            r14,
            r15,
            rip: from.rip,
            ..Registers::default()
        };
        self.machine.set_registers(&registers).map_err(TargetError::Fatal)
    }

    fn read_addrs(&mut self, start: u64, data: &mut [u8]) -> TargetResult<usize, Self> {
        let space = self.machine.space();
        let slice = space.readable(start, data.len() as u64).map_err(|_| TargetError::NonFatal)?;
        Ok(slice.copy_to(data))
    }

    fn write_addrs(&mut self, start: u64, data: &[u8]) -> TargetResult<(), Self> {
        let space = self.machine.space();
        let len = data.len() as u64;
        // What the guest may read, gdb may change, also the read-only part: it is the user's own guest.
        space.readable(start, len).map_err(|_| TargetError::NonFatal)?;
        let slice = space.loader_slice(start, len).map_err(|_| TargetError::NonFatal)?;
        slice.copy_from(data);
        Ok(())
    }

    fn support_resume(&mut self) -> Option<SingleThreadResumeOps<'_, Self>> {
        Some(self)
    }
}

impl SingleThreadResume for Debugged<'_> {
    fn resume(&mut self, _: Option<Signal>) -> Result<(), KvmError> {
        self.stepping = false;
        self.machine.set_debugging(true, false)
    }

    fn support_single_step(&mut self) -> Option<SingleThreadSingleStepOps<'_, Self>> {
        Some(self)
    }
}

impl SingleThreadSingleStep for Debugged<'_> {
    fn step(&mut self, _: Option<Signal>) -> Result<(), KvmError> {
        self.stepping = true;
        self.machine.set_debugging(true, true)
    }
}

impl Breakpoints for Debugged<'_> {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }
}

impl SwBreakpoint for Debugged<'_> {
    fn add_sw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        let space = self.machine.space();
        if self.breakpoints.len() >= MAX_BREAKPOINTS || space.readable(address, 1).is_err() {
            return Ok(false);
        }
        let slice = space.loader_slice(address, 1).map_err(|_| TargetError::NonFatal)?;
        let byte = slice.read_obj(0).map_err(|_| TargetError::NonFatal)?;
        slice.write_obj(BREAKPOINT, 0).map_err(|_| TargetError::NonFatal)?;
        self.breakpoints.entry(address).or_insert(byte);
        Ok(true)
    }

    fn remove_sw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        let Some(byte) = self.breakpoints.remove(&address) else { return Ok(false) };
        let slice = self.machine.space().loader_slice(address, 1);
        let slice = slice.map_err(|_| TargetError::NonFatal)?;
        slice.write_obj(byte, 0).map_err(|_| TargetError::NonFatal)?;
        Ok(true)
    }
}
