//! Clients of the private socket, and their send queues.
//!
//! A client has a unique name of the same form as a connection to the bus, which no bus assigns.
//! Therefore its calls are handled like all others: the scheduler counts and dispatches them, and
//! zbus answers them. Only the sending half differs: it queues a reply to the name of a client
//! here, instead of sending it to the bus.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;

use super::outbound::OutboundMessage;
use super::socket::ConnectedSocket;
use crate::sync::{Counter, CounterGuard, lock};

/// The prefix of the names of clients. In names that a bus assigns, a digit follows the colon.
pub(in crate::admission) const NAME_PREFIX: &str = ":vmlockd.";
/// The maximum number of messages queued for a client that does not read. A client with more is
/// disconnected.
const MAX_QUEUED: usize = 256;

/// The connected clients.
#[derive(Debug, Default)]
pub(in crate::admission) struct Clients {
    by_name: Mutex<HashMap<Arc<str>, Client>>,
    last: AtomicUsize,
    unsent: Counter,
    /// Whether calls of clients are no longer read.
    reading_stopped: AtomicBool,
}

/// A connected client.
#[derive(Debug)]
struct Client {
    socket: Arc<ConnectedSocket>,
    queue: mpsc::Sender<(OutboundMessage, CounterGuard)>,
}

/// The messages that are queued for one client.
#[derive(Debug)]
pub(in crate::admission) struct SendQueue(mpsc::Receiver<(OutboundMessage, CounterGuard)>);

impl Clients {
    /// Returns a name for the next client.
    pub(in crate::admission) fn next_name(&self) -> Arc<str> {
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        format!("{NAME_PREFIX}{number}").into()
    }

    /// Adds a client. Returns its send queue.
    pub(in crate::admission) fn add(
        &self,
        name: &Arc<str>,
        socket: &Arc<ConnectedSocket>,
    ) -> SendQueue {
        let (sender, queue) = mpsc::channel(MAX_QUEUED);
        let client = Client { socket: Arc::clone(socket), queue: sender };
        lock(&self.by_name).insert(Arc::clone(name), client);
        SendQueue(queue)
    }

    /// Removes a client that has disconnected.
    pub(in crate::admission) fn remove(&self, name: &str) {
        lock(&self.by_name).remove(name);
    }

    /// Queues a message for the client `to`. Returns the message if `to` is not the name of a
    /// client. A client that does not read is disconnected.
    pub(in crate::admission) fn send(
        &self,
        to: &str,
        message: OutboundMessage,
    ) -> Option<OutboundMessage> {
        if !to.starts_with(NAME_PREFIX) {
            return Some(message);
        }
        let mut clients = lock(&self.by_name);
        let client = clients.get(to)?;
        if client.queue.try_send((message, self.unsent.increment())).is_err() {
            tracing::warn!(
                peer = to,
                "disconnecting client {to} of the private socket: it does not read its replies"
            );
            // This also ends the task that serves the client.
            if let Err(error) = client.socket.close() {
                tracing::debug!(%error, peer = to, "cannot disconnect client {to} of the private socket");
            }
            clients.remove(to);
        }
        None
    }

    /// Returns whether every message is sent.
    pub(in crate::admission) fn is_drained(&self) -> bool {
        self.unsent.is_zero()
    }

    /// Stops reading calls of clients.
    pub(in crate::admission) fn stop_reading(&self) {
        self.reading_stopped.store(true, Ordering::Relaxed);
    }

    /// Returns whether calls of clients are no longer read.
    pub(in crate::admission) fn has_stopped_reading(&self) -> bool {
        self.reading_stopped.load(Ordering::Relaxed)
    }
}

impl SendQueue {
    /// Sends queued messages, one after the other, until the client disconnects.
    ///
    /// # Errors
    ///
    /// The errors of sendmsg(2).
    pub(in crate::admission) async fn send_all(
        &mut self,
        socket: &ConnectedSocket,
    ) -> std::io::Result<()> {
        while let Some((message, _unsent)) = self.0.recv().await {
            message.send(socket).await?;
        }
        Ok(())
    }
}
