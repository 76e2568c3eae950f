//! `--gdb`: a debugger looks into a guest in a machine, by gdb's remote protocol.
//!
//! The connection is made before the sandbox closes, and the sandbox is the same as without: reading and writing that
//! one connection and three more requests to KVM come on top. While the guest runs, a byte from gdb raises SIGIO, which
//! makes the machine leave guest code, so an interrupt (^C) needs no second thread.

mod connection;
mod target;

use gdbstub::common::Signal;
use gdbstub::conn::ConnectionExt;
use gdbstub::stub::run_blocking::{BlockingEventLoop, Event, WaitForStopReasonError};
use gdbstub::stub::{DisconnectReason, GdbStub, SingleThreadStopReason};
use gdbstub::target::Target;

pub use connection::Connection;
use target::Debugged;

use crate::border::Border;
use crate::crash::End;
use crate::device::console::message;
use crate::failure::Failure;
use crate::kvm::{KvmError, Machine};
use crate::shutdown::Shutdown;

/// Runs a guest under the debugger to its end. When gdb detaches, the guest runs on without it; when the connection is
/// lost it ends: nobody asked for it to run on, perhaps for ever, from wherever it stood.
///
/// # Errors
/// When KVM fails.
pub fn run(
    machine: &mut Machine,
    border: &mut Border,
    connection: Connection,
) -> Result<End, Failure> {
    machine.set_interruptible(true);
    let mut debugged = Debugged::new(machine, border);
    debugged.attach()?;
    match GdbStub::new(connection).run_blocking::<Session<'_>>(&mut debugged) {
        Ok(DisconnectReason::Kill) => return Ok(End::Signal(libc::SIGKILL)),
        Ok(_) => {}
        Err(error) if error.is_target_error() => {
            return Err(error.into_target_error().map_or_else(lost, Failure::Kvm));
        }
        Err(error) => {
            if let Some(signal) = Shutdown::must_end(debugged.understands_shutdown()) {
                return Ok(End::Signal(signal));
            }
            message(&format!("gdb: {error}; the guest is ended (`detach` in gdb lets it run on)"));
            return Ok(End::Signal(libc::SIGHUP));
        }
    }
    if let Some(end) = debugged.detach()? {
        return Ok(end);
    }
    Ok(machine.run(border)?)
}

fn lost() -> Failure {
    Failure::Host { what: "gdb", source: std::io::ErrorKind::Other.into() }
}

/// The loop of `gdbstub`, bound to our machine.
struct Session<'a>(std::marker::PhantomData<&'a ()>);

impl<'a> BlockingEventLoop for Session<'a> {
    type Target = Debugged<'a>;
    type Connection = Connection;
    type StopReason = SingleThreadStopReason<u64>;

    fn wait_for_stop_reason(
        target: &mut Debugged<'a>,
        connection: &mut Connection,
    ) -> Result<
        Event<Self::StopReason>,
        WaitForStopReasonError<<Self::Target as Target>::Error, std::io::Error>,
    > {
        loop {
            let waiting = connection.has_input().map_err(WaitForStopReasonError::Connection)?;
            if waiting {
                let byte = connection.read().map_err(WaitForStopReasonError::Connection)?;
                return Ok(Event::IncomingData(byte));
            }
            if let Some(stop) = target.turn().map_err(WaitForStopReasonError::Target)? {
                return Ok(Event::TargetStopped(stop));
            }
        }
    }

    fn on_interrupt(_: &mut Debugged<'a>) -> Result<Option<Self::StopReason>, KvmError> {
        Ok(Some(SingleThreadStopReason::Signal(Signal::SIGINT)))
    }
}
