//! The rules of waiting again, implemented literally and without an index: each waiter is compared
//! with all others.

use super::*;
use crate::lock::model::process_search::ForeignLock;
use crate::lock::model::process_search::Processes;
use crate::lock::model::refusal::{ForeignHolder, Naming};
use crate::lock::table::queue::{Purpose, Status, Ticket, Waiter};

/// Returns the sort key of a waiter: upgrades first, then by ticket.
fn rank(waiter: &Waiter) -> (bool, Ticket) {
    (!matches!(waiter.purpose, Purpose::Upgrade(_)), waiter.ticket)
}

fn conflict(one: &Want, other: &Want) -> bool {
    one.overlaps(other) && one.mode.conflicts(other.mode)
}

/// Whether the resource is reserved for another owner.
fn is_reserved(table: &Table, owner: OwnerId, want: &Want) -> bool {
    let mut reserved = table.reclaims.iter().map(|reserved| &reserved.lock);
    reserved.any(|lock| lock.owner != owner && conflict(&lock.want, want))
}

/// Whether an owner may reclaim this.
fn may_reclaim(table: &Table, owner: OwnerId, want: &Want) -> bool {
    let covers = |mode: Mode| mode == Mode::Exclusive || mode == want.mode;
    let mut reserved = table.reclaims.iter().map(|reserved| &reserved.lock);
    reserved.any(|lock| lock.owner == owner && lock.want.is_same(want) && covers(lock.want.mode))
}

/// Whether another owner holds what a waiter wants, or it is reserved for another owner.
fn is_blocked(table: &Table, waiter: &Waiter, want: &Want) -> bool {
    is_reserved(table, waiter.owner, want)
        || table.locks.values().any(|lock| {
            let other = match waiter.purpose {
                Purpose::Upgrade(own) => {
                    let same = lock.want.is_same(want);
                    lock.id != own && (same || lock.owner != waiter.owner)
                }
                Purpose::Acquire | Purpose::Resume => lock.owner != waiter.owner,
            };
            other && conflict(&lock.want, want)
        })
}

/// Whether a waiter has priority for the n-th resource that it wants.
fn has_priority(table: &Table, waiter: &Waiter, n: usize) -> bool {
    let want = &waiter.wants[n];
    match &waiter.status {
        Status::Woken => true,
        Status::Elsewhere(at, _) if *at == n => true,
        _ => {
            is_blocked(table, waiter, want)
                || is_behind_waiter(table, want, waiter.owner, rank(waiter))
        }
    }
}

/// Whether a waiter of another owner before `limit` has priority for the resource.
fn is_behind_waiter(table: &Table, want: &Want, owner: OwnerId, limit: (bool, Ticket)) -> bool {
    let before = table.waiters().filter(|other| rank(other) < limit && other.owner != owner);
    before.into_iter().any(|other| {
        (0..other.wants.len())
            .any(|n| conflict(&other.wants[n], want) && has_priority(table, other, n))
    })
}

fn has_lock_on(table: &Table, owner: OwnerId, want: &Want) -> bool {
    table.locks.values().any(|lock| lock.owner == owner && lock.want.is_same(want))
}

/// Returns the resources of a request for which an earlier waiter has priority, except those that
/// the owner already has.
pub(super) fn behind_waiter(
    table: &Table,
    ticket: Option<Ticket>,
    owner: OwnerId,
    wants: &[Want],
) -> Option<String> {
    let limit = (true, ticket.unwrap_or(Ticket::MAX));
    let new = wants
        .iter()
        .filter(|want| !has_lock_on(table, owner, want) && !may_reclaim(table, owner, want));
    let mut behind = new.filter(|want| is_behind_waiter(table, want, owner, limit));
    behind.next().map(|want| want.resource.clone())
}

/// Whether nothing blocks a waiter any more.
pub(super) fn may_go_on(table: &Table, waiter: &Waiter) -> bool {
    if let Purpose::Upgrade(own) = waiter.purpose
        && !table.locks.contains_key(&own)
    {
        // While the lock is being released, the waiter may be woken or not.
        return true;
    }
    let after_own = |want: &Want| {
        table.waiters().any(|other| {
            other.owner == waiter.owner
                && other.status == Status::Woken
                && rank(other) < rank(waiter)
                && other.wants.iter().any(|wanted| wanted.overlaps(want))
        })
    };
    waiter.wants.iter().all(|want| {
        !is_blocked(table, waiter, want)
            && !after_own(want)
            && (has_lock_on(table, waiter.owner, want)
                || may_reclaim(table, waiter.owner, want)
                || !is_behind_waiter(table, want, waiter.owner, (true, waiter.ticket)))
    })
}

pub(super) fn foreign(resource: String) -> ForeignHolder {
    let (by, mode) = (ForeignLock::Byte, Mode::Exclusive);
    ForeignHolder {
        resource,
        lock_file: None,
        mode,
        by,
        processes: Processes::default(),
        recorded: Vec::new(),
        users: Processes::default(),
        naming: Naming::Done,
    }
}
