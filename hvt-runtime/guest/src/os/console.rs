//! The runtime's own messages: what it logs, and what it says when it gives up.

use core::fmt::{self, Write};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use hvt_abi::hypercall::EXIT_ABORT;

use super::hypercall;

static DEBUG: AtomicBool = AtomicBool::new(false);

/// Whether [`debug`] writes; the variable `HVT_GUEST_LOG=debug` sets it.
pub(super) fn set_debug(on: bool) {
    DEBUG.store(on, Ordering::Relaxed);
}

/// Whether debug messages are wanted.
pub(super) fn is_debug() -> bool {
    DEBUG.load(Ordering::Relaxed)
}

/// A message for who looks into the runtime.
pub(super) fn debug(message: fmt::Arguments<'_>) {
    if is_debug() {
        say(message);
    }
}

/// A message for who runs the program.
pub(super) fn say(message: fmt::Arguments<'_>) {
    let mut line = Line { bytes: [0; 512], len: 0 };
    // A message that is too long is cut; there is nobody to tell.
    let _ = write!(line, "hvt-guest: {message}");
    line.len = line.len.min(line.bytes.len() - 1);
    line.bytes[line.len] = b'\n';
    hypercall::puts(&line.bytes[..=line.len]);
}

/// Ends the program because it can't go on.
pub(super) fn fatal(message: fmt::Arguments<'_>) -> ! {
    say(message);
    hypercall::halt(EXIT_ABORT)
}

/// A line on the stack: messages must not need the allocator.
struct Line {
    bytes: [u8; 512],
    len: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = &mut self.bytes[self.len..];
        let count = text.len().min(room.len());
        room[..count].copy_from_slice(&text.as_bytes()[..count]);
        self.len += count;
        if count == text.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

/// A panic in the runtime itself ends the program with its message. The program's own panics are those of its `std`, and
/// unwind.
#[panic_handler]
fn panic(panic: &PanicInfo<'_>) -> ! {
    fatal(format_args!("error in the guest runtime: {panic}"))
}
