//! The queue of waiting requests: their tickets, and the notifications that they receive.
//!
//! The table decides who waits for what and who is woken (`lock/table/wait`). This file connects
//! its tickets with the tasks that wait ([`crate::service::wait`]).

use std::collections::HashMap;

use tokio::sync::watch;

use crate::lock::model::refusal::ForeignHolder;
use crate::lock::table::queue::{Purpose, Status, Ticket, Waiter};
use crate::lock::{self, OwnerId, Want};
use crate::service::core::clock::now;
use crate::service::core::error::{CancelReason, Error};
use crate::service::core::limits::Exempt;
use crate::service::state::{SharedState, State};

/// Watches whether a caller is still connected.
#[derive(Debug, Clone)]
pub struct Presence(pub watch::Receiver<bool>);

impl Presence {
    /// Whether the caller has disconnected, or its connection is no longer watched.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }

    /// Returns once the caller has disconnected.
    pub(in crate::service) async fn gone(&mut self) {
        // An error means that the connection is no longer watched.
        let _ = self.0.wait_for(|gone| *gone).await;
    }
}

/// The notification to a waiter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::service) enum Notification {
    /// Keep waiting.
    Wait,
    /// Retry: the resources may be free.
    Retry,
    /// The wait has ended.
    Cancelled(CancelReason),
}

/// Whether a command may wait, at one of its attempts.
#[derive(Debug)]
pub(in crate::service) enum WaitState {
    /// It must not wait.
    NoWait,
    /// It may wait and has not waited yet.
    MayWait(Presence),
    /// It has a ticket.
    Queued(Presence, TicketGuard),
}

impl WaitState {
    pub(in crate::service) fn ticket(&self) -> Option<Ticket> {
        match self {
            Self::NoWait | Self::MayWait(_) => None,
            Self::Queued(_, guard) => Some(guard.ticket),
        }
    }

    /// Whether it may wait.
    pub(in crate::service) fn may_wait(&self) -> bool {
        !matches!(self, Self::NoWait)
    }

    /// Whether the caller has disconnected.
    pub(in crate::service) fn is_abandoned(&self) -> bool {
        match self {
            Self::NoWait => false,
            Self::MayWait(caller) | Self::Queued(caller, _) => caller.is_gone(),
        }
    }
}

/// A command that has entered the queue, or stays in it.
pub(in crate::service) struct Enqueued {
    pub(in crate::service) guard: TicketGuard,
    /// The refusal, if the wait has just begun.
    pub(in crate::service) refusal: Option<lock::Error>,
}

/// A ticket in the queue, which leaves the queue on drop. Must not be dropped while the state is
/// locked.
#[derive(Debug)]
pub(in crate::service) struct TicketGuard {
    state: SharedState,
    pub(in crate::service) ticket: Ticket,
    notifications: watch::Receiver<Notification>,
}

impl TicketGuard {
    /// Returns the first notification that `wanted` selects.
    pub(in crate::service) async fn notified(
        &self,
        wanted: fn(&Notification) -> bool,
    ) -> Result<Notification, Error> {
        let mut notifications = self.notifications.clone();
        let notified = notifications.wait_for(wanted).await.map(|notification| *notification);
        notified.map_err(|_| Error::Abandoned)
    }
}

impl Drop for TicketGuard {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        state.wait_queue.senders.remove(&self.ticket);
        state.table.leave_queue(self.ticket);
    }
}

/// The tasks that wait, by ticket.
#[derive(Debug, Default)]
pub(in crate::service) struct WaitQueue {
    senders: HashMap<Ticket, watch::Sender<Notification>>,
    /// No request may start to wait: the program is about to be replaced.
    is_closed: bool,
}

impl WaitQueue {
    /// Notifies a waiter. A cancelled wait stays cancelled.
    fn notify(&self, ticket: Ticket, notification: Notification) {
        if let Some(sender) = self.senders.get(&ticket) {
            sender.send_if_modified(|current| {
                let is_open = !matches!(current, Notification::Cancelled(_));
                if is_open {
                    *current = notification;
                }
                is_open
            });
        }
    }

    /// Revokes the notification to retry, since the retry was refused.
    fn wait_again(&self, ticket: Ticket) {
        if let Some(sender) = self.senders.get(&ticket) {
            sender.send_if_modified(|current| {
                let is_woken = *current == Notification::Retry;
                if is_woken {
                    *current = Notification::Wait;
                }
                is_woken
            });
        }
    }
}

impl State {
    /// Queues a command that was just refused with `error`; fails if it must not wait. An existing
    /// ticket is never dropped in here: its drop locks the mutex that the caller holds (deadlock).
    pub(in crate::service) fn enqueue(
        &mut self,
        shared: &SharedState,
        exempt: Exempt,
        (id, wants, purpose): (OwnerId, &[Want], Purpose),
        wait: WaitState,
        error: lock::Error,
    ) -> Result<Enqueued, Error> {
        match wait {
            WaitState::NoWait => Err(error.into()),
            WaitState::MayWait(_) => {
                if self.closing || self.wait_queue.is_closed {
                    return Err(Error::Cancelled(CancelReason::Ending));
                }
                self.check_waiters(exempt, id.uid)?;
                let ticket = self.table.enqueue(id, wants, purpose, now())?;
                let (sender, notifications) = watch::channel(Notification::Wait);
                self.wait_queue.senders.insert(ticket, sender);
                let guard = TicketGuard { state: shared.clone(), ticket, notifications };
                Ok(Enqueued { guard, refusal: Some(error) })
            }
            WaitState::Queued(_, guard) => {
                self.wait_queue.wait_again(guard.ticket);
                self.table.wait_on(guard.ticket);
                Ok(Enqueued { guard, refusal: None })
            }
        }
    }

    /// Queues a command as [`Self::enqueue`] does, for the resource at `index` of its request,
    /// which a foreign holder has locked. A retry that only checked for the foreign holder has
    /// learnt nothing new about it: what was known of it stays.
    pub(in crate::service) fn enqueue_for_foreign_holder(
        &mut self,
        shared: &SharedState,
        exempt: Exempt,
        request: (OwnerId, &[Want], Purpose),
        wait: WaitState,
        (index, foreign): (usize, ForeignHolder),
    ) -> Result<Enqueued, Error> {
        let ticket = wait.ticket();
        let earlier = ticket.and_then(|ticket| self.table.foreign_holder_of(ticket, index));
        let foreign = earlier.unwrap_or(foreign);
        let error = lock::Error::HeldElsewhere(Box::new(foreign.clone()));
        let queued = self.enqueue(shared, exempt, request, wait, error)?;
        self.table.wait_for_foreign_holder(queued.guard.ticket, index, foreign);
        Ok(queued)
    }

    /// Whether a waiting command was blocked by a foreign holder and retries.
    pub(in crate::service) fn is_retry(&self, wait: &WaitState) -> bool {
        let waiter = wait.ticket().and_then(|ticket| self.table.waiter(ticket));
        waiter.is_some_and(|waiter| matches!(waiter.status, Status::Elsewhere(..)))
    }

    /// Notifies the waiters that the table has woken.
    pub(super) fn notify_waiters(&mut self) {
        let changes = self.table.wake_waiters();
        for ticket in changes.woken {
            self.wait_queue.notify(ticket, Notification::Retry);
        }
        for ticket in changes.ended {
            self.wait_queue.notify(ticket, Notification::Cancelled(CancelReason::OwnerGone));
        }
    }

    /// Cancels every wait that `which` selects; returns how many.
    pub(in crate::service) fn cancel_waits(
        &mut self,
        which: impl Fn(&Waiter) -> bool,
        reason: CancelReason,
    ) -> usize {
        let waiters = self.table.waiters().filter(|waiter| which(waiter));
        let tickets: Vec<Ticket> = waiters.map(|waiter| waiter.ticket).collect();
        for ticket in &tickets {
            self.table.leave_queue(*ticket);
            self.wait_queue.notify(*ticket, Notification::Cancelled(reason));
        }
        tickets.len()
    }

    /// Cancels all waits, since the service ends or is replaced, and refuses new ones until it is
    /// called with `false`.
    pub(in crate::service) fn close_waits(&mut self, is_closed: bool) {
        self.wait_queue.is_closed = is_closed;
        if is_closed {
            self.cancel_waits(|_| true, CancelReason::Ending);
        }
    }
}
