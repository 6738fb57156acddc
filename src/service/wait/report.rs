//! Logs and counts the outcomes of waits.

use std::time::Instant;

use crate::lock::{self, Mode, OwnerId};
use crate::service::core::error::Error;
use crate::service::report::event_log::{self, WaitOutcome};
use crate::service::report::metrics::Metrics;
use crate::service::state::State;
use crate::service::state::wait_queue::TicketGuard;

/// The wait of one request, from its beginning.
#[derive(Debug)]
pub(super) struct WaitReport {
    id: OwnerId,
    name: String,
    /// The resource and mode that it waits for first.
    wanted: Option<(String, Mode)>,
    begun: Instant,
}

impl WaitReport {
    pub(super) fn begin(state: &State, id: OwnerId, guard: &TicketGuard) -> Self {
        let wanted = state.table.waiter(guard.ticket).and_then(|waiter| {
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
    pub(super) fn end<T>(self, metrics: &Metrics, result: &Result<T, Error>) {
        let waited = self.begun.elapsed();
        metrics.waited(waited);
        let outcome = match result {
            Ok(_) => WaitOutcome::Granted,
            Err(Error::TimedOut { .. }) => {
                metrics.timed_out();
                WaitOutcome::TimedOut
            }
            Err(Error::Cancelled(_) | Error::CallerGone) => {
                metrics.cancelled();
                WaitOutcome::Cancelled
            }
            Err(_) => WaitOutcome::Failed,
        };
        if let Some((resource, mode)) = &self.wanted {
            let wanted = (resource.as_str(), *mode);
            event_log::wait_ended(self.id, &self.name, wanted, waited, outcome);
        }
    }
}
