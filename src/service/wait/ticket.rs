//! Tickets of waiting requests, and the notifications that they receive.

use tokio::sync::watch;

use crate::lock::table::queue::{Purpose, Status, Ticket, Waiter};
use crate::lock::{self, OwnerId, Want};
use crate::service::core::state::State;
use crate::service::wait::{Presence, Why};
use crate::service::{Error, Service};

/// The notification to a waiter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::service) enum WaitReply {
    Wait,
    Called,
    Withdrawn(Why),
}

/// The state of a command at an attempt.
#[derive(Debug)]
pub(in crate::service) enum Entry {
    /// It must not wait.
    Once,
    /// It may wait and has not waited yet.
    First(Presence),
    /// It has a ticket.
    Again(Presence, QueuePlace),
}

impl Entry {
    pub(in crate::service) fn ticket(&self) -> Option<Ticket> {
        match self {
            Self::Once | Self::First(_) => None,
            Self::Again(_, place) => Some(place.ticket),
        }
    }

    /// Whether it may wait.
    pub(in crate::service) fn may_wait(&self) -> bool {
        !matches!(self, Self::Once)
    }

    /// Whether the caller has disconnected.
    pub(in crate::service) fn is_abandoned(&self) -> bool {
        match self {
            Self::Once => false,
            Self::First(caller) | Self::Again(caller, _) => caller.is_gone(),
        }
    }
}

/// A command that has entered the queue, or stays in it.
pub(in crate::service) struct Queued {
    pub(in crate::service) place: QueuePlace,
    /// The refusal, if the wait has just begun.
    pub(in crate::service) because: Option<lock::Error>,
}

/// A ticket in the queue, which leaves the queue on drop.
#[derive(Debug)]
pub(in crate::service) struct QueuePlace {
    service: Service,
    pub(in crate::service) ticket: Ticket,
    word: watch::Receiver<WaitReply>,
}

impl QueuePlace {
    /// Returns the first notification that `meant` selects.
    pub(in crate::service) async fn hear(
        &self,
        meant: fn(&WaitReply) -> bool,
    ) -> Result<WaitReply, Error> {
        let mut word = self.word.clone();
        let heard = word.wait_for(meant).await.map(|word| *word);
        heard.map_err(|_| Error::Abandoned)
    }
}

impl Drop for QueuePlace {
    fn drop(&mut self) {
        let mut state = self.service.state();
        state.words.remove(&self.ticket);
        state.table.leave_queue(self.ticket);
    }
}

impl Service {
    /// Whether a waiting command was blocked by a foreign holder and retries.
    pub(in crate::service) fn is_trying_again(&self, entry: &Entry) -> bool {
        let state = self.state();
        let waiter = entry.ticket().and_then(|ticket| state.table.waiter(ticket));
        waiter.is_some_and(|waiter| matches!(waiter.status, Status::Elsewhere(..)))
    }
}

impl State {
    /// Queues a command that was just refused with `error`; fails if it must not wait. An existing
    /// ticket is never dropped in here: its drop locks the mutex that the caller holds (deadlock).
    pub(in crate::service) fn queue(
        &mut self,
        service: &Service,
        id: OwnerId,
        wants: &[Want],
        purpose: Purpose,
        entry: Entry,
        error: lock::Error,
    ) -> Result<Queued, Error> {
        match entry {
            Entry::Once => Err(error.into()),
            Entry::First(_) => {
                if self.closing || self.waits_closed {
                    return Err(Error::Cancelled(Why::Ending));
                }
                self.check_waiters(service.0.exempt, id.uid)?;
                let since = crate::service::now();
                let ticket = self.table.enqueue(id, wants, purpose, since)?;
                let (sender, word) = watch::channel(WaitReply::Wait);
                self.words.insert(ticket, sender);
                let place = QueuePlace { service: service.clone(), ticket, word };
                Ok(Queued { place, because: Some(error) })
            }
            Entry::Again(_, place) => {
                // A cancelled wait keeps this notification.
                if let Some(word) = self.words.get(&place.ticket) {
                    word.send_if_modified(|word| {
                        let called = *word == WaitReply::Called;
                        if called {
                            *word = WaitReply::Wait;
                        }
                        called
                    });
                }
                self.table.wait_on(place.ticket);
                Ok(Queued { place, because: None })
            }
        }
    }

    /// Notifies the waiters that the table has woken.
    pub(in crate::service) fn notify_waiters(&mut self) {
        let news = self.table.wake_waiters();
        for ticket in news.woken {
            self.send_reply(ticket, WaitReply::Called);
        }
        for ticket in news.ended {
            self.send_reply(ticket, WaitReply::Withdrawn(Why::OwnerGone));
        }
    }

    fn send_reply(&self, ticket: Ticket, said: WaitReply) {
        if let Some(word) = self.words.get(&ticket) {
            word.send_if_modified(|word| {
                let open = !matches!(word, WaitReply::Withdrawn(_));
                if open {
                    *word = said;
                }
                open
            });
        }
    }

    /// Cancels every waiter that matches `whose`; returns how many.
    pub(in crate::service) fn withdraw(
        &mut self,
        whose: impl Fn(&Waiter) -> bool,
        why: Why,
    ) -> usize {
        let waiters = self.table.waiters().filter(|waiter| whose(waiter));
        let tickets: Vec<Ticket> = waiters.map(|waiter| waiter.ticket).collect();
        for ticket in &tickets {
            self.table.leave_queue(*ticket);
            self.send_reply(*ticket, WaitReply::Withdrawn(why));
        }
        tickets.len()
    }
}
