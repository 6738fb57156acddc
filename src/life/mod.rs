//! Floor 1: what keeps an owner alive, and how its end is seen.
//!
//! Every kind of anchor is a descriptor that reports an end by itself: a [`lifeline`] and a
//! [`connection`] when the last copy is closed, a [`process`] when it exits. Nothing is polled for, and nothing goes by a bare
//! process number, which may be somebody else's by the time it is used.

pub mod connection;
pub mod lifeline;
pub mod process;
mod watched;

pub use connection::Connection;
pub use lifeline::Lifeline;
pub use process::Process;

/// Why an anchor can't be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No process has that number (any more).
    #[error("process {0} does not exist")]
    NoSuchProcess(u32),
    /// A descriptor of a process that has ended and been waited for.
    #[error("the process of the descriptor has ended")]
    Ended,
    /// A descriptor that is no pidfd.
    #[error("the descriptor is not a process descriptor (pidfd)")]
    NotAProcess,
    /// A descriptor that means one thread of a process.
    #[error("the descriptor is that of a thread (PIDFD_THREAD), not of a process")]
    IsThread,
    /// A process that we can't see, such as one of another pid namespace.
    #[error("the process of the descriptor is not visible in the pid namespace of vmlockd")]
    Hidden,
    /// The system failed at something.
    #[error("cannot {doing}: {cause}")]
    System {
        /// What failed, in words that follow "cannot".
        doing: &'static str,
        /// The cause.
        cause: std::io::Error,
    },
}

impl Error {
    /// Whether it says that what was looked for has ended, rather than that looking failed.
    #[must_use]
    pub fn says_gone(&self) -> bool {
        matches!(self, Self::NoSuchProcess(_) | Self::Ended)
    }

    fn system(doing: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |cause| Self::System { doing, cause }
    }
}
