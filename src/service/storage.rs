//! Who performs requests to the file system: threads of the service, outside the event loop.
//!
//! All of it goes through [`Storage::run`], so that requests for storage that may hang can be
//! handed to something that may be left behind.

use tokio::sync::watch;

use super::error::Error;
use crate::lock::work::Work;

/// The performer of [`Work`].
#[derive(Debug, Default)]
pub struct Storage {
    /// How many requests are being performed.
    running: watch::Sender<usize>,
}

impl Storage {
    /// Has a request performed and waits for its answer, however long that takes.
    ///
    /// # Errors
    ///
    /// [`Error::Abandoned`] where the thread panicked or the service ends.
    pub async fn run<W: Work>(&self, work: W) -> Result<W::Answer, Error> {
        let running = Running::one_more(&self.running);
        let performed = tokio::task::spawn_blocking(move || {
            let answer = work.perform();
            drop(running);
            answer
        });
        performed.await.map_err(|error| {
            tracing::error!(%error, "a file system request ended without an answer");
            Error::Abandoned
        })
    }

    /// Returns once no request is being performed.
    pub async fn idle(&self) {
        // Its sender is ours, so it never ends.
        let _ = self.running.subscribe().wait_for(|running| *running == 0).await;
    }
}

/// One request more, until it is dropped.
struct Running(watch::Sender<usize>);

impl Running {
    fn one_more(running: &watch::Sender<usize>) -> Self {
        running.send_modify(|running| *running += 1);
        Self(running.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.send_modify(|running| *running -= 1);
    }
}
