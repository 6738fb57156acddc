//! `org.freedesktop.DBus.ObjectManager`, so that a client learns of all objects in one call.
//!
//! zbus has one of its own, and it is passed over with reason: it reads every property of a new
//! object through the object's own getters, so that showing a lock took more than twice as long
//! (129 us against 55, one run), and it keeps the whole tree locked while it lists, so that whoever lists holds up
//! everybody's locks. This one goes by the table. `tests/it/contract.rs` compares what it tells
//! with what the objects themselves answer.

use std::collections::HashMap;
use std::sync::Arc;

use zbus::object_server::SignalEmitter;
use zbus::{ObjectPath, OwnedObjectPath, Variant};

use super::facts;
use super::front::Front;
use crate::auth::deed::{LOCK, OWNER};
use crate::lock::lockspace::LockspaceKind;
use crate::lock::printable::spelt_path;
use crate::lock::{Lock, Owner, Proof};
use crate::paths;

/// The properties of one interface.
pub(super) type Properties<'p> = HashMap<&'static str, Variant<'p>>;
/// The interfaces of one object.
pub(super) type Interfaces<'p> = HashMap<&'static str, Properties<'p>>;

/// A lockspace's interface.
pub(super) const LOCKSPACE: &str = "org.vmlockd1.Lockspace";

/// The object manager.
#[derive(Debug)]
pub(super) struct Objects(pub(super) Arc<Front>);

#[zbus::interface(name = "org.freedesktop.DBus.ObjectManager", introspection_docs = false)]
impl Objects {
    #[zbus(out_args("objpath_interfaces_and_properties"))]
    async fn get_managed_objects(&self) -> HashMap<OwnedObjectPath, Interfaces<'static>> {
        let service = &self.0.service;
        let lockspaces = lockspaces(&self.0).into_iter().map(|kind| {
            (paths::lockspace(kind), Interfaces::from([(LOCKSPACE, of_lockspace(&self.0, kind))]))
        });
        let owners = service.owners_and_locks().into_iter().map(|(owner, locks)| {
            (paths::owner(owner.id), Interfaces::from([(OWNER, of_owner(owner, &locks))]))
        });
        let locks = service.locks().into_iter().map(|lock| {
            (
                paths::lock(lock.id),
                Interfaces::from([(LOCK, of_lock(&lock, service.waiting_for(lock.id)))]),
            )
        });
        let all = lockspaces.chain(owners).chain(locks).collect();
        service.all_shown().await;
        all
    }

    #[zbus(signal)]
    pub(super) async fn interfaces_added(
        emitter: &SignalEmitter<'_>,
        object_path: ObjectPath<'_>,
        interfaces_and_properties: Interfaces<'_>,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    pub(super) async fn interfaces_removed(
        emitter: &SignalEmitter<'_>,
        object_path: ObjectPath<'_>,
        interfaces: &[&str],
    ) -> zbus::Result<()>;
}

/// The lockspaces there are: those configured, those that clients named, and those that were while
/// locks refer to them.
pub(super) fn lockspaces(front: &Front) -> Vec<LockspaceKind> {
    let with_files = front.service.lockspaces().into_iter().map(|(kind, _)| kind);
    std::iter::once(LockspaceKind::Direct).chain(with_files).collect()
}

/// What kind of rule a lockspace is, in a word.
pub(super) fn word(kind: LockspaceKind) -> &'static str {
    match kind {
        LockspaceKind::Direct => "direct",
        LockspaceKind::File => "hashed",
        LockspaceKind::Lvm => "lvm",
        LockspaceKind::Scsi => "scsi",
        LockspaceKind::Lease(_) => "lease",
    }
}

/// Where a lockspace's lock files are; empty where they are the disks, or it is configured no more.
pub(super) fn directory(front: &Front, kind: LockspaceKind) -> String {
    front.service.directory_of(kind).map(|path| spelt_path(&path)).unwrap_or_default()
}

/// What the locks in a lockspace are worth, in a word; empty where that is not known, or as with any
/// disk.
pub(super) fn verdict(front: &Front, kind: LockspaceKind) -> &'static str {
    if kind == LockspaceKind::Direct {
        return if front.service.settings().only_record_disks { "recorded" } else { "" };
    }
    front.service.examination(kind).map_or("", |examination| examination.verdict.as_str())
}

/// The same in sentences, the verdict's first.
pub(super) fn findings(front: &Front, kind: LockspaceKind) -> Vec<String> {
    if verdict(front, kind) == "recorded" {
        let why = "for callers over D-Bus, disks are recorded and not locked";
        return vec![format!("{why}; 'auto_disk_leases = true' has them locked")];
    }
    let Some(examination) = front.service.examination(kind) else { return Vec::new() };
    let caveats = examination.caveats.iter();
    let caveats = caveats.map(|caveat| format!("{}; {}", caveat.sentence(), caveat.advice()));
    std::iter::once(examination.verdict.said()).chain(caveats).collect()
}

fn object(path: OwnedObjectPath) -> Variant<'static> {
    Variant::from(ObjectPath::from(path))
}

/// All properties of a lock's object.
pub(super) fn of_lock(lock: &Lock, waiting: usize) -> Properties<'static> {
    let want = &lock.want;
    HashMap::from([
        ("Owner", object(paths::owner(lock.owner))),
        ("Resource", want.resource.clone().into()),
        ("LockFile", facts::lock_file(lock).into()),
        ("Identity", want.identity.to_string().into()),
        ("Lockspace", object(paths::lockspace(want.lockspace))),
        ("Generation", lock.id.into()),
        ("SinceUSec", lock.since.into()),
        ("Mode", want.mode.as_str().into()),
        ("Verified", (lock.proof == Proof::Verified).into()),
        ("NWaiting", facts::count(waiting)),
    ])
}

/// All properties of an owner's object.
pub(super) fn of_owner(owner: Owner, locks: &[u64]) -> Properties<'static> {
    let words: Vec<String> = facts::anchors(&owner).into_iter().map(str::to_owned).collect();
    let locks: Vec<ObjectPath<'static>> =
        locks.iter().map(|lock| ObjectPath::from(paths::lock(*lock))).collect();
    HashMap::from([
        ("UUID", owner.id.uuid.to_string().into()),
        ("UID", owner.id.uid.into()),
        ("Front", owner.front.as_str().into()),
        ("OnLost", owner.on_lost.as_str().into()),
        ("SinceUSec", owner.since.into()),
        ("PID", owner.pid().into()),
        ("State", owner.state().into()),
        ("Suspended", facts::suspended(&owner).into()),
        ("Anchors", words.into()),
        ("Locks", locks.into()),
        ("Name", owner.name.into()),
    ])
}

/// All properties of a lockspace's object.
pub(super) fn of_lockspace(front: &Front, kind: LockspaceKind) -> Properties<'static> {
    let here = front.service.count_locks(|lock| lock.want.lockspace == kind);
    HashMap::from([
        ("Name", kind.name().into_owned().into()),
        ("Kind", word(kind).into()),
        ("Directory", directory(front, kind).into()),
        ("Verdict", verdict(front, kind).into()),
        ("Findings", findings(front, kind).into()),
        ("NLocks", u32::try_from(here).unwrap_or(u32::MAX).into()),
    ])
}
