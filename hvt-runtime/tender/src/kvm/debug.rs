//! What a debugger needs of the machine.
//!
//! At ring 3, breakpoints and steps are faults like others: they enter a stub ([`super::supervisor`]), and [`Machine`]
//! takes the processor out of the stub again. That works on every kind of KVM. At ring 0 the guest owns the fault
//! handlers, and KVM's own debugging is used, which not every kind has.

use kvm_bindings::{
    KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_SW_BP, kvm_guest_debug, kvm_regs,
};

use super::processor::set_ring3_segments;
use super::{KvmError, Machine, Ring, step};
use crate::crash::Registers;
use crate::memory::GuestSpace;

/// The flag that makes each instruction end in a debug exception.
const TRAP_FLAG: u64 = 1 << 8;
/// The vectors of the debug exception and of `int3`.
const DEBUG_VECTORS: [u8; 2] = [1, 3];

impl Machine {
    /// Makes breakpoints, and with `stepping` every instruction, leave the machine.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn set_debugging(&mut self, on: bool, stepping: bool) -> Result<(), KvmError> {
        self.debugging = on;
        if self.privilege == Ring::Three {
            let mut regs = self.vcpu.get_regs().map_err(step("KVM_GET_REGS"))?;
            regs.rflags = regs.rflags & !TRAP_FLAG | if stepping { TRAP_FLAG } else { 0 };
            return self.vcpu.set_regs(&regs).map_err(step("KVM_SET_REGS"));
        }
        let control = match (on, stepping) {
            (false, _) => 0,
            (true, false) => KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP,
            (true, true) => KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP | KVM_GUESTDBG_SINGLESTEP,
        };
        let debug = kvm_guest_debug { control, ..Default::default() };
        self.vcpu.set_guest_debug(&debug).map_err(step("KVM_SET_GUEST_DEBUG"))
    }

    /// How far a breakpoint's instruction pointer is behind the breakpoint: a stub sees it after `int3`, KVM before.
    #[must_use]
    pub fn breakpoint_offset(&self) -> u64 {
        u64::from(self.privilege == Ring::Three)
    }

    /// Whether the fault of this vector belongs to the debugger.
    pub(super) fn is_for_debugger(&self, vector: u8) -> bool {
        self.privilege == Ring::Three && self.debugging && DEBUG_VECTORS.contains(&vector)
    }

    /// Takes the processor out of a stub, back to where the fault was.
    pub(super) fn leave_stub(&mut self, vector: u8) -> Result<(), KvmError> {
        let stack = self.registers()?.rsp;
        let Some(seen) = self.supervisor.fault(vector, stack) else {
            return Ok(());
        };
        // An `out` is only over once the machine is entered again; this entry does nothing else.
        self.vcpu.set_kvm_immediate_exit(1);
        _ = self.enter()?;
        self.vcpu.set_kvm_immediate_exit(0);
        let mut sregs = self.vcpu.get_sregs().map_err(step("KVM_GET_SREGS"))?;
        set_ring3_segments(&mut sregs);
        self.vcpu.set_sregs(&sregs).map_err(step("KVM_SET_SREGS"))?;
        let mut regs = self.vcpu.get_regs().map_err(step("KVM_GET_REGS"))?;
        (regs.rax, regs.rip, regs.rsp) = (seen.rax, seen.rip, seen.rsp);
        regs.rflags = seen.rflags & !TRAP_FLAG;
        self.vcpu.set_regs(&regs).map_err(step("KVM_SET_REGS"))
    }

    /// Changes the general registers and the instruction pointer. The flags stay: what a debugger wants of them, KVM does.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn set_registers(&self, r: &Registers) -> Result<(), KvmError> {
        let now = self.vcpu.get_regs().map_err(step("KVM_GET_REGS"))?;
        let regs = kvm_regs {
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
            rflags: now.rflags,
        };
        self.vcpu.set_regs(&regs).map_err(step("KVM_SET_REGS"))
    }

    /// The sixteen SSE registers, and MXCSR.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn vector_registers(&self) -> Result<([u128; 16], u32), KvmError> {
        let fpu = self.vcpu.get_fpu().map_err(step("KVM_GET_FPU"))?;
        Ok((fpu.xmm.map(u128::from_le_bytes), fpu.mxcsr))
    }

    /// The guest's memory.
    #[must_use]
    pub fn space(&self) -> &GuestSpace {
        &self.space
    }
}
