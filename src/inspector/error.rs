//! The errors of queries.

/// The reason why a query has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The query was not answered in time.
    #[error("the inspector did not respond in time")]
    Late,
    /// The maximum number of workers hang or are busy.
    #[error("all workers of the inspector are busy or hung")]
    Busy,
    /// No worker can be started.
    #[error("cannot start a worker of the inspector: {0}")]
    Start(std::io::Error),
    /// A worker has exited, or sent a message that cannot be parsed.
    #[error("a worker of the inspector failed: {0}")]
    Worker(String),
}
