//! Encoding of owners, locks, waiting requests and holders as dictionaries (`a{sv}`). The keys are
//! documented with the methods.

use std::collections::HashMap;

use zbus::{ObjectPath, Variant};

use crate::lock::lockspace::key::Key;
use crate::lock::model::holder_entry::Recorded;
use crate::lock::model::process::{Machine, Process};
use crate::lock::model::refusal::Holder;
use crate::lock::resolve::Target;
use crate::lock::resolve::name_state::NameState;
use crate::lock::table::queue::Purpose;
use crate::lock::text::escape::spelt_path;
use crate::lock::{Anchor, Mode, Owner, Proof, Want};
use crate::paths;
use crate::service::facade::list::{LockRow, OwnerRow, OwnerSummary, SuspendedRow, WaitingRow};
use crate::service::report::metrics::MetricsSnapshot;
use crate::service::wall_clock_of;

/// A dictionary.
pub(crate) type Dictionary = HashMap<&'static str, Variant<'static>>;

/// Encodes an object path.
pub(crate) fn encode_path(path: zbus::OwnedObjectPath) -> Variant<'static> {
    Variant::from(ObjectPath::from(path))
}

/// Converts a number of objects to the type that replies and properties have; a number that does not
/// fit becomes the largest that does.
#[must_use]
pub(crate) fn saturating_u32(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Returns the kinds of an owner's anchors, in the order in which the anchors were added.
#[must_use]
pub(crate) fn anchor_kinds(owner: &Owner) -> Vec<&'static str> {
    owner.anchors.values().copied().map(Anchor::as_str).collect()
}

/// Returns the resources and modes that an owner has suspended.
#[must_use]
pub(crate) fn suspended_resources(owner: &Owner) -> Vec<(String, &'static str)> {
    owner.suspended.values().map(|want| (want.resource.clone(), want.mode.as_str())).collect()
}

/// Returns an upper bound of the encoded size of [`suspended_resources`], in bytes.
#[must_use]
pub(crate) fn suspended_size_bound(owner: &Owner) -> usize {
    owner.suspended.values().map(|want| want.resource.len() + 40).sum()
}

/// Encodes a row of `ListOwners`.
#[must_use]
pub(crate) fn encode_owner(owner: &OwnerRow) -> Dictionary {
    let anchors: Vec<&'static str> = owner.anchors.iter().map(|anchor| anchor.as_str()).collect();
    let mut row = Dictionary::from([
        ("owner", encode_path(paths::owner(owner.id))),
        ("uuid", owner.id.uuid.to_string().into()),
        ("name", owner.name.clone().into()),
        ("uid", owner.id.uid.into()),
        ("pid", owner.pid.into()),
        ("frontend", owner.front.as_str().into()),
        ("state", owner.state.into()),
        ("since-usec", owner.since.into()),
        ("anchors", anchors.into()),
        ("locks", saturating_u32(owner.locks).into()),
    ]);
    insert_why(&mut row, &owner.why);
    row
}

/// Encodes the owner in a row of locks or of waiting requests.
#[must_use]
fn encode_owner_summary(owner_summary: &OwnerSummary) -> Dictionary {
    let mut row = Dictionary::from([
        ("owner", encode_path(paths::owner(owner_summary.id))),
        ("uuid", owner_summary.id.uuid.to_string().into()),
        ("name", owner_summary.name.to_string().into()),
        ("uid", owner_summary.id.uid.into()),
        ("pid", owner_summary.pid.into()),
    ]);
    insert_why(&mut row, &owner_summary.why);
    row
}

/// Encodes the resource in a row of held or of suspended locks.
fn encode_want(want: &Want) -> Dictionary {
    Dictionary::from([
        ("resource", want.resource.clone().into()),
        ("mode", want.mode.as_str().into()),
        ("lock-file", lock_file(want).into()),
        ("identity", want.identity.to_string().into()),
        ("lockspace", encode_path(paths::lockspace(want.lockspace))),
    ])
}

/// Encodes a row of `ListLocks`.
#[must_use]
pub(crate) fn encode_lock(
    LockRow { lock, owner_summary, name_state, conflict }: &LockRow,
) -> Dictionary {
    let mut row = encode_owner_summary(owner_summary);
    insert_name_state(&mut row, *name_state);
    insert_conflict(&mut row, *conflict);
    row.extend(encode_want(&lock.want));
    row.extend([
        ("lock", encode_path(paths::lock(lock.id))),
        ("generation", lock.id.into()),
        ("since-usec", lock.since.into()),
        ("verified", (lock.proof == Proof::Verified).into()),
        ("lost", (lock.proof == Proof::Lost).into()),
    ]);
    row
}

/// Encodes a row of `ListLocks` for a lock that an owner has suspended.
#[must_use]
pub(crate) fn encode_suspended(suspended: &SuspendedRow) -> Dictionary {
    let mut row = encode_owner_summary(&suspended.owner_summary);
    row.extend(encode_want(&suspended.want));
    row.extend([("generation", suspended.number.into())]);
    row
}

/// Encodes a waiting request for `ListWaiting`: one row for each of its resources.
#[must_use]
pub(crate) fn encode_waiting(
    WaitingRow { waiter, owner_summary, reserved }: &WaitingRow,
) -> Vec<Dictionary> {
    let rows = waiter.wants.iter().enumerate().map(|(n, want)| {
        let mut row = encode_owner_summary(owner_summary);
        row.extend([
            ("ticket", waiter.ticket.into()),
            ("kind", waiter.purpose.as_str().into()),
            ("resource", want.resource.clone().into()),
            ("mode", want.mode.as_str().into()),
            ("since-usec", waiter.since.into()),
        ]);
        if let Purpose::Upgrade(lock) = waiter.purpose {
            row.insert("lock", encode_path(paths::lock(lock)));
        }
        if let Some((_, holder)) = reserved.iter().find(|(reserved, _)| *reserved == n) {
            let until = wall_clock_of(holder.reserved_until.unwrap_or_default());
            row.extend([
                ("reserved-for", encode_path(paths::owner(holder.owner))),
                ("reserved-uuid", holder.owner.uuid.to_string().into()),
                ("reserved-name", holder.name.clone().into()),
                ("reserved-pid", holder.pid.into()),
                ("reserved-until-usec", until.into()),
            ]);
        }
        row
    });
    rows.collect()
}

/// Inserts the state of the name by which a disk was locked, unless the name still leads to that
/// disk.
pub(crate) fn insert_name_state(row: &mut Dictionary, state: Option<NameState>) {
    row.extend(state.and_then(NameState::as_str).map(|state| ("name-state", state.into())));
}

/// Inserts the purpose of the owner's locks, if the client that opened it stated one.
fn insert_why(row: &mut Dictionary, why: &str) {
    if !why.is_empty() {
        row.insert("why", why.to_owned().into());
    }
}

/// Inserts that the lock of another owner covers some of the same data, if so.
pub(crate) fn insert_conflict(row: &mut Dictionary, conflict: bool) {
    row.extend(conflict.then(|| ("conflict", true.into())));
}

/// Returns the file of which a byte is locked: the first, if there are two; empty if no file is
/// locked.
#[must_use]
pub(crate) fn lock_file(want: &Want) -> String {
    let locked = want.mode != Mode::None;
    let file = want.lock_files.first().filter(|_| locked);
    file.map(|file| spelt_path(file)).unwrap_or_default()
}

/// Encodes the reply of `Resolve` for a disk.
#[must_use]
pub(crate) fn encode_target(target: &Target, only_recorded: bool) -> Dictionary {
    let locked = if only_recorded { Vec::new() } else { target.lock_files() };
    let files: Vec<String> = locked.iter().map(|file| spelt_path(file)).collect();
    Dictionary::from([
        ("resource", target.name.clone().into()),
        ("path", target.canonical.clone().unwrap_or_default().into()),
        ("lockspace", encode_path(paths::lockspace(target.lockspace.kind()))),
        ("lock-file", files.first().cloned().unwrap_or_default().into()),
        ("lock-files", files.into()),
        ("identity", target.identity.to_string().into()),
    ])
}

/// Encodes the reply of `Resolve` for a lease.
#[must_use]
pub(crate) fn encode_lease(key: &Key) -> Dictionary {
    let file = spelt_path(key.path());
    Dictionary::from([
        ("resource", key.resource().into()),
        ("path", file.clone().into()),
        ("lockspace", encode_path(paths::lockspace(key.lockspace().kind()))),
        ("lock-file", file.clone().into()),
        ("lock-files", vec![file].into()),
        ("identity", key.identity().to_string().into()),
    ])
}

/// Encodes a holder for `FindHolders`: an owner that holds a resource, or for which it is reserved.
#[must_use]
pub(crate) fn encode_holder(
    holder: &Holder,
    user: String,
    program: String,
    host: &str,
) -> Dictionary {
    let mut row = Dictionary::from([
        ("kind", "owner".into()),
        ("mode", holder.mode.as_str().into()),
        ("lock", encode_path(paths::lock(holder.lock))),
        ("owner", encode_path(paths::owner(holder.owner))),
        ("uuid", holder.owner.uuid.to_string().into()),
        ("name", holder.name.clone().into()),
        ("pid", holder.pid.into()),
        ("uid", holder.owner.uid.into()),
        ("user", user.into()),
        ("since-usec", holder.since.into()),
        ("resource", holder.resource.clone().into()),
        ("host", host.to_owned().into()),
    ]);
    insert_why(&mut row, &holder.why);
    if let Some(until) = holder.reserved_until {
        row.remove("lock");
        row.remove("since-usec");
        let until = wall_clock_of(until);
        row.extend([("kind", "reserved".into()), ("until-usec", until.into())]);
    }
    if !program.is_empty() {
        row.extend([("program", program.into())]);
    }
    let keepers = holder.kept_by.named.iter();
    let keepers: Vec<_> = keepers.map(|keeper| (keeper.pid, keeper.program.clone())).collect();
    if !keepers.is_empty() {
        row.extend([("lifeline-processes", keepers.into())]);
    }
    row
}

/// Encodes the reply of `GetMetrics`.
#[must_use]
pub(crate) fn encode_metrics(metrics: &MetricsSnapshot) -> Dictionary {
    let MetricsSnapshot { since, numbers, grants, waits } = metrics;
    let mut row: Dictionary = numbers.iter().map(|(key, n)| (*key, Variant::from(*n))).collect();
    row.extend([
        ("since-usec", (*since).into()),
        ("grant-usec", grants.buckets.clone().into()),
        ("grant-usec-sum", grants.sum.into()),
        ("grant-count", grants.count.into()),
        ("wait-usec", waits.buckets.clone().into()),
        ("wait-usec-sum", waits.sum.into()),
        ("wait-count", waits.count.into()),
    ]);
    row
}

/// Encodes a process for `FindHolders`. `kind` is "process" if it holds the lock, and "opener" if
/// it only has the disk open.
#[must_use]
pub(crate) fn encode_process(
    process: &Process,
    kind: &'static str,
    user: String,
    host: &str,
) -> Dictionary {
    let mut row = Dictionary::from([
        ("kind", kind.into()),
        ("pid", process.pid.into()),
        ("uid", process.uid.into()),
        ("user", user.into()),
        ("program", process.program.clone().into()),
        ("host", host.to_owned().into()),
    ]);
    if let Some(Machine { name, uuid }) = &process.machine {
        row.extend([("name", name.clone().into())]);
        row.extend(uuid.map(|uuid| ("uuid", uuid.to_string().into())));
    }
    row
}

/// Encodes a holder for `FindHolders` that is known from a holder record.
#[must_use]
pub(crate) fn encode_record(recorded: &Recorded) -> Dictionary {
    let Recorded { host, entry, .. } = recorded;
    let mut row = Dictionary::from([
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
    insert_why(&mut row, &entry.why);
    row
}

/// Encodes a holder for `FindHolders` that could not be identified.
#[must_use]
pub(crate) fn encode_unknown() -> Dictionary {
    Dictionary::from([("kind", "unknown".into())])
}

/// Encodes the holders for `FindHolders` that the caller may not see, as one row.
#[must_use]
pub(crate) fn encode_hidden(mode: Mode) -> Dictionary {
    Dictionary::from([("kind", "hidden".into()), ("mode", mode.as_str().into())])
}

/// Inserts the mode in which a resource is held and its name, unless the row has its own.
pub(crate) fn insert_held_as(row: &mut Dictionary, mode: &'static str, resource: &str) {
    row.entry("mode").or_insert_with(|| mode.into());
    row.entry("resource").or_insert_with(|| resource.to_owned().into());
}
