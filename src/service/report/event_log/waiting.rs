//! Log messages on requests that wait.

use std::time::Duration;

use super::each;
use super::words::Vm;
use crate::catalog::LogEvent;
use crate::lock::model::refusal::Refusal;
use crate::lock::text::escape::shown;
use crate::lock::{Mode, OwnerId};
use crate::service::core::clock::seconds;

/// Logs that an owner starts to wait for a resource that other owners hold or have priority for.
pub fn waiting(id: OwnerId, name: &str, refusal: &Refusal, message: &str) {
    tracing::info!(
        event = LogEvent::Waiting.as_str(),
        owner.uuid = %id.uuid,
        owner.name = name,
        owner.uid = id.uid,
        resource = refusal.resource.as_str(),
        reason = "held",
        holder.uuid.each = each(refusal, |holder| holder.owner.uuid.to_string()),
        holder.name.each = each(refusal, |holder| holder.name.clone()),
        "{} is waiting: {message}",
        Vm(id, name)
    );
}

/// Logs that an owner starts to wait for a resource that a foreign holder has locked.
pub fn waiting_elsewhere(id: OwnerId, name: &str, resource: &str, message: &str) {
    tracing::info!(
        event = LogEvent::Waiting.as_str(),
        owner.uuid = %id.uuid,
        owner.name = name,
        owner.uid = id.uid,
        resource,
        reason = "held-elsewhere",
        "{} is waiting: {message}",
        Vm(id, name)
    );
}

/// The outcome of a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitOutcome {
    /// The locks were granted.
    Granted,
    /// The time limit of the wait has expired.
    TimedOut,
    /// The wait was cancelled, or its caller or owner no longer exists.
    Cancelled,
    /// The locks can no longer be granted.
    Failed,
}

impl WaitOutcome {
    /// The word used in the log.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Granted => "granted",
            Self::TimedOut => "timed-out",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }
}

/// Logs that a wait for one resource has ended.
pub fn wait_ended(
    id: OwnerId,
    name: &str,
    (resource, mode): (&str, Mode),
    waited: Duration,
    outcome: WaitOutcome,
) {
    tracing::info!(
        event = LogEvent::WaitEnded.as_str(),
        owner.uuid = %id.uuid,
        owner.name = name,
        owner.uid = id.uid,
        resource,
        mode = mode.as_str(),
        reason = outcome.as_str(),
        waited.usec = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX),
        "wait of {} for {} ({}) ended after {}: {}",
        Vm(id, name),
        shown(resource),
        mode.as_str(),
        seconds(waited),
        outcome.as_str().replace('-', " ")
    );
}
