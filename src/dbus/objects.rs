//! `org.freedesktop.DBus.ObjectManager`, so that a client learns of all objects in one call.
//!
//! zbus has one of its own, and it is passed over with reason: it reads every property of a new
//! object through the object's own getters, so that showing a lock took more than twice as long
//! (129 us against 55, one run), and it keeps the whole tree locked while it lists, so that whoever lists holds up
//! everybody's locks. This one goes by the table. `tests/it/contract.rs` compares what it tells
//! with what the objects themselves answer.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;
use serde::ser::{SerializeMap as _, Serializer};
use zbus::message::Header;
use zbus::object_server::SignalEmitter;
use zbus::{ObjectPath, OwnedObjectPath, Signature, Type, Variant};

use super::bulk::{REPLY_MAX, Reply};
use super::error::Error;
use super::facts;
use super::front::Front;
use crate::auth::methods::{LOCK, OWNER};
use crate::lock::lockspace::LockspaceKind;
use crate::lock::printable::spelt_path;
use crate::lock::{Lock, Owner, Proof};
use crate::paths;
use crate::privacy::Viewer;
use crate::service::list::{Filter, LockRow};

/// The properties of one interface.
pub(super) type Properties<'p> = HashMap<&'static str, Variant<'p>>;
/// The interfaces of one object.
pub(super) type Interfaces<'p> = HashMap<&'static str, Properties<'p>>;

/// A lockspace's interface.
pub(super) const LOCKSPACE: &str = "org.vmlockd1.Lockspace";

/// What the names, types and fixed values of an owner's object have at most, in bytes.
const OWNER_FRAME: usize = 720;
/// The same of a lock's object.
const LOCK_FRAME: usize = 700;
/// What the path of a lock has at most in an array, in bytes.
const LOCK_PATH: usize = 48;

/// The object manager.
#[derive(Debug)]
pub(super) struct Objects(pub(super) Arc<Front>);

#[zbus::interface(name = "org.freedesktop.DBus.ObjectManager", introspection_docs = false)]
impl Objects {
    #[zbus(out_args("objpath_interfaces_and_properties"))]
    async fn get_managed_objects(
        &self,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<HashMap<OwnedObjectPath, Interfaces<'static>>, Reply> {
        let sender = header.sender().ok_or(crate::auth::Error::CallerGone)?;
        let caller = self.0.gate.callers.identify(sender).await?;
        let (front, viewer) = (Arc::clone(&self.0), self.0.viewer(Some(&header)));
        let collect = move || Tree::collect(front, viewer);
        Err(self.0.bulk_reply(&caller, &header, collect, Ok).await)
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

/// All objects that a viewer may see, with what their interfaces show.
struct Tree {
    front: Arc<Front>,
    viewer: Viewer,
    owners: Vec<(Owner, Vec<u64>)>,
    locks: Vec<LockRow>,
}

impl Tree {
    fn collect(front: Arc<Front>, viewer: Viewer) -> Result<Self, Error> {
        let mut owners = front.service.owners_and_locks();
        owners.retain(|(owner, _)| viewer.may_see(owner.id.uid));
        let filter = Filter { user: viewer.only_user(), ..Filter::default() };
        let locks = front.service.list_locks(&filter);
        let bytes = owners.iter().map(|(owner, locks)| weight_of_owner(owner, locks.len()));
        let bytes: usize = bytes.chain(locks.iter().map(weight_of_lock)).sum();
        if bytes > REPLY_MAX {
            return Err(Error::too_much(format!(
                "the objects are more than {} MiB: read the lists of ListOwners and ListLocks page \
                 by page instead, with the options 'limit' and 'after'",
                REPLY_MAX >> 20
            )));
        }
        Ok(Self { front, viewer, owners, locks })
    }
}

impl Type for Tree {
    const SIGNATURE: &'static Signature =
        <HashMap<OwnedObjectPath, Interfaces<'static>> as Type>::SIGNATURE;
}

impl Serialize for Tree {
    /// Makes the dictionaries of one object at a time.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut objects = serializer.serialize_map(None)?;
        let viewer = self.viewer;
        for kind in lockspaces_of(&self.front, viewer) {
            let shown = Interfaces::from([(LOCKSPACE, of_lockspace(&self.front, kind, viewer))]);
            objects.serialize_entry(&paths::lockspace(kind), &shown)?;
        }
        for (owner, locks) in &self.owners {
            let shown = Interfaces::from([(OWNER, of_owner(owner, locks))]);
            objects.serialize_entry(&paths::owner(owner.id), &shown)?;
        }
        for LockRow { lock, .. } in &self.locks {
            let waiting = self.front.service.waiting_for(lock.id, |uid| viewer.may_see(uid));
            let shown = Interfaces::from([(LOCK, of_lock(lock, waiting))]);
            objects.serialize_entry(&paths::lock(lock.id), &shown)?;
        }
        objects.end()
    }
}

/// At most so many bytes are an owner's object.
fn weight_of_owner(owner: &Owner, locks: usize) -> usize {
    let anchors = owner.anchors.len() * 20;
    OWNER_FRAME
        + owner.name.len()
        + owner.why.len()
        + anchors
        + locks * LOCK_PATH
        + facts::suspended_size(owner)
}

/// At most so many bytes are a lock's object.
fn weight_of_lock(LockRow { lock, .. }: &LockRow) -> usize {
    LOCK_FRAME + lock.want.resource.len() + facts::lock_file(&lock.want).len()
}

/// The lockspaces there are: those configured, those that clients named, and those that were while
/// locks refer to them.
pub(super) fn lockspaces(front: &Front) -> Vec<LockspaceKind> {
    let with_files = front.service.lockspaces().into_iter().map(|(kind, _)| kind);
    std::iter::once(LockspaceKind::Direct).chain(with_files).collect()
}

/// Those of the lockspaces that a viewer may see.
pub(super) fn lockspaces_of(front: &Front, viewer: Viewer) -> Vec<LockspaceKind> {
    let mut kinds = lockspaces(front);
    kinds.retain(|kind| front.gate.privacy.may_see_lockspace(viewer, *kind));
    kinds
}

/// How many locks that a viewer may see are held in a lockspace.
pub(super) fn locks_in(front: &Front, kind: LockspaceKind, viewer: Viewer) -> u32 {
    let counted = |lock: &Lock| lock.want.lockspace == kind && viewer.may_see(lock.owner.uid);
    u32::try_from(front.service.count_locks(counted)).unwrap_or(u32::MAX)
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
        return vec![format!("{why}; to lock them, set 'auto_disk_leases = true'")];
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
        ("LockFile", facts::lock_file(want).into()),
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
pub(super) fn of_owner(owner: &Owner, locks: &[u64]) -> Properties<'static> {
    let words = facts::anchors(owner);
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
        ("Suspended", facts::suspended(owner).into()),
        ("Anchors", words.into()),
        ("Locks", locks.into()),
        ("Name", owner.name.clone().into()),
        ("Why", owner.why.clone().into()),
    ])
}

/// All properties of a lockspace's object.
pub(super) fn of_lockspace(
    front: &Front,
    kind: LockspaceKind,
    viewer: Viewer,
) -> Properties<'static> {
    HashMap::from([
        ("Name", kind.name().into_owned().into()),
        ("Kind", word(kind).into()),
        ("Directory", directory(front, kind).into()),
        ("SelfTestResult", verdict(front, kind).into()),
        ("SelfTestMessages", findings(front, kind).into()),
        ("NLocks", locks_in(front, kind, viewer).into()),
    ])
}
