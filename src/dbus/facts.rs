//! Owners, locks and holders as dictionaries; the keys are documented with the methods.

use std::collections::HashMap;

use zbus::{ObjectPath, Variant};

use crate::lock::holder::Holder;
use crate::lock::key::Key;
use crate::lock::name_state::NameState;
use crate::lock::printable::spelt_path;
use crate::lock::process::{Machine, Process};
use crate::lock::recorded::Recorded;
use crate::lock::resolve::Target;
use crate::lock::{Anchor, Mode, Owner, Proof, Want};
use crate::paths;
use crate::service::counts::Metrics;
use crate::service::list::{LockRow, OwnerRow, SuspendedRow, Whose};
use crate::service::wall_clock_of;

/// One dictionary.
pub(super) type Facts = HashMap<&'static str, Variant<'static>>;

pub(super) fn object(path: zbus::OwnedObjectPath) -> Variant<'static> {
    Variant::from(ObjectPath::from(path))
}

pub(super) fn count(n: usize) -> Variant<'static> {
    Variant::from(u32::try_from(n).unwrap_or(u32::MAX))
}

/// The words for an owner's anchors, in the order in which they came.
#[must_use]
pub(super) fn anchors(owner: &Owner) -> Vec<&'static str> {
    owner.anchors.values().copied().map(Anchor::as_str).collect()
}

/// What an owner has given up for a while, with the modes.
#[must_use]
pub(super) fn suspended(owner: &Owner) -> Vec<(String, &'static str)> {
    owner.suspended.values().map(|want| (want.resource.clone(), want.mode.as_str())).collect()
}

/// How many bytes that is at most.
#[must_use]
pub(super) fn suspended_size(owner: &Owner) -> usize {
    owner.suspended.values().map(|want| want.resource.len() + 40).sum()
}

/// A row of `ListOwners`.
#[must_use]
pub(super) fn of_owner(owner: &OwnerRow) -> Facts {
    let words: Vec<&'static str> = owner.anchors.iter().map(|anchor| anchor.as_str()).collect();
    let mut facts = Facts::from([
        ("owner", object(paths::owner(owner.id))),
        ("uuid", owner.id.uuid.to_string().into()),
        ("name", owner.name.clone().into()),
        ("uid", owner.id.uid.into()),
        ("pid", owner.pid.into()),
        ("frontend", owner.front.as_str().into()),
        ("state", owner.state.into()),
        ("since-usec", owner.since.into()),
        ("anchors", words.into()),
        ("locks", count(owner.locks)),
    ]);
    explained(&mut facts, &owner.why);
    facts
}

/// What rows of locks and of waiting requests show of the owner.
#[must_use]
pub(super) fn of_whose(whose: &Whose) -> Facts {
    let mut facts = Facts::from([
        ("owner", object(paths::owner(whose.id))),
        ("uuid", whose.id.uuid.to_string().into()),
        ("name", whose.name.to_string().into()),
        ("uid", whose.id.uid.into()),
        ("pid", whose.pid.into()),
    ]);
    explained(&mut facts, &whose.why);
    facts
}

/// What rows of held and of suspended locks show of what is locked.
fn of_want(want: &Want) -> Facts {
    Facts::from([
        ("resource", want.resource.clone().into()),
        ("mode", want.mode.as_str().into()),
        ("lock-file", lock_file(want).into()),
        ("identity", want.identity.to_string().into()),
        ("lockspace", object(paths::lockspace(want.lockspace))),
    ])
}

/// A row of `ListLocks`.
#[must_use]
pub(super) fn of_lock(LockRow { lock, whose, name_state, conflict }: &LockRow) -> Facts {
    let mut facts = of_whose(whose);
    named(&mut facts, *name_state);
    conflicting(&mut facts, *conflict);
    facts.extend(of_want(&lock.want));
    facts.extend([
        ("lock", object(paths::lock(lock.id))),
        ("generation", lock.id.into()),
        ("since-usec", lock.since.into()),
        ("verified", (lock.proof == Proof::Verified).into()),
        ("lost", (lock.proof == Proof::Lost).into()),
    ]);
    facts
}

/// A row of `ListLocks` for what an owner has suspended.
#[must_use]
pub(super) fn of_suspended(row: &SuspendedRow) -> Facts {
    let mut facts = of_whose(&row.whose);
    facts.extend(of_want(&row.want));
    facts.extend([("generation", row.number.into())]);
    facts
}

/// Adds where the name leads by which it was locked, if not to what is locked.
pub(super) fn named(facts: &mut Facts, state: Option<NameState>) {
    facts.extend(state.and_then(NameState::as_str).map(|word| ("name-state", word.into())));
}

/// Adds what the locks of an owner are for, if its opener says so.
fn explained(facts: &mut Facts, why: &str) {
    if !why.is_empty() {
        facts.insert("why", why.to_owned().into());
    }
}

/// Adds that another owner's lock covers some of the same data, if so.
pub(super) fn conflicting(facts: &mut Facts, conflict: bool) {
    facts.extend(conflict.then(|| ("conflict", true.into())));
}

/// The file whose byte is locked; the first, where there are two. None where nothing is locked.
#[must_use]
pub(super) fn lock_file(want: &Want) -> String {
    let locked = want.mode != Mode::None;
    let file = want.lock_files.first().filter(|_| locked);
    file.map(|file| spelt_path(file)).unwrap_or_default()
}

/// What `Resolve` tells.
#[must_use]
pub(super) fn of_target(target: &Target, only_recorded: bool) -> Facts {
    let locked = if only_recorded { Vec::new() } else { target.lock_files() };
    let files: Vec<String> = locked.iter().map(|file| spelt_path(file)).collect();
    Facts::from([
        ("resource", target.name.clone().into()),
        ("path", target.canonical.clone().unwrap_or_default().into()),
        ("lockspace", object(paths::lockspace(target.lockspace.kind()))),
        ("lock-file", files.first().cloned().unwrap_or_default().into()),
        ("lock-files", files.into()),
        ("identity", target.identity.to_string().into()),
    ])
}

/// What `Resolve` tells of a lease.
#[must_use]
pub(super) fn of_lease(key: &Key) -> Facts {
    let file = spelt_path(key.path());
    Facts::from([
        ("resource", key.resource().into()),
        ("path", file.clone().into()),
        ("lockspace", object(paths::lockspace(key.lockspace().kind()))),
        ("lock-file", file.clone().into()),
        ("lock-files", vec![file].into()),
        ("identity", key.identity().to_string().into()),
    ])
}

/// What `FindHolders` tells of an owner of ours that holds a resource, or for which it is reserved.
#[must_use]
pub(super) fn of_holder(holder: &Holder, user: String, program: String, host: &str) -> Facts {
    let mut facts = Facts::from([
        ("kind", "owner".into()),
        ("mode", holder.mode.as_str().into()),
        ("lock", object(paths::lock(holder.lock))),
        ("owner", object(paths::owner(holder.owner))),
        ("uuid", holder.owner.uuid.to_string().into()),
        ("name", holder.name.clone().into()),
        ("pid", holder.pid.into()),
        ("uid", holder.owner.uid.into()),
        ("user", user.into()),
        ("since-usec", holder.since.into()),
        ("resource", holder.resource.clone().into()),
        ("host", host.to_owned().into()),
    ]);
    explained(&mut facts, &holder.why);
    if let Some(until) = holder.reserved_until {
        facts.remove("lock");
        facts.remove("since-usec");
        let until = wall_clock_of(until);
        facts.extend([("kind", "reserved".into()), ("until-usec", until.into())]);
    }
    if !program.is_empty() {
        facts.extend([("program", program.into())]);
    }
    let keepers = holder.kept_by.named.iter();
    let keepers: Vec<_> = keepers.map(|keeper| (keeper.pid, keeper.program.clone())).collect();
    if !keepers.is_empty() {
        facts.extend([("lifeline-processes", keepers.into())]);
    }
    facts
}

/// What `GetMetrics` tells.
#[must_use]
pub(super) fn of_metrics(metrics: &Metrics) -> Facts {
    let Metrics { since, numbers, grants, waits } = metrics;
    let mut facts: Facts = numbers.iter().map(|(key, n)| (*key, Variant::from(*n))).collect();
    facts.extend([
        ("since-usec", (*since).into()),
        ("grant-usec", grants.buckets.clone().into()),
        ("grant-usec-sum", grants.sum.into()),
        ("grant-count", grants.count.into()),
        ("wait-usec", waits.buckets.clone().into()),
        ("wait-usec-sum", waits.sum.into()),
        ("wait-count", waits.count.into()),
    ]);
    facts
}

/// What `FindHolders` tells of a process that holds the lock, or has the disk open: `kind`.
#[must_use]
pub(super) fn of_process(process: &Process, kind: &'static str, user: String, host: &str) -> Facts {
    let mut facts = Facts::from([
        ("kind", kind.into()),
        ("pid", process.pid.into()),
        ("uid", process.uid.into()),
        ("user", user.into()),
        ("program", process.program.clone().into()),
        ("host", host.to_owned().into()),
    ]);
    if let Some(Machine { name, uuid }) = &process.machine {
        facts.extend([("name", name.clone().into())]);
        facts.extend(uuid.map(|uuid| ("uuid", uuid.to_string().into())));
    }
    facts
}

/// What `FindHolders` tells of a holder that is on record.
#[must_use]
pub(super) fn of_recorded(recorded: &Recorded) -> Facts {
    let Recorded { host, entry, .. } = recorded;
    let mut facts = Facts::from([
        ("kind", "host".into()),
        ("mode", entry.mode.as_str().into()),
        ("host", host.clone().into()),
        ("name", entry.name.clone().into()),
        ("uuid", entry.uuid.to_string().into()),
        ("pid", entry.pid.into()),
        ("user", entry.user.clone().into()),
        ("since-usec", entry.since.into()),
        ("resource", entry.path.clone().into()),
    ]);
    explained(&mut facts, &entry.why);
    facts
}

/// What `FindHolders` tells of somebody who is not known.
#[must_use]
pub(super) fn of_unknown() -> Facts {
    Facts::from([("kind", "unknown".into())])
}

/// What `FindHolders` tells of holders that the caller may not see.
#[must_use]
pub(super) fn of_hidden(mode: Mode) -> Facts {
    Facts::from([("kind", "hidden".into()), ("mode", mode.as_str().into())])
}

/// Adds the mode in which a resource is held and its name, unless the row has its own.
pub(super) fn held_as(facts: &mut Facts, mode: &'static str, resource: &str) {
    facts.entry("mode").or_insert_with(|| mode.into());
    facts.entry("resource").or_insert_with(|| resource.to_owned().into());
}
