//! Anchors: the descriptors that keep an owner alive, and report its end.
//!
//! 1. A [`lifeline`] and a [`connection`] report an end when the last copy of the other end is
//!    closed.
//! 2. A [`process`] reports an end when it exits.
//!
//! Each kind of anchor is a descriptor that becomes ready by itself. Nothing is polled
//! periodically, and no anchor relies on a pid alone, which may belong to another process by the
//! time it is used.

pub mod connection;
pub mod lifeline;
pub mod process;
mod watched_fd;

pub use connection::Connection;
pub use lifeline::Lifeline;
pub use process::Process;

/// The reason why an anchor cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No process has this number.
    #[error("process {0} does not exist")]
    NoSuchProcess(u32),
    /// The process of the pidfd has exited and been waited for.
    #[error("the process of the descriptor has ended")]
    Ended,
    /// The descriptor is not a pidfd.
    #[error("the descriptor is not a process descriptor (pidfd)")]
    NotAProcess,
    /// The pidfd refers to a single thread of a process.
    #[error("the descriptor is that of a thread (PIDFD_THREAD), not of a process")]
    IsThread,
    /// The process is not visible, for example because it is in another pid namespace.
    #[error("the process of the descriptor is not visible in the pid namespace of vmlockd")]
    Hidden,
    /// A system call has failed.
    #[error("cannot {doing}: {cause}")]
    System {
        /// The action that failed, in words that follow "cannot".
        doing: &'static str,
        /// The error of the system call.
        cause: std::io::Error,
    },
}

impl Error {
    /// Returns whether the error means that the process has exited, and not that a check has
    /// failed.
    #[must_use]
    pub fn is_exited(&self) -> bool {
        matches!(self, Self::NoSuchProcess(_) | Self::Ended)
    }

    fn system(doing: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |cause| Self::System { doing, cause }
    }
}
