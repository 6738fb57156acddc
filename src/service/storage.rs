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
    load: watch::Sender<Load>,
}

/// What is being performed.
#[derive(Debug, Clone, Copy, Default)]
struct Load {
    /// How many requests.
    running: usize,
    /// Nothing more is let in.
    closed: bool,
}

impl Storage {
    /// Has a request performed and waits for its answer, however long that takes.
    ///
    /// # Errors
    ///
    /// [`Error::Abandoned`] where the thread panicked or the service ends.
    pub async fn run<W: Work>(&self, work: W) -> Result<W::Answer, Error> {
        let running = Running::one_more(&self.load);
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

    /// Lets a thread perform requests by itself, until what it gets is dropped. `None`: not now.
    #[must_use]
    pub fn enter(&self) -> Option<Running> {
        let entered = self.load.send_if_modified(|load| {
            load.running += usize::from(!load.closed);
            !load.closed
        });
        entered.then(|| Running(self.load.clone()))
    }

    /// Lets threads in no more, or again.
    pub fn close(&self, closed: bool) {
        self.load.send_modify(|load| load.closed = closed);
    }

    /// Blocks until threads may come in again.
    pub fn wait_open(&self) {
        let mut load = self.load.subscribe();
        // Its sender is ours, so it never ends.
        let _ = tokio::runtime::Handle::current().block_on(load.wait_for(|load| !load.closed));
    }

    /// Returns once no request is being performed.
    pub async fn idle(&self) {
        let _ = self.load.subscribe().wait_for(|load| load.running == 0).await;
    }
}

/// One request more, until it is dropped.
#[derive(Debug)]
pub struct Running(watch::Sender<Load>);

impl Running {
    fn one_more(load: &watch::Sender<Load>) -> Self {
        load.send_modify(|load| load.running += 1);
        Self(load.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.send_modify(|load| load.running -= 1);
    }
}
