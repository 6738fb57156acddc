//! The outbound queue: messages that the bus did not accept at once.
//!
//! zbus sends one message at a time. A bus that does not read must not delay replies to clients of
//! the private socket. Therefore a task sends the messages that the bus does not accept at once.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;

use crate::admission::Admission;
use crate::admission::transport::outbound::OutboundMessage;
use crate::admission::transport::socket::ConnectedSocket;
use crate::sync::{Counter, CounterGuard};

/// The maximum number of messages in the queue.
const MAX_MESSAGES: usize = 4096;
/// The maximum size of the messages in the queue, in KiB.
const MAX_KIB: u32 = 64 << 10;
/// How long the queue may be full before the bus counts as stalled.
const FULL_TIMEOUT: Duration = Duration::from_secs(5);

/// The outbound queue of a connection to the bus.
#[derive(Debug)]
pub(in crate::admission) struct OutboundQueue {
    socket: Arc<ConnectedSocket>,
    admission: Admission,
    queue: mpsc::Sender<QueuedMessage>,
    kib: Arc<Semaphore>,
    unsent: Counter,
}

/// A message in the queue.
#[derive(Debug)]
struct QueuedMessage {
    message: OutboundMessage,
    _kib: OwnedSemaphorePermit,
    _unsent: CounterGuard,
}

impl OutboundQueue {
    /// Creates a queue, and starts a task that sends its messages over `socket`.
    pub(in crate::admission) fn new(socket: Arc<ConnectedSocket>, admission: Admission) -> Self {
        let (queue, queued) = mpsc::channel(MAX_MESSAGES);
        let kib = Arc::new(Semaphore::new(MAX_KIB as usize));
        tokio::spawn(send_all(queued, Arc::clone(&socket), admission.clone()));
        Self { socket, admission, queue, kib, unsent: Counter::default() }
    }

    /// Sends a message, or queues it.
    ///
    /// # Errors
    ///
    /// `BrokenPipe` if the connection is closed; `TimedOut` if the queue stays full.
    pub(in crate::admission) async fn send(&self, message: OutboundMessage) -> io::Result<()> {
        let message = if self.unsent.is_zero() {
            match message.try_send(&self.socket)? {
                Some(0) => return Ok(()),
                // The socket sends the rest of the message before anything else. The empty message
                // has the task flush it.
                Some(_) => OutboundMessage::Bytes(Vec::new()),
                None => message,
            }
        } else {
            message
        };
        let queued = timeout(FULL_TIMEOUT, self.enqueue(message)).await;
        queued.unwrap_or_else(|_| {
            self.admission.close_stalled(&self.socket);
            Err(io::ErrorKind::TimedOut.into())
        })
    }

    async fn enqueue(&self, message: OutboundMessage) -> io::Result<()> {
        let closed = || io::Error::from(io::ErrorKind::BrokenPipe);
        let size = u32::try_from(message.len().div_ceil(1024)).unwrap_or(MAX_KIB);
        let kib = Arc::clone(&self.kib).acquire_many_owned(size.clamp(1, MAX_KIB)).await;
        let kib = kib.map_err(|_| closed())?;
        let queued = QueuedMessage { message, _kib: kib, _unsent: self.unsent.increment() };
        self.queue.send(queued).await.map_err(|_| closed())
    }
}

/// Sends queued messages until the queue is dropped or the connection is closed.
async fn send_all(
    mut queue: mpsc::Receiver<QueuedMessage>,
    socket: Arc<ConnectedSocket>,
    admission: Admission,
) {
    while let Some(queued) = queue.recv().await {
        if let Err(error) = queued.message.send(&socket).await {
            tracing::debug!(%error, "cannot send to the bus");
            // The receiving half then also sees the end of the connection.
            let _ = socket.close();
            return;
        }
        drop(queued);
        admission.wake_if_queued();
    }
}
