//! A TAP interface as the stack's device.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use netstack::{Capabilities, Device};
use smoltcp::phy::{Device as _, Medium, RxToken, TunTapInterface, TxToken};

/// A TAP interface.
pub struct Tap(TunTapInterface);

impl Tap {
    /// Attaches to `tap0`, which exists.
    pub fn open() -> Self {
        Self(TunTapInterface::new("tap0", Medium::Ethernet).unwrap())
    }
}

impl Device for Tap {
    type Frame = Vec<u8>;
    fn receive(&mut self) -> Option<Vec<u8>> {
        let (token, _) = self.0.receive(smoltcp::time::Instant::ZERO)?;
        Some(token.consume(<[u8]>::to_vec))
    }
    fn can_transmit(&self) -> bool {
        true
    }
    fn transmit<F: FnOnce(&mut [u8])>(&mut self, length: usize, fill: F) {
        if let Some(token) = self.0.transmit(smoltcp::time::Instant::ZERO) {
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
