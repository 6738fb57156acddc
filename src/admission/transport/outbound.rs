//! A message to be sent.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};

use zbus::Message;

use super::socket::ConnectedSocket;

/// A message to the bus, or to a client of the private socket.
#[derive(Debug)]
pub(in crate::admission) enum OutboundMessage {
    /// A message that zbus has built.
    Message(Message),
    /// A message that the service has written itself.
    Bytes(Vec<u8>),
}

impl OutboundMessage {
    /// Returns the number of bytes.
    pub(in crate::admission) fn len(&self) -> usize {
        self.parts().0.len()
    }

    /// Sends what the receiver accepts at once. Returns how many bytes are left, which the next
    /// [`send`](Self::send) over `socket` sends first; `None` if nothing was sent.
    ///
    /// # Errors
    ///
    /// The errors of sendmsg(2).
    pub(in crate::admission) fn try_send(
        &self,
        socket: &ConnectedSocket,
    ) -> io::Result<Option<usize>> {
        let (bytes, fds) = self.parts();
        socket.try_send(bytes, &fds)
    }

    /// Sends the message.
    ///
    /// # Errors
    ///
    /// The errors of sendmsg(2).
    pub(in crate::admission) async fn send(&self, socket: &ConnectedSocket) -> io::Result<()> {
        let (bytes, fds) = self.parts();
        socket.send(bytes, &fds).await
    }

    /// Returns the bytes and the descriptors.
    fn parts(&self) -> (&[u8], Vec<BorrowedFd<'_>>) {
        match self {
            Self::Message(message) => {
                let data = message.data();
                (data.bytes(), data.fds().iter().map(|fd| fd.as_fd()).collect())
            }
            Self::Bytes(bytes) => (bytes, Vec::new()),
        }
    }
}
