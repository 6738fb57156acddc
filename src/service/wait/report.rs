//! Logs and counts refused requests, waiting requests and the outcomes of waits.

use std::time::Instant;

use crate::lock::{self, Mode, OwnerId};
use crate::service::report::event_log::{self, Outcome};
use crate::service::wait::ticket::QueuePlace;
use crate::service::{Error, Service};

/// The wait of one request, from its beginning.
#[derive(Debug)]
pub(in crate::service) struct WaitReport {
    id: OwnerId,
    name: String,
    /// The resource and mode that it waits for first.
    wanted: Option<(String, Mode)>,
    begun: Instant,
}

impl WaitReport {
    pub(in crate::service) fn begin(service: &Service, id: OwnerId, place: &QueuePlace) -> Self {
        let state = service.state();
        let wanted = state.table.waiter(place.ticket).and_then(|waiter| {
            let name = match state.table.refusal_of(waiter) {
                Some(lock::Error::Held(refusal)) => Some(refusal.resource),
                Some(lock::Error::HeldElsewhere(foreign)) => Some(foreign.resource),
                // The waiter was woken already.
                _ => None,
            };
            let held_up = |want: &&lock::Want| name.as_ref().is_none_or(|n| *n == want.resource);
            let want = waiter.wants.iter().find(held_up)?;
            Some((want.resource.clone(), want.mode))
        });
        Self { id, name: state.name_of(id), wanted, begun: Instant::now() }
    }

    /// Logs and counts the end of the wait.
    pub(in crate::service) fn end<T>(self, service: &Service, came: &Result<T, Error>) {
        let (counts, waited) = (service.counts(), self.begun.elapsed());
        counts.waited(waited);
        let outcome = match came {
            Ok(_) => Outcome::Granted,
            Err(Error::TimedOut { .. }) => {
                counts.timed_out();
                Outcome::TimedOut
            }
            Err(Error::Cancelled(_) | Error::CallerGone) => {
                counts.cancelled();
                Outcome::Cancelled
            }
            Err(_) => Outcome::Failed,
        };
        if let Some((resource, mode)) = &self.wanted {
            let wanted = (resource.as_str(), *mode);
            event_log::wait_ended(self.id, &self.name, wanted, waited, outcome);
        }
    }
}

impl Service {
    /// Logs and counts a refusal because of another holder; returns the error.
    pub(in crate::service) fn log_refusal(
        &self,
        id: OwnerId,
        elsewhere: &str,
        error: Error,
    ) -> Error {
        let name = || self.state().name_of(id);
        match &error {
            Error::Held { message, refusal } => {
                event_log::refused(id, &name(), refusal, message);
            }
            Error::HeldElsewhere { message, .. } => {
                event_log::refused_elsewhere(id, &name(), elsewhere, message);
            }
            _ => return error,
        }
        self.counts().refused();
        error
    }

    /// Logs that a request waits for another holder.
    pub(in crate::service) fn log_wait(&self, id: OwnerId, elsewhere: &str, error: &Error) {
        let name = || self.state().name_of(id);
        match error {
            Error::Held { message, refusal } => {
                event_log::waiting(id, &name(), refusal, message);
            }
            Error::HeldElsewhere { message, .. } => {
                event_log::waiting_elsewhere(id, &name(), elsewhere, message);
            }
            _ => {}
        }
    }
}
