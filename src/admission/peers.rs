//! Clients of the private socket, and what is sent to them.
//!
//! A peer bears a name of the same form as connections to the bus, which no bus gives. So its calls
//! take the way of all others: counted by the ledger, dispatched in their turn, answered by zbus;
//! only the sending half sends a reply to a peer's name here instead of to the bus.

use std::collections::HashMap;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;
use zbus::Message;

use super::link::Link;
use super::lock;
use super::unsent::{Count, Unsent};

/// What the names of peers begin with. Those that a bus gives begin with a digit.
pub(super) const PREFIX: &str = ":vmlockd.";
/// How many messages wait for a peer that does not read. With more it is disconnected.
const QUEUE: usize = 256;

/// What is sent to a peer.
#[derive(Debug)]
pub(super) enum Parcel {
    /// A reply of zbus's.
    Message(Message),
    /// A message that the service has written itself.
    Bytes(Vec<u8>),
}

impl Parcel {
    /// How many bytes it has.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Message(message) => message.data().bytes().len(),
            Self::Bytes(bytes) => bytes.len(),
        }
    }

    /// Sends what the receiver takes at once. Returns how many bytes are still to be sent, by the
    /// next call of [`send`](Self::send) for this link; `None` if nothing was sent.
    ///
    /// # Errors
    ///
    /// Those of sendmsg(2).
    pub(super) fn send_now(&self, link: &Link) -> std::io::Result<Option<usize>> {
        match self {
            Self::Message(message) => {
                let data = message.data();
                let fds: Vec<BorrowedFd<'_>> = data.fds().iter().map(|fd| fd.as_fd()).collect();
                link.send_now(data.bytes(), &fds)
            }
            Self::Bytes(bytes) => link.send_now(bytes, &[]),
        }
    }

    /// Sends it.
    ///
    /// # Errors
    ///
    /// Those of sendmsg(2).
    pub(super) async fn send(&self, link: &Link) -> std::io::Result<()> {
        match self {
            Self::Message(message) => {
                let data = message.data();
                let fds: Vec<BorrowedFd<'_>> = data.fds().iter().map(|fd| fd.as_fd()).collect();
                link.send(data.bytes(), &fds).await
            }
            Self::Bytes(bytes) => link.send(bytes, &[]).await,
        }
    }
}

/// All peers.
#[derive(Debug, Default)]
pub(super) struct Peers {
    by_name: Mutex<HashMap<Arc<str>, Peer>>,
    last: AtomicUsize,
    unsent: Count,
    /// Whether nothing is read from peers any more.
    closing: AtomicBool,
}

/// One of them, as long as it is connected.
#[derive(Debug)]
struct Peer {
    link: Arc<Link>,
    queue: mpsc::Sender<(Parcel, Unsent)>,
}

/// What is to be sent to one peer.
#[derive(Debug)]
pub(super) struct Outbox(mpsc::Receiver<(Parcel, Unsent)>);

impl Peers {
    /// A name for the next peer.
    pub(super) fn name(&self) -> Arc<str> {
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        format!("{PREFIX}{number}").into()
    }

    /// Enters a peer.
    pub(super) fn enter(&self, name: &Arc<str>, link: &Arc<Link>) -> Outbox {
        let (sender, queue) = mpsc::channel(QUEUE);
        let peer = Peer { link: Arc::clone(link), queue: sender };
        lock(&self.by_name).insert(Arc::clone(name), peer);
        Outbox(queue)
    }

    /// Enters that a peer has left.
    pub(super) fn leave(&self, name: &str) {
        lock(&self.by_name).remove(name);
    }

    /// Has something sent, if it is for a peer; otherwise it comes back. A peer that does not read
    /// is disconnected.
    pub(super) fn send(&self, to: &str, parcel: Parcel) -> Option<Parcel> {
        if !to.starts_with(PREFIX) {
            return Some(parcel);
        }
        let mut peers = lock(&self.by_name);
        let peer = peers.get(to)?;
        if peer.queue.try_send((parcel, self.unsent.add())).is_err() {
            tracing::warn!(
                peer = to,
                "disconnecting client {to} of the private socket: it does not read its replies"
            );
            // Its conversation ends with that.
            if let Err(error) = peer.link.close() {
                tracing::debug!(%error, peer = to, "cannot disconnect client {to} of the private socket");
            }
            peers.remove(to);
        }
        None
    }

    /// Whether everything is sent.
    pub(super) fn is_drained(&self) -> bool {
        self.unsent.is_zero()
    }

    /// Has nothing read from peers any more.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// Whether nothing is read any more.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }
}

impl Outbox {
    /// Sends what there is, one after the other, until the peer has left.
    ///
    /// # Errors
    ///
    /// Those of sendmsg(2).
    pub(super) async fn send_all(&mut self, link: &Link) -> std::io::Result<()> {
        while let Some((parcel, _unsent)) = self.0.recv().await {
            parcel.send(link).await?;
        }
        Ok(())
    }
}
