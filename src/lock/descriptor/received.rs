//! Descriptors that callers have passed.
//!
//! `close(2)` of such a descriptor may block for as long as its sender chooses, so it is never
//! called on the event loop: a [`Received`] that is dropped goes to the threads of
//! [`super::closer`], under the user that sent it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::closer::{self, User};

/// A descriptor that a caller passed. Dropping it queues it to be closed, and never blocks.
#[derive(Debug)]
pub struct Received {
    fd: Option<OwnedFd>,
    sender: User,
}

impl Received {
    /// Records which user has sent it; `None` if that is unknown.
    pub fn set_sender(&mut self, sender: User) {
        self.sender = sender;
    }

    /// Returns the user that has sent it.
    #[must_use]
    pub fn sender(&self) -> User {
        self.sender
    }

    /// Closes it now. Not for the event loop: a local file system may have to write back first.
    pub fn close(mut self) {
        drop(self.fd.take());
    }

    /// Returns the descriptor. The caller is responsible for closing it.
    #[must_use]
    pub fn into_inner(mut self) -> Option<OwnedFd> {
        self.fd.take()
    }
}

/// Wraps a descriptor whose sender is not known yet.
impl From<OwnedFd> for Received {
    fn from(fd: OwnedFd) -> Self {
        Self { fd: Some(fd), sender: None }
    }
}

impl AsFd for Received {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.fd {
            Some(fd) => fd.as_fd(),
            // Only the methods that consume `self` take the descriptor out.
            None => unreachable!("a descriptor that was taken out is borrowed"),
        }
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        if let Some(fd) = self.fd.take() {
            closer::close(fd, self.sender);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{self, Read as _};

    #[test]
    fn a_dropped_descriptor_is_closed() {
        let (mut ours, theirs) = io::pipe().unwrap();
        drop(Received::from(OwnedFd::from(theirs)));
        assert_eq!(ours.read(&mut [0]).unwrap(), 0);
    }
}
