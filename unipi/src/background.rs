//! The thread for what takes long: fetching, unpacking, building, compressing, letting go of what was.
//!
//! One event loop serves; this other one, on a thread that the system has stand back (nice(2)), does what would keep
//! requests waiting. It hands finished values over: a site is complete before the serving side sees it. Where there is
//! one processor, or where threads are coroutines as in the unikernel, the two loops take turns, and a turn of this one is
//! short ([`crate::git::pace`]).
//!
//! It must not know what the work is.

use std::future::Future;
use std::io;
use std::panic::resume_unwind;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// How far the thread stands back, from 0 to 19: in a contest with one that serves it gets about a tenth. Less, and a
/// refresh beside other busy programs would take longer than its time limit.
const NICENESS: i32 = 10;

/// The thread, as its owner has it.
#[derive(Debug)]
pub struct Background {
    handle: Handle,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

/// The thread, as those have it who give it work.
#[derive(Clone, Debug)]
pub struct Worker(Handle);

impl Background {
    /// Starts the thread. When it is stopped, calls of the storage that are under way get `last_words` to end.
    ///
    /// # Errors
    /// When the system gives no thread or no event loop.
    pub fn start(last_words: Duration) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let thread =
            std::thread::Builder::new().name("background".to_owned()).spawn(move || {
                // Of this thread, and of those that it starts. Where there is no such thing, turns are short all the same.
                if let Err(error) = rustix::process::nice(NICENESS) {
                    tracing::debug!(%error, "the background thread does not stand back");
                }
                // Whoever could stop it is gone: that is an end too.
                let _ = runtime.block_on(stopped);
                runtime.shutdown_timeout(last_words);
            })?;
        Ok(Self { handle, stop, thread })
    }

    /// For those who give it work.
    pub fn worker(&self) -> Worker {
        Worker(self.handle.clone())
    }

    /// Ends all work where it stands, and waits until the thread is gone.
    pub fn stop(self) {
        let _ = self.stop.send(());
        if let Err(panic) = self.thread.join() {
            resume_unwind(panic);
        }
    }
}

impl Worker {
    /// The event loop, for tasks that nobody waits for.
    pub fn handle(&self) -> &Handle {
        &self.0
    }

    /// Has `work` done there, and waits for it. It goes on when nobody waits any more. A panic comes through; when the
    /// thread has stopped, nothing comes any more.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> T {
        match self.0.spawn(work).await.map_err(tokio::task::JoinError::try_into_panic) {
            Ok(done) => done,
            Err(Ok(panic)) => resume_unwind(panic),
            Err(Err(_)) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[tokio::test]
    async fn work_is_done_elsewhere_and_its_panics_come_back() {
        let background = Background::start(Duration::from_secs(1)).unwrap();
        let worker = background.worker();
        let here = std::thread::current().id();
        let there = worker.run(async { std::thread::current().id() }).await;
        assert_ne!(here, there);
        let failing = tokio::spawn({
            let worker = worker.clone();
            async move { worker.run(async { panic!("on purpose") }).await }
        });
        assert!(failing.await.unwrap_err().is_panic());
        assert_eq!(worker.run(async { std::thread::current().id() }).await, there);
        tokio::task::spawn_blocking(|| background.stop()).await.unwrap();
        // What is given to a thread that is gone never ends.
        let late = tokio::time::timeout(Duration::from_millis(50), worker.run(async {}));
        assert!(late.await.is_err());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn it_stands_back_alone() {
        let before = rustix::process::getpriority_process(None).unwrap();
        let background = Background::start(Duration::from_secs(1)).unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        let tell = move || {
            tell.send(rustix::process::getpriority_process(None).unwrap()).unwrap();
        };
        background.worker().handle().spawn(async move {
            tell();
            tokio::task::spawn_blocking(tell).await.unwrap();
        });
        let wanted = (before + NICENESS).min(19);
        assert_eq!(told.recv().unwrap(), wanted);
        assert_eq!(told.recv().unwrap(), wanted, "threads of its own stand back too");
        assert_eq!(rustix::process::getpriority_process(None).unwrap(), before);
        background.stop();
    }
}
