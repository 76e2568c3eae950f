//! The states of a connection (RFC 9293 §3.3.2). Listening and half-open ones are not among them:
//! they have no engine yet.

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// A SYN was sent.
    SynSent,
    /// Both sides sent a SYN at the same time.
    SynReceived,
    Established,
    /// This side ended; its FIN is not acknowledged.
    FinWait1,
    /// This side ended, the peer has not.
    FinWait2,
    /// The peer ended, this side has not.
    CloseWait,
    /// Both ended at the same time.
    Closing,
    /// The peer ended first, then this side; its FIN is not acknowledged.
    LastAck,
    /// All is said; a lost last acknowledgement may have to be repeated.
    TimeWait,
    Closed,
}

impl State {
    /// Whether the application may still send.
    pub(crate) fn may_send(self) -> bool {
        matches!(self, Self::Established | Self::CloseWait | Self::SynReceived)
    }

    /// Whether both sides know each other's numbers and something may still happen.
    pub(crate) fn is_synchronized(self) -> bool {
        !matches!(self, Self::SynSent | Self::TimeWait | Self::Closed)
    }

    /// After the application said that it sends no more.
    pub(crate) fn ended_here(self) -> Self {
        match self {
            Self::Established => Self::FinWait1,
            Self::CloseWait => Self::LastAck,
            other => other,
        }
    }

    /// After the peer's FIN.
    pub(crate) fn ended_there(self) -> Self {
        match self {
            Self::Established => Self::CloseWait,
            Self::FinWait1 => Self::Closing,
            Self::FinWait2 => Self::TimeWait,
            other => other,
        }
    }

    /// After the acknowledgement of this side's FIN.
    pub(crate) fn end_acknowledged(self) -> Self {
        match self {
            Self::FinWait1 => Self::FinWait2,
            Self::Closing => Self::TimeWait,
            Self::LastAck => Self::Closed,
            other => other,
        }
    }
}
