//! Publication of events: decisions go to one reader, which shows them on the bus.

use tokio::sync::{mpsc, oneshot};

use crate::lock::{Event, Lock, Owner};
use crate::service::report::event_log::EventBatch;
use crate::sync::{Counter, CounterGuard};

/// A batch of events that belong together, for the reader that publishes the table.
#[derive(Debug)]
pub struct Batch {
    /// The events, in order.
    pub events: Vec<Event>,
    /// Sent or dropped once all events are published: a command is answered only after that.
    pub shown: oneshot::Sender<()>,
    /// Whether a command waits for that.
    pub awaited: bool,
    /// Decrements the backlog counter on drop.
    _backlog: CounterGuard,
}

/// A snapshot of the table, and the stream of all later events.
#[derive(Debug)]
pub struct Subscription {
    /// All owners.
    pub owners: Vec<Owner>,
    /// All held locks.
    pub locks: Vec<Lock>,
    /// The events from now on.
    pub batches: mpsc::UnboundedReceiver<Batch>,
}

/// The queue of events to the reader.
#[derive(Debug, Default)]
pub(in crate::service) struct EventQueue {
    reader: Option<mpsc::UnboundedSender<Batch>>,
    /// The number of batches that are not published yet.
    backlog: Counter,
}

impl EventQueue {
    /// Returns the receiver of all later events; it replaces an earlier one.
    pub(in crate::service) fn subscribe(&mut self) -> mpsc::UnboundedReceiver<Batch> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.reader = Some(sender);
        receiver
    }

    /// Sends events to the reader, in the order of the decisions, since the mutex is held. Never
    /// blocks: the backlog is bounded by the commands that wait for their events.
    pub(in crate::service) fn publish(&mut self, events: Vec<Event>) -> Publication {
        self.publish_for(events, true)
    }

    /// Sends events to the reader; without a waiting command (`awaited`), the caller must bound the
    /// backlog.
    pub(in crate::service) fn publish_for(
        &mut self,
        events: Vec<Event>,
        awaited: bool,
    ) -> Publication {
        if events.is_empty() { Publication::default() } else { self.send(events, awaited) }
    }

    /// Returns a [`Publication`] for all events that were sent before. A reply that names objects
    /// of other requests waits for it, so that a caller never gets an object that it cannot find.
    pub(in crate::service) fn so_far(&mut self) -> Publication {
        self.send(Vec::new(), true)
    }

    fn send(&mut self, events: Vec<Event>, awaited: bool) -> Publication {
        let Some(reader) = self.reader.as_ref() else {
            return Publication::default();
        };
        let (shown, seen) = oneshot::channel();
        let backlog = self.backlog.increment();
        if reader.send(Batch { events, shown, awaited, _backlog: backlog }).is_err() {
            self.reader = None;
            return Publication::default();
        }
        Publication::new(seen)
    }

    /// Returns the counter of the batches that are not published yet.
    pub(in crate::service) fn backlog(&self) -> Counter {
        self.backlog.clone()
    }
}

/// Events that are not published yet; they are logged on drop at the latest.
#[derive(Debug, Default)]
#[must_use = "a command is answered only after its events can be seen"]
pub struct Publication {
    seen: Option<oneshot::Receiver<()>>,
    pending: EventBatch,
}

impl Publication {
    fn new(seen: oneshot::Receiver<()>) -> Self {
        Self { seen: Some(seen), pending: EventBatch::default() }
    }

    /// Adds events to be logged.
    pub(in crate::service) fn and_log(mut self, pending: EventBatch) -> Self {
        self.pending = pending;
        self
    }

    /// Logs the events that are not logged yet.
    pub(in crate::service) fn log(&mut self) {
        self.pending.log();
    }

    /// Returns once the events are published, or no reader exists.
    pub(in crate::service) async fn wait(mut self) {
        self.log();
        if let Some(seen) = self.seen.take() {
            // An error means that the reader no longer exists.
            let _ = seen.await;
        }
    }
}

impl Drop for Publication {
    fn drop(&mut self) {
        self.log();
    }
}
