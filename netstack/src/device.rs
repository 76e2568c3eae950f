//! What the stack asks of a network device: Ethernet frames in and out, and room for them.
//!
//! The stack never waits. The caller waits, on whatever stands behind the device, until a frame or
//! [`crate::Stack::next_deadline`] comes.

/// A device that carries Ethernet frames (without preamble and check sequence).
pub trait Device {
    /// A received frame. It is mutable because the stack translates sequence numbers in place.
    type Frame: AsRef<[u8]> + AsMut<[u8]>;

    /// The next received frame, or none at the moment. Must not wait.
    fn receive(&mut self) -> Option<Self::Frame>;

    /// Whether [`Device::transmit`] has room for a frame now. While it has none, connections keep
    /// their data; only frames that nobody keeps (ARP, resets) are lost and counted.
    fn can_transmit(&self) -> bool;

    /// Sends a frame of `length` octets, which `fill` writes. Called only after
    /// [`Device::can_transmit`] said yes. A device that fails drops the frame, as a cable does.
    fn transmit<F: FnOnce(&mut [u8])>(&mut self, length: usize, fill: F);

    /// What the device can do. Asked once, when the interface is added.
    fn capabilities(&self) -> Capabilities;
}

/// What a device can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The hardware address of this end.
    pub hardware_address: [u8; 6],
    /// The largest IP packet in octets, without the Ethernet header. From [`MTU_MIN`] to
    /// [`MTU_MAX`].
    pub mtu: usize,
    /// Received packets come from a link that is trusted to carry them unharmed (a TAP of the same
    /// host), so that the checksums of TCP and UDP are not verified.
    pub trusted_checksums: bool,
}

/// The smallest link MTU of IPv6 (RFC 8200 §5).
pub const MTU_MIN: usize = 1280;
/// The largest IP packet.
pub const MTU_MAX: usize = 65_535;
