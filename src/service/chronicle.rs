//! What happens to owners and locks, for the log: for people in a sentence, for machines in fields.
//!
//! Every line of a kind ([`Kind`]) is written here, but for those of the gate; so all of them have
//! the same fields. A value is data, and goes as it is; a sentence has foreign names escaped.

use std::fmt::Display;
use std::time::Duration;

use super::Error;
use super::state::State;
use crate::catalog::Kind;
use crate::lock::holder::{Holder, Refusal};
use crate::lock::printable::shown;
use crate::lock::restored::Lost;
use crate::lock::{self, Event, Lock, Mode, OwnerId, Reason};

/// Events of one owner that are not logged yet.
#[derive(Debug, Default)]
pub(super) struct Unsaid {
    name: String,
    events: Vec<Event>,
}

impl Unsaid {
    /// Of the owner with this name.
    pub(super) fn new(name: String, events: Vec<Event>) -> Self {
        Self { name, events }
    }

    /// Logs that the owner has what it held before it was suspended.
    pub(super) fn resumed(&self, id: OwnerId, locks: usize) {
        resumed(id, &self.name, locks);
    }

    /// Logs them.
    pub(super) fn say(&mut self) {
        for event in self.events.drain(..) {
            match event {
                Event::LockAcquired(lock) => acquired(&lock, &self.name),
                Event::LockConverted(lock) => converted(&lock, &self.name),
                Event::LockReleased(lock, reason) => released(&lock, &self.name, reason),
                _ => {}
            }
        }
    }
}

impl State {
    /// An owner's name, also of one that is about to go.
    pub(super) fn name_of(&self, id: OwnerId) -> String {
        self.table.owner(id).map_or_else(String::new, |owner| owner.name.clone())
    }
}

/// An owner is there.
pub fn opened(id: OwnerId, name: &str, why: &str) {
    tracing::info!(
        event = Kind::OwnerOpened.as_str(),
        owner.uuid = %id.uuid,
        owner.name = name,
        owner.uid = id.uid,
        why = (!why.is_empty()).then_some(why),
        "opened VM \"{name}\""
    );
}

/// An owner has ended; what it holds is given up after that.
pub fn ended(id: OwnerId, name: &str, locks: usize, reason: Reason) {
    tracing::info!(
        event = Kind::OwnerEnded.as_str(),
        owner.uuid = %id.uuid,
        owner.name = name,
        owner.uid = id.uid,
        locks,
        reason = reason.as_str(),
        "owner ended"
    );
}

/// The same, of one that ended while nobody saw it.
pub fn ended_unseen(id: OwnerId, name: &str, locks: usize) {
    tracing::info!(
        event = Kind::OwnerEnded.as_str(),
        owner.uuid = %id.uuid,
        owner.name = name,
        owner.uid = id.uid,
        locks,
        reason = Reason::OwnerGone.as_str(),
        "owner ended while vmlockd was away"
    );
}

/// A lock was given.
pub fn acquired(lock: &Lock, name: &str) {
    tracing::info!(
        event = Kind::Acquired.as_str(),
        lock = lock.id,
        owner.uuid = %lock.owner.uuid,
        owner.name = name,
        owner.uid = lock.owner.uid,
        resource = lock.want.resource.as_str(),
        mode = lock.want.mode.as_str(),
        "acquired {}",
        shown(&lock.want.resource)
    );
}

/// A lock has another mode.
pub fn converted(lock: &Lock, name: &str) {
    tracing::info!(
        event = Kind::Converted.as_str(),
        lock = lock.id,
        owner.uuid = %lock.owner.uuid,
        owner.name = name,
        owner.uid = lock.owner.uid,
        resource = lock.want.resource.as_str(),
        mode = lock.want.mode.as_str(),
        "converted {}",
        shown(&lock.want.resource)
    );
}

/// A lock was given up.
pub fn released(lock: &Lock, name: &str, reason: Reason) {
    tracing::info!(
        event = Kind::Released.as_str(),
        lock = lock.id,
        owner.uuid = %lock.owner.uuid,
        owner.name = name,
        owner.uid = lock.owner.uid,
        resource = lock.want.resource.as_str(),
        mode = lock.want.mode.as_str(),
        reason = reason.as_str(),
        "released {}",
        shown(&lock.want.resource)
    );
}

/// What one owner held is another's now: so many locks, each of which is said to be acquired.
pub fn handed_over(to: (OwnerId, &str), from: (OwnerId, &str), locks: usize) {
    tracing::info!(
        event = Kind::HandedOver.as_str(),
        owner.uuid = %to.0.uuid,
        owner.name = to.1,
        owner.uid = to.0.uid,
        locks,
        from.uuid = %from.0.uuid,
        from.name = from.1,
        from.uid = from.0.uid,
        "locks handed over"
    );
}

/// The resource that somebody else than our owners holds, before a sentence is made of it.
pub(super) fn elsewhere(error: &Error) -> String {
    match error {
        Error::Lock(lock::Error::HeldElsewhere(stranger)) => stranger.resource.clone(),
        _ => String::new(),
    }
}

/// Something of all holders, a line each.
fn each(refusal: &Refusal, what: fn(&Holder) -> String) -> String {
    refusal.holders.iter().map(what).collect::<Vec<_>>().join("\n")
}

/// An owner does not get what others of ours hold; `message` is what it is told.
pub fn refused(id: OwnerId, name: &str, refusal: &Refusal, message: &str) {
    tracing::info!(
        event = Kind::Refused.as_str(),
        owner.uuid = %id.uuid,
        owner.name = name,
        owner.uid = id.uid,
        resource = refusal.resource.as_str(),
        reason = "held",
        holder.uuid.each = each(refusal, |holder| holder.owner.uuid.to_string()),
        holder.name.each = each(refusal, |holder| holder.name.clone()),
        "refused: {message}"
    );
}

/// An owner does not get what somebody else holds.
pub fn refused_elsewhere(id: OwnerId, name: &str, resource: &str, message: &str) {
    tracing::info!(
        event = Kind::Refused.as_str(),
        owner.uuid = %id.uuid,
        owner.name = name,
        owner.uid = id.uid,
        resource,
        reason = "held-elsewhere",
        "refused: {message}"
    );
}

/// An owner begins to wait for what others of ours hold, or are to get first.
pub fn waiting(id: OwnerId, name: &str, refusal: &Refusal, message: &str) {
    tracing::info!(
        event = Kind::Waiting.as_str(),
        owner.uuid = %id.uuid,
        owner.name = name,
        owner.uid = id.uid,
        resource = refusal.resource.as_str(),
        reason = "held",
        holder.uuid.each = each(refusal, |holder| holder.owner.uuid.to_string()),
        holder.name.each = each(refusal, |holder| holder.name.clone()),
        "waits: {message}"
    );
}

/// An owner begins to wait for what somebody else holds.
pub fn waiting_elsewhere(id: OwnerId, name: &str, resource: &str, message: &str) {
    tracing::info!(
        event = Kind::Waiting.as_str(),
        owner.uuid = %id.uuid,
        owner.name = name,
        owner.uid = id.uid,
        resource,
        reason = "held-elsewhere",
        "waits: {message}"
    );
}

/// What comes of waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// What was waited for was given.
    Granted,
    /// It took too long.
    TimedOut,
    /// It is not wanted any more: the wait was cancelled, or whoever asked has left or ended.
    Cancelled,
    /// It can't be given at all any more.
    Failed,
}

impl Outcome {
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

/// An owner waits for one resource no more.
pub fn wait_ended(
    id: OwnerId,
    name: &str,
    (resource, mode): (&str, Mode),
    waited: Duration,
    outcome: Outcome,
) {
    tracing::info!(
        event = Kind::WaitEnded.as_str(),
        owner.uuid = %id.uuid,
        owner.name = name,
        owner.uid = id.uid,
        resource,
        mode = mode.as_str(),
        reason = outcome.as_str(),
        waited.usec = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX),
        "waits no more for {}",
        shown(resource)
    );
}

/// Somebody else than its owner, the user `by`, has locks given up.
pub fn broken(id: OwnerId, name: &str, locks: &[u64], by: u32) {
    let numbers =
        |between: &str| locks.iter().map(ToString::to_string).collect::<Vec<_>>().join(between);
    tracing::warn!(
        event = Kind::Broken.as_str(),
        lock.each = numbers("\n"),
        owner.uuid = %id.uuid,
        owner.name = name,
        owner.uid = id.uid,
        caller.uid = by,
        reason = Reason::Forced.as_str(),
        "locks of VM \"{name}\" broken by force: {}",
        numbers(", ")
    );
}

/// A lock is not there, though its machine lives.
pub fn lost(lock: &Lock, name: &str, lost: &Lost) {
    tracing::error!(
        event = Kind::Lost.as_str(),
        lock = lock.id,
        owner.uuid = %lock.owner.uuid,
        owner.name = name,
        owner.uid = lock.owner.uid,
        resource = lock.want.resource.as_str(),
        mode = lock.want.mode.as_str(),
        reason = lost.loss.as_str(),
        "LOST the lock on {}, whose machine lives: {}",
        shown(&lock.want.resource),
        lost.why
    );
}

/// A lock that was lost is there again.
pub fn regained(lock: &Lock, name: &str) {
    tracing::warn!(
        event = Kind::Regained.as_str(),
        lock = lock.id,
        owner.uuid = %lock.owner.uuid,
        owner.name = name,
        owner.uid = lock.owner.uid,
        resource = lock.want.resource.as_str(),
        mode = lock.want.mode.as_str(),
        "{} is locked again",
        shown(&lock.want.resource)
    );
}

/// An owner gives up what it holds for a while; each lock is said to be released besides.
pub fn suspended(id: OwnerId, name: &str, locks: usize, by: u32) {
    tracing::info!(
        event = Kind::Suspended.as_str(),
        owner.uuid = %id.uuid,
        owner.name = name,
        owner.uid = id.uid,
        caller.uid = by,
        locks,
        "suspended VM \"{name}\""
    );
}

/// An owner has what it held again; each lock is said to be acquired besides.
pub fn resumed(id: OwnerId, name: &str, locks: usize) {
    tracing::info!(
        event = Kind::Resumed.as_str(),
        owner.uuid = %id.uuid,
        owner.name = name,
        owner.uid = id.uid,
        locks,
        "resumed VM \"{name}\""
    );
}

/// The service has taken up what the one before it had.
pub fn restored(owners: usize, locks: usize) {
    if owners > 0 {
        tracing::info!(
            event = Kind::Restored.as_str(),
            owners,
            locks,
            "owners and locks are there as they were"
        );
    }
}

/// A caller, who is of this user, may not do what he asked for.
pub fn denied(uid: u32, deed: &Denied<'_>, error: impl Display) {
    tracing::info!(
        event = Kind::Denied.as_str(),
        caller.uid = uid,
        caller.name = deed.sender,
        method = deed.method,
        action = deed.action,
        reason = deed.why,
        resource = deed.resource,
        owner.uuid = deed.uuid,
        owner.name = deed.vm,
        "refused: {error}"
    );
}

/// What somebody may not do.
#[derive(Debug, Clone, Copy, Default)]
pub struct Denied<'d> {
    /// The cause in a word.
    pub why: &'d str,
    /// His connection to the bus.
    pub sender: Option<&'d str>,
    /// What he called, with its interface.
    pub method: Option<&'d str>,
    /// What polkit would have had to allow.
    pub action: Option<&'d str>,
    /// The resource that it was about.
    pub resource: Option<&'d str>,
    /// The machine's UUID, as far as it is known.
    pub uuid: Option<&'d str>,
    /// The machine's name, as far as it is known.
    pub vm: Option<&'d str>,
}
