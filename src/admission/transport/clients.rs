//! Clients of the private socket, and what is sent to them.
//!
//! A peer bears a name of the same form as connections to the bus, which no bus gives. So its calls
//! take the way of all others: counted by the ledger, dispatched in their turn, answered by zbus;
//! only the sending half sends a reply to a peer's name here instead of to the bus.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;

use super::outbound::OutboundMessage;
use super::socket::ConnectedSocket;
use crate::sync::{Counter, CounterGuard, lock};

/// What the names of clients begin with. Those that a bus gives begin with a digit.
pub(in crate::admission) const NAME_PREFIX: &str = ":vmlockd.";
/// How many messages wait for a peer that does not read. With more it is disconnected.
const MAX_QUEUED: usize = 256;

/// All clients.
#[derive(Debug, Default)]
pub(in crate::admission) struct Clients {
    by_name: Mutex<HashMap<Arc<str>, Client>>,
    last: AtomicUsize,
    unsent: Counter,
    /// Whether nothing is read from clients any more.
    reading_stopped: AtomicBool,
}

/// One of them, as long as it is connected.
#[derive(Debug)]
struct Client {
    socket: Arc<ConnectedSocket>,
    queue: mpsc::Sender<(OutboundMessage, CounterGuard)>,
}

/// What is to be sent to one peer.
#[derive(Debug)]
pub(in crate::admission) struct SendQueue(mpsc::Receiver<(OutboundMessage, CounterGuard)>);

impl Clients {
    /// A name for the next peer.
    pub(in crate::admission) fn next_name(&self) -> Arc<str> {
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        format!("{NAME_PREFIX}{number}").into()
    }

    /// Enters a peer.
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

    /// Enters that a peer has left.
    pub(in crate::admission) fn remove(&self, name: &str) {
        lock(&self.by_name).remove(name);
    }

    /// Has something sent, if it is for a peer; otherwise it comes back. A peer that does not read
    /// is disconnected.
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
            // Its conversation ends with that.
            if let Err(error) = client.socket.close() {
                tracing::debug!(%error, peer = to, "cannot disconnect client {to} of the private socket");
            }
            clients.remove(to);
        }
        None
    }

    /// Whether everything is sent.
    pub(in crate::admission) fn is_drained(&self) -> bool {
        self.unsent.is_zero()
    }

    /// Has nothing read from clients any more.
    pub(in crate::admission) fn stop_reading(&self) {
        self.reading_stopped.store(true, Ordering::Relaxed);
    }

    /// Whether nothing is read any more.
    pub(in crate::admission) fn has_stopped_reading(&self) -> bool {
        self.reading_stopped.load(Ordering::Relaxed)
    }
}

impl SendQueue {
    /// Sends what there is, one after the other, until the peer has left.
    ///
    /// # Errors
    ///
    /// Those of sendmsg(2).
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
