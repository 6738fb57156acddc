//! Messages to the bus, in a queue of their own.
//!
//! zbus sends one message at a time. A bus that does not read must not hold up the replies to clients
//! of the private socket, so a message that the bus does not take at once is left to a task.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;

use super::Admission;
use super::link::Link;
use super::peers::Parcel;
use super::unsent::{Count, Unsent};

/// How many messages may wait.
const MESSAGES: usize = 4096;
/// How many KiB they may have together.
const ROOM: u32 = 64 << 10;
/// How long the queue may be full until the bus counts as stalled.
const PATIENCE: Duration = Duration::from_secs(5);

/// The queue.
#[derive(Debug)]
pub(super) struct Outbound {
    link: Arc<Link>,
    admission: Admission,
    queue: mpsc::Sender<Queued>,
    room: Arc<Semaphore>,
    unsent: Count,
}

/// A message in the queue.
#[derive(Debug)]
struct Queued {
    parcel: Parcel,
    _room: OwnedSemaphorePermit,
    _unsent: Unsent,
}

impl Outbound {
    /// Starts a task that sends over this link.
    pub(super) fn new(link: Arc<Link>, admission: Admission) -> Self {
        let (queue, queued) = mpsc::channel(MESSAGES);
        let room = Arc::new(Semaphore::new(ROOM as usize));
        tokio::spawn(send_all(queued, Arc::clone(&link), admission.clone()));
        Self { link, admission, queue, room, unsent: Count::default() }
    }

    /// Sends a message, or has it sent.
    ///
    /// # Errors
    ///
    /// `BrokenPipe` once the connection is closed; `TimedOut` if the queue stays full.
    pub(super) async fn send(&self, parcel: Parcel) -> io::Result<()> {
        let parcel = if self.unsent.is_zero() {
            match parcel.send_now(&self.link)? {
                Some(0) => return Ok(()),
                // Its end is in front of all else.
                Some(_) => Parcel::Bytes(Vec::new()),
                None => parcel,
            }
        } else {
            parcel
        };
        let queued = timeout(PATIENCE, self.queue(parcel)).await;
        queued.unwrap_or_else(|_| {
            self.admission.stall(&self.link);
            Err(io::ErrorKind::TimedOut.into())
        })
    }

    async fn queue(&self, parcel: Parcel) -> io::Result<()> {
        let closed = || io::Error::from(io::ErrorKind::BrokenPipe);
        let size = u32::try_from(parcel.len().div_ceil(1024)).unwrap_or(ROOM);
        let room = Arc::clone(&self.room).acquire_many_owned(size.clamp(1, ROOM)).await;
        let room = room.map_err(|_| closed())?;
        let queued = Queued { parcel, _room: room, _unsent: self.unsent.add() };
        self.queue.send(queued).await.map_err(|_| closed())
    }
}

/// Sends what is queued, until there will be no more, or the connection is closed.
async fn send_all(mut queue: mpsc::Receiver<Queued>, link: Arc<Link>, admission: Admission) {
    while let Some(queued) = queue.recv().await {
        if let Err(error) = queued.parcel.send(&link).await {
            tracing::debug!(%error, "cannot send to the bus");
            // The receiving half sees the end, if it has not yet.
            let _ = link.close();
            return;
        }
        drop(queued);
        admission.sent();
    }
}
