//! Registers descriptors with the event loop.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A type that keeps its descriptor open until it is dropped.
pub trait OwnsFd: AsRawFd {}

impl OwnsFd for OwnedFd {}

impl OwnsFd for Arc<OwnedFd> {}

/// Registers a descriptor with the event loop, until the returned value is dropped.
///
/// # Errors
///
/// The errors of `epoll_ctl(2)`.
#[allow(unsafe_code)]
pub fn register<T: OwnsFd>(fd: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    // SAFETY: the descriptor must stay open, and refer to the same open file description, as long
    // as the AsyncFd lives. Its owner (see `OwnsFd`) moves into the AsyncFd, and no code of this
    // program replaces descriptors by number (dup2).
    let registered = unsafe { AsyncFd::register_with_interest(fd, interest) };
    registered.map_err(|error| error.into_parts().1)
}
