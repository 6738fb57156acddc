//! The event log: what happens to owners and locks, as messages for people and as fields for
//! programs.
//!
//! Every message of a kind ([`LogEvent`]) is logged here, except the refusal of a client of
//! virtlockd's socket; so all messages of a kind have the same fields. A field holds its value
//! unchanged; in a message, names are escaped. Each message names the VM, the beginning of its UUID
//! and its user, since `journalctl` prints no fields.

mod denied;
mod waiting;
mod words;

use crate::catalog::LogEvent;
use crate::lock::acquire::reacquire::Lost;
use crate::lock::model::refusal::{Holder, Refusal};
use crate::lock::text::escape::shown;
use crate::lock::{self, Event, Lock, OwnerId, Reason};
use crate::service::core::error::Error;
pub use denied::{Denied, denied};
pub use waiting::{WaitOutcome, wait_ended, waiting, waiting_elsewhere};
pub use words::Vm;
use words::{Locks, because, because_ended};

/// Events of one owner that are not logged yet.
#[derive(Debug, Default)]
pub(in crate::service) struct EventBatch {
    name: String,
    events: Vec<Event>,
}

impl EventBatch {
    /// Events of the owner with this name.
    pub(in crate::service) fn new(name: String, events: Vec<Event>) -> Self {
        Self { name, events }
    }

    /// Logs that the owner holds its locks from before its suspension again.
    pub(in crate::service) fn resumed(&self, id: OwnerId, locks: usize) {
        resumed(id, &self.name, locks);
    }

    /// Logs the events.
    pub(in crate::service) fn log(&mut self) {
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

/// Logs that an owner was opened; `why` is the purpose of its locks, if stated.
pub fn opened(id: OwnerId, name: &str, why: &str) {
    tracing::info!(
        event = LogEvent::OwnerOpened.as_str(),
        owner.uuid = %id.uuid,
        owner.name = name,
        owner.uid = id.uid,
        why = (!why.is_empty()).then_some(why),
        "opened owner of {}",
        Vm(id, name)
    );
}

/// Logs that an owner has ended. Its locks are released after that.
pub fn ended(id: OwnerId, name: &str, locks: usize, reason: Reason) {
    tracing::info!(
        event = LogEvent::OwnerEnded.as_str(),
        owner.uuid = %id.uuid,
        owner.name = name,
        owner.uid = id.uid,
        locks,
        reason = reason.as_str(),
        "owner of {} ended: {}; releasing {}",
        Vm(id, name),
        because_ended(reason),
        Locks(locks)
    );
}

/// Logs that an owner ended while the service was not running.
pub fn ended_unseen(id: OwnerId, name: &str, locks: usize) {
    tracing::info!(
        event = LogEvent::OwnerEnded.as_str(),
        owner.uuid = %id.uuid,
        owner.name = name,
        owner.uid = id.uid,
        locks,
        reason = Reason::OwnerGone.as_str(),
        "owner of {} ended while vmlockd was not running; releasing {}",
        Vm(id, name),
        Locks(locks)
    );
}

/// Logs that a lock was granted.
pub fn acquired(lock: &Lock, name: &str) {
    tracing::info!(
        event = LogEvent::Acquired.as_str(),
        lock = lock.id,
        owner.uuid = %lock.owner.uuid,
        owner.name = name,
        owner.uid = lock.owner.uid,
        resource = lock.want.resource.as_str(),
        mode = lock.want.mode.as_str(),
        "acquired {} ({}) for {}",
        shown(&lock.want.resource),
        lock.want.mode.as_str(),
        Vm(lock.owner, name)
    );
}

/// Logs that a lock was converted to another mode.
pub fn converted(lock: &Lock, name: &str) {
    tracing::info!(
        event = LogEvent::Converted.as_str(),
        lock = lock.id,
        owner.uuid = %lock.owner.uuid,
        owner.name = name,
        owner.uid = lock.owner.uid,
        resource = lock.want.resource.as_str(),
        mode = lock.want.mode.as_str(),
        "converted {} to {} for {}",
        shown(&lock.want.resource),
        lock.want.mode.as_str(),
        Vm(lock.owner, name)
    );
}

/// Logs that a lock was released.
pub fn released(lock: &Lock, name: &str, reason: Reason) {
    tracing::info!(
        event = LogEvent::Released.as_str(),
        lock = lock.id,
        owner.uuid = %lock.owner.uuid,
        owner.name = name,
        owner.uid = lock.owner.uid,
        resource = lock.want.resource.as_str(),
        mode = lock.want.mode.as_str(),
        reason = reason.as_str(),
        "released {} ({}) of {}: {}",
        shown(&lock.want.resource),
        lock.want.mode.as_str(),
        Vm(lock.owner, name),
        because(reason)
    );
}

/// Logs that an owner has the locks of another one; each lock is also logged as acquired.
pub fn handed_over(to: (OwnerId, &str), from: (OwnerId, &str), locks: usize) {
    tracing::info!(
        event = LogEvent::HandedOver.as_str(),
        owner.uuid = %to.0.uuid,
        owner.name = to.1,
        owner.uid = to.0.uid,
        locks,
        from.uuid = %from.0.uuid,
        from.name = from.1,
        from.uid = from.0.uid,
        "handed over {} of {} to {}",
        Locks(locks),
        Vm(from.0, from.1),
        Vm(to.0, to.1)
    );
}

/// Returns the resource that a foreign holder has locked, before the error is described.
pub(in crate::service) fn elsewhere(error: &Error) -> String {
    match error {
        Error::Lock(lock::Error::HeldElsewhere(foreign)) => foreign.resource.clone(),
        _ => String::new(),
    }
}

/// Returns one property of each holder, one line per holder.
fn each(refusal: &Refusal, what: fn(&Holder) -> String) -> String {
    refusal.holders.iter().map(what).collect::<Vec<_>>().join("\n")
}

/// Logs that an owner is refused a resource that other owners hold; `message` names them.
pub fn refused(id: OwnerId, name: &str, refusal: &Refusal, message: &str) {
    tracing::info!(
        event = LogEvent::Refused.as_str(),
        owner.uuid = %id.uuid,
        owner.name = name,
        owner.uid = id.uid,
        resource = refusal.resource.as_str(),
        reason = "held",
        holder.uuid.each = each(refusal, |holder| holder.owner.uuid.to_string()),
        holder.name.each = each(refusal, |holder| holder.name.clone()),
        "refused {}: {message}",
        Vm(id, name)
    );
}

/// Logs that an owner is refused a resource that a foreign holder has locked.
pub fn refused_elsewhere(id: OwnerId, name: &str, resource: &str, message: &str) {
    tracing::info!(
        event = LogEvent::Refused.as_str(),
        owner.uuid = %id.uuid,
        owner.name = name,
        owner.uid = id.uid,
        resource,
        reason = "held-elsewhere",
        "refused {}: {message}",
        Vm(id, name)
    );
}

/// Logs that the user `by` forces the release of locks; each lock is also logged as released.
pub fn broken(id: OwnerId, name: &str, locks: &[u64], by: u32) {
    let numbers =
        |between: &str| locks.iter().map(ToString::to_string).collect::<Vec<_>>().join(between);
    tracing::warn!(
        event = LogEvent::Broken.as_str(),
        lock.each = numbers("\n"),
        owner.uuid = %id.uuid,
        owner.name = name,
        owner.uid = id.uid,
        caller.uid = by,
        reason = Reason::Forced.as_str(),
        "uid {by} forces the release of {} of {}: {}",
        Locks(locks.len()),
        Vm(id, name),
        numbers(", ")
    );
}

/// Logs that a lock is lost, although its VM is running.
pub fn lost(lock: &Lock, name: &str, lost: &Lost) {
    tracing::error!(
        event = LogEvent::Lost.as_str(),
        lock = lock.id,
        owner.uuid = %lock.owner.uuid,
        owner.name = name,
        owner.uid = lock.owner.uid,
        resource = lock.want.resource.as_str(),
        mode = lock.want.mode.as_str(),
        reason = lost.loss.as_str(),
        "LOST the lock on {} ({}) of {}, which is still running: {}",
        shown(&lock.want.resource),
        lock.want.mode.as_str(),
        Vm(lock.owner, name),
        lost.why
    );
}

/// Logs that a lost lock is held again.
pub fn regained(lock: &Lock, name: &str) {
    tracing::warn!(
        event = LogEvent::Regained.as_str(),
        lock = lock.id,
        owner.uuid = %lock.owner.uuid,
        owner.name = name,
        owner.uid = lock.owner.uid,
        resource = lock.want.resource.as_str(),
        mode = lock.want.mode.as_str(),
        "regained the lock on {} ({}) of {}",
        shown(&lock.want.resource),
        lock.want.mode.as_str(),
        Vm(lock.owner, name)
    );
}

/// Logs that an owner is suspended; each of its locks is also logged as released.
pub fn suspended(id: OwnerId, name: &str, locks: usize, by: u32) {
    tracing::info!(
        event = LogEvent::Suspended.as_str(),
        owner.uuid = %id.uuid,
        owner.name = name,
        owner.uid = id.uid,
        caller.uid = by,
        locks,
        "suspended {} on request of uid {by}; releasing {}",
        Vm(id, name),
        Locks(locks)
    );
}

/// Logs that an owner is resumed; each of its locks is also logged as acquired.
pub fn resumed(id: OwnerId, name: &str, locks: usize) {
    tracing::info!(
        event = LogEvent::Resumed.as_str(),
        owner.uuid = %id.uuid,
        owner.name = name,
        owner.uid = id.uid,
        locks,
        "resumed {} with {}",
        Vm(id, name),
        Locks(locks)
    );
}

/// Logs what the service restored from the previous instance.
pub fn restored(owners: usize, locks: usize) {
    if owners > 0 {
        let s = if owners == 1 { "" } else { "s" };
        tracing::info!(
            event = LogEvent::Restored.as_str(),
            owners,
            locks,
            "restored {owners} owner{s} and {}",
            Locks(locks)
        );
    }
}
