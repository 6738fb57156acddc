//! Publication of the lock table on the bus: objects and signals.
//!
//! One task does this, and only it calls the object server: adding and removing objects locks the
//! whole tree and reads the properties of the new object, so a method or a getter that did it would
//! deadlock. The task reads batches of events in the order in which the service decided them. For
//! each batch it does three things, in this order:
//!
//! 1. It adds and removes objects ([`Publisher::update_objects`]).
//! 2. It notifies the service, which then replies to the command: a client that receives the reply
//!    finds the objects up to date.
//! 3. It emits the signals for other clients ([`Publisher::emit_signals`]).
//!
//! While owners are hidden from other users, each signal is sent once to every connection that may
//! see it, instead of being broadcast ([`Privacy::audience`](crate::privacy::Privacy::audience)).

mod signals;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use zbus::object_server::Interface;
use zbus::{Connection, OwnedObjectPath};

use super::context::Context;
use super::interface::exported::Exported;
use super::interface::introspection::Node;
use super::interface::lock::LockObject;
use super::interface::lockspace::LockspaceObject;
use super::interface::object_manager::{Interfaces, ObjectManager};
use super::interface::owner::OwnerObject;
use super::interface::properties::{
    LOCKSPACE, Properties, all_lockspaces, lock_properties, lockspace_properties, owner_properties,
};
use crate::auth::methods::{LOCK, OWNER};
use crate::lock::lockspace::LockspaceKind;
use crate::lock::{Event, Lock, Owner};
use crate::paths;
use crate::privacy::{Audience, Privacy, Viewer};
use crate::service::{Batch, Subscription};

/// How long the publication of events for which no command waits may be delayed. libvirt acquires
/// the disks of a VM one by one, and the publication of the first must not delay the next.
const COALESCE_DELAY: Duration = Duration::from_millis(5);

/// Collects the batches that arrive within [`COALESCE_DELAY`], up to the first for which a command
/// waits.
async fn coalesce(first: Batch, subscription: &mut Subscription) -> Vec<Batch> {
    let mut batches = vec![first];
    let delay = sleep(COALESCE_DELAY);
    tokio::pin!(delay);
    while batches.last().is_some_and(|batch| !batch.awaited) {
        tokio::select! {
            () = &mut delay => break,
            next = subscription.batches.recv() => match next {
                Some(batch) => batches.push(batch),
                None => break,
            },
        }
    }
    batches
}

/// Returns the locks that are both acquired and released in these batches: they need no objects.
fn short_lived_locks(batches: &[Batch]) -> BTreeSet<u64> {
    let events = || batches.iter().flat_map(|batch| &batch.events);
    let acquired: BTreeSet<u64> = events()
        .filter_map(|event| match event {
            Event::LockAcquired(lock) => Some(lock.id),
            _ => None,
        })
        .collect();
    let released = events().filter_map(|event| match event {
        Event::LockReleased(lock, _) => Some(lock.id),
        _ => None,
    });
    released.filter(|lock| acquired.contains(lock)).collect()
}

/// The task that publishes the lock table.
#[derive(Debug)]
pub(super) struct Publisher {
    connection: Connection,
    context: Arc<Context>,
}

impl Publisher {
    /// Creates a publisher for this connection.
    #[must_use]
    pub(super) fn new(connection: Connection, context: Arc<Context>) -> Self {
        Self { connection, context }
    }

    /// Adds the objects that exist at startup, before the bus name is acquired, so that a client
    /// that finds the name finds the objects, too. Emits no signals: no client matches signals of a
    /// name that has no owner, and clients that see the name appear list all objects.
    ///
    /// # Errors
    ///
    /// If the connection is closed.
    pub(super) async fn publish_all(
        &self,
        owners: Vec<Owner>,
        locks: Vec<Lock>,
    ) -> zbus::Result<()> {
        self.add_lockspaces().await?;
        let objects = self.connection.object_server();
        for path in [paths::OWNERS, paths::LOCKS] {
            Node::ensure(&self.connection, &self.context, path).await?;
        }
        for owner in owners {
            let path = paths::owner(owner.id);
            let object = OwnerObject::new(Arc::clone(&self.context), owner);
            objects.at(path, Exported(object)).await?;
        }
        for lock in locks {
            let path = paths::lock(lock.id);
            let object = LockObject::new(Arc::clone(&self.context), lock);
            objects.at(path, Exported(object)).await?;
        }
        Ok(())
    }

    /// Publishes events until the service ends.
    pub(super) async fn run(self, mut subscription: Subscription) {
        while let Some(batch) = subscription.batches.recv().await {
            let batches = coalesce(batch, &mut subscription).await;
            let short_lived = short_lived_locks(&batches);
            for batch in batches {
                if let Err(error) = self.update_objects(&batch.events, &short_lived).await {
                    // The lock table is correct; only its publication is incomplete.
                    tracing::error!(%error, "cannot publish objects on the bus");
                }
                // The command that waited for this may have been cancelled.
                let _ = batch.shown.send(());
                tokio::task::yield_now().await;
                if let Err(error) = self.emit_signals(batch.events).await {
                    tracing::error!(%error, "cannot emit signals on the bus");
                }
            }
        }
    }

    /// Adds and removes objects, except those of short-lived locks.
    async fn update_objects(
        &self,
        events: &[Event],
        short_lived: &BTreeSet<u64>,
    ) -> zbus::Result<()> {
        for event in events {
            match event {
                Event::LockAcquired(lock) if short_lived.contains(&lock.id) => {}
                Event::OwnerOpened(id) => {
                    // An owner that has already ended needs no object: its end is the next event.
                    if let Some(owner) = self.context.service.owner(*id) {
                        self.add_owner(owner).await?;
                    }
                }
                Event::OwnerClosed(id) => {
                    let audience = self.privacy().audience(*id);
                    self.remove_object::<OwnerObject>(paths::owner(*id), audience).await?;
                    self.privacy().remove_owner(*id);
                }
                Event::LockAcquired(lock) => self.add_lock(lock).await?,
                Event::LockReleased(lock, reason) => {
                    // The signal comes first, while the object that it concerns exists.
                    self.emit_lock_released(lock, *reason).await?;
                    let audience = self.privacy().audience(lock.owner);
                    self.remove_object::<LockObject>(paths::lock(lock.id), audience).await?;
                }
                Event::LockspacesChanged => {
                    self.add_lockspaces().await?;
                    // This event follows a change of the configuration, which includes privacy.
                    tokio::spawn(self.context.auth.clone().recheck_views());
                }
                Event::LockspaceRemoved(kind) => {
                    let audience = self.privacy().audience_of_lockspace(*kind);
                    self.remove_object::<LockspaceObject>(paths::lockspace(*kind), audience)
                        .await?;
                }
                Event::AnchorsChanged(_)
                | Event::OwnerChanged(_)
                | Event::LockConverted(_)
                | Event::LockVerified(_)
                | Event::LockLost(..)
                | Event::LockContended { .. } => {}
            }
        }
        Ok(())
    }

    /// Emits the signals of events, except those that accompany the addition and removal of
    /// objects.
    async fn emit_signals(&self, events: Vec<Event>) -> zbus::Result<()> {
        // The owners whose locks have changed.
        let mut changed = BTreeSet::new();
        for event in events {
            match event {
                Event::AnchorsChanged(id) => self.emit_anchors_changed(id).await?,
                Event::OwnerChanged(id) => self.emit_owner_changed(id).await?,
                Event::LockAcquired(lock) => {
                    self.emit_lock_acquired(&lock).await?;
                    changed.insert(lock.owner);
                }
                Event::LockReleased(lock, _) => drop(changed.insert(lock.owner)),
                Event::LockConverted(lock) => self.emit_mode_changed(*lock).await?,
                Event::LockVerified(lock) => self.emit_verified_changed(*lock).await?,
                Event::LockLost(lock, loss) => {
                    self.emit_lock_lost(&lock, loss).await?;
                    self.emit_verified_changed(*lock).await?;
                }
                Event::LockContended { resource, holders, owner } => {
                    self.emit_lock_contended(&resource, &holders, owner).await?;
                }
                Event::OwnerOpened(_)
                | Event::OwnerClosed(_)
                | Event::LockspacesChanged
                | Event::LockspaceRemoved(_) => {}
            }
        }
        for id in changed {
            self.emit_locks_invalidated(id).await?;
        }
        Ok(())
    }

    async fn add_owner(&self, owner: Owner) -> zbus::Result<()> {
        let (path, audience) = (paths::owner(owner.id), self.privacy().audience(owner.id));
        // A new owner has no locks; after a reconnection to the bus it may have some.
        let locks = self.context.service.locks_of(owner.id);
        let object = OwnerObject::new(Arc::clone(&self.context), owner.clone());
        let properties = |_| owner_properties(&owner, &locks);
        self.add_object(path, OWNER, object, audience, properties).await.map(drop)
    }

    async fn add_lock(&self, lock: &Lock) -> zbus::Result<()> {
        let object = LockObject::new(Arc::clone(&self.context), lock.clone());
        let audience = self.privacy().audience(lock.owner);
        let properties = |viewer: Viewer| {
            let waiting = self.context.service.waiting_for(lock.id, |uid| viewer.may_see(uid));
            lock_properties(lock, waiting)
        };
        self.add_object(paths::lock(lock.id), LOCK, object, audience, properties).await.map(drop)
    }

    /// Adds an object, and emits `InterfacesAdded`. Returns `false` if the object exists already.
    async fn add_object<I: Interface>(
        &self,
        path: OwnedObjectPath,
        interface: &'static str,
        object: I,
        audience: Audience,
        properties: impl Fn(Viewer) -> Properties<'static>,
    ) -> zbus::Result<bool> {
        if self.connection.object_server().at(&path, Exported(object)).await?.is_some() {
            return Ok(false);
        }
        let parent = path.rsplit_once('/').map_or("/", |(parent, _)| parent);
        Node::ensure(&self.connection, &self.context, parent).await?;
        for (manager, viewer) in self.emitters_to(paths::ROOT, audience)? {
            let interfaces = Interfaces::from([(interface, properties(viewer))]);
            ObjectManager::interfaces_added(&manager, path.as_ref(), interfaces).await?;
        }
        Ok(true)
    }

    /// Removes an object, and emits `InterfacesRemoved`.
    async fn remove_object<I: Interface>(
        &self,
        path: OwnedObjectPath,
        audience: Audience,
    ) -> zbus::Result<()> {
        match self.connection.object_server().remove::<I, _>(&path).await {
            Ok(_) => {
                let name = I::name();
                for (manager, _) in self.emitters_to(paths::ROOT, audience)? {
                    let names = [name.as_str()];
                    ObjectManager::interfaces_removed(&manager, path.as_ref(), &names).await?;
                }
                Ok(())
            }
            // A short-lived object was never added.
            Err(zbus::Error::InterfaceNotFound) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Adds the objects of all lockspaces. A lockspace keeps its object after it has been removed
    /// from the configuration, since locks refer to it.
    async fn add_lockspaces(&self) -> zbus::Result<()> {
        for kind in all_lockspaces(&self.context) {
            let object = || LockspaceObject::new(Arc::clone(&self.context), kind);
            let properties = |viewer| lockspace_properties(&self.context, kind, viewer);
            let (path, audience) =
                (paths::lockspace(kind), self.privacy().audience_of_lockspace(kind));
            let added = self
                .add_object(path.clone(), LOCKSPACE, object(), audience.clone(), properties)
                .await?;
            if !added && LockspaceKind::CONFIGURED.contains(&kind) {
                for (emitter, _) in self.emitters_to(&path, audience)? {
                    object().directory_changed(&emitter).await?;
                }
            }
        }
        Ok(())
    }

    fn privacy(&self) -> &Privacy {
        &self.context.auth.privacy
    }
}
