//! What the stack counts: packets, drops by reason, connections by state, and its own work.

/// Why a received or a sent packet was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DropReason {
    /// Not a frame, packet or segment: too short, wrong lengths, impossible flags.
    Malformed,
    /// A checksum does not match.
    Checksum,
    /// A protocol that the stack does not speak, or IPv6 extension headers.
    Protocol,
    /// A fragment: the stack reassembles nothing (and sends none).
    Fragment,
    /// Not for this host, or from an address that no host can have.
    Address,
    /// A segment or datagram for a port that nobody has.
    NoSocket,
    /// A handshake that found the backlog full.
    BacklogFull,
    /// A handshake or datagram that found no room for buffers or sockets.
    NoBuffers,
    /// A reset or SYN that does not fit the connection exactly (RFC 5961 §3, §4).
    BlindReset,
    /// An acknowledgement of what was never sent, or far too old (RFC 5961 §5).
    BlindData,
    /// Older than what arrived before, by its timestamp (PAWS, RFC 7323 §5).
    Stale,
    /// Data or an acknowledgement outside of the window.
    OutsideWindow,
    /// An answer beyond the limit per second.
    RateLimit,
    /// A packet to a neighbour that has not answered yet, beyond those kept.
    Neighbor,
    /// No route to the destination.
    NoRoute,
    /// The device had no room for a frame that nobody keeps.
    DeviceFull,
}

/// How many reasons there are.
const REASONS: usize = DropReason::DeviceFull as usize + 1;

/// Counts since the stack was made. They only grow, except where it says *now*.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Frames taken from devices.
    pub frames_received: u64,
    /// Frames given to devices.
    pub frames_sent: u64,
    /// Handshakes begun by peers and answered, cookies included.
    pub handshakes: u64,
    /// Of these, held by the peer alone.
    pub cookies_sent: u64,
    /// Connections made from a cookie that came back.
    pub cookies_accepted: u64,
    /// Connections that peers completed.
    pub accepted: u64,
    /// Connections that this host began.
    pub connects: u64,
    /// Tail-loss probes sent (RFC 8985 §7).
    pub probes: u64,
    /// Segments sent again, for whatever reason.
    pub retransmitted: u64,
    /// Retransmission timeouts that passed.
    pub timeouts: u64,
    /// Repairs that turned out not to be needed, and were taken back.
    pub repairs_undone: u64,
    /// Challenge acknowledgements sent (RFC 5961).
    pub challenges: u64,
    /// Resets sent for ports that nobody has.
    pub resets_sent: u64,
    /// How often one connection was polled: the work that must not grow with idle connections.
    pub connection_polls: u64,
    /// How many timer entries were taken from the heap.
    pub timer_pops: u64,
    dropped: [u64; REASONS],
}

impl Counters {
    /// How many packets were dropped for this reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped[reason as usize]
    }

    pub(crate) fn drop(&mut self, reason: DropReason) {
        self.dropped[reason as usize] += 1;
    }
}

/// Connections by state, now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Census {
    /// Handshakes of peers that wait for their last acknowledgement.
    pub half_open: usize,
    /// SYN-SENT.
    pub connecting: usize,
    /// ESTABLISHED.
    pub established: usize,
    /// CLOSE-WAIT and LAST-ACK: the peer ended first.
    pub closed_by_peer: usize,
    /// FIN-WAIT-1, FIN-WAIT-2 and CLOSING: this host ended first.
    pub closed_here: usize,
    /// TIME-WAIT.
    pub time_wait: usize,
    /// Connections that no application holds any more, among those above.
    pub orphans: usize,
    /// Octets of buffers that connections hold.
    pub buffers: usize,
}
