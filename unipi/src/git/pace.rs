//! Long work on a single thread gives way: after every [`SLICE`] bytes other tasks run.

/// Bytes that are hashed, inflated or copied before other tasks get their turn: a fraction of a millisecond of work.
pub const SLICE: usize = 64 << 10;

/// Counts work and yields to the runtime after each [`SLICE`].
#[derive(Debug, Default)]
pub struct Pace {
    spent: usize,
}

impl Pace {
    /// Accounts for `bytes` of work, and lets other tasks run when a slice is used up.
    pub async fn spend(&mut self, bytes: usize) {
        self.spent = self.spent.saturating_add(bytes);
        if self.spent >= SLICE {
            self.spent = 0;
            tokio::task::yield_now().await;
        }
    }
}
