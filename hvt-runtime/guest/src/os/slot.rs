//! Calls for block devices by the slot ([`hvt_abi::slot`]), where the tender has one and that is faster.

use core::hint::spin_loop;
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use hvt_abi::extension::{SLOT_WAIT, SLOT_WAKE};
use hvt_abi::slot::Slot;

use crate::call_way::{CallWay, Way};

use super::single::Single;
use super::{hypercall, time};

/// Looks between two looks at the clock.
const LOOKS: u32 = 16;
/// How often to look whether the tender's thread is at work right now: about a microsecond.
const BEATS: u32 = 40;

/// Where the slot is; zero without one.
static SLOT: AtomicUsize = AtomicUsize::new(0);
static WAY: Single<CallWay> = Single::new(CallWay::exit_only());

/// The tender's slot as this side uses it: fields that both sides change.
struct Shared {
    asked: &'static AtomicU32,
    call: &'static AtomicU32,
    argument: &'static AtomicU64,
    served: &'static AtomicU32,
    asleep: &'static AtomicU32,
    beat: &'static AtomicU32,
}

/// From now on there is a slot at this address.
///
/// # Safety
/// The tender put a [`Slot`] there, which stays.
pub(super) unsafe fn start(address: usize) {
    // SAFETY: the caller's promise; the tender writes this field before the guest starts and then no more.
    let look = unsafe { (*(address as *const Slot)).look_nsecs };
    SLOT.store(address, Ordering::Relaxed);
    WAY.with(|way| *way = CallWay::with_slot(look));
}

/// Makes a call for a block device.
///
/// # Safety
/// `T` is the structure of hypercall `number`, and the addresses in it are valid for what the call does.
pub(super) unsafe fn call<T>(number: u16, argument: &mut T) {
    let Some(shared) = shared() else {
        // SAFETY: the caller's promise.
        unsafe { hypercall::call(number, argument) };
        return;
    };
    let start = time::now();
    let (way, patience) = WAY.with(|way| (way.choose(start, || shared.is_awake()), way.patience()));
    let mut late = false;
    match way {
        // SAFETY: the caller's promise.
        Way::Slot => late = unsafe { !shared.call(number, argument, start + patience) },
        Way::Exit | Way::Wake => {
            if way == Way::Wake && shared.asleep.load(Ordering::Relaxed) != 0 {
                hypercall::signal(SLOT_WAKE);
            }
            // SAFETY: the caller's promise.
            unsafe { hypercall::call(number, argument) };
        }
    }
    let end = time::now();
    WAY.with(|chooser| chooser.ended(way, start, end, late));
}

fn shared() -> Option<Shared> {
    let slot = SLOT.load(Ordering::Relaxed) as *mut Slot;
    if slot.is_null() {
        return None;
    }
    // SAFETY: `start` got an address where a slot stays; fields that both sides change are used as atomics only.
    unsafe {
        Some(Shared {
            asked: AtomicU32::from_ptr(&raw mut (*slot).asked),
            call: AtomicU32::from_ptr(&raw mut (*slot).call),
            argument: AtomicU64::from_ptr(&raw mut (*slot).argument),
            served: AtomicU32::from_ptr(&raw mut (*slot).served),
            asleep: AtomicU32::from_ptr(&raw mut (*slot).asleep),
            beat: AtomicU32::from_ptr(&raw mut (*slot).beat),
        })
    }
}

impl Shared {
    /// Whether the tender's thread looks at the slot at this moment.
    fn is_awake(&self) -> bool {
        if self.asleep.load(Ordering::Relaxed) != 0 {
            return false;
        }
        let before = self.beat.load(Ordering::Relaxed);
        (0..BEATS).any(|_| {
            spin_loop();
            self.beat.load(Ordering::Relaxed) != before
        })
    }

    /// Makes a call and looks for its answer until a moment; whether it came by then. Afterwards the call is served either
    /// way.
    ///
    /// # Safety
    /// As [`call`].
    unsafe fn call<T>(&self, number: u16, argument: &mut T, until: u64) -> bool {
        let address = core::ptr::from_mut(argument) as u64;
        let asked = self.asked.load(Ordering::Relaxed).wrapping_add(1);
        self.call.store(number.into(), Ordering::Relaxed);
        self.argument.store(address, Ordering::Relaxed);
        // What the address leads to is written before the tender sees the number, and its answer is read after. Should the
        // thread fall asleep right now, then its last look finds the number.
        self.asked.store(asked, Ordering::SeqCst);
        while self.served.load(Ordering::Acquire) != asked {
            if time::now() > until {
                hypercall::signal(SLOT_WAIT);
                return false;
            }
            for _ in 0..LOOKS {
                spin_loop();
            }
        }
        true
    }
}
