//! Who performs requests to the file system: threads of the service, outside the event loop.
//!
//! All of it goes through [`Storage::run`], so that requests for storage that may hang can be
//! handed to something that may be left behind.

use crate::lock::work::Work;

use super::error::Error;

/// The performer of [`Work`].
#[derive(Debug, Default)]
pub struct Storage;

impl Storage {
    /// Has a request performed and waits for its answer, however long that takes.
    ///
    /// # Errors
    ///
    /// [`Error::Abandoned`] where the thread panicked or the service ends.
    pub async fn run<W: Work>(&self, work: W) -> Result<W::Answer, Error> {
        tokio::task::spawn_blocking(|| work.perform()).await.map_err(|error| {
            tracing::error!(%error, "a file system request ended without an answer");
            Error::Abandoned
        })
    }
}
