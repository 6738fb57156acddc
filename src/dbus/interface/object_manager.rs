//! `org.freedesktop.DBus.ObjectManager`: all objects in one call.
//!
//! The implementation in zbus is not used, for two reasons: it reads every property of a new object
//! through the getters of that object, so that the publication of a lock took more than twice as
//! long (129 us instead of 55, one run); and it locks the whole object tree while it lists, so that
//! one client that lists delays the locks of all others. This implementation reads the lock table.
//! `tests/it/contract.rs` compares its reply with the replies of the objects themselves.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;
use serde::ser::{SerializeMap as _, Serializer};
use zbus::message::Header;
use zbus::object_server::SignalEmitter;
use zbus::{ObjectPath, OwnedObjectPath, Signature, Type};

use super::properties::{
    LOCKSPACE, Properties, lock_properties, lockspace_properties, owner_properties,
    visible_lockspaces,
};
use crate::auth::methods::{LOCK, OWNER};
use crate::dbus::context::Context;
use crate::dbus::error::Error;
use crate::dbus::reply::dictionary::{lock_file, suspended_size_bound};
use crate::dbus::reply::large::{REPLY_MAX, Reply};
use crate::lock::Owner;
use crate::paths;
use crate::privacy::Viewer;
use crate::service::facade::list::{Filter, LockRow};

/// The interfaces of an object.
pub(crate) type Interfaces<'p> = HashMap<&'static str, Properties<'p>>;

/// An upper bound of the size of the names, types and fixed values of an owner's object, in bytes.
const OWNER_FRAME: usize = 720;
/// An upper bound of the size of the names, types and fixed values of a lock's object, in bytes.
const LOCK_FRAME: usize = 700;
/// An upper bound of the size of the path of a lock in an array, in bytes.
const LOCK_PATH: usize = 48;

/// The object manager.
#[derive(Debug)]
pub(crate) struct ObjectManager {
    context: Arc<Context>,
}

impl ObjectManager {
    /// Creates the object manager.
    #[must_use]
    pub(crate) fn new(context: Arc<Context>) -> Self {
        Self { context }
    }
}

#[zbus::interface(name = "org.freedesktop.DBus.ObjectManager", introspection_docs = false)]
impl ObjectManager {
    #[zbus(out_args("objpath_interfaces_and_properties"))]
    async fn get_managed_objects(
        &self,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<HashMap<OwnedObjectPath, Interfaces<'static>>, Reply> {
        let sender = header.sender().ok_or(crate::auth::Error::CallerGone)?;
        let caller = self.context.auth.callers.identify(sender).await?;
        let (context, viewer) = (Arc::clone(&self.context), self.context.viewer(Some(&header)));
        let collect = move || ManagedObjects::collect(context, viewer);
        Err(self.context.large_reply(&caller, &header, collect, Ok).await)
    }

    #[zbus(signal)]
    pub(crate) async fn interfaces_added(
        emitter: &SignalEmitter<'_>,
        object_path: ObjectPath<'_>,
        interfaces_and_properties: Interfaces<'_>,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    pub(crate) async fn interfaces_removed(
        emitter: &SignalEmitter<'_>,
        object_path: ObjectPath<'_>,
        interfaces: &[&str],
    ) -> zbus::Result<()>;
}

/// All objects that a viewer may see, with their interfaces and properties.
struct ManagedObjects {
    context: Arc<Context>,
    viewer: Viewer,
    owners: Vec<(Owner, Vec<u64>)>,
    locks: Vec<LockRow>,
}

impl ManagedObjects {
    /// Copies the objects from the lock table.
    fn collect(context: Arc<Context>, viewer: Viewer) -> Result<Self, Error> {
        let mut owners = context.service.owners_and_locks();
        owners.retain(|(owner, _)| viewer.may_see(owner.id.uid));
        let filter = Filter { user: viewer.only_user(), ..Filter::default() };
        let locks = context.service.list_locks(&filter);
        let bytes = owners.iter().map(|(owner, locks)| owner_size_bound(owner, locks.len()));
        let bytes: usize = bytes.chain(locks.iter().map(lock_size_bound)).sum();
        if bytes > REPLY_MAX {
            return Err(Error::limit_exceeded(format!(
                "the objects are more than {} MiB: read the lists of ListOwners and ListLocks page \
                 by page instead, with the options 'limit' and 'after'",
                REPLY_MAX >> 20
            )));
        }
        Ok(Self { context, viewer, owners, locks })
    }
}

impl Type for ManagedObjects {
    const SIGNATURE: &'static Signature =
        <HashMap<OwnedObjectPath, Interfaces<'static>> as Type>::SIGNATURE;
}

impl Serialize for ManagedObjects {
    /// Makes the dictionaries of one object at a time, to save memory.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut objects = serializer.serialize_map(None)?;
        let viewer = self.viewer;
        for kind in visible_lockspaces(&self.context, viewer) {
            let properties = lockspace_properties(&self.context, kind, viewer);
            let interfaces = Interfaces::from([(LOCKSPACE, properties)]);
            objects.serialize_entry(&paths::lockspace(kind), &interfaces)?;
        }
        for (owner, locks) in &self.owners {
            let interfaces = Interfaces::from([(OWNER, owner_properties(owner, locks))]);
            objects.serialize_entry(&paths::owner(owner.id), &interfaces)?;
        }
        for LockRow { lock, .. } in &self.locks {
            let waiting = self.context.service.waiting_for(lock.id, |uid| viewer.may_see(uid));
            let interfaces = Interfaces::from([(LOCK, lock_properties(lock, waiting))]);
            objects.serialize_entry(&paths::lock(lock.id), &interfaces)?;
        }
        objects.end()
    }
}

/// Returns an upper bound of the encoded size of an owner's object, in bytes.
fn owner_size_bound(owner: &Owner, locks: usize) -> usize {
    let anchors = owner.anchors.len() * 20;
    OWNER_FRAME
        + owner.name.len()
        + owner.why.len()
        + anchors
        + locks * LOCK_PATH
        + suspended_size_bound(owner)
}

/// Returns an upper bound of the encoded size of a lock's object, in bytes.
fn lock_size_bound(LockRow { lock, .. }: &LockRow) -> usize {
    LOCK_FRAME + lock.want.resource.len() + lock_file(&lock.want).len()
}
