//! What the stack asks of a network device: Ethernet frames in and out, and room for them.
//!
//! The stack never waits. The caller waits, on whatever stands behind the device, until a frame or
//! [`crate::Stack::next_deadline`] comes.

/// A device that carries Ethernet frames (without preamble and check sequence).
pub trait Device {
    /// A received frame.
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

    /// What the device does for TCP segments that are sent. Asked once, when the interface is
    /// added.
    fn offload(&self) -> Offload {
        Offload::default()
    }

    /// Sends a frame as [`Device::transmit`] does, of which the device has to complete something.
    /// Called instead of it only if [`Device::offload`] offers that.
    fn transmit_offloaded<F: FnOnce(&mut [u8])>(
        &mut self,
        length: usize,
        rest: &FrameOffload,
        fill: F,
    ) {
        let _ = rest;
        self.transmit(length, fill);
    }

    /// Whether the device answers for the checksum of TCP or UDP in this received frame, so that it
    /// is not verified (virtio-net: `VIRTIO_NET_HDR_F_DATA_VALID` or `_NEEDS_CSUM`). The frame may
    /// carry more than one segment's worth of data.
    fn is_verified(&self, frame: &Self::Frame) -> bool {
        let _ = frame;
        false
    }
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

/// What a device does for TCP segments that are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// It completes checksums.
    pub checksum: bool,
    /// It cuts IP packets of up to so many octets, at most [`MTU_MAX`], into segments; zero if it
    /// does not. Only a device that completes checksums can.
    pub segmentation: usize,
}

/// What a device has to do with a frame before it is on the wire. The fields are those of a
/// virtio-net header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameOffload {
    /// The checksum over everything from `start` on is missing. Its field, `offset` octets after
    /// `start`, has the sum of the pseudo-header.
    pub checksum: Option<PartialChecksum>,
    /// The frame is to be cut.
    pub segmentation: Option<Segmentation>,
}

/// A checksum that is to be completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartialChecksum {
    /// Where the sum begins, counted from the begin of the frame.
    pub start: u16,
    /// Where its field is, counted from `start`.
    pub offset: u16,
}

/// How a TCP segment is to be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segmentation {
    /// Octets of data in each segment but the last.
    pub size: u16,
    /// Octets of headers, Ethernet's included.
    pub headers: u16,
    /// Whether the packet is of IPv6.
    pub ipv6: bool,
}

/// The smallest link MTU of IPv6 (RFC 8200 §5).
pub const MTU_MIN: usize = 1280;
/// The largest IP packet.
pub const MTU_MAX: usize = 65_535;
