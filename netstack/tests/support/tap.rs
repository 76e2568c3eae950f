//! A TAP interface as the stack's device.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use netstack::{Capabilities, Device};
use smoltcp::phy::{Device as _, Medium, RxToken, TunTapInterface, TxToken};

use crate::support::Dice;

/// A TAP interface, and how many frames of a thousand it loses in either direction.
pub struct Tap {
    interface: TunTapInterface,
    loss: u64,
    dice: Dice,
}

impl Tap {
    /// Attaches to `tap0`, which exists.
    pub fn open() -> Self {
        Self::lossy(0)
    }

    /// Attaches to `tap0` by a bad cable.
    pub fn lossy(loss: u64) -> Self {
        let interface = TunTapInterface::new("tap0", Medium::Ethernet).unwrap();
        Self { interface, loss, dice: Dice(99) }
    }
}

impl Device for Tap {
    type Frame = Vec<u8>;
    fn receive(&mut self) -> Option<Vec<u8>> {
        loop {
            let (token, _) = self.interface.receive(smoltcp::time::Instant::ZERO)?;
            let frame = token.consume(<[u8]>::to_vec);
            if !self.dice.chance(self.loss) {
                return Some(frame);
            }
        }
    }
    fn can_transmit(&self) -> bool {
        true
    }
    fn transmit<F: FnOnce(&mut [u8])>(&mut self, length: usize, fill: F) {
        if self.dice.chance(self.loss) {
            return;
        }
        if let Some(token) = self.interface.transmit(smoltcp::time::Instant::ZERO) {
            token.consume(length, fill);
        }
    }
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            hardware_address: [2, 0, 0, 0, 0, 0x42],
            mtu: 1500,
            trusted_checksums: false,
        }
    }
}
