//! The properties of owners, locks and lockspaces: each alone for the getters, and all of an object
//! for the object manager and its signals.

use std::collections::HashMap;

use zbus::{ObjectPath, Variant};

use crate::dbus::context::Context;
use crate::dbus::reply::dictionary::{
    anchor_kinds, encode_path, lock_file, saturating_u32, suspended_resources,
};
use crate::lock::lockspace::LockspaceKind;
use crate::lock::text::escape::spelt_path;
use crate::lock::{Lock, Owner, Proof};
use crate::paths;
use crate::privacy::Viewer;

/// The properties of an interface.
pub(crate) type Properties<'p> = HashMap<&'static str, Variant<'p>>;

/// The interface of a lockspace.
pub(crate) const LOCKSPACE: &str = "org.vmlockd1.Lockspace";

/// Returns all lockspaces: those in the configuration, those that clients have created, and former
/// ones while locks refer to them.
pub(crate) fn all_lockspaces(context: &Context) -> Vec<LockspaceKind> {
    let with_files = context.service.list_lockspaces().into_iter().map(|(kind, _)| kind);
    std::iter::once(LockspaceKind::Direct).chain(with_files).collect()
}

/// Returns the lockspaces that a viewer may see.
pub(crate) fn visible_lockspaces(context: &Context, viewer: Viewer) -> Vec<LockspaceKind> {
    let mut kinds = all_lockspaces(context);
    kinds.retain(|kind| context.auth.privacy.may_see_lockspace(viewer, *kind));
    kinds
}

/// Counts the locks in a lockspace that a viewer may see.
pub(crate) fn count_locks_in(context: &Context, kind: LockspaceKind, viewer: Viewer) -> u32 {
    let counted = |lock: &Lock| lock.want.lockspace == kind && viewer.may_see(lock.owner.uid);
    saturating_u32(context.service.count_locks(counted))
}

/// Returns the kind of a lockspace.
pub(crate) fn lockspace_kind(kind: LockspaceKind) -> &'static str {
    match kind {
        LockspaceKind::Direct => "direct",
        LockspaceKind::File => "hashed",
        LockspaceKind::Lvm => "lvm",
        LockspaceKind::Scsi => "scsi",
        LockspaceKind::Lease(_) => "lease",
    }
}

/// Returns the directory of a lockspace's lock files; empty if the disks themselves are locked, or
/// if the lockspace is no longer in the configuration.
pub(crate) fn lockspace_directory(context: &Context, kind: LockspaceKind) -> String {
    context.service.directory_of(kind).map(|path| spelt_path(&path)).unwrap_or_default()
}

/// Returns the result of a lockspace's lock self-test, as a keyword; empty if it is unknown, or if
/// the disks themselves are locked.
pub(crate) fn self_test_result(context: &Context, kind: LockspaceKind) -> &'static str {
    if kind == LockspaceKind::Direct {
        return if context.service.settings().only_record_disks { "recorded" } else { "" };
    }
    context.service.self_test_report(kind).map_or("", |examination| examination.result.as_str())
}

/// Returns the messages of a lockspace's lock self-test, beginning with the result.
pub(crate) fn self_test_messages(context: &Context, kind: LockspaceKind) -> Vec<String> {
    if self_test_result(context, kind) == "recorded" {
        let why = "for callers over D-Bus, disks are recorded and not locked";
        return vec![format!("{why}; to lock them, set 'auto_disk_leases = true'")];
    }
    let Some(examination) = context.service.self_test_report(kind) else { return Vec::new() };
    let caveats = examination.caveats.iter();
    let caveats = caveats.map(|caveat| format!("{}; {}", caveat.sentence(), caveat.advice()));
    std::iter::once(examination.result.sentence_and_advice()).chain(caveats).collect()
}

/// Returns all properties of a lock's object.
pub(crate) fn lock_properties(lock: &Lock, waiting: usize) -> Properties<'static> {
    let want = &lock.want;
    HashMap::from([
        ("Owner", encode_path(paths::owner(lock.owner))),
        ("Resource", want.resource.clone().into()),
        ("LockFile", lock_file(want).into()),
        ("Identity", want.identity.to_string().into()),
        ("Lockspace", encode_path(paths::lockspace(want.lockspace))),
        ("Generation", lock.id.into()),
        ("SinceUSec", lock.since.into()),
        ("Mode", want.mode.as_str().into()),
        ("Verified", (lock.proof == Proof::Verified).into()),
        ("NWaiting", saturating_u32(waiting).into()),
    ])
}

/// Returns all properties of an owner's object.
pub(crate) fn owner_properties(owner: &Owner, locks: &[u64]) -> Properties<'static> {
    let anchors = anchor_kinds(owner);
    let locks: Vec<ObjectPath<'static>> =
        locks.iter().map(|lock| ObjectPath::from(paths::lock(*lock))).collect();
    HashMap::from([
        ("UUID", owner.id.uuid.to_string().into()),
        ("UID", owner.id.uid.into()),
        ("Frontend", owner.front.as_str().into()),
        ("OnLost", owner.on_lost.as_str().into()),
        ("SinceUSec", owner.since.into()),
        ("PID", owner.pid().into()),
        ("State", owner.state().into()),
        ("Suspended", suspended_resources(owner).into()),
        ("Anchors", anchors.into()),
        ("Locks", locks.into()),
        ("Name", owner.name.clone().into()),
        ("Why", owner.why.clone().into()),
    ])
}

/// Returns all properties of a lockspace's object.
pub(crate) fn lockspace_properties(
    context: &Context,
    kind: LockspaceKind,
    viewer: Viewer,
) -> Properties<'static> {
    HashMap::from([
        ("Name", kind.name().into_owned().into()),
        ("Kind", lockspace_kind(kind).into()),
        ("Directory", lockspace_directory(context, kind).into()),
        ("SelfTestResult", self_test_result(context, kind).into()),
        ("SelfTestMessages", self_test_messages(context, kind).into()),
        ("NLocks", count_locks_in(context, kind, viewer).into()),
    ])
}
