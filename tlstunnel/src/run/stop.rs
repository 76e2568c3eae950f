//! Who tells the gateway to stop: the signals of the process, or the program that runs it inside.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// Where stops come from.
#[derive(Debug)]
pub struct Stops(Source);

#[derive(Debug)]
enum Source {
    Signals,
    /// Signals are listened to from [`Stops::listen`] on: it needs a runtime.
    Listening(Option<Signal>, Option<Signal>),
    Handle(mpsc::UnboundedReceiver<()>),
}

/// Stops a gateway that runs inside this program. The first call drains, the second ends at once.
#[derive(Clone, Debug)]
pub struct StopHandle(mpsc::UnboundedSender<()>);

/// A handle, and what to give to [`super::run`].
pub fn stop_channel() -> (StopHandle, Stops) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (StopHandle(sender), Stops(Source::Handle(receiver)))
}

impl StopHandle {
    /// Tells the gateway to stop.
    pub fn stop(&self) {
        // A gateway that is gone has stopped.
        let _ = self.0.send(());
    }
}

impl Stops {
    /// SIGTERM and SIGINT of the process.
    pub fn signals() -> Self {
        Self(Source::Signals)
    }

    /// Listens from now on. Whoever is told that the gateway is ready may stop it in the next moment; a signal that nobody
    /// listens to would end the process without draining.
    pub(super) fn listen(&mut self) {
        if matches!(self.0, Source::Signals) {
            self.0 =
                Source::Listening(listen(SignalKind::terminate()), listen(SignalKind::interrupt()));
        }
    }

    /// The next stop. A program that lets go of its handle does not stop the gateway.
    pub(super) async fn next(&mut self) {
        self.listen();
        let told = match &mut self.0 {
            Source::Signals => None,
            Source::Handle(receiver) => receiver.recv().await,
            Source::Listening(terminate, interrupt) => tokio::select! {
                told = received(terminate) => told,
                told = received(interrupt) => told,
            },
        };
        if told.is_none() {
            std::future::pending().await
        }
    }
}

/// Where there are no signals, as in a guest, the gateway runs until its machine is stopped.
fn listen(kind: SignalKind) -> Option<Signal> {
    signal(kind).inspect_err(|error| tracing::debug!(%error, "signals cannot be listened to")).ok()
}

async fn received(signal: &mut Option<Signal>) -> Option<()> {
    match signal {
        Some(signal) => signal.recv().await,
        None => std::future::pending().await,
    }
}
