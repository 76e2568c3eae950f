//! The guest runs: leave the machine, serve what it left for, go back.

use std::io;
use std::sync::atomic::AtomicU8;

use hvt_abi::hypercall::PORT_BASE;
use kvm_ioctls::VcpuExit;

use super::supervisor::FAULT_PORT;
use super::{KvmError, Machine, step};
use crate::border::{Border, Misuse, Outcome};
use crate::crash::{Crash, End, Fault, Registers};
use crate::device::console::message;
use crate::shutdown::{self, Shutdown};

/// Ports from [`PORT_BASE`] that are hypercalls or may become some.
const CALLS: u16 = 0x20;

/// Why the machine was left, with nothing borrowed from it.
pub(super) enum Exit {
    Output { port: u16, width: usize, value: u32 },
    Input { port: u16, width: usize },
    Interrupted,
    Debug,
    Dead(String),
}

/// What one stay in the machine led to.
#[derive(Debug)]
pub enum Turn {
    /// The guest goes on.
    Resumes,
    /// A breakpoint, or the end of a step.
    Debug,
    /// The guest ended.
    Ended(Box<End>),
}

impl Machine {
    /// Runs the guest until it ends.
    ///
    /// # Errors
    /// When KVM fails, which no guest should be able to bring about.
    pub fn run(&mut self, border: &mut Border) -> Result<End, KvmError> {
        self.set_interruptible(true);
        let end = self.run_until_end(border);
        self.set_interruptible(false);
        end
    }

    fn run_until_end(&mut self, border: &mut Border) -> Result<End, KvmError> {
        loop {
            if let Turn::Ended(end) = self.turn(border)? {
                return Ok(*end);
            }
        }
    }

    /// Lets the guest run until it leaves the machine once, and serves what it left for.
    ///
    /// # Errors
    /// As [`Machine::run`].
    pub fn turn(&mut self, border: &mut Border) -> Result<Turn, KvmError> {
        let misused =
            |misuse, registers| Ok(Turn::Ended(Box::new(End::Misused(misuse, registers))));
        if let Some(signal) = Shutdown::must_end(border.understands_shutdown()) {
            return Ok(Turn::Ended(Box::new(End::Signal(signal))));
        }
        let exit = self.enter()?;
        border.counters().exit();
        match exit {
            Exit::Interrupted => {
                self.vcpu.set_kvm_immediate_exit(0);
                if shutdown::take_counters_request() {
                    message(&border.statistics());
                }
            }
            Exit::Debug => return Ok(Turn::Debug),
            Exit::Output { port, width: 4, value }
                if (PORT_BASE..PORT_BASE + CALLS).contains(&port) =>
            {
                match border.call(port - PORT_BASE, value.into()) {
                    Ok(Outcome::Resume) => {}
                    Ok(Outcome::Halt { status, cookie }) => {
                        let registers = self.registers()?;
                        return Ok(Turn::Ended(Box::new(End::Halted {
                            status,
                            cookie,
                            registers,
                        })));
                    }
                    Err(misuse) => return misused(misuse, self.registers()?),
                }
            }
            Exit::Output { port: FAULT_PORT, width: 1, value } if self.is_in_stub()? => {
                let vector = value.to_le_bytes()[0];
                if self.is_for_debugger(vector) {
                    self.leave_stub(vector)?;
                    return Ok(Turn::Debug);
                }
                return self.fault(vector).map(|crash| Turn::Ended(Box::new(End::Crashed(crash))));
            }
            Exit::Output { port, width, .. } => {
                let misuse = Misuse::BadPort { port, width, direction: "output" };
                return misused(misuse, self.registers()?);
            }
            Exit::Input { port, width } => {
                let misuse = Misuse::BadPort { port, width, direction: "input" };
                return misused(misuse, self.registers()?);
            }
            Exit::Dead(cause) => {
                let fault = Fault::Machine(cause);
                let crash = Crash { fault, registers: self.registers()? };
                return Ok(Turn::Ended(Box::new(End::Crashed(crash))));
            }
        }
        Ok(Turn::Resumes)
    }

    pub(super) fn enter(&mut self) -> Result<Exit, KvmError> {
        let dead = |text: String| Ok(Exit::Dead(text));
        match self.vcpu.run() {
            Ok(VcpuExit::IoOut(port, data)) => {
                let value = data.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte));
                Ok(Exit::Output { port, width: data.len(), value })
            }
            Ok(VcpuExit::IoIn(port, data)) => Ok(Exit::Input { port, width: data.len() }),
            Ok(VcpuExit::Debug(_)) => Ok(Exit::Debug),
            Ok(VcpuExit::Intr) => Ok(Exit::Interrupted),
            Ok(VcpuExit::Hlt) => dead("the processor was halted, with nothing to wake it".into()),
            Ok(VcpuExit::Shutdown) => {
                dead("triple fault: a fault, and its handler could not run".into())
            }
            Ok(VcpuExit::MmioWrite(address, data)) => dead(format!(
                "write of {} bytes to {address:#x}, which is read-only or not memory",
                data.len()
            )),
            Ok(VcpuExit::MmioRead(address, data)) => {
                dead(format!("read of {} bytes at {address:#x}, which is not memory", data.len()))
            }
            Ok(VcpuExit::FailEntry(reason, _)) => {
                dead(format!("the processor refuses the guest's state (reason {reason:#x})"))
            }
            Ok(VcpuExit::InternalError) => {
                dead("KVM can't go on with the guest (an instruction it can't emulate?)".into())
            }
            Ok(VcpuExit::MemoryFault { gpa, size, .. }) => {
                dead(format!("access to {size} bytes at {gpa:#x}, which is not memory"))
            }
            Ok(other) => dead(format!("KVM left the guest with {other:?}")),
            Err(error) => match error.errno() {
                libc::EINTR | libc::EAGAIN => Ok(Exit::Interrupted),
                libc::EFAULT => dead("access to memory that the host does not allow".into()),
                _ => Err(KvmError::Call { call: "KVM_RUN", source: io::Error::from(error) }),
            },
        }
    }

    fn is_in_stub(&self) -> Result<bool, KvmError> {
        let sregs = self.vcpu.get_sregs().map_err(step("KVM_GET_SREGS"))?;
        let regs = self.vcpu.get_regs().map_err(step("KVM_GET_REGS"))?;
        Ok(sregs.cs.selector & 3 == 0 && self.supervisor.is_stub(regs.rip))
    }

    /// The crash that a stub tells of: registers as they were at the fault.
    fn fault(&self, vector: u8) -> Result<Crash, KvmError> {
        let mut registers = self.registers()?;
        let stack = registers.rsp;
        let seen = self.supervisor.fault(vector, stack).unwrap_or_default();
        (registers.rax, registers.rip) = (seen.rax, seen.rip);
        (registers.rsp, registers.rflags) = (seen.rsp, seen.rflags);
        let fault = Fault::Exception { vector, error_code: seen.error_code };
        Ok(Crash { fault, registers })
    }

    /// The processor's registers.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn registers(&self) -> Result<Registers, KvmError> {
        let r = self.vcpu.get_regs().map_err(step("KVM_GET_REGS"))?;
        let s = self.vcpu.get_sregs().map_err(step("KVM_GET_SREGS"))?;
        Ok(Registers {
            rax: r.rax,
            rbx: r.rbx,
            rcx: r.rcx,
            rdx: r.rdx,
            rsi: r.rsi,
            rdi: r.rdi,
            rbp: r.rbp,
            rsp: r.rsp,
            r8: r.r8,
            r9: r.r9,
            r10: r.r10,
            r11: r.r11,
            r12: r.r12,
            r13: r.r13,
            r14: r.r14,
            r15: r.r15,
            rip: r.rip,
            rflags: r.rflags,
            cr2: s.cr2,
            fs_base: s.fs.base,
        })
    }

    /// Lets signals make the processor leave guest code, also between the look at the count and the entry.
    pub(crate) fn set_interruptible(&mut self, on: bool) {
        let byte = &raw mut self.vcpu.get_kvm_run().immediate_exit;
        // SAFETY: the byte is in the page that KVM shares for this processor, which stays mapped as long as `self.vcpu`;
        // the reference is taken back below before `run` returns, while `self` is still borrowed. It is only accessed
        // atomically by the handler and by volatile-like stores here and in the kernel.
        let byte: &'static AtomicU8 = unsafe { AtomicU8::from_ptr(byte) };
        shutdown::set_interrupt(on.then_some(byte));
    }
}
