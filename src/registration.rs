//! Registers descriptors with the event loop.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Owns a descriptor for as long as it exists.
pub trait Owning: AsRawFd {}

impl Owning for OwnedFd {}

impl Owning for Arc<OwnedFd> {}

/// Registers a descriptor with the event loop, until the returned value is dropped.
///
/// # Errors
///
/// Those of `epoll_ctl(2)`.
#[allow(unsafe_code)]
pub fn register<T: Owning>(fd: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    // SAFETY: the descriptor must stay open, and refer to the same description, for as long as the
    // AsyncFd lives. Its owner (see `Owning`) moves into the AsyncFd, and no code of this program
    // replaces descriptors by number (dup2).
    let registered = unsafe { AsyncFd::register_with_interest(fd, interest) };
    registered.map_err(|error| error.into_parts().1)
}
